// SPDX-License-Identifier: Apache-2.0
// The moment axis: what is remembered of the (projected) gradient, and the normalised update N made of it. One value at a
// time; the loops over values belong to the backends.
#pragma once

#include <cstdint>
#include <type_traits>

#include <apollo/tensor/number.hpp>

namespace apollo {

/// Moments stored in the type they are computed in: float, or double for double weights.
struct Native {};

struct MomentsRole {};

/// Everything `update` needs beside the value itself, in arithmetic type. Prepared once a step; see prepare().
template <class T>
struct MomentCoefficients {
  T beta1 = 0;            ///< or the momentum
  T one_minus_beta1 = 0;  ///< computed in double: 1 - 0.999f would be off by 1e-5
  T beta2 = 0;
  T one_minus_beta2 = 0;
  T eps = 0;
  T first_factor = 1;   ///< 1 / (1 - beta1^t) where N is bias corrected, else 1
  T second_factor = 1;  ///< 1 / sqrt(1 - beta2^t) where N is bias corrected, else 1
};

// A moment policy keeps `buffers` values an element and updates them one element at a time. What is shared by many elements
// lies in up to two `vectors` beside them, updated once a step from sums of squares:
//   none        nothing is shared
//   by_block    V is one value a block of channels (plan.block channels each); N = M times a factor of its block
//   factored    V is the outer product of a vector a channel and one a direction of R; N = R times a factor of each
//   factored_gradient   the same of X, before anything is projected: R = D_L X (P D_S)^T
enum class Shared : std::uint8_t { none, by_block, factored, factored_gradient };

/// No memory: N = R. State: none. (`first_decay` is the hyper-parameter that decays the first buffer.)
struct NoMoments {
  using role = MomentsRole;
  using Stored = Native;
  static constexpr int buffers = 0;
  static constexpr Shared shared = Shared::none;
  static constexpr bool bias_corrected = false;
  static constexpr const char* name = "none";
  template <class Settings>
  APOLLO_HD static constexpr double first_decay(const Settings&) {
    return 0;
  }
  template <class T>
  APOLLO_INLINE static T update(T r, T*, const MomentCoefficients<T>&) {
    return r;
  }
};

/// Heavy-ball momentum M <- beta1 M + R, N = M. State: one value an element. Source: Polyak 1964; torch.optim.SGD, without
/// dampening and Nesterov's step.
template <class StoredType = Native>
struct MomentumMoments {
  using role = MomentsRole;
  using Stored = StoredType;
  static constexpr int buffers = 1;
  static constexpr Shared shared = Shared::none;
  static constexpr bool bias_corrected = false;
  static constexpr const char* name = "momentum";
  template <class Settings>
  APOLLO_HD static constexpr double first_decay(const Settings& settings) {
    return settings.momentum;
  }
  template <class T>
  APOLLO_INLINE static T update(T r, T* state, const MomentCoefficients<T>& c) {
    return state[0] = c.beta1 * state[0] + r;
  }
};

/// The mean of past gradients, M <- beta1 M + (1 - beta1) R, N = M. State: one value an element. Source: Flora
/// (arXiv:2402.03293) Algorithm 2.
template <class StoredType = Native>
struct MeanMoments {
  using role = MomentsRole;
  using Stored = StoredType;
  static constexpr int buffers = 1;
  static constexpr Shared shared = Shared::none;
  static constexpr bool bias_corrected = false;
  static constexpr const char* name = "mean";
  template <class Settings>
  APOLLO_HD static constexpr double first_decay(const Settings& settings) {
    return settings.beta1;
  }
  template <class T>
  APOLLO_INLINE static T update(T r, T* state, const MomentCoefficients<T>& c) {
    return state[0] = c.beta1 * state[0] + c.one_minus_beta1 * r;
  }
};

/// Adam with one V for each block of channels, V_b <- beta2 V_b + (1 - beta2) mean of R^2 over the block, and every element's
/// own M; N = M / (sqrt(V_b) + eps), bias corrected. State: one value an element and one a block.
/// Source: Adam-mini (arXiv:2406.16793) Algorithm 1.
template <class StoredType = Native>
struct BlockAdamMoments : MeanMoments<StoredType> {
  static constexpr Shared shared = Shared::by_block;
  static constexpr bool bias_corrected = true;
  static constexpr const char* name = "block_adam";
};

/// No first moment; V factored into means over rows and columns of R^2, which forget with 1 - t^-decay_rate:
/// N = R / sqrt(row_j col_k / mean(row)), shortened to a root mean square of clip_threshold. State: kept + rank values.
/// Source: Shazeer and Stern, Adafactor (arXiv:1804.04235) Algorithm 4.
struct AdafactorMoments {
  using role = MomentsRole;
  using Stored = Native;
  static constexpr int buffers = 0;
  static constexpr Shared shared = Shared::factored;
  static constexpr bool bias_corrected = false;
  static constexpr const char* name = "adafactor";
  template <class Settings>
  APOLLO_HD static constexpr double first_decay(const Settings&) {
    return 0;
  }
};

/// The mean of past gradients that Adafactor has divided by the root of its V: D_L X D_S with D_L = (row / mean(row))^-1/2 and
/// D_S = col^-1/2, before it is projected; N = M <- beta1 M + (1 - beta1) R. State: one value an element of R, and
/// kept + removed values. Source: Flora (arXiv:2402.03293) sec. 3 on Adafactor (arXiv:1804.04235) sec. 3 and 7.2.
template <class StoredType = Native>
struct FactoredMeanMoments : MeanMoments<StoredType> {
  static constexpr Shared shared = Shared::factored_gradient;
  static constexpr const char* name = "factored_mean";
};

/// Adam's first and second moment. State: two values an element.
///   M <- beta1 M + (1 - beta1) R,  V <- beta2 V + (1 - beta2) R^2,
///   N = first_factor M / (second_factor sqrt(V) + eps).
/// Cost: 10 flops, one of them a square root and one a division. Source: Kingma and Ba, arXiv:1412.6980, Algorithm 1.
template <class StoredType = Native>
struct AdamMoments {
  using role = MomentsRole;
  using Stored = StoredType;
  static constexpr int buffers = 2;
  static constexpr Shared shared = Shared::none;
  static constexpr bool bias_corrected = true;
  static constexpr const char* name = "adam";
  template <class Settings>
  APOLLO_HD static constexpr double first_decay(const Settings& settings) {
    return settings.beta1;
  }
  template <class T>
  APOLLO_INLINE static T update(T r, T* state, const MomentCoefficients<T>& c) {
    accumulate(r, state, c);
    return normalise(state[0], square_root(state[1]), c);
  }
  /// The two halves of update, for loops that take the square root of many values at once; of numbers or of vectors of them.
  template <class V, class T>
  APOLLO_INLINE static void accumulate(const V& r, V* state, const MomentCoefficients<T>& c) {
    state[0] = c.beta1 * state[0] + c.one_minus_beta1 * r;
    state[1] = c.beta2 * state[1] + c.one_minus_beta2 * (r * r);
  }
  template <class T>
  APOLLO_INLINE static T normalise(T first, T root_of_second, const MomentCoefficients<T>& c) {
    T below;
    denominator(root_of_second, c, below);
    return c.first_factor * first / below;
  }
  /// normalise() in two parts, for loops that have reciprocals: what the first moment is divided by, and N from 1 / that.
  template <class V, class T>
  APOLLO_INLINE static void denominator(const V& root_of_second, const MomentCoefficients<T>& c, V& below) {
    below = c.second_factor * root_of_second + c.eps;
  }
  template <class V, class T>
  APOLLO_INLINE static void quotient(const V& first, const V& inverse, const MomentCoefficients<T>& c, V& n) {
    n = c.first_factor * first * inverse;
  }

 private:
  APOLLO_INLINE static float square_root(float x) { return __builtin_sqrtf(x); }
  APOLLO_INLINE static double square_root(double x) { return __builtin_sqrt(x); }
};

/// Whether a policy offers `accumulate` and `normalise` apart.
template <class Moments>
inline constexpr bool takes_root = requires(float value, const MomentCoefficients<float>& c) {
  Moments::normalise(value, value, c);
};

/// The stored type of a moment policy for weights computed in T.
template <class Moments, class T>
using stored_t = std::conditional_t<std::is_same_v<typename Moments::Stored, Native>, T, typename Moments::Stored>;

}  // namespace apollo
