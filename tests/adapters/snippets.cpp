// SPDX-License-Identifier: Apache-2.0
// The code of docs/adapters.md, as it stands there; `snippets` compares.
#include <unsupported/Eigen/CXX11/Tensor>

#include <doctest/doctest.h>

#include <cstdint>
#include <vector>

#include <apollo/apollo.hpp>

#include <dlpack/dlpack.h>
#include <apollo/bridge/dlpack.hpp>

namespace {

struct MyTensor {
  float* data;
  apollo::Index rows, cols;
};

template <class Allocator>
struct Half {
  std::uint16_t* pointer;
  apollo::Index rows, cols;
};

}  // namespace

template <>
struct apollo::TensorTraits<MyTensor> {
  using value_type = float;
  static MatrixView<float> view(MyTensor& t) { return row_major(t.data, t.rows, t.cols); }
  static MatrixView<const float> view(const MyTensor& t) { return row_major(t.data, t.rows, t.cols); }
};

template <class Allocator>
struct apollo::TensorTraits<Half<Allocator>> {
  using value_type = float16;
  static MatrixView<float16> view(const Half<Allocator>& t) {
    return column_major(reinterpret_cast<float16*>(t.pointer), t.rows, t.cols);
  }
};

TEST_CASE("adapters") {
  std::vector<float> w(6, 1), g(6, 1);
  std::vector<std::uint16_t> halves(6);
  MyTensor weight{w.data(), 2, 3};
  const Half<int> gradient{halves.data(), 2, 3};
  apollo::Sgd<> optimizer(weight, {.lr = 1});
  CHECK(optimizer.step(weight, MyTensor{g.data(), 2, 3}).stepped);
  CHECK(optimizer.step(weight, gradient).stepped);
  CHECK(w == std::vector<float>(6));
}

TEST_CASE("weights of 8 bits") {
  apollo::Optimizer optimizer;
  const auto group = optimizer.add_group<apollo::QApolloMini<>>({});
  std::vector<float> row(11008, 0.25f);
  float* floats = row.data();
  const apollo::Index first_row = 5, count = 1;
  const float zero = 0;
  const auto gradient = apollo::strided(&zero, 4096, 11008, 0, 0);
  apollo::Int8Matrix w(4096, 11008);
  w.quantize(first_row, count, floats);
  optimizer.add(group, "w", w, gradient);
  w.dequantize(first_row, count, floats);
  CHECK(row[11007] == 0.25f);
  CHECK(optimizer.state_bytes("w") > 0);
}

TEST_CASE("more than two dimensions") {
  apollo::Optimizer optimizer;
  const auto group = optimizer.add_group(apollo::SgdOptions{.lr = 1});
  std::vector<float> weights(64 * 147, 1), gradients(64 * 147, 1);
  float *data = weights.data(), *gradient = gradients.data();
  Eigen::Tensor<float, 3> t(4, 3, 2), dt(4, 3, 2);
  const apollo::TensorView<float> eg(dt.data(), {4, 3, 2}, {1, 4, 12});
  dt.setZero();
  apollo::TensorView<float> e(t.data(), {4, 3, 2}, {1, 4, 12});
  apollo::TensorView<float> w(data, {64, 3, 7, 7}), g(gradient, {64, 3, 7, 7});
  optimizer.add(group, "conv", w, g, apollo::Unfold::rest);
  optimizer.add(group, "experts", e, eg, apollo::Unfold::batch);
  optimizer.rebind("experts", e, eg, apollo::Unfold::batch);
  CHECK(optimizer.step().stepped == 5);
  CHECK(weights == std::vector<float>(64 * 147));
}

TEST_CASE("DLPack") {
  apollo::Optimizer optimizer;
  const auto group = optimizer.add_group(apollo::SgdOptions{.lr = 1});
  std::vector<float> memory(24, 3), gradients(24, 1);
  std::vector<std::int64_t> shape = {4, 6}, folded = {4, 3, 2};
  const auto exported = [](std::vector<float>& values, std::vector<std::int64_t>& extents) {
    return DLTensor{
        values.data(), {kDLCPU, 0}, static_cast<int>(extents.size()), {kDLFloat, 32, 1}, extents.data(), nullptr, 0};
  };
  const DLTensor w = exported(memory, shape), g = exported(gradients, shape);
  const DLTensor kernel = exported(memory, folded), kernel_gradient = exported(gradients, folded);
  DLManagedTensor managed{w, nullptr, nullptr}, managed_gradient{g, nullptr, nullptr};
  DLManagedTensor *weight = &managed, *gradient = &managed_gradient;
  apollo::Sgd<> sgd({4, 6}, {.lr = 1});
  apollo::dlpack::add(optimizer, group, "w", weight->dl_tensor, gradient->dl_tensor);
  apollo::dlpack::rebind(optimizer, "w", weight->dl_tensor, apollo::no_gradient);
  apollo::dlpack::add(optimizer, group, "conv", kernel, kernel_gradient, apollo::Unfold::rest);
  sgd.step(apollo::dlpack::view<float>(w, "w"), apollo::dlpack::view<const float>(g, "g"));
  CHECK(optimizer.step().stepped == 1);
  CHECK(memory == std::vector<float>(24, 1));
}
