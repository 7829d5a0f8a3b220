// SPDX-License-Identifier: Apache-2.0
// P of a dense projection as kernels read it: as numbers, from a packed basis, or scaled by factored moments.
#pragma once

#include <apollo/cuda/memory.hpp>

namespace apollo::cuda {

/// Rank x removed floats. `steps`: directions are known only within a step, which has begun when X is projected on them.
struct PlainDirections {
  static constexpr bool steps = false;
  APOLLO_INLINE static float at(const Entry& entry, Index k, Index s) {
    return entry.directions[k * entry.setup.plan.removed + s];
  }
  /// `left` of up to `size` values of direction k, from input s on; the others are zero.
  template <int size>
  APOLLO_INLINE static void read(const Entry& entry, Index k, Index s, bool aligned, int left, float* to) {
    cuda::read<size>(entry.directions + k * entry.setup.plan.removed + s, aligned, left, to);
  }
};

/// Codes of P^T, so those of an input lie beside each other.
struct PackedDirections {
  static constexpr bool steps = false;
  APOLLO_INLINE static float at(const Entry& entry, Index k, Index s) {
    return entry.packed.value(s * entry.setup.plan.rank + k);
  }
  template <int size>
  APOLLO_INLINE static void read(const Entry& entry, Index k, Index s, bool, int left, float* to) {
    for (int i = 0; i < size; ++i) to[i] = i < left ? at(entry, k, s + i) : 0.0f;
  }
};

/// P D_S: what X is projected on, before D_L, where its factored moments scale it.
struct ScaledDirections {
  static constexpr bool steps = true;
  APOLLO_INLINE static float at(const Entry& entry, Index k, Index s) {
    return PlainDirections::at(entry, k, s) * entry.column_factor[s];
  }
  template <int size>
  APOLLO_INLINE static void read(const Entry& entry, Index k, Index s, bool aligned, int left, float* to) {
    float factor[size];
    PlainDirections::read<size>(entry, k, s, aligned, left, to);
    cuda::read<size>(entry.column_factor + s, aligned, left, factor);
    for (int i = 0; i < size; ++i) to[i] *= factor[i];
  }
};

/// As they are lifted by, and as they are projected on.
template <class Policies>
using DirectionsOf = std::conditional_t<packs_basis<typename Policies::Projection>, PackedDirections, PlainDirections>;
template <class Policies>
using ProjectedOn = std::conditional_t<Policies::factored_gradient, ScaledDirections, DirectionsOf<Policies>>;

}  // namespace apollo::cuda
