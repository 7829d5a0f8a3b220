// SPDX-License-Identifier: Apache-2.0
// The library's version, its index type and the few macros that compilers force on us.
#pragma once

#include <cstddef>
#include <cstdint>

#define APOLLO_VERSION_MAJOR 0
#define APOLLO_VERSION_MINOR 1
#define APOLLO_VERSION_PATCH 0

#if defined(__CUDACC__)
#define APOLLO_HD __host__ __device__
#else
#define APOLLO_HD
#endif

/// Policies' per-element functions and random draws: small, hot, inlined into loops that carry a target attribute, and called
/// from kernels.
#if defined(__GNUC__)
#define APOLLO_INLINE [[gnu::always_inline]] APOLLO_HD inline
#else
#define APOLLO_INLINE APOLLO_HD inline
#endif

namespace apollo {

/// Extents, strides and element numbers. Signed and 64 bits wide: a stack of experts passes 2^31 elements.
using Index = std::int64_t;

/// The extents of a weight matrix as its owner sees it (torch's Linear: out x in).
struct Shape {
  Index rows = 0;
  Index cols = 0;
  friend constexpr bool operator==(Shape, Shape) = default;
};

}  // namespace apollo
