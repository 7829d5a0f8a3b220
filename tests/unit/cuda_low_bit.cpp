// SPDX-License-Identifier: Apache-2.0
// Storage of few bits on the emulated device beside the reference: moments in blocks of codes, split weights, weights in groups.
// Both keep the same codes, scales and halves, so their checkpoints are compared byte by byte.
// also: threads
// not: optimised
#include <fstream>
#include <sstream>

#include "cuda_model.hpp"

using namespace emulated;
using apollo::AdamMoments;
using apollo::AdamW;
using apollo::Int4;
using apollo::Int8Dynamic;
using apollo::Int8Linear;
using apollo::MeanMoments;
using apollo::SplitWeights;
using apollo::StochasticWeights;

namespace {

/// Lines that are joined to runs, of several runs with a rest, of an odd number of values; aligned and not; vectors.
const std::vector<Leaf> leaves = {{5, 7},
                                  {70, 264},
                                  {6, 515},
                                  {301, 1},
                                  {40, 520, Order2D::column_major},
                                  {33, 25, Order2D::column_major},
                                  {20, 64, Order2D::row_major, 1}};

/// One model on the emulated device and on the reference backend.
template <class Member, class W, class G>
struct Both {
  EmulatedOptimizer device;
  apollo::Optimizer host;
  const std::vector<Leaf>& tensors;
  std::vector<Array<W>> device_w;
  std::vector<Array<G>> device_g;
  std::vector<std::unique_ptr<support::Tensor<W>>> host_w;
  std::vector<std::unique_ptr<support::Tensor<G>>> host_g;

  explicit Both(const typename Member::Options& options, const Emulation& how = {},
                const std::vector<Leaf>& of = leaves)
      : device(Emulator(how)), tensors(of) {
    const auto on_device = device.add_group<Member>(options);
    const auto on_host = host.add_group<Member>(options);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const Leaf& leaf = tensors[i];
      const auto layout = leaf.order == Order2D::row_major ? support::Layout::row_major : support::Layout::column_major;
      device_w.emplace_back(device.device(), start(leaf, i), leaf.order, leaf.offset);
      device_g.emplace_back(device.device(), gradient(leaf, i, 0), leaf.order, leaf.offset);
      host_w.push_back(std::make_unique<support::Tensor<W>>(support::rounded<float>(start(leaf, i)), layout));
      host_g.push_back(std::make_unique<support::Tensor<G>>(start(leaf, i), layout));
      device.add(on_device, leaf_name(i), device_w[i].view(), device_g[i].view());
      host.add(on_host, leaf_name(i), host_w[i]->view, host_g[i]->view);
    }
  }
  void steps(int count) {
    for (int step = 0; step < count; ++step) {
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        const Matrix g = gradient(tensors[i], i, step);
        device_g[i].set(g);
        host_g[i]->set(support::rounded<float>(g));
      }
      device.step();
      host.step();
    }
  }
  /// Which share of the weights differs at all, and which of the checkpoint's bytes.
  double weights_differ() const {
    double different = 0, all = 0;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const std::vector<double> a = device_w[i].get().values, b = host_w[i]->get().values;
      for (std::size_t k = 0; k < a.size(); ++k, ++all) different += a[k] == b[k] ? 0 : 1;
    }
    return different / all;
  }
  double states_differ() {
    device.save("low_bit_device.safetensors");
    apollo::save(host, "low_bit_host.safetensors");
    const std::string a = content("low_bit_device.safetensors"), b = content("low_bit_host.safetensors");
    if (a.size() != b.size() || a.empty()) return 1;
    double different = 0;
    for (std::size_t i = 0; i < a.size(); ++i) different += a[i] == b[i] ? 0 : 1;
    return different / static_cast<double>(a.size());
  }
  static std::string content(const std::string& path) {
    std::ifstream stream(path, std::ios::binary);
    std::ostringstream text;
    text << stream.rdbuf();
    return text.str();
  }
};

template <class Member, class W, class G>
void check_same(const typename Member::Options& options, int steps = 4) {
  Both<Member, W, G> both(options);
  both.steps(steps);
  CHECK(both.weights_differ() <= 2e-3);
  CHECK(both.states_differ() <= 2e-3);
  CHECK(both.device.state_bytes() == both.host.state_bytes());
}

}  // namespace

TEST_CASE("AdamW's moments in blocks of 8 and 4 bits have the reference's codes and scales") {
  const apollo::AdamWOptions options{.lr = 0.01, .weight_decay = 0.1, .seed = 5};
  check_same<AdamW<AdamMoments<Int8Linear>>, float, float>(options);
  check_same<AdamW<AdamMoments<Int8Dynamic>>, bfloat16, float>(options);
  check_same<AdamW<AdamMoments<Int4>, StochasticWeights>, bfloat16, bfloat16>(options);
}

TEST_CASE("split weights keep the reference's halves, in one pass, structured and lifted") {
  check_same<AdamW<SplitWeights>, bfloat16, bfloat16>({.lr = 0.01, .weight_decay = 0.1});
  check_same<apollo::Apollo<SplitWeights>, bfloat16, float>({.lr = 0.01, .rank = 4});
  using Sparse =
      apollo::RandomProjection<apollo::SparseSign>;  // a dense lift is summed in another type than the reference has
  check_same<apollo::Flora<Sparse, SplitWeights, MeanMoments<Int4>>, bfloat16, bfloat16>(
      {.lr = 0.1, .rank = 4, .update_proj_gap = 2});
  check_same<apollo::ColumnNormalizedSgd<SplitWeights>, bfloat16, float>({.lr = 0.01});
  check_same<apollo::StructuredOptimizer<apollo::AdafactorMoments, SplitWeights>, bfloat16, float>(
      {.lr = 0.01, .eps = 1e-12});
}

TEST_CASE("projected moments in blocks, kept, reset and turned at refreshes") {
  using apollo::OnRefresh;
  for (const OnRefresh refresh : {OnRefresh::rotate, OnRefresh::keep, OnRefresh::reset}) {
    const apollo::ApolloOptions options{.lr = 0.02, .rank = 5, .update_proj_gap = 2, .on_refresh = refresh, .seed = 3};
    check_same<apollo::Apollo<AdamMoments<Int8Linear>>, bfloat16, float>(options);
  }
  check_same<apollo::ApolloMini<AdamMoments<Int4>>, bfloat16, float>({.lr = 0.02});
  check_same<apollo::Flora<MeanMoments<Int8Dynamic>>, bfloat16, float>({.lr = 0.1, .rank = 4, .update_proj_gap = 2});
}

namespace {

/// Weights in groups, codes and ranges on the emulated device, beside an Int8Matrix on the reference backend.
template <class Member>
void check_groups(const typename Member::Options& options, Index group_size, const Emulation& how = {}) {
  const std::vector<Leaf> tensors = {{5, 7}, {70, 264}, {6, 515}, {301, 1}, {33, 25}};
  EmulatedOptimizer device{Emulator(how)};
  apollo::Optimizer host;
  const auto on_device = device.add_group<Member>(options);
  const auto on_host = host.add_group<Member>(options);
  std::vector<apollo::Int8Matrix> matrices;
  std::vector<apollo::cuda::Memory<Emulator>> codes, ranges;
  std::vector<Array<float>> device_g;
  std::vector<std::unique_ptr<support::Tensor<float>>> host_g;
  matrices.reserve(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Leaf& leaf = tensors[i];
    const support::Tensor<float> from(start(leaf, i), support::Layout::row_major);
    apollo::Int8Matrix& matrix = matrices.emplace_back(leaf.rows, leaf.cols, group_size);
    matrix.quantize(0, leaf.rows, from.memory.data());
    codes.emplace_back(device.device(), static_cast<Index>(matrix.codes().size()), "", "codes");
    ranges.emplace_back(device.device(), matrix.bytes() - codes[i].bytes(), "", "ranges");
    device.device().write(codes[i].as<void>(), matrix.codes().data(), codes[i].bytes(), {});
    device.device().write(ranges[i].as<void>(), matrix.ranges().data(), ranges[i].bytes(), {});
    apollo::MatrixView<apollo::int8_groups> view = matrix.view();
    view.data = codes[i].as<std::uint8_t>();
    view.ranges = ranges[i].as<apollo::GroupRange>();
    device_g.emplace_back(device.device(), gradient(leaf, i, 0));
    host_g.push_back(std::make_unique<support::Tensor<float>>(start(leaf, i), support::Layout::row_major));
    device.add(on_device, leaf_name(i), view, device_g[i].view());
    host.add(on_host, leaf_name(i), matrix, host_g[i]->view);
  }
  for (int step = 0; step < 4; ++step) {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      device_g[i].set(gradient(tensors[i], i, step));
      host_g[i]->set(support::rounded<float>(gradient(tensors[i], i, step)));
    }
    device.step();
    host.step();
  }
  double different = 0, all = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    for (std::size_t k = 0; k < matrices[i].codes().size(); ++k, ++all)
      different += codes[i].as<std::uint8_t>()[k] == matrices[i].codes()[k] ? 0 : 1;
    for (std::size_t k = 0; k < matrices[i].ranges().size(); ++k, ++all) {
      const apollo::GroupRange &a = ranges[i].as<apollo::GroupRange>()[k], &b = matrices[i].ranges()[k];
      different += a.minimum == b.minimum && a.scale == b.scale ? 0 : 1;
    }
  }
  CHECK(different / all <= 2e-3);
}

}  // namespace

TEST_CASE("weights in 8-bit groups have the reference's codes and ranges") {
  check_groups<AdamW<>>({.lr = 0.01}, 32);
  check_groups<apollo::AdamW8bit<StochasticWeights>>({.lr = 0.01, .weight_decay = 0.1}, 128);
  check_groups<apollo::QApollo<>>({.lr = 0.02, .rank = 4}, 256);
  check_groups<apollo::Flora<apollo::RandomProjection<apollo::SparseSign>, StochasticWeights>>(
      {.lr = 0.1, .rank = 4, .update_proj_gap = 2}, 64, {.workers = 3});
  check_groups<apollo::StructuredOptimizer<apollo::FactoredMeanMoments<>, StochasticWeights>>(
      {.lr = 0.01, .eps = 1e-12}, 32);
}

TEST_CASE("weights in groups are refused where their ranges or codes cannot be stepped") {
  EmulatedOptimizer optimizer;
  const auto group = optimizer.add_group(apollo::AdamWOptions{});
  Array<float> g(optimizer.device(), Matrix(4, 300, 1.0));
  apollo::cuda::Memory<Emulator> codes(optimizer.device(), 1200, "", "codes"),
      ranges(optimizer.device(), 96, "", "ranges");
  apollo::Int8Matrix matrix(4, 300, 128);
  auto view = matrix.view();
  const auto add = [&] { optimizer.add(group, "w", view, g.view()); };
  CHECK(support::mentions(support::refusal(add), {"'w'", "weight", "not memory"}));
  view.data = codes.as<std::uint8_t>();
  CHECK(support::mentions(support::refusal(add), {"'w'", "ranges", "not memory"}));
  view.ranges = nullptr;
  CHECK(support::mentions(support::refusal(add), {"'w'", "no ranges"}));
  view.ranges = ranges.as<apollo::GroupRange>();
  view.group_size = 100;
  CHECK(support::mentions(support::refusal(add), {"'w'", "group_size = 100", "128"}));
  view.group_size = 64;  // has more ranges
  CHECK(support::mentions(support::refusal(add), {"'w'", "ranges", "not memory"}));
  CHECK(optimizer.state_bytes() == 0);
}

TEST_CASE("the same bits for any number of workers, and with a thread for each of a block") {
  using One = AdamW<AdamMoments<Int8Linear>, SplitWeights>;
  using Low = apollo::Flora<MeanMoments<Int4>, StochasticWeights>;
  const apollo::FloraOptions options{.lr = 0.1, .rank = 4, .update_proj_gap = 1};
  const Result one = run<One, bfloat16, float>(leaves, {.lr = 0.01}, 3);
  const Result low = run<Low, bfloat16, float>(leaves, options, 3);
  for (const int workers : {2, 5}) {
    CHECK(same_bits(one, run<One, bfloat16, float>(leaves, {.lr = 0.01}, 3, {.workers = workers})));
    CHECK(same_bits(low, run<Low, bfloat16, float>(leaves, options, 3, {.workers = workers})));
  }
  const std::vector<Leaf> few = {{30, 20}, {3, 300}};
  CHECK(same_bits(run<One, bfloat16, float>(few, {.lr = 0.01}, 2),
                  run<One, bfloat16, float>(few, {.lr = 0.01}, 2, {.in_step = true})));
  const std::vector<Leaf> square = {{30, 20}, {20, 30}};
  CHECK(same_bits(run<Low, bfloat16, float>(square, options, 2),
                  run<Low, bfloat16, float>(square, options, 2, {.in_step = true})));
}
