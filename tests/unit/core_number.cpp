// SPDX-License-Identifier: Apache-2.0
// also: fast-math
// Number types: every bfloat16 and float16, their rounding at every boundary against an oracle in
// double, and finite tests.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include <apollo/tensor/number.hpp>

// Everything here speaks in bit patterns: -ffast-math lets a compiler forget NaN and infinity and
// flushes subnormals, so
// that floating-point comparisons could not tell right from wrong.
namespace {

using apollo::bfloat16;
using apollo::float16;

constexpr std::uint32_t sign_bit = 0x80000000u;

float as_float(std::uint32_t bits) { return std::bit_cast<float>(bits); }

/// |value| of float bits without its sign, exactly, also where the processor would flush it to zero.
double magnitude_of_float(std::uint32_t bits) {
  const auto exponent = static_cast<int>((bits >> 23) & 0xffu);
  const auto fraction = static_cast<double>(bits & 0x7fffffu);
  return exponent == 0 ? std::ldexp(fraction, -149) : std::ldexp(fraction + 8388608.0, exponent - 150);
}

double magnitude_of_half(std::uint32_t bits) {
  const auto exponent = static_cast<int>((bits >> 10) & 0x1fu);
  const auto fraction = static_cast<double>(bits & 0x3ffu);
  return exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction + 1024.0, exponent - 25);
}

/// The integer nearest to x >= 0, ties to even; written out, since a library call may follow the flags.
double nearest_even(double x) {
  const double below = std::floor(x), rest = x - below;
  const bool odd = std::fmod(below, 2.0) > 0.5;
  return rest > 0.5 || (rest >= 0.5 && odd) ? below + 1 : below;
}

/// float bits -> half bits, from the definition: the nearest multiple of the local spacing.
std::uint32_t half_oracle(std::uint32_t bits) {
  const std::uint32_t sign = (bits & sign_bit) >> 16, magnitude = bits & ~sign_bit;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude == 0x7f800000u) return sign | 0x7c00u;
  const double x = magnitude_of_float(magnitude);
  if (x <= 0) return sign;
  int exponent = std::ilogb(x);
  if (exponent < -14) exponent = -14;
  const double steps = nearest_even(std::ldexp(x, 10 - exponent));  // in [0, 2048]
  if (std::ldexp(steps, exponent - 10) > 65504) return sign | 0x7c00u;
  // 1024 steps and more are normal numbers: the exponent field is one more than the subnormals'.
  return sign | static_cast<std::uint32_t>(static_cast<double>(exponent + 14) * 1024 + steps);
}

std::uint32_t brain_oracle(std::uint32_t bits) {
  const std::uint32_t sign = (bits & sign_bit) >> 16, magnitude = bits & ~sign_bit;
  if (magnitude == 0x7f800000u) return sign | 0x7f80u;
  const double x = magnitude_of_float(magnitude);
  if (x <= 0) return sign;
  int exponent = std::ilogb(x);
  if (exponent < -126) exponent = -126;
  const double steps = nearest_even(std::ldexp(x, 7 - exponent));  // in [0, 256]
  const double code = static_cast<double>(exponent + 126) * 128 + steps;
  return sign | static_cast<std::uint32_t>(code >= 0x7f80 ? 0x7f80 : code);
}

bool is_nan16(std::uint32_t bits, std::uint32_t infinity) { return (bits & 0x7fffu) > infinity; }

}  // namespace

TEST_CASE("every bfloat16 opens to the float with its upper half and closes to itself") {
  int wrong = 0;
  for (std::uint32_t b = 0; b < 0x10000u; ++b) {
    const auto opened = std::bit_cast<std::uint32_t>(apollo::bits::from_bfloat16(static_cast<std::uint16_t>(b)));
    wrong += opened != b << 16;
    const std::uint32_t closed = apollo::bits::to_bfloat16(as_float(b << 16));
    if (is_nan16(b, 0x7f80u))
      wrong += !is_nan16(closed, 0x7f80u) || (closed & 0x8000u) != (b & 0x8000u);
    else
      wrong += closed != b;
  }
  CHECK(wrong == 0);
}

TEST_CASE("bfloat16 rounds to nearest, ties to even, at every boundary") {
  int wrong = 0, nan_lost = 0;
  for (std::uint32_t high = 0; high < 0x10000u; ++high)
    for (const std::uint32_t low : {0u, 1u, 0x1234u, 0x7fffu, 0x8000u, 0x8001u, 0xfedcu, 0xffffu}) {
      const std::uint32_t bits = high << 16 | low;
      const std::uint32_t got = apollo::bits::to_bfloat16(as_float(bits));
      if ((bits & ~sign_bit) > 0x7f800000u)
        nan_lost += !is_nan16(got, 0x7f80u);
      else
        wrong += got != brain_oracle(bits);
    }
  CHECK(wrong == 0);
  CHECK(nan_lost == 0);
  // A tie below an even code stays, one below an odd code goes up; the largest floats round to infinity.
  CHECK(apollo::bits::to_bfloat16(as_float(0x3f808000u)) == 0x3f80);
  CHECK(apollo::bits::to_bfloat16(as_float(0x3f818000u)) == 0x3f82);
  CHECK(apollo::bits::to_bfloat16(as_float(0x7f7f8000u)) == 0x7f80);
  CHECK(apollo::bits::to_bfloat16(as_float(0x7f7f7fffu)) == 0x7f7f);
  CHECK(apollo::bits::to_bfloat16(as_float(0x00008000u)) == 0);
  CHECK(apollo::bits::to_bfloat16(as_float(0x00008001u)) == 1);
}

TEST_CASE("every float16 opens to its value and closes to itself") {
  int wrong = 0;
  for (std::uint32_t h = 0; h < 0x10000u; ++h) {
    const auto opened = std::bit_cast<std::uint32_t>(apollo::bits::from_float16(static_cast<std::uint16_t>(h)));
    const std::uint32_t closed = apollo::bits::to_float16(as_float(opened));
    wrong += (opened >> 31) != (h >> 15);
    const std::uint32_t magnitude = h & 0x7fffu;
    if (magnitude > 0x7c00u) {
      wrong += (opened & ~sign_bit) <= 0x7f800000u || !is_nan16(closed, 0x7c00u);
      continue;
    }
    wrong += closed != h;
    if (magnitude == 0x7c00u)
      wrong += (opened & ~sign_bit) != 0x7f800000u;
    else
      wrong += !(magnitude_of_float(opened & ~sign_bit) == magnitude_of_half(magnitude));
  }
  CHECK(wrong == 0);
}

TEST_CASE("float16 rounds to nearest, ties to even, at every boundary, subnormals included") {
  int wrong = 0;
  const auto check = [&wrong](std::uint32_t bits) {
    wrong += apollo::bits::to_float16(as_float(bits)) != half_oracle(bits);
    wrong += apollo::bits::to_float16(as_float(bits | sign_bit)) != half_oracle(bits | sign_bit);
  };
  // Rounding is monotone, so that its boundaries say everything: each half, the middle to the next, and
  // their neighbours.
  for (std::uint32_t h = 0; h < 0x7c00u; ++h) {
    const auto here = std::bit_cast<std::uint32_t>(apollo::bits::from_float16(static_cast<std::uint16_t>(h)));
    const double middle = (magnitude_of_half(h) + magnitude_of_half(h + 1)) / 2;
    const auto between = std::bit_cast<std::uint32_t>(static_cast<float>(middle));
    check(here);
    check(here + 1);
    if (here > 0) check(here - 1);
    check(between);
    check(between - 1);
    check(between + 1);
  }
  for (const std::uint32_t bits : {0x477fefffu, 0x477ff000u, 0x47800000u, 0x7f7fffffu, 0x7f800000u, 0x33000000u,
                                   0x33000001u, 0x32ffffffu, 0x00000001u, 0x007fffffu, 0x00800000u})
    check(bits);
  CHECK(wrong == 0);
  CHECK(apollo::bits::to_float16(as_float(0x477fefffu)) == 0x7bff);  // just below 65520
  CHECK(apollo::bits::to_float16(as_float(0x477ff000u)) == 0x7c00);  // 65520
  CHECK(apollo::bits::to_float16(as_float(0x33000000u)) == 0);       // 2^-25, a tie with zero
  CHECK(apollo::bits::to_float16(as_float(0x33000001u)) == 1);
}

TEST_CASE("both roundings agree with the oracle on a sweep through all floats") {
  int wrong_half = 0, wrong_brain = 0;
  for (std::uint32_t bits = 0;; bits += 4093) {
    const float x = as_float(bits);
    if ((bits & ~sign_bit) > 0x7f800000u) {
      wrong_half += !is_nan16(apollo::bits::to_float16(x), 0x7c00u);
      wrong_brain += !is_nan16(apollo::bits::to_bfloat16(x), 0x7f80u);
    } else {
      wrong_half += apollo::bits::to_float16(x) != half_oracle(bits);
      wrong_brain += apollo::bits::to_bfloat16(x) != brain_oracle(bits);
    }
    if (bits > 0xffffffffu - 4093) break;
  }
  CHECK(wrong_half == 0);
  CHECK(wrong_brain == 0);
}

TEST_CASE("every NaN stays a NaN") {
  int lost = 0;
  const auto check = [&lost](std::uint32_t payload) {
    for (const std::uint32_t sign : {0u, sign_bit}) {
      const float nan = as_float(sign | 0x7f800000u | payload);
      lost += !is_nan16(apollo::bits::to_bfloat16(nan), 0x7f80u);
      lost += !is_nan16(apollo::bits::to_float16(nan), 0x7c00u);
      for (const std::uint32_t noise : {0u, 1u, 0x8000u, 0xffffu})
        lost += !is_nan16(apollo::bits::to_bfloat16_stochastic(nan, noise), 0x7f80u);
    }
  };
  for (std::uint32_t bit = 0; bit < 23; ++bit) check(1u << bit);
  for (std::uint32_t payload = 1; payload < 0x800000u; payload += 997) check(payload);
  check(0x7fffffu);
  check(0xffffu);
  CHECK(lost == 0);
}

TEST_CASE("stochastic rounding goes up with exactly the probability of nearness") {
  // All 65,536 noises of a value: as many round away from zero as its lower half says, so that the mean is exact.
  for (const std::uint32_t high :
       {0x3f80u, 0xbf80u, 0x0000u, 0x8000u, 0x0001u, 0x007fu, 0x0080u, 0x4049u, 0x7f7eu, 0xff7eu})
    for (const std::uint32_t low : {0u, 1u, 2u, 0x4000u, 0x7fffu, 0x8000u, 0xabcdu, 0xffffu}) {
      const float value = as_float(high << 16 | low);
      std::uint32_t up = 0, other = 0;
      for (std::uint32_t noise = 0; noise < 0x10000u; ++noise) {
        const std::uint32_t got = apollo::bits::to_bfloat16_stochastic(value, noise);
        up += got == high + 1;
        other += got != high && got != high + 1;
      }
      CHECK(up == low);
      CHECK(other == 0);
    }
}

TEST_CASE("stochastic rounding reads 16 bits of noise and no more") {
  for (const std::uint32_t low : {1u, 0x8000u, 0xffffu})
    CHECK(apollo::bits::to_bfloat16_stochastic(as_float(0x3f800000u | low), 0xffff0000u) == 0x3f80);
}

TEST_CASE("stochastic rounding never makes a finite value infinite and leaves infinity alone") {
  int infinite = 0, changed = 0;
  for (const std::uint32_t sign : {0u, sign_bit})
    for (std::uint32_t noise = 0; noise < 0x10000u; ++noise) {
      const std::uint32_t high = sign >> 16;
      for (const std::uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0xffffu})
        infinite += apollo::bits::to_bfloat16_stochastic(as_float(sign | 0x7f7f0000u | low), noise) != (high | 0x7f7fu);
      changed += apollo::bits::to_bfloat16_stochastic(as_float(sign | 0x7f800000u), noise) != (high | 0x7f80u);
    }
  CHECK(infinite == 0);
  CHECK(changed == 0);
}

TEST_CASE("finite tests look at the exponent alone") {
  int wrong = 0;
  for (std::uint32_t exponent = 0; exponent < 256; ++exponent)
    for (const std::uint32_t sign : {0u, sign_bit})
      for (const std::uint32_t fraction : {0u, 1u, 0x400000u, 0x7fffffu})
        wrong += apollo::bits::finite(as_float(sign | exponent << 23 | fraction)) != (exponent != 255);
  for (std::uint64_t exponent = 0; exponent < 2048; ++exponent)
    for (const std::uint64_t sign : {std::uint64_t{0}, std::uint64_t{1} << 63})
      for (const std::uint64_t fraction : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 51})
        wrong += apollo::bits::finite(std::bit_cast<double>(sign | exponent << 52 | fraction)) != (exponent != 2047);
  CHECK(wrong == 0);
}

TEST_CASE("the types convert, in constant expressions too") {
  static_assert(static_cast<float>(bfloat16(1.0f)) == 1.0f);
  static_assert(static_cast<float>(float16(-2.5f)) == -2.5f);
  static_assert(bfloat16(3.140625f).bits == 0x4049);
  static_assert(float16(1.0f / 3).bits == 0x3555);
  static_assert(apollo::bits::finite(1.0f) && apollo::bits::finite(1.0));
  static_assert(sizeof(bfloat16) == 2 && sizeof(float16) == 2);
  static_assert(std::is_trivially_copyable_v<bfloat16> && std::is_trivially_copyable_v<float16>);
  static_assert(!std::is_convertible_v<float, bfloat16> && !std::is_convertible_v<float, float16>);
  static_assert(std::is_convertible_v<bfloat16, float> && std::is_convertible_v<float16, float>);
  CHECK(float16(65504.0f).bits == 0x7bff);
  CHECK(bfloat16(0.0f).bits == 0);
}

TEST_CASE("what is stored as what, computed in what and called what") {
  static_assert(std::is_same_v<apollo::arithmetic_t<double>, double>);
  static_assert(std::is_same_v<apollo::arithmetic_t<const double>, double>);
  static_assert(std::is_same_v<apollo::arithmetic_t<float>, float>);
  static_assert(std::is_same_v<apollo::arithmetic_t<const bfloat16>, float>);
  static_assert(std::is_same_v<apollo::arithmetic_t<float16>, float>);
  static_assert(apollo::is_storage_type<float> && apollo::is_storage_type<double>);
  static_assert(apollo::is_storage_type<bfloat16> && apollo::is_storage_type<float16>);
  static_assert(!apollo::is_storage_type<int> && !apollo::is_storage_type<long double>);
  CHECK(std::string_view(apollo::type_name<bfloat16>) == "bfloat16");
  CHECK(std::string_view(apollo::type_name<float16>) == "float16");
  CHECK(std::string_view(apollo::type_name<float>) == "float32");
  CHECK(std::string_view(apollo::type_name<double>) == "float64");
}
