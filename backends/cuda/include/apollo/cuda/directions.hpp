// SPDX-License-Identifier: Apache-2.0
// P of a dense projection as kernels read it: as numbers, or from a packed basis.
#pragma once

#include <apollo/cuda/memory.hpp>

namespace apollo::cuda {

/// Rank x removed floats.
struct PlainDirections {
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
  APOLLO_INLINE static float at(const Entry& entry, Index k, Index s) {
    return entry.packed.value(s * entry.setup.plan.rank + k);
  }
  template <int size>
  APOLLO_INLINE static void read(const Entry& entry, Index k, Index s, bool, int left, float* to) {
    for (int i = 0; i < size; ++i) to[i] = i < left ? at(entry, k, s + i) : 0.0f;
  }
};

template <class Policies>
using DirectionsOf = std::conditional_t<packs_basis<typename Policies::Projection>, PackedDirections, PlainDirections>;

}  // namespace apollo::cuda
