// SPDX-License-Identifier: Apache-2.0
// Eigen: matrices, arrays, maps, references, blocks and their like, of either order.
#include <Eigen/Core>
#include <Eigen/SparseCore>

#include "layouts.hpp"

using namespace adapters;
using apollo::adapter::EigenMatrixRule;
using apollo::adapter::Refusal;
using Eigen::Dynamic;
using RowMajorMatrix = Eigen::Matrix<float, Dynamic, Dynamic, Eigen::RowMajor>;
using Strides = Eigen::Stride<Dynamic, Dynamic>;

namespace {

template <class Dense>
void check_dense(Dense&& tensor) {
  static_assert(goes_by<std::remove_cvref_t<Dense>, EigenMatrixRule>);
  check_view(
      tensor, tensor.rows(), tensor.cols(), [&](Index i, Index j) -> auto& { return tensor.coeffRef(i, j); });
}

}  // namespace

TEST_CASE("matrices and arrays of either order") {
  Eigen::MatrixXf columns(5, 3), column_gradient(5, 3);
  RowMajorMatrix rows(5, 3);
  Eigen::ArrayXXd array(4, 6), array_gradient(4, 6);
  Eigen::Matrix<float, 4, 2> fixed;
  Eigen::VectorXf vector(7);
  Eigen::RowVectorXf row(6);
  check_dense(columns);
  check_dense(rows);
  check_dense(array);
  check_dense(fixed);
  check_dense(vector);
  check_dense(row);
  check_step(columns, column_gradient);
  check_step(rows, column_gradient);
  check_step(array, array_gradient);
}

TEST_CASE("maps with strides, references, blocks, transposes") {
  std::vector<float> memory(400), other(400);
  Eigen::Map<Eigen::MatrixXf, 0, Strides> map(memory.data(), 5, 3, Strides(20, 2));
  Eigen::Map<RowMajorMatrix, 0, Eigen::OuterStride<>> padded(other.data(), 5, 3, Eigen::OuterStride<>(8));
  Eigen::Map<const Eigen::MatrixXf> constant(memory.data(), 5, 3);
  check_dense(map);
  check_dense(padded);
  static_assert(std::is_same_v<decltype(apollo::view_of(constant)), apollo::MatrixView<const float>>);
  check_view(
      constant, 5, 3, [&](Index i, Index j) -> auto& { return constant.coeffRef(i, j); });
  check_step(map, padded);
  Eigen::MatrixXf whole(9, 8), gradient(4, 3);
  Eigen::Ref<Eigen::MatrixXf> reference(whole);
  auto block = whole.block(2, 1, 4, 3);
  auto transposed = whole.transpose();
  auto range = whole(Eigen::seq(2, 5), Eigen::all);
  auto line = whole.row(3);
  auto diagonal = whole.diagonal();
  check_dense(reference);
  check_dense(block);
  check_dense(transposed);
  check_dense(range);
  check_dense(line);
  check_view(
      diagonal, 8, 1, [&](Index i, Index) -> auto& { return whole(i, i); });
  check_step(block, gradient);
}

TEST_CASE("numbers of 16 bits are ours") {
  Eigen::Matrix<Eigen::bfloat16, Dynamic, Dynamic> brains(3, 4);
  Eigen::Matrix<Eigen::half, Dynamic, Dynamic, Eigen::RowMajor> halves(3, 4);
  static_assert(std::is_same_v<decltype(apollo::view_of(brains)), apollo::MatrixView<apollo::bfloat16>>);
  static_assert(std::is_same_v<decltype(apollo::view_of(halves)), apollo::MatrixView<apollo::float16>>);
  brains.setConstant(Eigen::bfloat16(-2.5f));
  halves.setConstant(Eigen::half(0.75f));
  CHECK(static_cast<float>(apollo::view_of(brains)(2, 3)) == -2.5f);
  CHECK(static_cast<float>(apollo::view_of(halves)(2, 3)) == 0.75f);
  check_step(brains, halves);
}

TEST_CASE("what owns its memory, and what is refused") {
  using Matrix = Eigen::MatrixXf;
  static_assert(apollo::TensorTraits<Matrix>::owns && apollo::TensorTraits<Eigen::Array3f>::owns);
  static_assert(!apollo::TensorTraits<Eigen::Map<Matrix>>::owns && !apollo::TensorTraits<Eigen::Block<Matrix>>::owns);
  [[maybe_unused]] Matrix a, b;
  [[maybe_unused]] const std::vector<int> chosen;
  static_assert(is_refused_for<decltype(a + b)>(Refusal::no_strides));
  static_assert(is_refused_for<decltype(a * b)>(Refusal::no_strides));
  static_assert(is_refused_for<decltype(a.reverse())>(Refusal::no_strides));
  static_assert(is_refused_for<decltype(a(chosen, Eigen::all))>(Refusal::no_strides));
  static_assert(is_refused_for<decltype(a(Eigen::seq(0, 8, 2), Eigen::all))>(Refusal::no_strides));
  static_assert(is_refused_for<Eigen::Block<const decltype(a + b)>>(Refusal::no_strides));
  static_assert(is_refused_for<Eigen::DiagonalMatrix<float, 3>>(Refusal::no_strides));
  static_assert(is_refused_for<Eigen::SparseMatrix<float>>(Refusal::no_strides));
}
