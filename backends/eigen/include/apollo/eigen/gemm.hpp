// SPDX-License-Identifier: Apache-2.0
// Matrix products on one thread, in memory that we bring: by the loops of simd_products.hpp or, where EIGEN_USE_BLAS is defined,
// by the program's BLAS.
#pragma once

#if defined(__CUDACC__)
#error "apollo: Eigen's headers change meaning under nvcc; keep <apollo/eigen.hpp> in .cpp files."
#endif

#include <Eigen/Core>

#include <apollo/eigen/runs.hpp>
#include <apollo/step/memory.hpp>
#include <apollo/tensor/view.hpp>

namespace apollo::gemm {

// Fixed block sizes: the order of summation must not depend on the cache sizes of a machine, nor on its threads.
inline constexpr Index row_block = 256;
inline constexpr Index column_block = 256;  ///< of BLAS alone; else a panel is as wide as three vectors
#if defined(EIGEN_USE_BLAS)
inline constexpr Index depth_block = 256;
#else
inline constexpr Index depth_block = 128;  ///< the widest panel, 24 KiB, shares the nearest cache with rows of A
#endif

/// What one thread needs, in values of T: a block of A, and one of B.
template <class T>
struct Scratch {
  T* a = nullptr;
  T* b = nullptr;

#if defined(EIGEN_USE_BLAS)
  static constexpr Index b_size = depth_block * column_block;
#else
  static constexpr Index b_size = depth_block * 3 * 64 / static_cast<Index>(sizeof(T));
#endif

  static Scratch carve(Carver& carver) {
    Scratch scratch;
    scratch.a = carver.take<T>((row_block + 8) * depth_block);  // whole groups of up to eight rows
    scratch.b = carver.take<T>(b_size);
    return scratch;
  }
};

#if defined(EIGEN_USE_BLAS)

/// A block in T with one unit stride: in place if it is that already, else converted into `buffer`, row-major.
template <class T, class V>
MatrixView<const T> block(const MatrixView<V>& from, T* buffer) {
  if constexpr (std::is_same_v<std::remove_const_t<V>, T>)
    if (from.col_stride == 1 || from.row_stride == 1) return from;
  for (Index i = 0; i < from.rows; ++i)
    for (Index j = 0; j < from.cols; ++j) buffer[i * from.cols + j] = static_cast<T>(from(i, j));
  return row_major(static_cast<const T*>(buffer), from.rows, from.cols);
}

/// c += alpha a b by the kernel that Eigen replaces with a call of ?gemm. As its result is column-major, it computes
/// c^T += alpha b^T a^T.
template <class T, int a_order, int b_order>
void call_blas(const MatrixView<const T>& a, const MatrixView<const T>& b, const MatrixView<T>& c, T alpha) {
  using Product = Eigen::internal::general_matrix_matrix_product<Eigen::Index, T, b_order, false, T, a_order, false,
                                                                 Eigen::ColMajor, 1>;
  // A single line may have any stride, but BLAS wants none shorter than a line.
  const auto at_least = [](Index stride, Index line) { return stride < line ? line : stride; };
  const Index a_stride = a_order == Eigen::ColMajor ? at_least(a.row_stride, a.cols) : at_least(a.col_stride, a.rows);
  const Index b_stride = b_order == Eigen::ColMajor ? at_least(b.row_stride, b.cols) : at_least(b.col_stride, b.rows);
  Eigen::internal::level3_blocking<T, T> unused;
  Product::run(b.cols, a.rows, a.cols, b.data, b_stride, a.data, a_stride, c.data, 1, c.row_stride, alpha, unused,
               nullptr);
}

/// c += alpha a b on this thread; c row-major. Any layouts and value types for a and b.
template <class T, class A, class B>
void add_product(const MatrixView<A>& a, const MatrixView<B>& b, const MatrixView<T>& c, T alpha,
                 const Scratch<T>& scratch) {
  for (Index k = 0; k < a.cols; k += depth_block) {
    const Index depth = a.cols - k < depth_block ? a.cols - k : depth_block;
    for (Index j = 0; j < b.cols; j += column_block) {
      const Index cols = b.cols - j < column_block ? b.cols - j : column_block;
      const auto right = block<T>(b.middle_rows(k, depth).middle_cols(j, cols), scratch.b);
      for (Index i = 0; i < a.rows; i += row_block) {
        const Index rows = a.rows - i < row_block ? a.rows - i : row_block;
        const auto left = block<T>(a.middle_rows(i, rows).middle_cols(k, depth), scratch.a);
        const auto out = c.middle_rows(i, rows).middle_cols(j, cols);
        // In terms of the transposed product a row-major block is a column-major one.
        const bool left_rows = left.col_stride == 1, right_rows = right.col_stride == 1;
        if (left_rows && right_rows)
          call_blas<T, Eigen::ColMajor, Eigen::ColMajor>(left, right, out, alpha);
        else if (left_rows)
          call_blas<T, Eigen::ColMajor, Eigen::RowMajor>(left, right, out, alpha);
        else if (right_rows)
          call_blas<T, Eigen::RowMajor, Eigen::ColMajor>(left, right, out, alpha);
        else
          call_blas<T, Eigen::RowMajor, Eigen::RowMajor>(left, right, out, alpha);
      }
    }
  }
}

#else

/// A block of A as the loops take it: rows `stride` apart with adjacent values or, where stride is 0, packed groups of rows.
template <class T>
struct Left {
  const T* data;
  Index stride;
};

template <class T, class A>
Left<T> open_left(const MatrixView<A>& a, T* buffer) {
  if (memory_order(a) == Order2D::column_major) {
    simd::dispatch_products(
        [&](auto loops) { loops.pack_groups(a.data, a.row_stride, a.col_stride, a.rows, a.cols, buffer); });
    return {buffer, 0};
  }
  if (runs::in_place<T>(a, Order2D::row_major)) {
    if constexpr (std::is_same_v<std::remove_const_t<A>, T>) return {a.data, a.row_stride};
  }
  for (Index i = 0; i < a.rows; ++i)
    runs::load(a.at(i, 0), a.col_stride, static_cast<int>(a.cols), buffer + i * a.cols);
  return {buffer, a.cols};
}

/// c += alpha a b on this thread; c row-major. Any layouts and value types for a and b. Cost: 2 m k n flops; A is read once,
/// B once for every 128 rows of A.
template <class T, class A, class B>
void add_product(const MatrixView<A>& a, const MatrixView<B>& b, const MatrixView<T>& c, T alpha,
                 const Scratch<T>& scratch) {
  simd::dispatch_products([&](auto loops) {
    constexpr Index panel = loops.template panel_width<T>;
    for (Index i = 0; i < a.rows; i += row_block) {
      const Index rows = a.rows - i < row_block ? a.rows - i : row_block;
      for (Index k = 0; k < a.cols; k += depth_block) {
        const Index depth = a.cols - k < depth_block ? a.cols - k : depth_block;
        const auto left = open_left<T>(a.middle_rows(i, rows).middle_cols(k, depth), scratch.a);
        for (Index j = 0; j < b.cols; j += panel) {
          const Index cols = b.cols - j < panel ? b.cols - j : panel;
          loops.pack_panel(b.at(k, j), b.row_stride, b.col_stride, depth, cols, scratch.b);
          loops.multiply(left.data, left.stride, rows, depth, static_cast<const T*>(scratch.b), cols, c.at(i, j),
                         c.row_stride, alpha);
        }
      }
    }
  });
}

#endif

}  // namespace apollo::gemm
