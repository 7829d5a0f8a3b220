// SPDX-License-Identifier: Apache-2.0
// Limiters: how much longer than the previous one an update may be.
#pragma once

#include <apollo/base/config.hpp>

namespace apollo {

struct LimiterRole {};

/// State: none.
struct NoLimiter {
  using role = LimiterRole;
  static constexpr bool active = false;
};

/// The update's norm grows by at most gamma a step. State: the previous norm (4 bytes in the record).
/// Source: Fira (arXiv:2410.01623) sec. 3.2, used by APOLLO.
///
/// `floor` is ours. With floor 0 the rule is the published one as it is run, in which a zero gradient is remembered as a
/// norm of zero, from which growth by 1.01 a step takes over a thousand steps to recover. With a floor f above 0 a zero
/// gradient is not remembered, and the memory shrinks by at most f a step.
struct NormGrowthLimiter {
  using role = LimiterRole;
  static constexpr bool active = true;
  static constexpr float no_norm = -1;  ///< nothing has been remembered yet

  struct Result {
    double divisor = 1;  ///< the update is divided by this
    float previous = 0;  ///< to be remembered
  };

  APOLLO_HD static Result limit(double norm, float previous, double gamma, double floor) {
    const bool published = floor == 0;
    if (!published && !(norm > 0)) return {1, previous};
    double divisor = 1;
    if (published ? previous >= 0 : previous > 0) {
      const double growth = norm / (static_cast<double>(previous) + 1e-8);
      divisor = (growth > gamma ? growth : gamma) / gamma;
    }
    const double limited = norm / divisor;
    const double least = floor * static_cast<double>(previous);
    const double kept = limited > least ? limited : least;
    constexpr double largest = 3.4e38;  // infinity would switch the limiter off for good
    return {divisor, static_cast<float>(kept < largest ? kept : largest)};
  }
};

}  // namespace apollo
