// SPDX-License-Identifier: Apache-2.0
// xtensor: containers, adaptors and strided views, of ranks known at compile time and at run time.
#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include <xtensor/xadapt.hpp>
#include <xtensor/xarray.hpp>
#include <xtensor/xdynamic_view.hpp>
#include <xtensor/xfixed.hpp>
#include <xtensor/xmanipulation.hpp>
#include <xtensor/xstrided_view.hpp>
#include <xtensor/xtensor.hpp>
#include <xtensor/xview.hpp>

#include "layouts.hpp"

#include <apollo/optimizer/optimizer.hpp>

using namespace adapters;
using apollo::adapter::Refusal;
using apollo::adapter::XtensorRule;
using xt::layout_type;

namespace {

template <class T>
void check_matrix(T&& tensor) {
  static_assert(goes_by<std::remove_cvref_t<T>, XtensorRule>);
  REQUIRE(tensor.dimension() == 2);
  check_view(
      tensor, static_cast<Index>(tensor.shape()[0]),
      static_cast<Index>(tensor.shape()[1]), [&](Index i, Index j) -> auto& {
        return tensor(static_cast<std::size_t>(i), static_cast<std::size_t>(j));
      });
}

}  // namespace

TEST_CASE("containers of either order, their rank known early or late") {
  xt::xarray<float> rows = xt::zeros<float>({5, 3});
  xt::xarray<float, layout_type::column_major> columns = xt::zeros<float>({5, 3});
  xt::xtensor<double, 2> doubles = xt::zeros<double>({4, 6}), double_gradient = doubles;
  xt::xtensor<float, 2, layout_type::column_major> column_tensor = xt::zeros<float>({4, 1});
  xt::xtensor_fixed<float, xt::xshape<2, 3>> fixed;
  xt::xarray<float, layout_type::dynamic> dynamic({5, 3}, std::vector<std::ptrdiff_t>{1, 5});
  check_matrix(rows);
  check_matrix(columns);
  check_matrix(doubles);
  check_matrix(column_tensor);
  check_matrix(fixed);
  check_matrix(dynamic);
  check_step(rows, columns);
  check_step(doubles, double_gradient);
  check_step(dynamic, rows);
}

TEST_CASE("adaptors of memory") {
  std::vector<float> memory(15), other(15);
  auto adaptor = xt::adapt(memory, std::vector<std::size_t>{5, 3});
  auto borrowed = xt::adapt(other.data(), other.size(), xt::no_ownership(), std::array<std::size_t, 2>{5, 3});
  check_matrix(adaptor);
  check_matrix(borrowed);
  CHECK(apollo::view_of(adaptor).data == memory.data());
  check_step(adaptor, borrowed);
  const std::vector<float> constant(15);
  auto read_only = xt::adapt(constant.data(), constant.size(), xt::no_ownership(), std::array<std::size_t, 2>{5, 3});
  static_assert(std::is_same_v<decltype(apollo::view_of(read_only)), apollo::MatrixView<const float>>);
}

TEST_CASE("views with strides") {
  xt::xarray<float> whole = xt::zeros<float>({9, 8});
  xt::xtensor<float, 2> tensor = xt::zeros<float>({9, 8});
  xt::xtensor<float, 3> stack = xt::zeros<float>({3, 4, 5});
  xt::xarray<float> gradient = xt::zeros<float>({4, 4});
  auto part = xt::view(whole, xt::range(1, 8, 2), xt::range(0, 4));
  auto static_part = xt::view(tensor, xt::range(1, 5), xt::range(0, 8, 2));
  auto strided = xt::strided_view(whole, {xt::range(2, 6), xt::range(3, 7)});
  auto transposed = xt::transpose(whole);
  auto reversed = xt::flip(tensor, 0);
  auto slice = xt::view(stack, 1, xt::all(), xt::all());
  auto one_row = xt::view(tensor, xt::range(2, 3), xt::all());
  check_matrix(part);
  check_matrix(static_part);
  check_matrix(strided);
  check_matrix(transposed);
  check_matrix(reversed);
  check_matrix(slice);
  check_matrix(one_row);
  check_step(part, gradient);
  check_step(static_part, gradient);
  check_step(strided, gradient);
}

TEST_CASE("one dimension is a vector, and strides of one element are not 0") {
  xt::xarray<float> vector = xt::zeros<float>({9});
  xt::xtensor<float, 2> tensor = xt::zeros<float>({9, 8}), single = xt::zeros<float>({1, 1});
  auto column = xt::view(tensor, xt::all(), 2);
  const auto at = [](Index i) { return static_cast<std::size_t>(i); };
  check_view(
      vector, 9, 1, [&](Index i, Index) -> auto& { return vector(at(i)); });
  check_view(
      column, 9, 1, [&](Index i, Index) -> auto& { return tensor(at(i), 2); });
  CHECK(apollo::view_of(column).row_stride == 8);
  CHECK(apollo::view_of(single).row_stride == 1);
  CHECK(apollo::view_of(single).col_stride == 1);
}

TEST_CASE("another rank is refused when it is known") {
  static_assert(is_refused_for<xt::xtensor<float, 3>>(Refusal::dimensions));
  static_assert(is_refused_for<xt::xtensor<float, 0>>(Refusal::dimensions));
  xt::xarray<float> w = xt::zeros<float>({5, 3}), cube = xt::zeros<float>({2, 3, 4}), g = w;
  apollo::Optimizer optimizer;
  const auto group = optimizer.add_group(apollo::SgdOptions{.lr = 1});
  std::string message;
  try {
    optimizer.add(group, "cube", cube, cube);
  } catch (const std::invalid_argument& error) {
    message = error.what();
  }
  CHECK(message.find("3 dimensions (2 x 3 x 4) must have 1 or 2") != std::string::npos);
  CHECK(message.find("Unfold::rest") != std::string::npos);
  // A static step throws nothing.
  apollo::Sgd<> sgd(w, {.lr = 1});
  CHECK(sgd.step(w, g).stepped);
  CHECK(sgd.step(cube, g).reason == apollo::Skip::wrong_shape);
  CHECK(sgd.step(w, cube).reason == apollo::Skip::wrong_shape);
  CHECK(sgd.steps() == 1);
}

TEST_CASE("what owns its memory, and what has no strides") {
  using Array = xt::xarray<float>;
  Array a = xt::zeros<float>({4, 4});
  static_assert(apollo::TensorTraits<Array>::owns && apollo::TensorTraits<xt::xtensor<float, 2>>::owns);
  [[maybe_unused]] auto part = xt::view(a, xt::all(), xt::range(0, 2));
  static_assert(!apollo::TensorTraits<decltype(part)>::owns);
  static_assert(is_refused_for<decltype(a + a)>(Refusal::no_strides));
  static_assert(is_refused_for<decltype(xt::broadcast(a, {4, 4}))>(Refusal::no_strides));
  static_assert(is_refused_for<decltype(xt::zeros<float>({4, 4}))>(Refusal::no_strides));
  static_assert(is_refused_for<decltype(xt::view(a, xt::keep(0, 2)))>(Refusal::no_strides));
  static_assert(is_refused_for<decltype(xt::view(a + a, 1))>(Refusal::no_strides));
  static_assert(is_refused_for<decltype(xt::dynamic_view(a, {xt::range(0, 2)}))>(Refusal::no_strides));
}
