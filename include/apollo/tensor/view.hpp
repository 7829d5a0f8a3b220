// SPDX-License-Identifier: Apache-2.0
// MatrixView: a matrix that somebody else owns, in any layout. All loops of the library run on it and on nothing else.
#pragma once

#include <type_traits>

#include <apollo/base/config.hpp>

namespace apollo {

/// Element (i, j) lives at data[i * row_stride + j * col_stride]. Strides count elements and may be of any size.
/// A view owns nothing and stays valid as long as the memory behind it; copying one copies five numbers.
template <class T>
struct MatrixView {
  using value_type = std::remove_const_t<T>;

  T* data = nullptr;
  Index rows = 0;
  Index cols = 0;
  Index row_stride = 0;
  Index col_stride = 0;

  constexpr MatrixView() = default;
  constexpr MatrixView(T* data_, Index rows_, Index cols_, Index row_stride_, Index col_stride_)
      : data(data_), rows(rows_), cols(cols_), row_stride(row_stride_), col_stride(col_stride_) {}

  /// A view of mutable elements serves wherever a view of constant ones is wanted.
  template <class U>
    requires(std::is_same_v<const U, T> && !std::is_same_v<U, T>)
  constexpr MatrixView(const MatrixView<U>& other)
      : MatrixView(other.data, other.rows, other.cols, other.row_stride, other.col_stride) {}

  APOLLO_INLINE constexpr T* at(Index i, Index j) const { return data + i * row_stride + j * col_stride; }
  APOLLO_INLINE constexpr T& operator()(Index i, Index j) const { return *at(i, j); }

  constexpr Shape shape() const { return {rows, cols}; }
  constexpr Index size() const { return rows * cols; }
  constexpr MatrixView transposed() const { return {data, cols, rows, col_stride, row_stride}; }

  /// Rows [first, first + count).
  constexpr MatrixView middle_rows(Index first, Index count) const {
    return {at(first, 0), count, cols, row_stride, col_stride};
  }
  /// Columns [first, first + count).
  constexpr MatrixView middle_cols(Index first, Index count) const {
    return {at(0, first), rows, count, row_stride, col_stride};
  }
};

/// Memory order: which index runs fastest. A single column or row counts as whichever makes its elements adjacent.
enum class Order2D : std::uint8_t { row_major, column_major };

template <class T>
constexpr Order2D memory_order(const MatrixView<T>& view) {
  const auto magnitude = [](Index stride) { return stride < 0 ? -stride : stride; };
  if (view.cols == 1) return view.rows == 1 ? Order2D::row_major : Order2D::column_major;
  if (view.rows == 1) return Order2D::row_major;
  return magnitude(view.row_stride) >= magnitude(view.col_stride) ? Order2D::row_major : Order2D::column_major;
}

/// Views of raw memory.
template <class T>
constexpr MatrixView<T> row_major(T* data, Index rows, Index cols) {
  return {data, rows, cols, cols, 1};
}
template <class T>
constexpr MatrixView<T> column_major(T* data, Index rows, Index cols) {
  return {data, rows, cols, 1, rows};
}
template <class T>
constexpr MatrixView<T> strided(T* data, Index rows, Index cols, Index row_stride, Index col_stride) {
  return {data, rows, cols, row_stride, col_stride};
}
/// A vector is an n x 1 matrix; groups of low-rank optimizers give it dense moments.
template <class T>
constexpr MatrixView<T> vector(T* data, Index size) {
  return {data, size, 1, 1, 1};
}

/// True if two different index pairs of the view name one element: such a view can be read but not updated.
template <class T>
constexpr bool overlaps_itself(const MatrixView<T>& view) {
  const Index row = view.row_stride < 0 ? -view.row_stride : view.row_stride;
  const Index col = view.col_stride < 0 ? -view.col_stride : view.col_stride;
  if ((view.rows > 1 && row == 0) || (view.cols > 1 && col == 0)) return true;
  if (view.rows <= 1 || view.cols <= 1) return false;
  Index divisor = row;
  for (Index rest = col; rest != 0;) {
    const Index next = divisor % rest;
    divisor = rest, rest = next;
  }
  // Index differences (di, dj) coincide where di * row == dj * col; the smallest such pair is (col, row) / gcd.
  return col / divisor < view.rows && row / divisor < view.cols;
}

/// True if the two views share a byte. Exact where both have the same element size and strides (a weight and a gradient
/// interleaved in one buffer do not overlap); otherwise any common address range counts.
template <class T, class U>
constexpr bool overlap(const MatrixView<T>& a, const MatrixView<U>& b) {
  const auto range = [](const auto& view, std::uintptr_t& first, std::uintptr_t& last) {
    Index low = 0, high = 0;
    for (const Index reach : {(view.rows - 1) * view.row_stride, (view.cols - 1) * view.col_stride})
      (reach < 0 ? low : high) += reach;
    first = reinterpret_cast<std::uintptr_t>(view.data + low);
    last = reinterpret_cast<std::uintptr_t>(view.data + high + 1);
  };
  if (a.size() == 0 || b.size() == 0) return false;
  std::uintptr_t a_first = 0, a_last = 0, b_first = 0, b_last = 0;
  range(a, a_first, a_last);
  range(b, b_first, b_last);
  if (a_last <= b_first || b_last <= a_first) return false;
  const auto bytes =
      static_cast<Index>(reinterpret_cast<std::uintptr_t>(b.data) - reinterpret_cast<std::uintptr_t>(a.data));
  constexpr auto size = static_cast<Index>(sizeof(T));
  if (sizeof(T) != sizeof(U) || bytes % size != 0 || a.row_stride != b.row_stride || a.col_stride != b.col_stride ||
      a.shape() != b.shape() || a.col_stride == 0)
    return true;
  // b(i, j) and a(k, l) coincide if offset = (k - i) * row_stride + (l - j) * col_stride for index differences in reach.
  for (Index step = 1 - a.rows; step < a.rows; ++step) {
    const Index rest = bytes / size - step * a.row_stride;
    const Index across = rest / a.col_stride;
    if (rest % a.col_stride == 0 && across > -a.cols && across < a.cols) return true;
  }
  return false;
}

}  // namespace apollo
