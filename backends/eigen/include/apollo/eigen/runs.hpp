// SPDX-License-Identifier: Apache-2.0
// Runs: stretches of at most 256 elements along the fastest index of a view, opened to adjacent arithmetic values. Every loop
// of the backend works on runs, so strides and storage types are dealt with here alone.
#pragma once

#include <apollo/eigen/simd.hpp>
#include <apollo/policy/storage.hpp>
#include <apollo/step/report.hpp>
#include <apollo/tensor/view.hpp>

namespace apollo::runs {

inline constexpr int length = storage_block;

/// The values of a run: in place where they are adjacent and of type T, else converted into `buffer`.
template <class T, class V>
APOLLO_INLINE const T* load(const V* from, Index stride, int count, T* buffer) {
  if constexpr (std::is_same_v<std::remove_const_t<V>, T>)
    if (stride == 1) return from;
  if (stride == 1)
    simd::dispatch([&](auto kernels) { kernels.convert(from, buffer, count); });
  else
    for (int i = 0; i < count; ++i) buffer[i] = static_cast<T>(from[i * stride]);
  return buffer;
}

/// The same of weights, which are then changed in place or in `buffer`, to be stored.
template <class T, class W>
APOLLO_INLINE T* open(W* weight, Index stride, int count, T* buffer) {
  if constexpr (std::is_same_v<W, T>)
    if (stride == 1) return weight;
  load(weight, stride, count, buffer);
  return buffer;
}

/// Stores a run of weights; nothing to do where they were changed in place.
template <class T, class W>
APOLLO_INLINE void store(const T* values, W* to, Index stride, int count) {
  if constexpr (std::is_same_v<W, T>)
    if (values == to) return;
  if (stride == 1) return simd::dispatch([&](auto kernels) { kernels.narrow(values, to, count); });
  for (int i = 0; i < count; ++i) to[i * stride] = static_cast<W>(static_cast<arithmetic_t<W>>(values[i]));
}

/// Whether the loops change weights where they are, as they are stored, and read x likewise.
template <class T, class W, class X>
inline constexpr bool direct = simd::readable<W, T>&& simd::readable<X, T>;

/// Calls body(weights, values) for a run of weights that are to be changed by as many values, in place if that is possible, else
/// through buffers.
template <class T, class W, class X, class Body>
APOLLO_INLINE void change(W* w, Index w_stride, const X* x, Index x_stride, int count, Body&& body) {
  if constexpr (direct<T, W, X>)
    if (w_stride == 1 && x_stride == 1) return body(w, x);
  T w_buffer[length], x_buffer[length];
  x_buffer[0] = 0;  // g++ does not know that a run has a first value
  T* values = open(w, w_stride, count, w_buffer);
  const T* from = load(x, x_stride, count, x_buffer);
  body(values, from);
  store(static_cast<const T*>(values), w, w_stride, count);
}

/// Fetches what follows `count` adjacent values, as many again: a run's storage is opened, worked on and closed in turn, and
/// memory would wait meanwhile.
template <class V>
APOLLO_INLINE void prefetch_next(const V* values, int count) {
  const auto* next = reinterpret_cast<const char*>(values + count);
  const int size = count * static_cast<int>(sizeof(V));
  for (int at = 0; at < size; at += 64) __builtin_prefetch(next + at);
}

/// Calls body(values) with a run of x, in place if the loops read it so, else in a buffer.
template <class T, class X, class Body>
APOLLO_INLINE void with_values(const X* x, Index stride, int count, Body&& body) {
  if (stride == 1) prefetch_next(x, count);
  if constexpr (simd::readable<X, T>)
    if (stride == 1) return body(x);
  T buffer[length];
  body(load(x, stride, count, buffer));
}

/// Calls body(j, s, count, offset, values) for the parts of a storage run of weights, opened to T, and stores what it made of
/// them.
template <class T, class Kept, class Body>
APOLLO_INLINE void change_parts(const Kept& w, const StorageRun& run, Body&& body) {
  T values[length];
  if constexpr (Kept::by_run) {
    simd::dispatch([&](auto kernels) { kernels.open_weights(w, run, values); });
    run.parts([&](Index j, Index s, int count, int offset) { body(j, s, count, offset, values + offset); });
    simd::dispatch([&](auto kernels) { kernels.close_weights(w, run, static_cast<const T*>(values)); });
  } else {
    const Index stride = run.order == Order2D::row_major ? w.view.col_stride : w.view.row_stride;
    run.parts([&](Index j, Index s, int count, int offset) {
      if (stride == 1) prefetch_next(w.view.at(j, s), count);
      T* opened = open(w.view.at(j, s), stride, count, values);
      body(j, s, count, offset, opened);
      store(static_cast<const T*>(opened), w.view.at(j, s), stride, count);
    });
  }
}

/// Sum of squares. Whoever finds the result not finite calls sum_squares_slowly.
template <class T>
APOLLO_INLINE double sum_squares(const T* x, Index count) {
  return static_cast<double>(simd::dispatch([&](auto kernels) { return kernels.sum_squares(x, count); }));
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
APOLLO_INLINE double measure(const T* x, Index count, bool& finite) {
  const double sum = sum_squares(x, count);
  return bits::finite(sum) ? sum : sum_squares_slowly(x, count, 1, finite);
}

/// Whether runs of a view along `order` are read, or written, where they are.
template <class T, class V>
APOLLO_INLINE bool in_place(const MatrixView<V>& view, Order2D order) {
  return std::is_same_v<std::remove_const_t<V>, T> &&
         (order == Order2D::row_major ? view.col_stride : view.row_stride) == 1;
}
/// Runs that need no buffer may be longer.
inline constexpr int length_in_place = 16384;

/// The longest run that change() takes of these.
template <class T, class W, class X>
APOLLO_INLINE Index longest(const MatrixView<W>& w, const MatrixView<const X>& x, Order2D order) {
  const bool rows = order == Order2D::row_major;
  const bool adjacent = (rows ? w.col_stride : w.row_stride) == 1 && (rows ? x.col_stride : x.row_stride) == 1;
  return direct<T, W, X> && adjacent ? length_in_place : length;
}

/// Visits a tile [begin, end) of channels of an oriented view in runs along `order`: body(j, s, count), where a run goes
/// over s (row-major) or over j (column-major) and has at most `longest` values.
template <class Body>
APOLLO_INLINE void for_runs(Order2D order, Index begin, Index end, Index removed, Index longest, Body&& body) {
  if (order == Order2D::row_major) {
    for (Index j = begin; j < end; ++j)
      for (Index s = 0; s < removed; s += longest)
        body(j, s, static_cast<int>(removed - s < longest ? removed - s : longest));
  } else {
    for (Index j = begin; j < end; j += longest) {
      const int count = static_cast<int>(end - j < longest ? end - j : longest);
      for (Index s = 0; s < removed; ++s) body(j, s, count);
    }
  }
}

}  // namespace apollo::runs
