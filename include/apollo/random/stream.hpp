// SPDX-License-Identifier: Apache-2.0
// Which random bits belong to whom: draws are keyed by (seed, tensor, stream, counter, element) and by nothing else, so
// that any thread, process or device draws the same. This mapping is frozen: it is part of the checkpoint format.
#pragma once

#include <string_view>

#include <apollo/random/philox.hpp>

namespace apollo {

/// What a draw is for.
enum class Stream : std::uint8_t {
  projection = 0,     ///< entries of a dense random projection
  hash = 1,           ///< buckets of a sparse one
  signs = 2,          ///< signs of a sparse one
  round_weight = 3,   ///< stochastic rounding of W
  round_moments = 4,  ///< ... of the moments
  start = 6,          ///< the start of a subspace iteration
};

/// A tensor's identity in the random streams, by default a hash of its name (32-bit FNV-1a).
using TensorId = std::uint32_t;

constexpr TensorId tensor_id(std::string_view name) {
  TensorId hash = 2166136261u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return hash;
}

/// One sequence of random blocks. `counter` is the refresh index for projections and the tensor's step count for
/// rounding; 48 bits of it and 40 bits of the block number are used.
struct RandomStream {
  std::uint64_t seed = 0;
  TensorId tensor = 0;
  Stream stream = Stream::projection;
  std::uint64_t counter = 0;

  APOLLO_HD constexpr PhiloxKey key() const {
    return {{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}};
  }

  APOLLO_HD constexpr PhiloxCounter position(std::uint64_t block) const {
    return {{static_cast<std::uint32_t>(block),
             static_cast<std::uint32_t>((block >> 32) & 0xffu) | static_cast<std::uint32_t>(stream) << 8 |
                 static_cast<std::uint32_t>((counter >> 32) & 0xffffu) << 16,
             tensor, static_cast<std::uint32_t>(counter)}};
  }

  /// 128 random bits, number `block` of this stream.
  APOLLO_INLINE constexpr PhiloxCounter block(std::uint64_t number) const { return philox(position(number), key()); }

  /// 32 random bits, number `element` of this stream.
  APOLLO_HD constexpr std::uint32_t word(std::uint64_t element) const { return block(element >> 2).word[element & 3u]; }

  /// One random bit, number `element` of this stream.
  APOLLO_HD constexpr bool bit(std::uint64_t element) const {
    return ((block(element >> 7).word[(element >> 5) & 3u] >> (element & 31u)) & 1u) != 0;
  }
};

}  // namespace apollo
