// SPDX-License-Identifier: Apache-2.0
// Standard normals by Box-Muller from correctly rounded operations only (fma, multiply, divide, square root), so that every
// compiler, flag and processor draws the same bits.
#pragma once

#include <bit>

#include <apollo/random/stream.hpp>

// -ffast-math would replace divisions and square roots by estimates; these functions opt out of it, and into vectorization.
// Each of them says so: GCC takes the flags of a caller without arithmetic from what it inlines.
#if defined(__clang__)
#define APOLLO_EXACT_FLOAT
#pragma float_control(precise, on, push)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#define APOLLO_EXACT_FLOAT                                                                                            \
  [[gnu::optimize("O3", "no-unsafe-math-optimizations", "no-associative-math", "no-reciprocal-math", "no-math-errno", \
                  "no-trapping-math")]]
#else
#define APOLLO_EXACT_FLOAT
#endif

#if defined(__GNUC__) && defined(__x86_64__) && !defined(__CUDACC__)
#define APOLLO_DISPATCH_FMA 1
#else
#define APOLLO_DISPATCH_FMA 0
#endif

#if defined(__clang__) && defined(__x86_64__) && !defined(__FMA__)
#define APOLLO_FMA_BY_LIBRARY 1
#include <math.h>
#else
#define APOLLO_FMA_BY_LIBRARY 0
#endif

namespace apollo {

namespace normal {

/// a b + c, rounded once. Under fast math clang would break it in two where the processor has no such instruction; it cannot
/// see through the library's function. `portably` is a constant wherever this is inlined.
APOLLO_EXACT_FLOAT APOLLO_INLINE float fused(float a, float b, float c, [[maybe_unused]] bool portably) {
#if APOLLO_FMA_BY_LIBRARY
  if (portably) {
    float (*volatile library)(float, float, float) = &::fmaf;
    return library(a, b, c);
  }
#endif
  return __builtin_fmaf(a, b, c);
}

/// Natural logarithm of a positive normal number. Error: 3e-7 relative on (0, 1]; exactly 0 at 1.
APOLLO_EXACT_FLOAT APOLLO_INLINE float log(float x, bool portably) {
  const auto u = std::bit_cast<std::int32_t>(x);
  const std::int32_t exponent = (u - std::bit_cast<std::int32_t>(0.70710677f)) >> 23;
  const float m = std::bit_cast<float>(u - exponent * (1 << 23));  // in [sqrt(1/2), sqrt(2))
  const float t = (m - 1.0f) / (m + 1.0f);                         // log m = 2 artanh t
  const float z = t * t;
  float series = fused(z, 2.0f / 9, 2.0f / 7, portably);
  series = fused(z, series, 2.0f / 5, portably);
  series = fused(z, series, 2.0f / 3, portably);
  series = fused(z, series, 2.0f, portably);
  return fused(static_cast<float>(exponent), 0.693147181f, t * series, portably);
}

/// Cosine and sine of the angle turn / 2^32 of a full circle. Error: 2e-7 absolute.
APOLLO_EXACT_FLOAT APOLLO_INLINE void cos_sin(std::uint32_t turn, float& cosine, float& sine, bool portably) {
  const std::uint32_t quadrant = (turn + 0x20000000u) >> 30;  // nearest multiple of a quarter
  const auto offset = static_cast<std::int32_t>(turn - (quadrant << 30));
  const float a = static_cast<float>(offset) * 1.46291808e-9f;  // 2 pi / 2^32, so |a| <= pi / 4
  const float z = a * a;
  float s = fused(z, 2.75573192e-6f, -1.98412698e-4f, portably);
  s = fused(z, s, 8.33333333e-3f, portably);
  s = fused(z, s, -1.66666667e-1f, portably);
  s = fused(a * z, s, a, portably);
  float c = fused(z, -2.75573192e-7f, 2.48015873e-5f, portably);
  c = fused(z, c, -1.38888889e-3f, portably);
  c = fused(z, c, 4.16666667e-2f, portably);
  c = fused(z, c, -0.5f, portably);
  c = fused(z, c, 1.0f, portably);
  // Odd quadrants swap the two, and bits 31 carry the signs: selected by masks, since a branch would stop vectorization.
  const auto c_bits = std::bit_cast<std::uint32_t>(c), s_bits = std::bit_cast<std::uint32_t>(s);
  const std::uint32_t swap = (c_bits ^ s_bits) & (0u - (quadrant & 1u));
  cosine = std::bit_cast<float>(c_bits ^ swap ^ (((quadrant + 1u) & 2u) << 30));
  sine = std::bit_cast<float>(s_bits ^ swap ^ ((quadrant & 2u) << 30));
}

/// Two independent standard normals from 64 random bits; none is larger than 6.67.
APOLLO_EXACT_FLOAT APOLLO_INLINE void pair(std::uint32_t radius_bits, std::uint32_t turn, float& first, float& second,
                                           bool portably) {
  const auto k = static_cast<std::int32_t>(radius_bits >> 1);
  const float uniform = fused(static_cast<float>(k), 0x1p-31f, 0x1p-32f, portably);  // (0, 1]
  // In double and rounded once more it has the same bits as sqrtf, which clang's fast math would replace by an estimate.
  const auto radius = static_cast<float>(__builtin_sqrt(static_cast<double>(-2.0f * log(uniform, portably))));
  float cosine = 0, sine = 0;
  cos_sin(turn, cosine, sine, portably);
  first = radius * cosine;
  second = radius * sine;
}

inline constexpr int blocks_at_once = 16;
inline constexpr int batch = 4 * blocks_at_once;

/// Normals 4 * block ... 4 * block + 63 of the stream.
APOLLO_EXACT_FLOAT APOLLO_INLINE void fill_batch(const RandomStream& stream, std::uint64_t block, float* out,
                                                 bool portably) {
  std::uint32_t word[4][blocks_at_once];
  for (int i = 0; i < blocks_at_once; ++i) {
    const PhiloxCounter position = stream.position(block + static_cast<std::uint64_t>(i));
    for (int k = 0; k < 4; ++k) word[k][i] = position.word[k];
  }
  philox<blocks_at_once>(word, stream.key());
  float value[4][blocks_at_once];
  for (int i = 0; i < blocks_at_once; ++i) pair(word[0][i], word[1][i], value[0][i], value[1][i], portably);
  for (int i = 0; i < blocks_at_once; ++i) pair(word[2][i], word[3][i], value[2][i], value[3][i], portably);
  for (int i = 0; i < blocks_at_once; ++i)
    for (int k = 0; k < 4; ++k) out[4 * i + k] = value[k][i];
}

APOLLO_EXACT_FLOAT APOLLO_INLINE void fill_blocks(const RandomStream& stream, std::uint64_t first, std::uint64_t count,
                                                  float* out, bool portably) {
  float buffer[batch];
  for (std::uint64_t done = 0; done < count;) {
    const std::uint64_t at = first + done;
    const std::uint64_t skip = at & 3u;
    const std::uint64_t left = count - done;
    const std::uint64_t take = left < batch - skip ? left : batch - skip;
    if (skip == 0 && take == batch) {
      fill_batch(stream, at >> 2, out + done, portably);
    } else {
      fill_batch(stream, at >> 2, buffer, portably);
      for (std::uint64_t i = 0; i < take; ++i) out[done + i] = buffer[skip + i];
    }
    done += take;
  }
}

APOLLO_EXACT_FLOAT inline void fill_portable(const RandomStream& stream, std::uint64_t first, std::uint64_t count,
                                             float* out) {
  fill_blocks(stream, first, count, out, true);
}

APOLLO_EXACT_FLOAT APOLLO_INLINE void cosines_of(const std::uint32_t* turn, int count, float* out, bool portably) {
  for (int i = 0; i < count; ++i) {
    float sine = 0;
    cos_sin(turn[i], out[i], sine, portably);
  }
}
APOLLO_EXACT_FLOAT inline void cosines_portable(const std::uint32_t* turn, int count, float* out) {
  cosines_of(turn, count, out, true);
}

#if APOLLO_DISPATCH_FMA
APOLLO_EXACT_FLOAT [[gnu::target("avx2,fma")]] inline void cosines_fma(const std::uint32_t* turn, int count,
                                                                       float* out) {
  cosines_of(turn, count, out, false);
}
// Without -mfma a fused multiply-add is a library call, thirty times slower and correct to the same bit.
APOLLO_EXACT_FLOAT [[gnu::target("avx2,fma")]] inline void fill_fma(const RandomStream& stream, std::uint64_t first,
                                                                    std::uint64_t count, float* out) {
  fill_blocks(stream, first, count, out, false);
}
inline bool has_fma() {
  static const bool fused = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return fused;
}
#endif

}  // namespace normal

/// Standard normals number first ... first + count - 1 of a stream. Normal number 4 b + 2 p + q comes from words 2 p and
/// 2 p + 1 of block b. Cost: about 2 ns each with AVX2 and FMA. Source: Box and Muller 1958.
inline void fill_normals(const RandomStream& stream, std::uint64_t first, std::uint64_t count, float* out) {
#if APOLLO_DISPATCH_FMA
  if (normal::has_fma()) return normal::fill_fma(stream, first, count, out);
#endif
  normal::fill_portable(stream, first, count, out);
}

/// Cosines of the angles turn / 2^32 of a full circle, the same bits everywhere. Error: 2e-7.
inline void fill_cosines(const std::uint32_t* turn, int count, float* out) {
#if APOLLO_DISPATCH_FMA
  if (normal::has_fma()) return normal::cosines_fma(turn, count, out);
#endif
  normal::cosines_portable(turn, count, out);
}

}  // namespace apollo

#if defined(__clang__)
#pragma float_control(pop)
#endif
#undef APOLLO_EXACT_FLOAT
#undef APOLLO_FMA_BY_LIBRARY
