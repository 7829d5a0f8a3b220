// SPDX-License-Identifier: Apache-2.0
// The kernels of structured updates without a projection, emulated: structured AdamW and SCALE beside the reference.
// also: threads
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
