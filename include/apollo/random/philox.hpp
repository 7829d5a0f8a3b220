// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10, the counter-based generator behind every random number of the library: no state, random access.
// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include <apollo/base/config.hpp>

namespace apollo {

struct PhiloxCounter {
  std::uint32_t word[4] = {0, 0, 0, 0};
  friend constexpr bool operator==(const PhiloxCounter&, const PhiloxCounter&) = default;
};

struct PhiloxKey {
  std::uint32_t word[2] = {0, 0};
  /// The key of the next round. The golden ratio and sqrt(3) - 1: the paper's Weyl constants.
  APOLLO_INLINE constexpr void next() {
    word[0] += 0x9E3779B9u;
    word[1] += 0xBB67AE85u;
  }
};

inline constexpr int philox_rounds = 10;
inline constexpr std::uint32_t philox_multiplier[2] = {0xD2511F53u, 0xCD9E8D57u};

/// Ten rounds over each of `lanes` counters at once, stored word by word so that compilers turn the inner loop into
/// vector instructions. Cost: 20 widening multiplications for 128 bits.
template <int lanes>
APOLLO_INLINE constexpr void philox(std::uint32_t (&counter)[4][lanes], PhiloxKey key) {
  for (int round = 0; round < philox_rounds; ++round) {
    for (int i = 0; i < lanes; ++i) {
      const std::uint64_t a = std::uint64_t{philox_multiplier[0]} * counter[0][i];
      const std::uint64_t b = std::uint64_t{philox_multiplier[1]} * counter[2][i];
      counter[0][i] = static_cast<std::uint32_t>(b >> 32) ^ counter[1][i] ^ key.word[0];
      counter[1][i] = static_cast<std::uint32_t>(b);
      counter[2][i] = static_cast<std::uint32_t>(a >> 32) ^ counter[3][i] ^ key.word[1];
      counter[3][i] = static_cast<std::uint32_t>(a);
    }
    key.next();
  }
}

/// 128 random bits for one counter.
APOLLO_INLINE constexpr PhiloxCounter philox(PhiloxCounter counter, PhiloxKey key) {
  std::uint32_t lane[4][1] = {{counter.word[0]}, {counter.word[1]}, {counter.word[2]}, {counter.word[3]}};
  philox<1>(lane, key);
  return {{lane[0][0], lane[1][0], lane[2][0], lane[3][0]}};
}

}  // namespace apollo
