// SPDX-License-Identifier: Apache-2.0
// The kernels of steps without a projection, emulated: AdamW and SGD beside the reference, their rounding, their skips.
// also: threads
// not: optimised
#include "cuda_model.hpp"

using namespace emulated;
using apollo::AdamMoments;
using apollo::AdamW;
using apollo::StochasticWeights;

namespace {

/// Lines shorter than a storage run, of several runs with a rest, aligned and not; one larger than a part; vectors.
const std::vector<Leaf> leaves = {{5, 7},
                                  {3, 300},
                                  {70, 264},
                                  {257, 1},
                                  {1, 100},
                                  {40, 520, Order2D::column_major},
                                  {33, 24, Order2D::column_major},
                                  {20, 64, Order2D::row_major, 1},
                                  {2, 515, Order2D::row_major, 3}};

}  // namespace

TEST_CASE("AdamW in fp32 is within 5e-7 of double precision, in both orders") {
  for (const apollo::Order order : {apollo::Order::torch, apollo::Order::huggingface}) {
    const apollo::AdamWOptions options{.lr = 0.01, .weight_decay = 0.1, .order = order};
    const Result device = run<AdamW<>, float, float>(leaves, options, 5);
    const Result exact = reference<AdamW<double>, double, float>(leaves, options, 5);
    CHECK(worst_error(device, exact) <= 5e-7);
    CHECK(worst_change_error(device, exact, leaves) <= 4e-6);  // five steps of .01, rounded at 1
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      CHECK(device.status[i].steps == 5);
      CHECK(std::fabs(device.status[i].gradient_norm / exact.status[i].gradient_norm - 1) <= 1e-12);
    }
  }
}

TEST_CASE("every combination of stored types rounds as the reference does, by the same random bits") {
  const apollo::AdamWOptions options{.lr = 0.01, .weight_decay = 0.1, .seed = 5};
  // The reference takes powers of beta from the library, which may differ in the last place of a coefficient.
  const auto agree = [&](const Result& device, const Result& plain) { CHECK(share_different(device, plain) <= 2e-3); };
  agree(run<AdamW<>, bfloat16, bfloat16>(leaves, options, 5),
        reference<AdamW<>, bfloat16, bfloat16>(leaves, options, 5));
  agree(run<AdamW<>, bfloat16, float>(leaves, options, 5), reference<AdamW<>, bfloat16, float>(leaves, options, 5));
  using Rounded = AdamW<StochasticWeights>;
  agree(run<Rounded, bfloat16, bfloat16>(leaves, options, 5),
        reference<Rounded, bfloat16, bfloat16>(leaves, options, 5));
  using Half = AdamW<AdamMoments<bfloat16>>;
  agree(run<Half, float, bfloat16>(leaves, options, 5), reference<Half, float, bfloat16>(leaves, options, 5));
  using Both = AdamW<AdamMoments<bfloat16>, StochasticWeights>;
  agree(run<Both, bfloat16, bfloat16>(leaves, options, 5), reference<Both, bfloat16, bfloat16>(leaves, options, 5));
  // Stochastic is not nearest: the comparison above would not notice if neither side drew anything.
  CHECK(share_different(run<Rounded, bfloat16, bfloat16>(leaves, options, 5),
                        run<AdamW<>, bfloat16, bfloat16>(leaves, options, 5)) > 0.1);
}

TEST_CASE("SGD, with momentum and coupled decay") {
  using Momentum = apollo::SgdMomentum<>;
  const apollo::SgdMomentumOptions options{.lr = 0.1, .weight_decay = 0.2, .decay = apollo::Decay::coupled};
  CHECK(worst_error(run<Momentum, float, float>(leaves, options, 5),
                    reference<apollo::SgdMomentum<double>, double, float>(leaves, options, 5)) <= 5e-7);
  const apollo::SgdOptions plain{.lr = 0.1, .weight_decay = 0.2};
  CHECK(worst_error(run<apollo::Sgd<>, float, bfloat16>(leaves, plain, 5),
                    reference<apollo::Sgd<double>, double, bfloat16>(leaves, plain, 5)) <= 5e-7);
}

TEST_CASE("the same bits for any number of workers, and with a thread for each of a block") {
  using Both = AdamW<AdamMoments<bfloat16>, StochasticWeights>;
  const apollo::AdamWOptions options{.lr = 0.01};
  const Result one = run<Both, bfloat16, bfloat16>(leaves, options, 4);
  for (const int workers : {2, 3, 5})
    CHECK(same_bits(one, run<Both, bfloat16, bfloat16>(leaves, options, 4, {.workers = workers})));
  const std::vector<Leaf> few = {{3, 300}, {20, 7}};
  CHECK(same_bits(run<Both, bfloat16, bfloat16>(few, options, 2),
                  run<Both, bfloat16, bfloat16>(few, options, 2, {.in_step = true})));
}

TEST_CASE("launches do not grow with the number of tensors") {
  const apollo::AdamWOptions options;
  const std::vector<Leaf> one = {{5, 7}};
  std::vector<Leaf> many(40, Leaf{5, 7});
  CHECK(run<AdamW<>, float, float>(many, options, 1).launches_a_step ==
        run<AdamW<>, float, float>(one, options, 1).launches_a_step);
}

TEST_CASE("a gradient that is not finite skips its tensor alone, and leaves its state as it was") {
  for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    EmulatedOptimizer optimizer;
    const auto group = optimizer.add_group(apollo::AdamWOptions{.lr = 0.1});
    const Leaf leaf{30, 290};
    Array<float> w0(optimizer.device(), start(leaf, 0)), w1(optimizer.device(), start(leaf, 1));
    Array<float> g0(optimizer.device(), gradient(leaf, 0, 0)), g1(optimizer.device(), gradient(leaf, 1, 0));
    optimizer.add(group, "a", w0.view(), g0.view());
    optimizer.add(group, "b", w1.view(), g1.view());
    optimizer.step();
    const Matrix before = w0.get(), other = w1.get();
    std::vector<float> moments(30 * 290), after(30 * 290);
    optimizer.read_moment("a", 1, moments.data());
    g0.view()(29, 289) = static_cast<float>(bad);
    optimizer.step();
    optimizer.read_moment("a", 1, after.data());
    CHECK(w0.get().values == before.values);
    CHECK(moments == after);
    CHECK(optimizer.status("a").steps == 1);
    CHECK(optimizer.status("a").skipped == 1);
    CHECK(w1.get().values != other.values);
    CHECK(optimizer.status("b").steps == 2);
    CHECK(optimizer.status("b").skipped == 0);
    g0.set(gradient(leaf, 0, 1));
    optimizer.step();
    CHECK(optimizer.status("a").steps == 2);
    CHECK(w0.get().values != before.values);
  }
}

TEST_CASE("learning rates, gradient scales and bindings reach the next step; a tensor without a gradient waits") {
  EmulatedOptimizer optimizer;
  const auto group = optimizer.add_group(apollo::SgdOptions{.lr = 0.5});
  const Matrix ones(4, 6, 1.0);
  Array<float> w(optimizer.device(), ones), g(optimizer.device(), ones), other(optimizer.device(), ones);
  optimizer.add(group, "w", w.view(), apollo::no_gradient);
  optimizer.step();
  CHECK(w.get()(3, 5) == 1.0);
  CHECK(optimizer.status("w").steps == 0);
  optimizer.rebind("w", w.view(), g.view());
  optimizer.step();
  CHECK(w.get()(3, 5) == 0.5);
  optimizer.set_lr(group, 0.25);
  optimizer.gradient_scale(0.5);
  optimizer.rebind("w", other.view(), g.view());
  optimizer.step();
  CHECK(w.get()(3, 5) == 0.5);
  CHECK(other.get()(3, 5) == 0.875);
  // Tensors may come later; the others keep their place.
  Array<float> late(optimizer.device(), ones);
  optimizer.add(group, "late", late.view(), g.view());
  optimizer.step();
  CHECK(optimizer.status("w").steps == 3);
  CHECK(optimizer.status("late").steps == 1);
  CHECK(late.get()(0, 0) == 0.875);
}
