// SPDX-License-Identifier: Apache-2.0
// Storage of few bits on the emulated device beside the reference: moments in blocks of codes, split weights, weights in groups. Both
// keep the same codes, scales and halves, so their checkpoints are compared byte by byte.
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
