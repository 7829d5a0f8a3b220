// SPDX-License-Identifier: Apache-2.0
// Included by simd.hpp once for each instruction set, like simd_kernels.hpp: the innermost loops of matrix products. A block of
// C is held in registers while A's values, each spread over a vector, meet rows of a panel of B.
#if !defined(APOLLO_ISA)
#include <apollo/eigen/simd.hpp>
#else

namespace apollo::simd::APOLLO_ISA_NAMESPACE {

struct Products {
  template <class T>
  static constexpr int lanes = Vectors::lanes<T>;
  /// A block of C is `rows` x `vectors` registers; a panel of B is at most `vectors` wide.
  static constexpr int rows = APOLLO_ISA == 512 ? 8 : APOLLO_ISA == 2 ? 4 : 3;
  static constexpr int vectors = 3;
  template <class T>
  static constexpr Index panel_width = vectors* lanes<T>;

  /// Width of a panel of `cols` columns as it is packed, in whole vectors.
  template <class T>
  static constexpr Index padded(Index cols) {
    return (cols + lanes<T> - 1) / lanes<T> * lanes<T>;
  }

  /// panel(k, j) = b(k, j) for `depth` rows of `cols` columns, at most a panel, padded with zeros. Any strides.
  template <class V, class T>
  APOLLO_KERNEL void pack_panel(const V* b, Index row_stride, Index col_stride, Index depth, Index cols, T* panel) {
    const Index width = padded<T>(cols);
    if constexpr (std::is_same_v<std::remove_const_t<V>, T>) {
      if (row_stride == 1) {  // columns lie adjacent
        if (cols < width)
          for (Index i = 0; i < depth * width; ++i) panel[i] = 0;
        return Kernels::transpose(b, col_stride, panel, width, depth, cols, T(1));
      }
      if (col_stride == 1 && cols == width) {
        using Loose = typename Vector<T, lanes<T>>::Loose;
        for (Index k = 0; k < depth; ++k)
          for (Index j = 0; j < width; j += lanes<T>)
            *reinterpret_cast<Loose*>(panel + k * width + j) = *reinterpret_cast<const Loose*>(b + k * row_stride + j);
        return;
      }
    }
    for (Index k = 0; k < depth; ++k) {
      for (Index j = 0; j < cols; ++j) panel[k * width + j] = static_cast<T>(b[k * row_stride + j * col_stride]);
      for (Index j = cols; j < width; ++j) panel[k * width + j] = 0;
    }
  }

  /// Groups of `rows` rows of a matrix whose rows lie adjacent: to[(g depth + k) rows + i] = a(g rows + i, k).
  template <class V, class T>
  APOLLO_KERNEL void pack_groups(const V* a, Index row_stride, Index col_stride, Index height, Index depth, T* to) {
    for (Index first = 0; first < height; first += rows)
      for (Index k = 0; k < depth; ++k, to += rows) {
        const V* from = a + first * row_stride + k * col_stride;
        if (first + rows <= height && row_stride == 1)
          for (int i = 0; i < rows; ++i) to[i] = static_cast<T>(from[i]);
        else
          for (int i = 0; i < rows; ++i) to[i] = first + i < height ? static_cast<T>(from[i * row_stride]) : T(0);
      }
  }

  /// C += alpha A B for a panel B of `cols` columns and A of `height` rows, `stride` apart, or in packed groups where stride is 0.
  template <class T>
  APOLLO_KERNEL void multiply(const T* a, Index stride, Index height, Index depth, const T* panel, Index cols, T* c,
                              Index c_stride, T alpha) {
    const Index wide = padded<T>(cols) / lanes<T>;
    for (Index i = 0; i < height; i += rows) {
      const int count = static_cast<int>(height - i < rows ? height - i : rows);
      const T* left[rows];
      for (int k = 0; k < rows; ++k)  // rows that are not there read the first again
        left[k] = stride == 0 ? a + i * depth + k : a + (i + (k < count ? k : 0)) * stride;
      T* to = c + i * c_stride;
      const auto width = static_cast<int>(cols);
      if (stride != 0)
        wide == 3   ? block<3, 1>(left, panel, depth, to, c_stride, count, width, alpha)
        : wide == 2 ? block<2, 1>(left, panel, depth, to, c_stride, count, width, alpha)
                    : block<1, 1>(left, panel, depth, to, c_stride, count, width, alpha);
      else
        wide == 3   ? block<3, rows>(left, panel, depth, to, c_stride, count, width, alpha)
        : wide == 2 ? block<2, rows>(left, panel, depth, to, c_stride, count, width, alpha)
                    : block<1, rows>(left, panel, depth, to, c_stride, count, width, alpha);
    }
  }

 private:
  /// One block of C. Row i of A is a[i][0], a[i][step], ...
  template <int wide, int step, class T>
  APOLLO_PART void block(const T* const* a, const T* panel, Index depth, T* c, Index c_stride, int height, int width,
                         T alpha) {
    constexpr int n = lanes<T>;
    using Type = typename Vector<T, n>::Type;
    using Loose = typename Vector<T, n>::Loose;
    Type sum[rows][wide];
    const T* row[rows];
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      row[i] = a[i];
#pragma GCC unroll 3
      for (int v = 0; v < wide; ++v) sum[i][v] = Type{};
    }
    for (Index k = 0; k < depth; ++k) {
      Type b[wide];
#pragma GCC unroll 3
      for (int v = 0; v < wide; ++v) b[v] = *reinterpret_cast<const Loose*>(panel + (k * wide + v) * n);
#pragma GCC unroll 8
      for (int i = 0; i < rows; ++i) {
        const T value = row[i][k * step];
#pragma GCC unroll 3
        for (int v = 0; v < wide; ++v) sum[i][v] += value * b[v];
      }
    }
    if (height == rows && width == wide * n) {
#pragma GCC unroll 8
      for (int i = 0; i < rows; ++i)
#pragma GCC unroll 3
        for (int v = 0; v < wide; ++v) {
          auto& to = *reinterpret_cast<Loose*>(c + i * c_stride + v * n);
          to = to + alpha * sum[i][v];
        }
      return;
    }
    T out[rows * wide * n];
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 3
      for (int v = 0; v < wide; ++v) *reinterpret_cast<Loose*>(out + (i * wide + v) * n) = sum[i][v];
    for (int i = 0; i < height; ++i)
      for (int j = 0; j < width; ++j) c[i * c_stride + j] += alpha * out[i * wide * n + j];
  }
};

}  // namespace apollo::simd::APOLLO_ISA_NAMESPACE

#endif
