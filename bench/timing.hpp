// SPDX-License-Identifier: Apache-2.0
// What every benchmark needs: the time of a call, and the middle of many.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <vector>

namespace bench {

using Seconds = double;

template <class Body>
Seconds time_of(const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<Seconds>(std::chrono::steady_clock::now() - start).count();
}

/// The value below which `part` of the values lie; between two values, a point on the line from one to the other.
inline double quantile(std::vector<double> values, double part) {
  std::sort(values.begin(), values.end());
  const double at = part * static_cast<double>(values.size() - 1);
  const auto low = static_cast<std::size_t>(at);
  const std::size_t high = std::min(low + 1, values.size() - 1);
  return values[low] + (at - static_cast<double>(low)) * (values[high] - values[low]);
}

inline double median(const std::vector<double>& values) { return quantile(values, 0.5); }

}  // namespace bench
