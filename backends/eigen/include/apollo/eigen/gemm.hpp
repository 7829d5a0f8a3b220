// SPDX-License-Identifier: Apache-2.0
// Matrix products by Eigen's kernel, on one thread, in memory that we bring.
#pragma once

#if defined(__CUDACC__)
#error "apollo: Eigen's headers change meaning under nvcc; keep <apollo/eigen.hpp> in .cpp files."
#endif

#include <Eigen/Core>

#include <apollo/step/memory.hpp>
#include <apollo/tensor/view.hpp>

namespace apollo::gemm {

// Fixed block sizes: the order of summation must not depend on the cache sizes of a machine, nor on its threads.
inline constexpr Index row_block = 128;
inline constexpr Index column_block = 256;
inline constexpr Index depth_block = 256;

/// What one thread needs, in values of T. `b` holds a converted block of the right-hand side.
template <class T>
struct Scratch {
  T* a = nullptr;
  T* b = nullptr;
  T* pack_a = nullptr;
  T* pack_b = nullptr;

  static Scratch carve(Carver& carver) {
    Scratch scratch;
    scratch.a = carver.take<T>(row_block * depth_block);
    scratch.b = carver.take<T>(depth_block * column_block);
    scratch.pack_a = carver.take<T>(column_block * depth_block);
    scratch.pack_b = carver.take<T>(depth_block * row_block);
    return scratch;
  }
};

/// Eigen packs panels into memory it allocates; given this, it packs into ours.
template <class T>
class Blocking : public Eigen::internal::level3_blocking<T, T> {
 public:
  explicit Blocking(const Scratch<T>& scratch) {
    this->m_blockA = scratch.pack_a;
    this->m_blockB = scratch.pack_b;
    this->m_mc = column_block;
    this->m_nc = row_block;
    this->m_kc = depth_block;
  }
};

/// c += alpha a b for blocks of at most row_block x depth_block and depth_block x column_block; c row-major, a and b with
/// one unit stride each. As Eigen's result is column-major, it computes c^T += alpha b^T a^T.
template <class T, int a_order, int b_order>
void kernel(const MatrixView<const T>& a, const MatrixView<const T>& b, const MatrixView<T>& c, T alpha,
            Blocking<T>& blocking) {
  using Product = Eigen::internal::general_matrix_matrix_product<Eigen::Index, T, b_order, false, T, a_order, false,
                                                                 Eigen::ColMajor, 1>;
  const Index a_stride = a_order == Eigen::ColMajor ? a.row_stride : a.col_stride;
  const Index b_stride = b_order == Eigen::ColMajor ? b.row_stride : b.col_stride;
  Product::run(b.cols, a.rows, a.cols, b.data, b_stride, a.data, a_stride, c.data, 1, c.row_stride, alpha, blocking,
               nullptr);
}

/// A block in T with one unit stride: in place if it is that already, else converted into `buffer`, row-major.
template <class T, class V>
MatrixView<const T> block(const MatrixView<V>& from, T* buffer) {
  if constexpr (std::is_same_v<std::remove_const_t<V>, T>)
    if (from.col_stride == 1 || from.row_stride == 1) return from;
  if (memory_order(from) == Order2D::row_major) {
    for (Index i = 0; i < from.rows; ++i)
      for (Index j = 0; j < from.cols; ++j) buffer[i * from.cols + j] = static_cast<T>(from(i, j));
    return row_major(static_cast<const T*>(buffer), from.rows, from.cols);
  }
  for (Index j = 0; j < from.cols; ++j)
    for (Index i = 0; i < from.rows; ++i) buffer[j * from.rows + i] = static_cast<T>(from(i, j));
  return column_major(static_cast<const T*>(buffer), from.rows, from.cols);
}

/// c += alpha a b on this thread; c row-major. Any layouts and value types for a and b.
template <class T, class A, class B>
void add_product(const MatrixView<A>& a, const MatrixView<B>& b, const MatrixView<T>& c, T alpha,
                 const Scratch<T>& scratch) {
  Blocking<T> blocking(scratch);
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
          kernel<T, Eigen::ColMajor, Eigen::ColMajor>(left, right, out, alpha, blocking);
        else if (left_rows)
          kernel<T, Eigen::ColMajor, Eigen::RowMajor>(left, right, out, alpha, blocking);
        else if (right_rows)
          kernel<T, Eigen::RowMajor, Eigen::ColMajor>(left, right, out, alpha, blocking);
        else
          kernel<T, Eigen::RowMajor, Eigen::RowMajor>(left, right, out, alpha, blocking);
      }
    }
  }
}

}  // namespace apollo::gemm
