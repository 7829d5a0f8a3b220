// SPDX-License-Identifier: Apache-2.0
// The kernels of structured updates without a projection, emulated: structured AdamW and SCALE beside the reference.
// also: threads
// not: optimised
#include "cuda_model.hpp"

using namespace emulated;
using apollo::StructuredAdamW;
using apollo::StructuredAdamWOptions;
using apollo::TensorScaling;

namespace {

/// Channels along memory and across it, longer than a warp and than a block's part; a vector.
const std::vector<Leaf> leaves = {
    {40, 33}, {33, 40}, {270, 300}, {300, 270, Order2D::column_major}, {28, 300, Order2D::column_major}, {50, 1}};

}  // namespace

TEST_CASE("structured AdamW in fp32 is within 5e-7 of double precision after five steps that the limiter holds") {
  using apollo::ChannelAxis;
  for (const ChannelAxis axis : {ChannelAxis::longer, ChannelAxis::rows, ChannelAxis::cols}) {
    const StructuredAdamWOptions options{.lr = 0.05, .channel_axis = axis, .weight_decay = 0.1};
    const Result device = run<StructuredAdamW<>, float, float>(leaves, options, 5);
    const Result exact = reference<StructuredAdamW<double>, double, float>(leaves, options, 5);
    CHECK(worst_error(device, exact) <= 5e-7);
    CHECK(worst_change_error(device, exact, leaves) <= 4e-6);
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      CHECK(exact.status[i].limiter > 1.05);
      CHECK(std::fabs(device.status[i].limiter / exact.status[i].limiter - 1) <= 2e-6);
      CHECK(std::fabs(device.status[i].update_norm / exact.status[i].update_norm - 1) <= 2e-6);
    }
  }
  const StructuredAdamWOptions options{.lr = 0.05};
  CHECK(worst_error(run<StructuredAdamW<TensorScaling>, float, bfloat16>(leaves, options, 5),
                    reference<StructuredAdamW<TensorScaling, double>, double, bfloat16>(leaves, options, 5)) <= 5e-7);
}

TEST_CASE("SCALE, whose channels' steps have length 1") {
  const apollo::ColumnNormalizedSgdOptions options{.lr = 0.05};
  const Result device = run<apollo::ColumnNormalizedSgd<>, float, float>(leaves, options, 5);
  const Result exact = reference<apollo::ColumnNormalizedSgd<double>, double, float>(leaves, options, 5);
  CHECK(worst_error(device, exact) <= 5e-7);
  CHECK(worst_change_error(device, exact, leaves) <= 4e-6);
}

TEST_CASE("SCALE with momentum: channels of the momentum, not of the gradient") {
  using Member = apollo::ColumnNormalizedSgd<apollo::MeanMoments<>>;
  using Double = apollo::ColumnNormalizedSgd<apollo::MeanMoments<>, double>;
  for (const auto axis : {apollo::ChannelAxis::rows, apollo::ChannelAxis::cols}) {
    const apollo::ColumnNormalizedSgdOptions options{.lr = 0.05, .channel_axis = axis};
    const Result device = run<Member, float, bfloat16>(leaves, options, 5);
    const Result exact = reference<Double, double, bfloat16>(leaves, options, 5);
    CHECK(worst_error(device, exact) <= 5e-7);
    CHECK(worst_change_error(device, exact, leaves) <= 4e-6);
    for (std::size_t i = 0; i < leaves.size(); ++i)
      CHECK(std::fabs(device.status[i].update_norm / exact.status[i].update_norm - 1) <= 2e-6);
  }
}

TEST_CASE("Adam-mini, of blocks of one channel, of several, of more than a block's threads and of the whole tensor") {
  using apollo::AdamMini;
  using apollo::AdamMiniOptions;
  const std::vector<Leaf> tensors = {
      {40, 33}, {36, 70, Order2D::column_major}, {600, 20}, {300, 260, Order2D::column_major}, {52, 1}};
  for (const Index block : {1, 4, 0}) {
    const AdamMiniOptions options{.lr = 0.01, .block = block, .weight_decay = 0.1};
    const Result device = run<AdamMini<>, float, float>(tensors, options, 5);
    const Result exact = reference<AdamMini<double>, double, float>(tensors, options, 5);
    CHECK(worst_error(device, exact) <= 5e-7);
    CHECK(worst_change_error(device, exact, tensors) <= 4e-6);
    for (std::size_t i = 0; i < tensors.size(); ++i)
      CHECK(std::fabs(device.status[i].gradient_norm / exact.status[i].gradient_norm - 1) <= 1e-12);
  }
  using Half = AdamMini<apollo::BlockAdamMoments<bfloat16>, apollo::StochasticWeights>;
  const AdamMiniOptions across{.lr = 0.01, .block = 0, .channel_axis = apollo::ChannelAxis::cols};
  const Result half = run<Half, bfloat16, bfloat16>(tensors, across, 4);
  CHECK(share_different(half, reference<Half, bfloat16, bfloat16>(tensors, across, 4)) <= 2e-3);
  CHECK(same_bits(half, run<Half, bfloat16, bfloat16>(tensors, across, 4, {.workers = 3})));
  const std::vector<Leaf> few = {{30, 20}, {300, 4}};
  CHECK(same_bits(run<Half, bfloat16, bfloat16>(few, across, 2),
                  run<Half, bfloat16, bfloat16>(few, across, 2, {.in_step = true})));
  EmulatedOptimizer optimizer;
  Array<float> w(optimizer.device(), Matrix(40, 30, 1.0)), g(optimizer.device(), Matrix(40, 30, 1.0));
  optimizer.add(optimizer.add_group(AdamMiniOptions{.block = 4}), "a", w.view(), g.view());
  CHECK(optimizer.state_bytes() == AdamMini<>::state_bytes({40, 30}, {.block = 4}));
}

TEST_CASE("moments in bfloat16 round by the bits of their storage runs, along channels and across them") {
  using Half = StructuredAdamW<apollo::AdamMoments<bfloat16>, apollo::StochasticWeights>;
  using Momentum = apollo::ColumnNormalizedSgd<apollo::MeanMoments<bfloat16>>;
  // Lines that are joined to runs and such of several; the last block of channels or inputs has fewer.
  const std::vector<Leaf> tensors = {{40, 33}, {33, 40}, {270, 300}, {20, 520, Order2D::column_major}, {50, 1}};
  for (const auto axis : {apollo::ChannelAxis::rows, apollo::ChannelAxis::cols}) {
    const StructuredAdamWOptions options{.lr = 0.05, .channel_axis = axis, .seed = 3};
    const Result half = run<Half, bfloat16, bfloat16>(tensors, options, 4);
    CHECK(share_different(half, reference<Half, bfloat16, bfloat16>(tensors, options, 4)) <= 2e-3);
    CHECK(same_bits(half, run<Half, bfloat16, bfloat16>(tensors, options, 4, {.workers = 3})));
    const apollo::ColumnNormalizedSgdOptions scale{.lr = 0.05, .channel_axis = axis};
    const Result momentum = run<Momentum, bfloat16, float>(tensors, scale, 4);
    CHECK(share_different(momentum, reference<Momentum, bfloat16, float>(tensors, scale, 4)) <= 2e-3);
    const std::vector<Leaf> few = {{30, 20}, {3, 300}};
    CHECK(same_bits(run<Half, bfloat16, bfloat16>(few, options, 2),
                    run<Half, bfloat16, bfloat16>(few, options, 2, {.in_step = true})));
  }
}

TEST_CASE("the same bits for any number of workers, and a gradient that is not finite changes nothing") {
  const Result one = run<StructuredAdamW<>, bfloat16, bfloat16>(leaves, {.lr = 0.05}, 4);
  for (const int workers : {2, 5})
    CHECK(same_bits(one, run<StructuredAdamW<>, bfloat16, bfloat16>(leaves, {.lr = 0.05}, 4, {.workers = workers})));
  const std::vector<Leaf> few = {{30, 20}, {20, 30}};
  CHECK(same_bits(run<StructuredAdamW<>, float, float>(few, {}, 2),
                  run<StructuredAdamW<>, float, float>(few, {}, 2, {.in_step = true})));

  EmulatedOptimizer optimizer;
  const Leaf leaf{40, 30};
  Array<float> w(optimizer.device(), start(leaf, 0)), g(optimizer.device(), gradient(leaf, 0, 0));
  optimizer.add(optimizer.add_group(StructuredAdamWOptions{.lr = 0.05}), "a", w.view(), g.view());
  optimizer.step();
  const Matrix before = w.get();
  std::vector<float> moments(40 * 30), after(40 * 30);
  optimizer.read_moment("a", 0, moments.data());
  g.view()(39, 29) = std::nanf("");
  optimizer.step();
  optimizer.read_moment("a", 0, after.data());
  CHECK(w.get().values == before.values);
  CHECK(moments == after);
  CHECK(optimizer.status("a").skipped == 1);
}

/// Weights after three steps along `factor` g, of which `scale` is taken, from a group that is added before or after that is said.
template <class Member>
std::vector<std::vector<double>> scaled_steps(const typename Member::Options& options, double factor, double scale,
                                              bool group_first) {
  EmulatedOptimizer optimizer;
  const auto add = [&] { return optimizer.add_group<Member>(options); };
  const auto early = add();
  optimizer.gradient_scale(scale);
  const auto group = group_first ? early : add();
  const std::vector<Leaf> few = {{40, 33}, {33, 40, Order2D::column_major}, {28, 300}, {50, 1}};
  std::vector<Array<float>> w, g;
  for (std::size_t i = 0; i < few.size(); ++i) {
    w.emplace_back(optimizer.device(), start(few[i], i), few[i].order);
    g.emplace_back(optimizer.device(), support::scaled(gradient(few[i], i, 0), factor), few[i].order);
    optimizer.add(group, leaf_name(i), w[i].view(), g[i].view());
  }
  for (int step = 0; step < 3; ++step) optimizer.step();
  optimizer.set_lr(group, 0.5 * options.lr);
  optimizer.step();
  std::vector<std::vector<double>> all;
  for (const Array<float>& each : w) all.push_back(each.get().values);
  return all;
}

TEST_CASE("a gradient scale of a quarter is a quarter of the gradient, bit by bit, for groups before it and after") {
  const auto check = [](auto member, const auto& options) {
    using Member = typename decltype(member)::type;
    const auto plain = scaled_steps<Member>(options, 0.25, 1, true);
    CHECK(plain != scaled_steps<Member>(options, 1, 1, true));
    for (const bool group_first : {true, false}) CHECK(plain == scaled_steps<Member>(options, 1, 0.25, group_first));
  };
  // With Adam's eps large enough that the length of a gradient matters.
  check(std::type_identity<apollo::AdamW<>>{}, apollo::AdamWOptions{.lr = 0.05, .eps = 0.01});
  check(std::type_identity<apollo::SgdMomentum<>>{}, apollo::SgdMomentumOptions{.lr = 0.05});
  check(std::type_identity<StructuredAdamW<>>{}, StructuredAdamWOptions{.lr = 0.05, .eps = 0.01});
  check(std::type_identity<apollo::ApolloMini<>>{}, apollo::ApolloMiniOptions{.lr = 0.05, .eps = 0.01});
  check(std::type_identity<apollo::Apollo<>>{}, apollo::ApolloOptions{.lr = 0.05, .rank = 8, .eps = 0.01});
}
