// SPDX-License-Identifier: Apache-2.0
// Standard normals by Box-Muller from correctly rounded operations only (fma, multiply, divide, square root), so that every
// compiler, flag and processor draws the same bits.
#pragma once

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

/// a / b and the square root, rounded correctly whatever a kernel's flags are.
APOLLO_EXACT_FLOAT APOLLO_INLINE float divide(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}
APOLLO_EXACT_FLOAT APOLLO_INLINE float root(float x) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(x);
#else
  // In double and rounded once more it has the same bits as sqrtf, which clang's fast math would replace by an estimate.
  return static_cast<float>(__builtin_sqrt(static_cast<double>(x)));
#endif
}

/// Natural logarithm of a positive normal number. Error: 3e-7 relative on (0, 1]; exactly 0 at 1.
APOLLO_EXACT_FLOAT APOLLO_INLINE float log(float x, bool portably) {
  const auto u = __builtin_bit_cast(std::int32_t, x);
  const std::int32_t exponent = (u - __builtin_bit_cast(std::int32_t, 0.70710677f)) >> 23;
  const float m = __builtin_bit_cast(float, u - exponent * (1 << 23));  // in [sqrt(1/2), sqrt(2))
  const float t = divide(m - 1.0f, m + 1.0f);                           // log m = 2 artanh t
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
  const auto c_bits = __builtin_bit_cast(std::uint32_t, c), s_bits = __builtin_bit_cast(std::uint32_t, s);
  const std::uint32_t swap = (c_bits ^ s_bits) & (0u - (quadrant & 1u));
  cosine = __builtin_bit_cast(float, c_bits ^ swap ^ (((quadrant + 1u) & 2u) << 30));
  sine = __builtin_bit_cast(float, s_bits ^ swap ^ ((quadrant & 2u) << 30));
}

/// The square of the radius that 31 of 32 random bits give, -2 log u for u in (0, 1]; none is larger than 44.4.
APOLLO_EXACT_FLOAT APOLLO_INLINE float squared_radius(std::uint32_t bits, bool portably) {
  const auto k = static_cast<std::int32_t>(bits >> 1);
  return -2.0f * log(fused(static_cast<float>(k), 0x1p-31f, 0x1p-32f, portably), portably);
}

inline constexpr int blocks_at_once = 16;
inline constexpr int batch = 4 * blocks_at_once;

/// Random bits of 16 blocks: word k of block i at [k][i].
using Words = std::uint32_t[4][blocks_at_once];

/// Counters of the blocks from number `first` on.
APOLLO_INLINE void positions_of(const RandomStream& stream, std::uint64_t first, Words& word) {
  for (int i = 0; i < blocks_at_once; ++i) {
    const PhiloxCounter position = stream.position(first + static_cast<std::uint64_t>(i));
    for (int k = 0; k < 4; ++k) word[k][i] = position.word[k];
  }
}

/// Words 0 and 2 give squares of radii ...
APOLLO_EXACT_FLOAT APOLLO_INLINE void squares_of(const Words& word, float* squares, bool portably) {
  for (int i = 0; i < blocks_at_once; ++i) squares[i] = squared_radius(word[0][i], portably);
  for (int i = 0; i < blocks_at_once; ++i) squares[blocks_at_once + i] = squared_radius(word[2][i], portably);
}
/// ... and words 1 and 3 angles: two pairs of normals a block. Roots are taken between the two, since those that may set errno
/// would keep the loops scalar.
APOLLO_EXACT_FLOAT APOLLO_INLINE void normals_of(const Words& word, const float* radius, float* out, bool portably) {
  float value[4][blocks_at_once];
  for (int p = 0; p < 2; ++p)
    for (int i = 0; i < blocks_at_once; ++i) {
      float cosine = 0, sine = 0;
      cos_sin(word[2 * p + 1][i], cosine, sine, portably);
      value[2 * p][i] = radius[p * blocks_at_once + i] * cosine;
      value[2 * p + 1][i] = radius[p * blocks_at_once + i] * sine;
    }
  for (int i = 0; i < blocks_at_once; ++i)
    for (int k = 0; k < 4; ++k) out[4 * i + k] = value[k][i];
}

/// Normals 4 * block ... 4 * block + 3 of the stream, for who has a thread for each block.
APOLLO_EXACT_FLOAT APOLLO_INLINE void one_block(const RandomStream& stream, std::uint64_t block, float* out) {
  const PhiloxCounter bits = stream.block(block);
  for (int p = 0; p < 2; ++p) {
    const float radius = root(squared_radius(bits.word[2 * p], true));
    float cosine = 0, sine = 0;
    cos_sin(bits.word[2 * p + 1], cosine, sine, true);
    out[2 * p] = radius * cosine;
    out[2 * p + 1] = radius * sine;
  }
}

/// Normals 4 * block ... 4 * block + 63 of the stream.
APOLLO_EXACT_FLOAT inline void batch_portable(const RandomStream& stream, std::uint64_t block, float* out) {
  Words word;
  positions_of(stream, block, word);
  philox<blocks_at_once>(word, stream.key());
  float radius[2 * blocks_at_once];
  squares_of(word, radius, true);
  for (float& value : radius) value = root(value);
  normals_of(word, radius, out, true);
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
// The same with AVX2 and FMA: without -mfma a fused multiply-add is a library call, thirty times slower and correct to the same
// bit. Two instructions that no plain loop becomes are written out; <immintrin.h> would double the time it takes to parse this.
#define APOLLO_FMA_TARGET [[gnu::target("avx2,fma")]]
typedef std::uint32_t EightWords __attribute__((vector_size(32), aligned(4), may_alias));
typedef float EightFloats __attribute__((vector_size(32), aligned(4), may_alias));

/// Both halves of the products of eight words with one.
APOLLO_FMA_TARGET APOLLO_INLINE void multiply_words(EightWords a, std::uint32_t by, EightWords& low, EightWords& high) {
  const EightWords factor = EightWords{} + by;
  const EightWords odd = __builtin_shufflevector(a, a, 1, 1, 3, 3, 5, 5, 7, 7);
  EightWords even_product, odd_product;
  __asm__("vpmuludq %2, %1, %0" : "=x"(even_product) : "x"(a), "x"(factor));
  __asm__("vpmuludq %2, %1, %0" : "=x"(odd_product) : "x"(odd), "x"(factor));
  low = __builtin_shufflevector(even_product, odd_product, 0, 8, 2, 10, 4, 12, 6, 14);
  high = __builtin_shufflevector(even_product, odd_product, 1, 9, 3, 11, 5, 13, 7, 15);
}

/// philox() of philox.hpp.
APOLLO_FMA_TARGET APOLLO_INLINE void philox_fma(Words& word, PhiloxKey key) {
  for (int half = 0; half < blocks_at_once; half += 8) {
    EightWords c[4];
    for (int k = 0; k < 4; ++k) c[k] = *reinterpret_cast<const EightWords*>(word[k] + half);
    PhiloxKey round_key = key;
    for (int round = 0; round < philox_rounds; ++round) {
      EightWords low_a, high_a, low_b, high_b;
      multiply_words(c[0], philox_multiplier[0], low_a, high_a);
      multiply_words(c[2], philox_multiplier[1], low_b, high_b);
      c[0] = high_b ^ c[1] ^ round_key.word[0];
      c[1] = low_b;
      c[2] = high_a ^ c[3] ^ round_key.word[1];
      c[3] = low_a;
      round_key.next();
    }
    for (int k = 0; k < 4; ++k) *reinterpret_cast<EightWords*>(word[k] + half) = c[k];
  }
}

APOLLO_EXACT_FLOAT APOLLO_FMA_TARGET inline void batch_fma(const RandomStream& stream, std::uint64_t block,
                                                           float* out) {
  Words word;
  positions_of(stream, block, word);
  philox_fma(word, stream.key());
  float radius[2 * blocks_at_once];
  squares_of(word, radius, false);
  for (int i = 0; i < 2 * blocks_at_once; i += 8) {
    auto& eight = *reinterpret_cast<EightFloats*>(radius + i);
    __asm__("vsqrtps %1, %0" : "=x"(eight) : "x"(eight));
  }
  normals_of(word, radius, out, false);
}

APOLLO_EXACT_FLOAT APOLLO_FMA_TARGET inline void cosines_fma(const std::uint32_t* turn, int count, float* out) {
  cosines_of(turn, count, out, false);
}

inline bool has_fma() {
  static const bool fused = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return fused;
}
#undef APOLLO_FMA_TARGET
#endif

/// Normals first ... first + count - 1 of the stream, by batches.
inline void fill(void (&fill_batch)(const RandomStream&, std::uint64_t, float*), const RandomStream& stream,
                 std::uint64_t first, std::uint64_t count, float* out) {
  float buffer[batch];
  for (std::uint64_t done = 0; done < count;) {
    const std::uint64_t at = first + done;
    const std::uint64_t skip = at & 3u;
    const std::uint64_t left = count - done;
    const std::uint64_t take = left < batch - skip ? left : batch - skip;
    if (skip == 0 && take == batch) {
      fill_batch(stream, at >> 2, out + done);
    } else {
      fill_batch(stream, at >> 2, buffer);
      for (std::uint64_t i = 0; i < take; ++i) out[done + i] = buffer[skip + i];
    }
    done += take;
  }
}

inline void fill_portable(const RandomStream& stream, std::uint64_t first, std::uint64_t count, float* out) {
  fill(batch_portable, stream, first, count, out);
}

}  // namespace normal

/// Standard normals number first ... first + count - 1 of a stream. Normal number 4 b + 2 p + q comes from words 2 p and
/// 2 p + 1 of block b. Cost: about 2 ns each with AVX2 and FMA. Source: Box and Muller 1958.
inline void fill_normals(const RandomStream& stream, std::uint64_t first, std::uint64_t count, float* out) {
#if APOLLO_DISPATCH_FMA
  if (normal::has_fma()) return normal::fill(normal::batch_fma, stream, first, count, out);
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
