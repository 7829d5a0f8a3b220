// SPDX-License-Identifier: Apache-2.0
// Moments in blocks of 8-bit or 4-bit codes, each block with a scale of its own: what a code stands for, and which one a
// value gets.
#pragma once

#include <apollo/random/rounding.hpp>
#include <apollo/tensor/number.hpp>

namespace apollo {

// A block format says how `block` values and their scale become codes and back. Values of the first moment (number 0) are of
// both signs, those of the second (number 1) are none below zero; where `root_of_second`, encode() is given their square
// roots. `random` are those bytes of rounding::draw that its first value begins with.
//
// What one value gets is said by unit(), by which its code is multiplied, value_of(), factor(), by which it is multiplied before it
// is rounded, and code_of(), with its 16 random bits: for loops over values and for who has a thread for each.

/// 8 bits, blocks of 256: M in equal steps of its largest magnitude / 127, the square root of V in steps of the largest / 256,
/// from one step on: zero would be divided by. Rounds stochastically, since a V that shrinks by a thousandth a step would
/// never leave its code otherwise. State: 1 byte a value and 4 a block. Error: less than a step; mean zero, but of roots below
/// the first step.
struct Int8Linear {
  static constexpr int block = 256;
  static constexpr int bits = 8;
  static constexpr bool stochastic = true;
  static constexpr bool root_of_second = true;
  APOLLO_HD static void decode(const std::uint8_t* codes, float scale, int number, float* values);
  APOLLO_HD static void encode(const float* values, std::uint8_t* codes, float& scale, int number,
                               const std::uint8_t* random);

  APOLLO_HD static float unit(float scale, int number);
  APOLLO_HD static float value_of(std::uint8_t code, float unit, int number);
  APOLLO_HD static float factor(float scale, int number);
  APOLLO_HD static std::uint8_t code_of(float value, float factor, int number, std::uint16_t random);
};

/// 8 bits, blocks of 256: seven decades below the block's largest magnitude, each divided twice as finely as the one below
/// it; rounds to nearest. State: 1 byte a value and 4 a block. Source: Dettmers et al., arXiv:2110.02861, sec. 2.2 and 1.3.
struct Int8Dynamic {
  static constexpr int block = 256;
  static constexpr int bits = 8;
  static constexpr bool stochastic = false;
  static constexpr bool root_of_second = false;
  APOLLO_HD static void decode(const std::uint8_t* codes, float scale, int number, float* values);
  APOLLO_HD static void encode(const float* values, std::uint8_t* codes, float& scale, int number,
                               const std::uint8_t* random);

  APOLLO_HD static float unit(float scale, int number);
  APOLLO_HD static float value_of(std::uint8_t code, float unit, int number);
  APOLLO_HD static float factor(float scale, int number);
  APOLLO_HD static std::uint8_t code_of(float value, float factor, int number, std::uint16_t random);
};

/// 4 bits, blocks of 128: M in three decades like Int8Dynamic's, V in sixteenths of the block's largest value without zero,
/// which would be divided by; rounds stochastically. State: 1 byte for two values and 4 a block.
/// Source: Li, Chen and Zhu, arXiv:2309.01507, sec. 4, where both round to nearest.
struct Int4 {
  static constexpr int block = 128;
  static constexpr int bits = 4;
  static constexpr bool stochastic = true;
  static constexpr bool root_of_second = false;
  APOLLO_HD static void decode(const std::uint8_t* codes, float scale, int number, float* values);
  APOLLO_HD static void encode(const float* values, std::uint8_t* codes, float& scale, int number,
                               const std::uint8_t* random);

  APOLLO_HD static float unit(float scale, int number);
  APOLLO_HD static float value_of(std::uint8_t code, float unit, int number);
  APOLLO_HD static float factor(float scale, int number);
  APOLLO_HD static std::uint8_t code_of(float value, float factor, int number, std::uint16_t random);
};

template <class Stored>
inline constexpr bool is_block_format = false;
template <>
inline constexpr bool is_block_format<Int8Linear> = true;
template <>
inline constexpr bool is_block_format<Int8Dynamic> = true;
template <>
inline constexpr bool is_block_format<Int4> = true;
template <>
inline constexpr const char* type_name<Int8Linear> = "int8_linear";
template <>
inline constexpr const char* type_name<Int8Dynamic> = "int8_dynamic";
template <>
inline constexpr const char* type_name<Int4> = "int4";

namespace block {

/// Blocks below 2^-100 are zero: what turns their values into codes would overflow.
inline constexpr std::int32_t smallest = 27 << 23;

/// The bits of a magnitude, which compare like magnitudes, and the scale of a block from its largest.
APOLLO_INLINE std::int32_t magnitude(float value) {
  return static_cast<std::int32_t>(__builtin_bit_cast(std::uint32_t, value) & 0x7fffffffu);
}
APOLLO_INLINE float scale_of(std::int32_t most) { return most < smallest ? 0.0f : __builtin_bit_cast(float, most); }

/// The largest magnitude. As bits, whose maximum is a vector instruction under any flags.
template <int size>
APOLLO_INLINE float largest(const float* values) {
  constexpr int lanes = 16;
  std::int32_t most[lanes] = {};
  for (int i = 0; i < size; i += lanes)
    for (int l = 0; l < lanes; ++l) {
      const std::int32_t m = magnitude(values[i + l]);
      most[l] = m > most[l] ? m : most[l];
    }
  for (int l = 1; l < lanes; ++l) most[0] = most[l] > most[0] ? most[l] : most[0];
  return scale_of(most[0]);
}

/// x cut off at 0 and `most`; a NaN becomes 0.
APOLLO_INLINE std::int32_t floor_between(float x, float most) {
  const float bounded = x > 0.0f ? x : 0.0f;
  return static_cast<std::int32_t>(bounded < most ? bounded : most);
}
/// 65536ths of a step, of either sign, cut off at 127 steps; a NaN becomes -127 of them.
APOLLO_INLINE std::int32_t fixed(float x) {
  constexpr float most = 127.0f * 65536.0f;
  const float bounded = x > -most ? x : -most;
  return static_cast<std::int32_t>(bounded < most ? bounded : most);
}
APOLLO_INLINE float reciprocal(float scale) { return scale > 0.0f ? 1.0f / scale : 0.0f; }

/// Midpoints of cells in decades below 1: decade d of the highest, counted from the lowest, has 2^d cells if there are two
/// signs, else 2^(d + 1). Beside them there are 0 and 1.
template <int bits, bool two_signs>
struct DynamicMap {
  static constexpr int size = 1 << bits;
  static constexpr int decades = bits - 1;
  static constexpr int zero = two_signs ? size / 2 - 1 : 0;  ///< code of 0; codes rise with their values
  static constexpr int largest = size - 1 - zero;            ///< how far above it the code of 1 is
  APOLLO_HD static constexpr int cells(int decade) { return two_signs ? 1 << decade : 2 << decade; }

  float value[size] = {};
  float least = 0;                ///< magnitudes below are nearest to 0
  float highest = 0;              ///< ... from here on nearest to 1
  float from[decades] = {};       ///< the least magnitude that is nearest to a midpoint of this decade
  float bottom[decades] = {};     ///< where its cells begin
  float per_value[decades] = {};  ///< cells in a unit

  constexpr DynamicMap() {
    double floor = 0.1;
    for (int d = 1; d < decades; ++d) floor /= 10;
    double last = 0;
    for (int d = 0, above = 1; d < decades; ++d, floor *= 10) {
      const double width = 9 * floor / cells(d);
      from[d] = static_cast<float>((last + floor + width / 2) / 2);
      bottom[d] = static_cast<float>(floor);
      per_value[d] = static_cast<float>(1 / width);
      for (int cell = 0; cell < cells(d); ++cell, ++above) {
        last = floor + (cell + 0.5) * width;
        value[zero + above] = static_cast<float>(last);
        if (two_signs) value[zero - above] = static_cast<float>(-last);
      }
    }
    least = from[0];
    highest = static_cast<float>((last + 1) / 2);
    value[size - 1] = 1;
  }

  /// The code nearest to a magnitude, counted from that of 0.
  APOLLO_INLINE std::int32_t nearest(float x) const {
    float low = bottom[0], factor = per_value[0];
    std::int32_t count = cells(0);
    for (int d = 1; d < decades; ++d) {
      const bool reaches = x >= from[d];
      low = reaches ? bottom[d] : low;
      factor = reaches ? per_value[d] : factor;
      count = reaches ? cells(d) : count;
    }
    const std::int32_t cell = floor_between((x - low) * factor, static_cast<float>(count - 1));
    std::int32_t code = (two_signs ? count : count - 1) + cell;
    code = x < least ? 0 : code;
    return x >= highest ? largest : code;
  }
};

template <int bits, bool two_signs>
inline constexpr DynamicMap<bits, two_signs> dynamic_map{};

/// Sixteen values in rising order, and where a value between two of them stands.
struct Levels {
  float value[16] = {};
  float per_value[16] = {};  ///< 1 / the distance to the next

  template <class Value>
  constexpr explicit Levels(Value&& level) {
    for (int i = 0; i < 16; ++i) value[i] = level(i);
    for (int i = 0; i < 15; ++i) per_value[i] = 1.0f / (value[i + 1] - value[i]);
  }
  /// One of the two levels around x, the nearer one more often.
  APOLLO_INLINE std::uint8_t round(float x, std::uint16_t bits) const {
    float low = value[0], factor = per_value[0];
    std::int32_t code = 0;
    for (int i = 1; i < 16; ++i) {
      const bool reaches = x >= value[i];
      low = reaches ? value[i] : low;
      factor = reaches ? per_value[i] : factor;
      code += reaches ? 1 : 0;
    }
    return static_cast<std::uint8_t>(code + ((x - low) * factor > 0x1p-16f * static_cast<float>(bits) ? 1 : 0));
  }
};
inline constexpr Levels first_levels([](int i) { return dynamic_map<4, true>.value[i]; });
inline constexpr Levels second_levels([](int i) { return static_cast<float>(i + 1) / 16.0f; });

/// The tables where the code that reads them runs.
#if defined(__CUDACC__)
template <int bits, bool two_signs>
__device__ const DynamicMap<bits, two_signs> device_map{};
static __device__ const Levels device_levels[2] = {first_levels, second_levels};
#endif
template <int bits, bool two_signs>
APOLLO_INLINE constexpr const DynamicMap<bits, two_signs>& map() {
#if defined(__CUDA_ARCH__)
  return device_map<bits, two_signs>;
#else
  return dynamic_map<bits, two_signs>;
#endif
}
APOLLO_INLINE constexpr const Levels& levels(int number) {
#if defined(__CUDA_ARCH__)
  return device_levels[number];
#else
  return number == 0 ? first_levels : second_levels;
#endif
}

}  // namespace block

// `number` is a constant wherever the functions of one value are called from loops over many.

APOLLO_INLINE float Int8Linear::unit(float scale, int number) { return scale / (number == 0 ? 127.0f : 256.0f); }
APOLLO_INLINE float Int8Linear::value_of(std::uint8_t code, float unit, int number) {
  if (number == 0) return unit * static_cast<float>(static_cast<std::int8_t>(code));
  const float root = unit * static_cast<float>(code + 1);
  return root * root;
}
APOLLO_INLINE float Int8Linear::factor(float scale, int number) {
  // 65536ths of M's 127 steps and of V's 256, less what keeps them below the next after three roundings.
  return (number == 0 ? 127.0f * 65536.0f - 2.0f : 256.0f * 65536.0f - 4.0f) * block::reciprocal(scale);
}
APOLLO_INLINE std::uint8_t Int8Linear::code_of(float value, float factor, int number, std::uint16_t random) {
  if (number == 0) return static_cast<std::uint8_t>((block::fixed(value * factor) + random) >> 16);
  return static_cast<std::uint8_t>(rounding::code(value * factor - 65536.0f, random));
}

APOLLO_INLINE float Int8Dynamic::unit(float scale, int) { return scale; }
APOLLO_INLINE float Int8Dynamic::value_of(std::uint8_t code, float unit, int number) {
  return unit * (number == 0 ? block::map<8, true>().value[code] : block::map<8, false>().value[code]);
}
APOLLO_INLINE float Int8Dynamic::factor(float scale, int) { return block::reciprocal(scale); }
APOLLO_INLINE std::uint8_t Int8Dynamic::code_of(float value, float factor, int number, std::uint16_t) {
  const float x = factor * value;
  if (number != 0) return static_cast<std::uint8_t>(block::map<8, false>().nearest(x));
  constexpr int zero = block::DynamicMap<8, true>::zero;
  const std::int32_t code = block::map<8, true>().nearest(x < 0 ? -x : x);
  const std::int32_t below = zero - (code < zero ? code : zero);  // -1 has no code of its own
  return static_cast<std::uint8_t>(x < 0 ? below : zero + code);
}

APOLLO_INLINE float Int4::unit(float scale, int) { return scale; }
APOLLO_INLINE float Int4::value_of(std::uint8_t code, float unit, int number) {
  return unit * block::levels(number).value[code];
}
APOLLO_INLINE float Int4::factor(float scale, int) { return block::reciprocal(scale); }
APOLLO_INLINE std::uint8_t Int4::code_of(float value, float factor, int number, std::uint16_t random) {
  return block::levels(number).round(factor * value, random);
}

namespace block {

/// The loops over a block of 8-bit codes.
template <class Format, int number>
APOLLO_INLINE void decode_bytes(const std::uint8_t* codes, float scale, float* values) {
  const float unit = Format::unit(scale, number);
  for (int i = 0; i < Format::block; ++i) values[i] = Format::value_of(codes[i], unit, number);
}
template <class Format, int number>
APOLLO_INLINE void encode_values(const float* values, std::uint8_t* codes, float scale, const std::uint8_t* random) {
  const float factor = Format::factor(scale, number);
  for (int i = 0; i < Format::block; ++i)
    codes[i] = Format::code_of(values[i], factor, number,
                               Format::stochastic ? rounding::bits_of(random, i) : std::uint16_t{0});
}

}  // namespace block

APOLLO_INLINE void Int8Linear::decode(const std::uint8_t* codes, float scale, int number, float* values) {
  number == 0 ? block::decode_bytes<Int8Linear, 0>(codes, scale, values)
              : block::decode_bytes<Int8Linear, 1>(codes, scale, values);
}
APOLLO_INLINE void Int8Linear::encode(const float* values, std::uint8_t* codes, float& scale, int number,
                                      const std::uint8_t* random) {
  scale = block::largest<block>(values);
  number == 0 ? block::encode_values<Int8Linear, 0>(values, codes, scale, random)
              : block::encode_values<Int8Linear, 1>(values, codes, scale, random);
}

APOLLO_INLINE void Int8Dynamic::decode(const std::uint8_t* codes, float scale, int number, float* values) {
  number == 0 ? block::decode_bytes<Int8Dynamic, 0>(codes, scale, values)
              : block::decode_bytes<Int8Dynamic, 1>(codes, scale, values);
}
APOLLO_INLINE void Int8Dynamic::encode(const float* values, std::uint8_t* codes, float& scale, int number,
                                       const std::uint8_t* random) {
  scale = block::largest<block>(values);
  number == 0 ? block::encode_values<Int8Dynamic, 0>(values, codes, scale, random)
              : block::encode_values<Int8Dynamic, 1>(values, codes, scale, random);
}

APOLLO_INLINE void Int4::decode(const std::uint8_t* codes, float scale, int number, float* values) {
  const auto& levels = block::levels(number);
  for (int i = 0; i < block / 2; ++i) {
    values[2 * i] = scale * levels.value[codes[i] & 15];
    values[2 * i + 1] = scale * levels.value[codes[i] >> 4];
  }
}
APOLLO_INLINE void Int4::encode(const float* values, std::uint8_t* codes, float& scale, int number,
                                const std::uint8_t* random) {
  scale = block::largest<block>(values);
  std::uint8_t code[block];
  number == 0 ? block::encode_values<Int4, 0>(values, code, scale, random)
              : block::encode_values<Int4, 1>(values, code, scale, random);
  for (int i = 0; i < block / 2; ++i) codes[i] = static_cast<std::uint8_t>(code[2 * i] | code[2 * i + 1] << 4);
}

}  // namespace apollo
