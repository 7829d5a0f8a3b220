// SPDX-License-Identifier: Apache-2.0
// A small model to be stepped on a device (thrust.hpp) and on the host (vectors.cpp, which nvcc does not see).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <apollo/base/config.hpp>

namespace vectors {

using apollo::Index;

constexpr Index rows = 48, cols = 80, size = rows * cols;
constexpr int steps = 8;
constexpr double lr = 0.01;

/// The gradient of (w - 1/2)^2 / 2.
struct Slope {
  APOLLO_HD float operator()(float w) const { return w - 0.5f; }
};

/// Multiples of 2^-9 on [-1, 1).
inline std::vector<float> start() {
  std::vector<float> values;
  std::uint32_t state = 1;
  for (Index i = 0; i < size; ++i) {
    state = state * 1664525u + 1013904223u;
    values.push_back(static_cast<float>(static_cast<int>(state >> 22) - 512) * 0x1p-9f);
  }
  return values;
}

/// The weights that are left: a matrix by APOLLO, the same by columns, and a vector by AdamW.
using Weights = std::vector<std::vector<float>>;

/// Stepped on the host, by the reference backend.
Weights expected();

/// The largest difference, as a share of a step's length; NaN where there is one.
inline double worst_error(const Weights& found, const Weights& wanted) {
  double worst = found.size() == wanted.size() ? 0 : 1;
  for (std::size_t i = 0; i < found.size() && i < wanted.size(); ++i)
    for (std::size_t k = 0; k < wanted[i].size(); ++k) {
      const double gap = std::fabs(static_cast<double>(found[i][k]) - static_cast<double>(wanted[i][k]));
      if (!std::isnan(worst) && !(gap <= worst)) worst = gap;
    }
  return worst / lr;
}

}  // namespace vectors
