// SPDX-License-Identifier: Apache-2.0
// The storage axes: how moments and weights are kept between steps. Values are opened to arithmetic type, updated there, and
// closed again.
#pragma once

#include <type_traits>

#include <apollo/random/stream.hpp>
#include <apollo/tensor/number.hpp>

namespace apollo {

/// How many values are opened at once. Storages with a shared scale per block divide it.
inline constexpr int storage_block = 256;

/// A run of adjacent stored moments. `open` gives them in arithmetic type, in place where that is what is stored, else in
/// the caller's buffer of storage_block values; `close` stores them. `first` is the number of the first value in its
/// buffer and keys the random bits of stochastic rounding, so that tiles and threads do not matter.
template <class Stored, class T>
struct MomentStorage {
  static_assert(std::is_same_v<Stored, T> || std::is_same_v<Stored, float>,
                "apollo: moments are stored as float, double (with double weights) or apollo::bfloat16; see "
                "docs/compose.md.");
  static constexpr bool in_place = std::is_same_v<Stored, T>;

  APOLLO_INLINE static T* open(Stored* stored, T* buffer, int count) {
    if constexpr (in_place) {
      return stored;
    } else {
      for (int i = 0; i < count; ++i) buffer[i] = static_cast<T>(stored[i]);
      return buffer;
    }
  }
  APOLLO_INLINE static void close(const T* values, Stored* stored, int count, const RandomStream&, Index) {
    if constexpr (!in_place)
      for (int i = 0; i < count; ++i) stored[i] = static_cast<Stored>(values[i]);
  }
};

/// bfloat16 with stochastic rounding: with beta2 = .999 rounding to nearest would round V * .999 back to V, so V could never
/// decay. Value number i takes half-word i & 7 of block i >> 3 of its rounding stream at the tensor's step count.
template <class T>
struct MomentStorage<bfloat16, T> {
  static constexpr bool in_place = false;

  APOLLO_INLINE static T* open(bfloat16* stored, T* buffer, int count) {
    for (int i = 0; i < count; ++i) buffer[i] = static_cast<T>(bits::from_bfloat16(stored[i].bits));
    return buffer;
  }
  APOLLO_INLINE static void close(const T* values, bfloat16* stored, int count, const RandomStream& stream,
                                  Index first) {
    PhiloxCounter random;
    for (int i = 0; i < count; ++i) {
      const auto number = static_cast<std::uint64_t>(first + i);
      if (i == 0 || (number & 7u) == 0) random = stream.block(number >> 3);
      const std::uint32_t noise = random.word[(number >> 1) & 3u] >> ((number & 1u) * 16u);
      stored[i].bits = bits::to_bfloat16_stochastic(static_cast<float>(values[i]), noise);
    }
  }
};

struct WeightsRole {};

/// Weights stay in the type their owner gave them; half precision types round to nearest.
struct NativeWeights {
  using role = WeightsRole;
  template <class W, class T>
  APOLLO_INLINE static void store(T value, W& weight) {
    weight = static_cast<W>(static_cast<arithmetic_t<W>>(value));
  }
};

}  // namespace apollo
