// SPDX-License-Identifier: Apache-2.0
// The numbers tensors are stored in (float, double, bfloat16, float16) and the arithmetic type each is computed in.
#pragma once

#include <bit>
#include <type_traits>

#include <apollo/base/config.hpp>

namespace apollo {

namespace bits {

// Everything below works on bit patterns, so that -ffast-math, which lets a compiler assume that NaN and infinity do not
// exist, cannot change it.
inline constexpr std::uint32_t float_sign = 0x80000000u;
inline constexpr std::uint32_t float_exponent = 0x7f800000u;

/// True for every finite value, also under -ffast-math.
APOLLO_INLINE constexpr bool finite(float value) {
  return (__builtin_bit_cast(std::uint32_t, value) & float_exponent) != float_exponent;
}
APOLLO_INLINE constexpr bool finite(double value) {
  constexpr std::uint64_t exponent = 0x7ff0000000000000u;
  return (__builtin_bit_cast(std::uint64_t, value) & exponent) != exponent;
}

/// float -> bfloat16. Error: half a unit in the last place, ties to even; a NaN stays a NaN.
APOLLO_HD constexpr std::uint16_t to_bfloat16(float value) {
  const auto u = __builtin_bit_cast(std::uint32_t, value);
  const std::uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return static_cast<std::uint16_t>((u & ~float_sign) > float_exponent ? (u >> 16) | 0x40u : rounded);
}

/// float -> bfloat16, up or down with probability proportional to nearness; `noise` is 16 random bits.
/// Error: less than one unit in the last place, mean zero. Never rounds a finite value to infinity.
APOLLO_INLINE constexpr std::uint16_t to_bfloat16_stochastic(float value, std::uint32_t noise) {
  const auto u = __builtin_bit_cast(std::uint32_t, value);
  const std::uint32_t rounded = u + (noise & 0xffffu);
  const bool keeps_finite = (u & float_exponent) != float_exponent && (rounded & float_exponent) != float_exponent;
  const std::uint32_t payload = (u & ~float_sign) > float_exponent ? 0x40u : 0u;  // a NaN must not become infinity
  return static_cast<std::uint16_t>(((keeps_finite ? rounded : u) >> 16) | payload);
}

APOLLO_INLINE constexpr float from_bfloat16(std::uint16_t u) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(u) << 16);
}

/// float -> IEEE half precision. Error: half a unit in the last place, ties to even, also for subnormal results;
/// values of 65520 and above become infinity.
APOLLO_HD constexpr std::uint16_t to_float16(float value) {
  const auto u = __builtin_bit_cast(std::uint32_t, value);
  const std::uint32_t sign = (u & float_sign) >> 16;
  const std::uint32_t magnitude = u & ~float_sign;
  std::uint32_t half = 0;
  if (magnitude > float_exponent) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // 65520, the first value that rounds past the largest half
    half = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // 2^-14, the smallest normal half
    const std::uint32_t rebased = magnitude - 0x38000000u;
    half = (rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13;
  } else if (magnitude > 0x33000000u) {  // 2^-25 itself is a tie and goes to zero
    const std::uint32_t shift = 126u - (magnitude >> 23);
    const std::uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    const std::uint32_t floor = mantissa >> shift;
    const std::uint32_t rest = mantissa & ((1u << shift) - 1u);
    const std::uint32_t tie = 1u << (shift - 1u);
    half = floor + ((rest > tie || (rest == tie && (floor & 1u) != 0u)) ? 1u : 0u);
  }
  return static_cast<std::uint16_t>(sign | half);
}

APOLLO_HD constexpr float from_float16(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  std::uint32_t exponent = (h >> 10) & 0x1fu;
  std::uint32_t mantissa = h & 0x3ffu;
  if (exponent == 31u) return __builtin_bit_cast(float, sign | float_exponent | (mantissa << 13));
  if (exponent == 0u) {
    if (mantissa == 0u) return __builtin_bit_cast(float, sign);
    const auto shift = static_cast<std::uint32_t>(__builtin_clz(mantissa)) - 21u;
    mantissa = (mantissa << shift) & 0x3ffu;
    exponent = 1u - shift;  // wraps for subnormals; the sum below wraps back
  }
  return __builtin_bit_cast(float, sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

}  // namespace bits

/// The upper half of a float: 8 exponent and 7 fraction bits. Storage only; convert to float to compute.
/// Layout-compatible with every other 16-bit bfloat16, so an adapter may reinterpret a pointer to one.
struct bfloat16 {
  std::uint16_t bits = 0;
  bfloat16() = default;
  APOLLO_HD constexpr explicit bfloat16(float value) : bits(bits::to_bfloat16(value)) {}
  APOLLO_HD constexpr operator float() const { return bits::from_bfloat16(bits); }
};

/// IEEE 754 half precision: 5 exponent and 10 fraction bits. Storage only; convert to float to compute.
struct float16 {
  std::uint16_t bits = 0;
  float16() = default;
  APOLLO_HD constexpr explicit float16(float value) : bits(bits::to_float16(value)) {}
  APOLLO_HD constexpr operator float() const { return bits::from_float16(bits); }
};

template <class T>
inline constexpr bool is_storage_type =
    std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>;

/// The type a stored type is computed in: double for double, float for all others.
template <class T>
using arithmetic_t = std::conditional_t<std::is_same_v<std::remove_const_t<T>, double>, double, float>;

/// Error messages, fingerprints and checkpoints name types so.
template <class T>
inline constexpr const char* type_name = "?";
template <>
inline constexpr const char* type_name<std::uint8_t> = "uint8";
template <>
inline constexpr const char* type_name<std::uint16_t> = "uint16";
template <>
inline constexpr const char* type_name<float> = "float32";
template <>
inline constexpr const char* type_name<double> = "float64";
template <>
inline constexpr const char* type_name<bfloat16> = "bfloat16";
template <>
inline constexpr const char* type_name<float16> = "float16";

}  // namespace apollo
