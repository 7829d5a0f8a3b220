// SPDX-License-Identifier: Apache-2.0
// Numbers that weights and gradients of a benchmark are filled with.
#pragma once

#include <apollo/apollo.hpp>

namespace bench {

inline constexpr float weight_spread = 2e-2f, gradient_spread = 1e-3f;

/// A million and three normals serve for everything, over and over: a prime, so that no two rows of a matrix agree.
inline constexpr apollo::Index pool_size = 1'000'003;

inline apollo::HostBuffer<float> normals(std::uint64_t stream, apollo::Index count) {
  apollo::HostBuffer<float> values(count);
  apollo::fill_normals({0, 1, apollo::Stream::start, stream}, 0, static_cast<std::uint64_t>(count), values.data());
  return values;
}

}  // namespace bench
