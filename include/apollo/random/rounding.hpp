// SPDX-License-Identifier: Apache-2.0
// The random bits of stochastic rounding: 16 for each value of a storage run, at the price of 8.
#pragma once

#include <apollo/random/stream.hpp>
#include <apollo/tensor/blocks.hpp>

namespace apollo::rounding {

/// Random bytes of run number `run`, one a value: byte b is byte b & 3 of word (b >> 6) & 3 of Philox block
/// 16 run + ((b >> 2) & 15), in the order in which 16 blocks drawn side by side lie in vectors. The first 16 follow once more,
/// for a part of a run that begins anywhere and reads to the end of its last 16.
inline constexpr int bytes = storage_block + 16;

/// Cost: one block for 16 values.
APOLLO_INLINE void draw(const RandomStream& stream, Index run, std::uint8_t* random) {
  constexpr int lanes = 16;
  std::uint32_t words[4][lanes];
  for (int i = 0; i < lanes; ++i) {
    const PhiloxCounter position = stream.position(static_cast<std::uint64_t>(lanes * run + i));
    for (int k = 0; k < 4; ++k) words[k][i] = position.word[k];
  }
  philox<lanes>(words, stream.key());
  for (int k = 0; k < 4; ++k)
    for (int i = 0; i < lanes; ++i)
      for (int b = 0; b < 4; ++b) random[4 * (k * lanes + i) + b] = static_cast<std::uint8_t>(words[k][i] >> 8 * b);
  for (int i = 0; i < lanes; ++i) random[storage_block + i] = random[i];
}

/// The 16 bits of value i: the next value's byte above its own, which is the upper one of the value before; each sixteen go
/// round, so that one permutation makes a vector of them. Each value's are uniform, and two values that share a byte have
/// it where it decides for one of them only.
APOLLO_INLINE std::uint16_t bits_of(const std::uint8_t* random, int i) {
  return static_cast<std::uint16_t>(random[i] | random[(i & ~15) | ((i + 1) & 15)] << 8);
}

/// Rounds to nearest.
inline constexpr std::uint16_t half = 0x8000u;

/// The whole number below x + bits / 65536, cut off at 0 and 255. `scaled` is 65536 x; a NaN gives 0.
APOLLO_INLINE std::int32_t code(float scaled, std::uint16_t bits) {
  constexpr float most = 255.0f * 65536.0f;
  const float bounded = scaled > -65536.0f ? scaled : -65536.0f;
  const auto fixed = static_cast<std::int32_t>(bounded < most ? bounded : most) + bits;
  return (fixed > 0 ? fixed : 0) >> 16;
}

}  // namespace apollo::rounding
