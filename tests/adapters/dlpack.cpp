// SPDX-License-Identifier: Apache-2.0
// DLPack on the host: value types, layouts, unfolding, rebinding, and what is refused.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "dlpack.hpp"

using namespace adapters;
namespace dl = apollo::dlpack;

namespace {

template <class T>
std::vector<T> ramp(std::size_t n, float start) {
  std::vector<T> values;
  for (std::size_t i = 0; i < n; ++i) values.push_back(static_cast<T>(start + static_cast<float>(i % 11) / 4));
  return values;
}

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](T x, T y) { return static_cast<double>(x) == static_cast<double>(y); });
}

/// Two steps of a DLTensor weight and gradient of 5 x 3, and of the same memory by views: the same bits.
template <class W, class G>
void check_pair(DLDataType weight_type, DLDataType gradient_type) {
  auto w = ramp<W>(15, -1), w_again = w;
  auto g = ramp<G>(15, 0.5f);
  apollo::Optimizer by_tensors, by_views;
  const auto group = by_tensors.add_group(apollo::AdamWOptions{.lr = 0.1});
  {
    const Exported weight(w.data(), weight_type, {5, 3}), gradient(g.data(), gradient_type, {5, 3}, {1, 5});
    dl::add(by_tensors, group, "w", weight.tensor, gradient.tensor);
  }  // the DLTensors may go
  by_views.add(by_views.add_group(apollo::AdamWOptions{.lr = 0.1}), "w", apollo::row_major(w_again.data(), 5, 3),
               apollo::column_major(g.data(), 5, 3));
  const auto before = w;
  for (int t = 0; t < 2; ++t) {
    CHECK(by_tensors.step().stepped == 1);
    by_views.step();
  }
  CHECK(same(w, w_again));
  CHECK_FALSE(same(w, before));
}

struct World {
  std::vector<float> w = ramp<float>(24, 1), g = ramp<float>(24, 2);
  apollo::Optimizer optimizer;
  decltype(optimizer.add_group(apollo::SgdOptions{})) group = optimizer.add_group(apollo::SgdOptions{.lr = 1});
  Exported weight{w.data(), float32, {4, 6}}, gradient{g.data(), float32, {4, 6}};

  std::string add(apollo::Unfold how = apollo::Unfold::none) {
    return refusal([&] { dl::add(optimizer, group, "layer", weight.tensor, gradient.tensor, how); });
  }
};

/// What add says of a weight, and of a gradient, that was changed.
template <class Change>
void refuses(Change&& change, std::initializer_list<const char*> words) {
  World weight, gradient;
  change(weight.weight);
  CHECK(mentions(weight.add(), {"tensor 'layer'", "weight"}));
  CHECK(mentions(weight.add(), words));
  change(gradient.gradient);
  CHECK(mentions(gradient.add(), {"tensor 'layer'", "gradient"}));
  CHECK(mentions(gradient.add(), words));
  CHECK(weight.optimizer.state_bytes() == 0);
  CHECK(weight.optimizer.step().tensors.empty());
}

}  // namespace

TEST_CASE("the four types, and the pairs of them that go together") {
  check_pair<float, float>(float32, float32);
  check_pair<float, apollo::bfloat16>(float32, bfloat16);
  check_pair<apollo::bfloat16, float>(bfloat16, float32);
  check_pair<apollo::float16, apollo::bfloat16>(float16, bfloat16);
  check_pair<double, double>(float64, float64);
}

TEST_CASE("strides, offsets, and a gradient that is broadcast") {
  std::vector<float> memory(64), row = {1, 2, 3};
  Exported weight(memory.data(), float32, {4, 3}, {-12, 2});
  weight.tensor.byte_offset = 4 * 40;
  const Exported gradient(row.data(), float32, {4, 3}, {0, 1});
  apollo::Optimizer optimizer;
  dl::add(optimizer, optimizer.add_group(apollo::SgdOptions{.lr = 1}), "w", weight.tensor, gradient.tensor);
  CHECK(optimizer.step().stepped == 1);
  std::vector<float> expected(64);
  for (std::size_t i = 0; i < 4; ++i)
    for (std::size_t j = 0; j < 3; ++j) expected[40 - 12 * i + 2 * j] = -row[j];
  CHECK(memory == expected);
}

TEST_CASE("vectors, kernels and batches") {
  auto w = ramp<float>(24, 1);
  const auto start = w;
  auto g = std::vector<float>(24, 1.0f);
  apollo::Optimizer optimizer;
  const auto group = optimizer.add_group(apollo::SgdOptions{.lr = 1});
  const Exported vector(w.data(), float32, {24}), vector_gradient(g.data(), float32, {24});
  const Exported kernel(w.data(), float32, {4, 3, 2}), kernel_gradient(g.data(), float32, {4, 3, 2});
  dl::add(optimizer, group, "vector", vector.tensor, vector_gradient.tensor);
  dl::add(optimizer, group, "kernel", kernel.tensor, apollo::no_gradient, apollo::Unfold::rest);
  dl::add(optimizer, group, "experts", kernel.tensor, kernel_gradient.tensor, apollo::Unfold::batch);
  CHECK(optimizer.step().stepped == 5);
  CHECK(w[23] == start[23] - 2);
  dl::rebind(optimizer, "experts", kernel.tensor, apollo::no_gradient, apollo::Unfold::batch);
  dl::rebind(optimizer, "kernel", kernel.tensor, kernel_gradient.tensor, apollo::Unfold::rest);
  CHECK(optimizer.step().stepped == 2);
  CHECK(w[23] == start[23] - 4);
  CHECK(mentions(refusal([&] { dl::add(optimizer, group, "more", kernel.tensor, kernel_gradient.tensor); }),
                 {"'more'", "3 dimensions", "Unfold::rest"}));
}

TEST_CASE("rebinding gives other memory of the same types") {
  World world;
  CHECK(world.add().empty());
  std::vector<float> other(24, 3), other_gradient(24, 1);
  const Exported weight(other.data(), float32, {4, 6}), gradient(other_gradient.data(), float32, {4, 6});
  dl::rebind(world.optimizer, "layer", weight.tensor, gradient.tensor);
  CHECK(world.optimizer.step().stepped == 1);
  CHECK(other == std::vector<float>(24, 2));
  std::vector<apollo::bfloat16> narrow(24);
  const Exported brains(narrow.data(), bfloat16, {4, 6});
  CHECK(mentions(refusal([&] { dl::rebind(world.optimizer, "layer", weight.tensor, brains.tensor); }),
                 {"'layer'", "gradient of type bfloat16 must be float32"}));
}

TEST_CASE("a view of a known type, for one tensor") {
  auto w = ramp<float>(15, 1), g = w;
  const Exported weight(w.data(), float32, {5, 3}), gradient(g.data(), float32, {5, 3});
  apollo::Sgd<> optimizer({5, 3}, {.lr = 1});
  CHECK(optimizer.step(dl::view<float>(weight.tensor, "w"), dl::view<const float>(gradient.tensor, "g")).stepped);
  CHECK(w == std::vector<float>(15));
  CHECK(mentions(refusal([&] { (void)dl::view<double>(weight.tensor, "w"); }), {"'w'", "float32 must be float64"}));
  CHECK(mentions(refusal([&] { (void)dl::view<float>(weight.tensor, "w", apollo::Unfold::batch); }), {"'w'", "batch"}));
}

TEST_CASE("what is refused names tensor, value and bound, and changes nothing") {
  refuses([](Exported& t) { t.tensor.device = {kDLCUDA, 3}; }, {"CUDA device 3 (device_type 2)", "the host"});
  refuses([](Exported& t) { t.tensor.device = {kDLCUDAManaged, 1}; }, {"managed memory of CUDA device 1", "13"});
  refuses([](Exported& t) { t.tensor.device = {kDLVulkan, 0}; }, {"device_type 7", "the host"});
  refuses([](Exported& t) { t.tensor.dtype = int8; }, {"int8 (code 0, 8 bits)", "must be float32, float64"});
  refuses([](Exported& t) { t.tensor.dtype.bits = 8; }, {"float8 (code 2, 8 bits)", "must be"});
  refuses([](Exported& t) { t.tensor.dtype = {kDLBfloat, 32, 1}; }, {"bfloat32 (code 4, 32 bits)", "must be"});
  refuses([](Exported& t) { t.tensor.dtype = {kDLComplex, 64, 1}; }, {"complex64", "must be"});
  refuses([](Exported& t) { t.tensor.dtype.code = 200; }, {"code 200", "must be"});
  refuses([](Exported& t) { t.tensor.dtype.lanes = 4; }, {"4 lanes; 1 is needed"});
  refuses([](Exported& t) { t.tensor.dtype.lanes = 0; }, {"0 lanes; 1 is needed"});
  refuses([](Exported& t) { t.tensor.ndim = 0; }, {"0 dimensions", "at least 1"});
  refuses([](Exported& t) { t.tensor.ndim = -2; }, {"-2 dimensions", "at least 1"});
  refuses([](Exported& t) { t.tensor.shape = nullptr; }, {"2 dimensions has no shape (a null pointer)"});
  refuses([](Exported& t) { t.tensor.data = nullptr; }, {"no data (a null pointer)"});
  refuses([](Exported& t) { t.shape[1] = 0; }, {"dimension 1", "has 0 elements; at least 1"});
  refuses([](Exported& t) { t.shape[0] = -4; }, {"dimension 0", "has -4 elements; at least 1"});
  refuses([](Exported& t) { t.tensor.byte_offset = 2; }, {"byte_offset 2", "no multiple of 4", "float32"});
  constexpr auto most = std::numeric_limits<std::int64_t>::max();
  refuses([](Exported& t) { t.shape[0] = most; }, {"dimension 0", "beyond 2^63 elements or bytes"});
  refuses(
      [](Exported& t) {
        t.tensor.strides = (t.strides = {std::numeric_limits<std::int64_t>::min(), 1}).data();
      },
      {"dimension 0", "4 elements of stride -9223372036854775808", "beyond 2^63 elements or bytes"});
  refuses(
      [](Exported& t) {
        t.tensor.strides = (t.strides = {most / 8, 1}).data();
      },
      {"beyond 2^63 elements or bytes"});
  float one = 1;
  const Exported broadcast(&one, float32, {std::int64_t{1} << 40, std::int64_t{1} << 40}, {0, 0});
  CHECK(mentions(refusal([&] { (void)dl::view<const float>(broadcast.tensor, "g"); }), {"'g'", "dimension 0", "2^63"}));
  World world;
  world.weight.tensor.strides = (world.weight.strides = {0, 1}).data();
  CHECK(mentions(world.add(), {"'layer'", "dimension 0 of the weight has stride 0", "4 elements"}));
  World mixed;
  std::vector<double> doubles(24);
  const Exported gradient(doubles.data(), float64, {4, 6});
  CHECK(mentions(refusal([&] { dl::add(mixed.optimizer, mixed.group, "layer", mixed.weight.tensor, gradient.tensor); }),
                 {"'layer'", "weight of float32", "gradient of float64", "both must be float64, or neither"}));
  World batch;
  CHECK(mentions(batch.add(apollo::Unfold::batch), {"'layer'", "2 dimensions; Unfold::batch needs 3"}));
}

TEST_CASE("pinned memory is the host's") {
  World world;
  world.weight.tensor.device = {kDLCUDAHost, 0};
  CHECK(world.add().empty());
  CHECK(world.optimizer.step().stepped == 1);
}

TEST_CASE("an extent of one may have any stride") {
  std::vector<float> w(6, 1), g(6, 1);
  const Exported weight(w.data(), float32, {1, 6}, {0, 1}),
      gradient(g.data(), float32, {1, 6}, {std::numeric_limits<std::int64_t>::max(), 1});
  apollo::Optimizer optimizer;
  dl::add(optimizer, optimizer.add_group(apollo::SgdOptions{.lr = 1}), "row", weight.tensor, gradient.tensor);
  CHECK(optimizer.step().stepped == 1);
  CHECK(w == std::vector<float>(6));
  CHECK(dl::view<float>(weight.tensor, "row").row_stride == 1);
}
