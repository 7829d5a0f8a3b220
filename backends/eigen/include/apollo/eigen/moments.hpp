// SPDX-License-Identifier: Apache-2.0
// Moments of a run: opened from their storage, updated, closed again; and what they add to the norms of their channels.
#pragma once

#include <apollo/eigen/runs.hpp>
#include <apollo/step/state.hpp>

namespace apollo {

template <class T>
struct EigenMoments {
  /// Calls body(first, second) with `count` moments, number `at` and after in their buffers, opened to T.
  template <class Moments, class Body>
  static void with_moments(const MomentPointers<stored_t<Moments, T>>& state, Index at, int count,
                           const StepCoefficients<T>& c, Body&& body) {
    using Storage = MomentStorage<stored_t<Moments, T>, T>;
    T buffer[2][Storage::in_place ? 1 : runs::length];
    T* opened[2] = {nullptr, nullptr};
    for (int b = 0; b < Moments::buffers; ++b) opened[b] = Storage::open(state.buffer[b] + at, buffer[b], count);
    body(opened[0], opened[1]);
    for (int b = 0; b < Moments::buffers; ++b)
      Storage::close(opened[b], state.buffer[b] + at, count, c.rounding[b], at);
  }

  /// Moments of `count` values that are number `at` and after in their buffers. `n` may be `r`.
  template <class Moments>
  static void update(const T* r, T* n, const MomentPointers<stored_t<Moments, T>>& state, Index at, int count,
                     const StepCoefficients<T>& c) {
    with_moments<Moments>(state, at, count, c, [&](T* first, T* second) {
      simd::dispatch([&](auto kernels) { kernels.template moments<Moments>(r, n, first, second, count, c.moments); });
    });
  }

  /// Adds the squares of a run of kept x rank values, number `at` and after, to their channels.
  static void add_by_channel(Index rank, Index at, int count, const T* n, const T* r, double* n_channel,
                             double* r_channel) {
    for (int i = 0; i < count;) {
      const Index j = (at + i) / rank;
      const Index left = (j + 1) * rank - (at + i);
      const int take = left < count - i ? static_cast<int>(left) : count - i;
      if (take == 1) {
        n_channel[j] += static_cast<double>(n[i]) * static_cast<double>(n[i]);
        r_channel[j] += static_cast<double>(r[i]) * static_cast<double>(r[i]);
      } else {
        bool finite = true;
        n_channel[j] += runs::measure(n + i, take, finite);
        r_channel[j] += runs::measure(r + i, take, finite);
      }
      i += take;
    }
  }
};

}  // namespace apollo
