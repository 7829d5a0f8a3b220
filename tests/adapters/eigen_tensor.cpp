// SPDX-License-Identifier: Apache-2.0
// Eigen's tensors: of one and two dimensions, of either order; more dimensions by TensorView.
#include <unsupported/Eigen/CXX11/Tensor>

#include "layouts.hpp"

#include <apollo/tensor/tensor_view.hpp>

using namespace adapters;
using apollo::adapter::EigenTensorRule;
using apollo::adapter::Refusal;
using Eigen::RowMajor;
using Eigen::Tensor;
using Eigen::TensorMap;

namespace {

template <class T>
void check_tensor(T&& tensor) {
  static_assert(goes_by<std::remove_cvref_t<T>, EigenTensorRule>);
  check_view(
      tensor, tensor.dimension(0), tensor.dimension(1), [&](Index i, Index j) -> auto& { return tensor(i, j); });
}

}  // namespace

TEST_CASE("tensors, maps and fixed sizes of two dimensions, of either order") {
  Tensor<float, 2> columns(5, 3), gradient(5, 3);
  Tensor<double, 2, RowMajor> rows(4, 6), row_gradient(4, 6);
  Eigen::TensorFixedSize<float, Eigen::Sizes<2, 7>> fixed;
  std::vector<float> memory(30);
  TensorMap<Tensor<float, 2, RowMajor>> map(memory.data(), 5, 3);
  check_tensor(columns);
  check_tensor(rows);
  check_tensor(fixed);
  check_tensor(map);
  check_step(columns, gradient);
  check_step(rows, row_gradient);
  check_step(map, gradient);
  const TensorMap<const Tensor<float, 2>> constant(memory.data(), 6, 5);
  static_assert(std::is_same_v<decltype(apollo::view_of(constant)), apollo::MatrixView<const float>>);
  CHECK(apollo::view_of(constant).at(5, 4) == &constant(5, 4));
}

TEST_CASE("one dimension is a vector") {
  Tensor<float, 1> vector(9);
  static_assert(goes_by<Tensor<float, 1>, EigenTensorRule>);
  check_view(
      vector, 9, 1, [&](Index i, Index) -> auto& { return vector(i); });
}

TEST_CASE("what owns its memory, and what is refused") {
  using Matrix = Tensor<float, 2>;
  static_assert(apollo::TensorTraits<Matrix>::owns && !apollo::TensorTraits<TensorMap<Matrix>>::owns);
  static_assert(apollo::TensorTraits<Eigen::TensorFixedSize<float, Eigen::Sizes<2, 7>>>::owns);
  static_assert(is_refused_for<Tensor<float, 0>>(Refusal::dimensions));
  static_assert(is_refused_for<Tensor<float, 3>>(Refusal::dimensions));
  static_assert(is_refused_for<TensorMap<Tensor<float, 4, RowMajor>>>(Refusal::dimensions));
  [[maybe_unused]] Matrix a;
  static_assert(is_refused_for<decltype(a + a)>(Refusal::no_strides));
  static_assert(is_refused_for<decltype(a.chip(0, 0))>(Refusal::no_strides));
}

TEST_CASE("more dimensions by their memory") {
  Tensor<float, 3, RowMajor> kernel(4, 3, 2);
  const apollo::TensorView<float> view(kernel.data(), {4, 3, 2});
  const auto matrices = apollo::unfold(view, apollo::Unfold::rest, "kernel");
  CHECK(matrices[0].at(3, 5) == &kernel(3, 2, 1));
  Tensor<float, 3> experts(4, 3, 2);  // the first index runs fastest
  const apollo::TensorView<float> stack(experts.data(), {4, 3, 2}, {1, 4, 12});
  CHECK(apollo::unfold(stack, apollo::Unfold::batch, "experts")[3].at(2, 1) == &experts(3, 2, 1));
}
