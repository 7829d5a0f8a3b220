// SPDX-License-Identifier: Apache-2.0
// The innermost loops, compiled once for each instruction set and chosen at run time, so that a program built with plain -O2
// has those of its machine.
#pragma once

#include <apollo/policy/moments.hpp>
#include <apollo/step/coefficients.hpp>
#include <apollo/tensor/number.hpp>

#if defined(_MSC_VER)
#define APOLLO_RESTRICT __restrict
#else
#define APOLLO_RESTRICT __restrict__
#endif

#if defined(__x86_64__) && defined(__GNUC__)
#define APOLLO_X86_DISPATCH 1
#else
#define APOLLO_X86_DISPATCH 0
#endif

namespace apollo::simd {

/// What the loops are compiled for.
enum class Isa { baseline, avx2, avx512 };

/// What this processor has.
inline Isa best() {
#if APOLLO_X86_DISPATCH
  static const Isa isa = [] {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("fma"))
      return Isa::avx512;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? Isa::avx2 : Isa::baseline;
  }();
  return isa;
#else
  return Isa::baseline;
#endif
}

/// Whether the loops read values of V as they are stored, in arithmetic of T; others are converted for them.
template <class V, class T>
inline constexpr bool readable = std::is_same_v<std::remove_const_t<V>, T> ||
                                 (std::is_same_v<std::remove_const_t<V>, bfloat16> && std::is_same_v<T, float>);

/// Runs of so many values and multiples are stepped in one pass: whole vectors of every instruction set.
inline constexpr int in_one_pass = 16;

/// The scalars of W <- after (before W - step U).
template <class T>
struct Apply {
  T before = 1;
  T after = 1;
  T step = 0;
};

/// For each of sixteen values its own byte, the next one's, and two of zero, as a permutation of bytes has it: rounding::bits_of.
struct Neighbours {
  alignas(64) std::uint8_t byte[64] = {};
  constexpr Neighbours() {
    for (int i = 0; i < 64; ++i) {
      const int place = i % 4;
      byte[i] = static_cast<std::uint8_t>(place == 0 ? i / 4 : place == 1 ? (i / 4 + 1) % 16 : 0x80);
    }
  }
};
inline constexpr Neighbours neighbours{};

}  // namespace apollo::simd

// Entry points, and what is inlined into them.
#define APOLLO_KERNEL APOLLO_TARGET static
#define APOLLO_PART [[gnu::always_inline]] APOLLO_TARGET static inline

#define APOLLO_ISA 0
#define APOLLO_ISA_NAMESPACE baseline
#define APOLLO_TARGET
#include <apollo/eigen/simd_kernels.hpp>
#include <apollo/eigen/simd_products.hpp>
#undef APOLLO_ISA
#undef APOLLO_ISA_NAMESPACE
#undef APOLLO_TARGET

#if APOLLO_X86_DISPATCH
#define APOLLO_ISA 2
#define APOLLO_ISA_NAMESPACE avx2
#define APOLLO_TARGET __attribute__((target("avx2,fma")))
#include <apollo/eigen/simd_kernels.hpp>
#include <apollo/eigen/simd_products.hpp>
#undef APOLLO_ISA
#undef APOLLO_ISA_NAMESPACE
#undef APOLLO_TARGET

#define APOLLO_ISA 512
#define APOLLO_ISA_NAMESPACE avx512
#if defined(__clang__)
#define APOLLO_TARGET __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,fma")))
#else
#define APOLLO_TARGET __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,fma,prefer-vector-width=512")))
#endif
#include <apollo/eigen/simd_kernels.hpp>
#include <apollo/eigen/simd_products.hpp>
#undef APOLLO_ISA
#undef APOLLO_ISA_NAMESPACE
#undef APOLLO_TARGET
#endif
#undef APOLLO_KERNEL
#undef APOLLO_PART

namespace apollo::simd {

/// Calls call(kernels) with the loops for this processor. A branch a run of 256 values costs nothing.
template <class Call>
APOLLO_INLINE auto dispatch(Call&& call) {
#if APOLLO_X86_DISPATCH
  const Isa isa = best();
  if (isa == Isa::avx512) return call(avx512::Kernels{});
  if (isa == Isa::avx2) return call(avx2::Kernels{});
#endif
  return call(baseline::Kernels{});
}

/// The same with the loops of matrix products.
template <class Call>
APOLLO_INLINE auto dispatch_products(Call&& call) {
#if APOLLO_X86_DISPATCH
  const Isa isa = best();
  if (isa == Isa::avx512) return call(avx512::Products{});
  if (isa == Isa::avx2) return call(avx2::Products{});
#endif
  return call(baseline::Products{});
}

}  // namespace apollo::simd
