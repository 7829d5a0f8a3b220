// SPDX-License-Identifier: Apache-2.0
// Matrix products of the Eigen backend against sums in double: every layout, value type, size at an edge, and instruction set.
// also: blas, optimised-sanitizers
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <apollo/eigen.hpp>

#include "support.hpp"

namespace {

using apollo::Index;
using apollo::MatrixView;
using support::Layout;
using support::Matrix;

template <class T>
struct Workspace {
  Workspace() {
    apollo::Carver counter;
    apollo::gemm::Scratch<T>::carve(counter);
    memory = apollo::HostBuffer<std::byte>(counter.used());
    apollo::Carver carver(memory.data());
    scratch = apollo::gemm::Scratch<T>::carve(carver);
  }
  apollo::HostBuffer<std::byte> memory;
  apollo::gemm::Scratch<T> scratch;
};

/// c += alpha a b against the same in double, entry by entry: a rounding for each of `depth` terms of each entry's size.
template <class T, class A, class B>
void check(Index rows, Index depth, Index cols, Layout a_layout, Layout b_layout) {
  CAPTURE(rows);
  CAPTURE(depth);
  CAPTURE(cols);
  CAPTURE(static_cast<int>(a_layout));
  CAPTURE(static_cast<int>(b_layout));
  const support::Tensor<A> a(support::uniform_matrix(rows, depth, 1), a_layout);
  const support::Tensor<B> b(support::uniform_matrix(depth, cols, 2), b_layout);
  const Index stride = cols + 3;
  const T untouched = T(7.25), alpha = T(-0.75);
  std::vector<T> c(static_cast<std::size_t>(rows * stride), untouched);
  Workspace<T> workspace;
  apollo::gemm::add_product(a.view, b.view, MatrixView<T>(c.data(), rows, cols, stride, 1), alpha, workspace.scratch);
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < stride; ++j) {
      double sum = static_cast<double>(untouched), size = std::fabs(sum);
      for (Index k = 0; j < cols && k < depth; ++k) {
        const double term =
            static_cast<double>(alpha) * static_cast<double>(a.view(i, k)) * static_cast<double>(b.view(k, j));
        sum += term;
        size += std::fabs(term);
      }
      const double error = std::fabs(static_cast<double>(c[static_cast<std::size_t>(i * stride + j)]) - sum);
      const bool close = error <= static_cast<double>(std::numeric_limits<T>::epsilon()) *
                                      std::sqrt(static_cast<double>(depth + 2)) * 2 * size;
      if (!close || (j >= cols && !(error <= 0))) {
        CAPTURE(i);
        CAPTURE(j);
        CHECK(error <= 0);
      }
    }
}

/// One block of C by the loops of one instruction set.
template <class Products, class T>
void check_loops(const char* set) {
  CAPTURE(std::string(set));
  constexpr Index panel = Products::template panel_width<T>;
  for (Index rows = 1; rows <= 2 * Products::rows + 1; ++rows)
    for (Index cols = 1; cols <= panel; cols += cols < 6 ? 1 : 5)
      for (const bool packed : {false, true}) {
        constexpr Index depth = 37;
        CAPTURE(rows);
        CAPTURE(cols);
        CAPTURE(packed);
        const Matrix a = support::uniform_matrix(rows, depth, 3), b = support::uniform_matrix(depth, cols, 4);
        const Layout layout = packed ? Layout::column_major : Layout::row_major;
        const support::Tensor<T> left(a, layout), right(b, layout);
        std::vector<T> groups(static_cast<std::size_t>((rows + Products::rows) * depth)),
            packed_panel(static_cast<std::size_t>(panel * depth)), c(static_cast<std::size_t>(rows * cols));
        if (packed)
          Products::pack_groups(left.view.data, left.view.row_stride, left.view.col_stride, rows, depth, groups.data());
        Products::pack_panel(right.view.data, right.view.row_stride, right.view.col_stride, depth, cols,
                             packed_panel.data());
        Products::multiply(packed ? groups.data() : left.view.data, packed ? 0 : left.view.row_stride, rows, depth,
                           static_cast<const T*>(packed_panel.data()), cols, c.data(), cols, T(1));
        const Matrix expected = support::product(left.get(), right.get());
        double worst = 0;
        for (Index i = 0; i < rows; ++i)
          for (Index j = 0; j < cols; ++j)
            support::raise(worst,
                           std::fabs(static_cast<double>(c[static_cast<std::size_t>(i * cols + j)]) - expected(i, j)));
        CHECK(worst <= 20 * static_cast<double>(std::numeric_limits<T>::epsilon()));
      }
}

}  // namespace

TEST_CASE("products of every size at the edge of a block") {
  for (const Index rows : {1, 2, 3, 4, 7, 8, 9, 127, 128, 129})
    for (const Index depth : {1, 2, 255, 256, 257})
      for (const Index cols : {1, 5, 8, 16, 31, 47, 48, 49}) {
        check<float, float, float>(rows, depth, cols, Layout::row_major, Layout::row_major);
        check<float, float, float>(rows, depth, cols, Layout::column_major, Layout::column_major);
      }
}

TEST_CASE("products in every layout and value type") {
  for (const Layout a : support::all_layouts)
    for (const Layout b : support::all_layouts) {
      check<float, float, float>(21, 40, 53, a, b);
      check<double, double, double>(21, 40, 29, a, b);
      check<float, apollo::bfloat16, float>(9, 300, 50, a, b);
      check<float, float, apollo::float16>(9, 270, 11, a, b);
      check<double, float, apollo::bfloat16>(10, 20, 30, a, b);
    }
}

TEST_CASE("each instruction set's loops, where this processor has them") {
  using apollo::simd::Isa;
  check_loops<apollo::simd::baseline::Products, float>("baseline");
  check_loops<apollo::simd::baseline::Products, double>("baseline");
#if APOLLO_X86_DISPATCH
  if (apollo::simd::best() >= Isa::avx2) {
    check_loops<apollo::simd::avx2::Products, float>("avx2");
    check_loops<apollo::simd::avx2::Products, double>("avx2");
  }
  if (apollo::simd::best() >= Isa::avx512) {
    check_loops<apollo::simd::avx512::Products, float>("avx512");
    check_loops<apollo::simd::avx512::Products, double>("avx512");
  }
#endif
}
