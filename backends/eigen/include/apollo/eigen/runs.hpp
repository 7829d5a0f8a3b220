// SPDX-License-Identifier: Apache-2.0
// Runs: stretches of at most 256 elements along the fastest index of a view, opened to adjacent arithmetic values. Every loop
// of the backend works on runs, so strides and storage types are dealt with here alone.
#pragma once

#include <apollo/policy/storage.hpp>
#include <apollo/step/report.hpp>
#include <apollo/tensor/view.hpp>

#if defined(_MSC_VER)
#define APOLLO_RESTRICT __restrict
#else
#define APOLLO_RESTRICT __restrict__
#endif

namespace apollo::runs {

inline constexpr int length = storage_block;

/// The values of a run: in place where they are adjacent and of type T, else converted into `buffer`.
template <class T, class V>
APOLLO_INLINE const T* load(const V* from, Index stride, int count, T* buffer) {
  if constexpr (std::is_same_v<std::remove_const_t<V>, T>)
    if (stride == 1) return from;
  if (stride == 1)
    for (int i = 0; i < count; ++i) buffer[i] = static_cast<T>(from[i]);
  else
    for (int i = 0; i < count; ++i) buffer[i] = static_cast<T>(from[i * stride]);
  return buffer;
}

/// Stores a run of weights; nothing to do where they were changed in place.
template <class Weights, class T, class W>
APOLLO_INLINE void store(const T* values, W* to, Index stride, int count) {
  if constexpr (std::is_same_v<W, T>)
    if (values == to) return;
  for (int i = 0; i < count; ++i) Weights::store(values[i], to[i * stride]);
}

/// Sum of squares, in eight interleaved sums so that it vectorizes without permission to reassociate. Whoever finds the
/// result not finite calls sum_squares_slowly.
template <class T>
APOLLO_INLINE double sum_squares(const T* x, int count) {
  T lane[16] = {};
  int i = 0;
  for (; i + 16 <= count; i += 16)
    for (int l = 0; l < 16; ++l) lane[l] += x[i + l] * x[i + l];
  T rest = 0;
  for (; i < count; ++i) rest += x[i] * x[i];
  for (int width = 8; width > 0; width /= 2)
    for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
  return static_cast<double>(lane[0] + rest);
}

/// The same in double, where finite values may have overflowed; and whether they were finite.
template <class T>
double sum_squares_slowly(const T* x, Index count, Index stride, bool& finite) {
  double sum = 0;
  for (Index i = 0; i < count; ++i) {
    finite = finite && bits::finite(x[i * stride]);
    sum += static_cast<double>(x[i * stride]) * static_cast<double>(x[i * stride]);
  }
  return sum;
}

/// Sum of squares and finiteness of a run.
template <class T>
APOLLO_INLINE double measure(const T* x, int count, bool& finite) {
  const double sum = sum_squares(x, count);
  return bits::finite(sum) ? sum : sum_squares_slowly(x, count, 1, finite);
}

/// Visits a tile [begin, end) of channels of an oriented view in runs along `order`: body(j, s, count), where a run goes
/// over s (row-major) or over j (column-major).
template <class Body>
APOLLO_INLINE void for_runs(Order2D order, Index begin, Index end, Index removed, Body&& body) {
  if (order == Order2D::row_major) {
    for (Index j = begin; j < end; ++j)
      for (Index s = 0; s < removed; s += length)
        body(j, s, static_cast<int>(removed - s < length ? removed - s : length));
  } else {
    for (Index j = begin; j < end; j += length) {
      const int count = static_cast<int>(end - j < length ? end - j : length);
      for (Index s = 0; s < removed; ++s) body(j, s, count);
    }
  }
}

}  // namespace apollo::runs
