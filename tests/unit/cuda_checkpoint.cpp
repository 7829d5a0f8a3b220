// SPDX-License-Identifier: Apache-2.0
// Checkpoints of apollo::cuda, emulated: resumed bit by bit, and the same file on the host and on a device.
// not: optimised
#include <cstdio>
#include <fstream>
#include <sstream>

#include "cuda_model.hpp"

using namespace emulated;
using apollo::AdamMoments;
using support::mentions;
using support::refusal;

namespace {

using Half = AdamMoments<bfloat16>;
using apollo::StochasticWeights;

/// Moments along memory and across it, projected and not; a vector.
const std::vector<Leaf> leaves = {{20, 33}, {33, 20, Order2D::column_major}, {12, 300}, {9, 1}};

std::string content(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

/// Leaves on the emulated device under one member.
template <class Member>
struct OnDevice {
  EmulatedOptimizer optimizer;
  std::vector<Array<float>> w, g;

  explicit OnDevice(const typename Member::Options& options) {
    const auto group = optimizer.add_group<Member>(options);
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      w.emplace_back(optimizer.device(), start(leaves[i], i), leaves[i].order);
      g.emplace_back(optimizer.device(), gradient(leaves[i], i, 0), leaves[i].order);
      optimizer.add(group, leaf_name(i), w[i].view(), g[i].view());
    }
  }
  void step(int number) {
    for (std::size_t i = 0; i < leaves.size(); ++i) g[i].set(gradient(leaves[i], i, number));
    optimizer.step();
  }
};

/// The same on the host, on the reference backend, on the same memory of weights.
template <class Member>
struct OnHost {
  apollo::Optimizer optimizer;
  std::vector<std::unique_ptr<support::Tensor<float>>> w, g;

  explicit OnHost(const typename Member::Options& options) {
    const auto group = optimizer.add_group<Member>(options);
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      const auto layout =
          leaves[i].order == Order2D::row_major ? support::Layout::row_major : support::Layout::column_major;
      w.push_back(std::make_unique<support::Tensor<float>>(start(leaves[i], i), layout));
      g.push_back(std::make_unique<support::Tensor<float>>(start(leaves[i], i), layout));
      optimizer.add(group, leaf_name(i), w[i]->view, g[i]->view);
    }
  }
  void step(int number) {
    for (std::size_t i = 0; i < leaves.size(); ++i) g[i]->set(support::rounded<float>(gradient(leaves[i], i, number)));
    optimizer.step();
  }
};

template <class Member>
void check_member(const typename Member::Options& options) {
  // Steps, a file, more steps; another optimizer takes the file and the weights of then.
  OnDevice<Member> whole(options), resumed(options);
  for (int step = 0; step < 3; ++step) whole.step(step);
  whole.optimizer.save("device.safetensors");
  for (std::size_t i = 0; i < leaves.size(); ++i) resumed.w[i].set(whole.w[i].get());
  resumed.step(9);  // what is loaded replaces what there was
  for (std::size_t i = 0; i < leaves.size(); ++i) resumed.w[i].set(whole.w[i].get());
  resumed.optimizer.load("device.safetensors");
  resumed.optimizer.save("again.safetensors");
  CHECK(content("device.safetensors") == content("again.safetensors"));
  for (int step = 3; step < 6; ++step) whole.step(step), resumed.step(step);
  for (std::size_t i = 0; i < leaves.size(); ++i) CHECK(whole.w[i].get().values == resumed.w[i].get().values);

  // The host reads it and writes the same bytes; a device reads those.
  OnHost<Member> host(options);
  apollo::load(host.optimizer, "device.safetensors");
  CHECK(host.optimizer.tick() == 3);
  CHECK(host.optimizer.steps(leaf_name(0)) == 3);
  apollo::save(host.optimizer, "host.safetensors");
  CHECK(content("device.safetensors") == content("host.safetensors"));
  host.step(3);
  apollo::save(host.optimizer, "host.safetensors");
  OnDevice<Member> back(options);
  back.optimizer.load("host.safetensors");
  back.optimizer.save("device.safetensors");
  CHECK(content("device.safetensors") == content("host.safetensors"));
  CHECK(back.optimizer.status(leaf_name(0)).steps == 4);
}

}  // namespace

TEST_CASE("a run that is saved and loaded goes on to the bit, and its file is the host's") {
  check_member<apollo::AdamW<>>({.lr = 0.01});
  check_member<apollo::AdamW<Half>>({.lr = 0.01, .seed = 3});
  check_member<apollo::Apollo<>>({.lr = 0.01, .rank = 8, .update_proj_gap = 2, .on_refresh = apollo::OnRefresh::reset});
  check_member<apollo::Flora<Half>>({.lr = 0.01, .rank = 5, .update_proj_gap = 2});
  check_member<apollo::StructuredAdamW<Half>>({.lr = 0.01});
  check_member<apollo::AdamMini<>>({.lr = 0.01});
  check_member<apollo::Sgd<>>({.lr = 0.01});
}

TEST_CASE("a file of another model changes nothing and says all that is wrong") {
  OnDevice<apollo::Apollo<>> one({.lr = 0.01, .rank = 8}), other({.lr = 0.01, .rank = 5});
  one.step(0), other.step(0);
  one.optimizer.save("rank8.safetensors");
  other.optimizer.save("before.safetensors");
  CHECK(mentions(refusal<std::runtime_error>([&] { other.optimizer.load("rank8.safetensors"); }),
                 {"'tensor 0'", "rank=8", "rank=5"}));
  CHECK(mentions(refusal<std::runtime_error>([&] { other.optimizer.load("missing.safetensors"); }), {"missing"}));
  other.optimizer.save("after.safetensors");
  CHECK(content("before.safetensors") == content("after.safetensors"));
}

TEST_CASE("the tick counts skipped steps too, and goes on from a file's") {
  OnDevice<apollo::AdamW<>> run({.lr = 0.01});
  run.step(0);
  for (auto& g : run.g) g.view()(0, 0) = std::nanf("");
  run.optimizer.step();
  run.optimizer.save("skipped.safetensors");
  OnHost<apollo::AdamW<>> host({.lr = 0.01});
  apollo::load(host.optimizer, "skipped.safetensors");
  CHECK(host.optimizer.tick() == 2);
  CHECK(host.optimizer.steps(leaf_name(0)) == 1);
  OnDevice<apollo::AdamW<>> next({.lr = 0.01});
  next.optimizer.load("skipped.safetensors");
  next.step(1);
  next.optimizer.save("skipped.safetensors");
  apollo::load(host.optimizer, "skipped.safetensors");
  CHECK(host.optimizer.tick() == 3);
  CHECK(host.optimizer.steps(leaf_name(0)) == 2);
}

TEST_CASE("a name that no checkpoint could hold is refused") {
  EmulatedOptimizer optimizer;
  const auto group = optimizer.add_group(apollo::AdamWOptions{});
  Array<float> w(optimizer.device(), Matrix(4, 8, 1.0));
  CHECK(mentions(refusal([&] { optimizer.add(group, "", w.view(), w.view()); }), {"name is empty"}));
  CHECK(mentions(refusal([&] { optimizer.add(group, "a\xff", w.view(), w.view()); }), {"UTF-8"}));
  CHECK(optimizer.state_bytes() == 0);
}
