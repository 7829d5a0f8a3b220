// SPDX-License-Identifier: Apache-2.0
// Second moments in two factors, emulated: GaLore with Adafactor's, Flora on them, and both without a projection.
// not: optimised
#include "cuda_model.hpp"

using namespace emulated;
using apollo::AdafactorMoments;
using apollo::FactoredMeanMoments;
using apollo::FloraFactored;
using apollo::FloraFactoredOptions;
using apollo::GaLoreAdafactor;
using apollo::GaLoreAdafactorOptions;
using apollo::OnRefresh;
using apollo::StochasticWeights;
using apollo::StructuredOptimizer;
using apollo::StructuredOptions;
using apollo::SvdMethod;
using support::mentions;
using support::refusal;

namespace {

/// The shorter side kept and removed, along memory and across it, of short lines and of long ones; a vector, which is dense.
const std::vector<Leaf> leaves = {
    {24, 17}, {17, 24, Order2D::column_major}, {15, 270}, {270, 15, Order2D::column_major}, {30, 1}};

template <class Member, class Double>
void check_fp32(const typename Member::Options& options, int steps = 4) {
  const Result device = run<Member, float, float>(leaves, options, steps);
  const Result exact = reference<Double, double, float>(leaves, options, steps);
  CHECK(worst_error(device, exact) <= 5e-7);
  CHECK(worst_change_error(device, exact, leaves) <= 1e-5);
  for (std::size_t i = 0; i < leaves.size(); ++i) CHECK(device.status[i].steps == exact.status[i].steps);
}

}  // namespace

TEST_CASE("powers of whole numbers, without a library") {
  CHECK(apollo::cuda::inverse_power(1, 0.8) == 1);
  for (const double rate : {0.8, 0.5, 1.0, 3.7, 40.0})
    for (std::int64_t number = 1; number < (std::int64_t{1} << 40); number += 1 + number / 3) {
      const double exact = std::pow(static_cast<double>(number), -rate);
      const double found = apollo::cuda::inverse_power(number, rate);
      CHECK(std::fabs(found - exact) <= (rate > 4 ? 1e-12 : 2e-14) * exact + 1e-300);
    }
  CHECK(apollo::cuda::inverse_power(1000, 1e9) == 0);
}

TEST_CASE("GaLore with Adafactor's moments is within 5e-7 of double precision, clipped, at refreshes of every kind") {
  for (const OnRefresh refresh : {OnRefresh::keep, OnRefresh::reset, OnRefresh::rotate})
    check_fp32<GaLoreAdafactor<>, GaLoreAdafactor<double>>(
        {.lr = 0.05, .rank = 4, .update_proj_gap = 2, .svd = SvdMethod::exact, .on_refresh = refresh});
  check_fp32<GaLoreAdafactor<>, GaLoreAdafactor<double>>(
      {.lr = 0.05, .rank = 3, .svd = SvdMethod::exact, .decay_rate = 0.5, .clip_threshold = 0.7, .weight_decay = 0.1});
  using Sparse = apollo::RandomProjection<apollo::SparseSign>;
  check_fp32<StructuredOptimizer<Sparse, AdafactorMoments>, StructuredOptimizer<Sparse, AdafactorMoments, double>>(
      {.lr = 0.05, .eps = 1e-12, .rank = 5, .update_proj_gap = 2, .on_refresh = OnRefresh::rotate});
}

TEST_CASE("Flora on factored moments: R is of what they leave of the gradient, whatever its factor") {
  for (const OnRefresh refresh : {OnRefresh::keep, OnRefresh::reset, OnRefresh::rotate})
    check_fp32<FloraFactored<>, FloraFactored<double>>(
        {.lr = 0.05, .rank = 5, .update_proj_gap = 2, .on_refresh = refresh, .seed = 3});

  const Leaf leaf{40, 33};
  EmulatedOptimizer one, other;
  Array<float> w(one.device(), start(leaf, 0)), g(one.device(), gradient(leaf, 0, 0));
  Array<float> v(other.device(), start(leaf, 0)), h(other.device(), gradient(leaf, 0, 0));
  one.add(one.add_group(FloraFactoredOptions{.rank = 5}), "w", w.view(), g.view());
  other.add(other.add_group(FloraFactoredOptions{.rank = 5}), "w", v.view(), h.view());
  other.gradient_scale(0.25);
  for (int step = 0; step < 3; ++step) {
    g.set(gradient(leaf, 0, step)), h.set(support::scaled(gradient(leaf, 0, step), 4));
    one.step(), other.step();
    CHECK(support::relative_error(w.get(), v.get()) <= 1e-7);
  }
}

TEST_CASE("factored moments of a whole gradient, remembered or not") {
  const StructuredOptions options{.lr = 0.05, .eps = 1e-12, .weight_decay = 0.1};
  check_fp32<StructuredOptimizer<AdafactorMoments>, StructuredOptimizer<AdafactorMoments, double>>(options);
  check_fp32<StructuredOptimizer<FactoredMeanMoments<>>, StructuredOptimizer<FactoredMeanMoments<>, double>>(options);
}

TEST_CASE("bfloat16 weights, gradients and means round as the reference's, for any number of workers") {
  using Half = FloraFactored<FactoredMeanMoments<bfloat16>, StochasticWeights>;
  const FloraFactoredOptions options{.lr = 0.05, .rank = 5, .update_proj_gap = 2};
  std::vector<Leaf> with_long = leaves;
  with_long.push_back({1, 700});
  const Result one = run<Half, bfloat16, bfloat16>(with_long, options, 3);
  CHECK(share_different(one, reference<Half, bfloat16, bfloat16>(with_long, options, 3)) <= 4e-3);
  CHECK(same_bits(one, run<Half, bfloat16, bfloat16>(with_long, options, 3, {.workers = 3})));
  const std::vector<Leaf> few = {{30, 20}, {20, 30}};
  using Rounded = GaLoreAdafactor<StochasticWeights>;
  const GaLoreAdafactorOptions often{.rank = 4, .update_proj_gap = 1, .on_refresh = OnRefresh::rotate};
  const Result galore = run<Rounded, bfloat16, float>(few, often, 2);
  CHECK(same_bits(galore, run<Rounded, bfloat16, float>(few, often, 2, {.workers = 2})));
  CHECK(same_bits(galore, run<Rounded, bfloat16, float>(few, often, 2, {.in_step = true})));

  EmulatedOptimizer optimizer;
  const auto group = optimizer.add_group<StructuredOptimizer<FactoredMeanMoments<bfloat16>>>(StructuredOptions{});
  Array<float> w(optimizer.device(), Matrix(4, 8, 1.0));
  CHECK(mentions(refusal([&] { optimizer.add(group, "w", w.view(), w.view()); }), {"'w'", "4 x 8", "float"}));
  CHECK(optimizer.state_bytes() == 0);
}

TEST_CASE("checkpoints have both factors, and are the host's; a gradient that is not finite changes neither") {
  check_checkpoint<GaLoreAdafactor<>>({.lr = 0.05, .rank = 4, .update_proj_gap = 3, .svd = SvdMethod::exact},
                                      {15, 20, Order2D::column_major});
  check_checkpoint<FloraFactored<>>({.lr = 0.05, .rank = 4, .update_proj_gap = 3}, {15, 20});
  check_checkpoint<StructuredOptimizer<FactoredMeanMoments<>>>({.lr = 0.05}, {15, 20});

  const Leaf leaf{40, 30};
  EmulatedOptimizer one, twin;
  Array<float> w(one.device(), start(leaf, 0)), g(one.device(), gradient(leaf, 0, 0));
  Array<float> v(twin.device(), start(leaf, 0)), h(twin.device(), gradient(leaf, 0, 0));
  one.add(one.add_group(FloraFactoredOptions{.rank = 5}), "w", w.view(), g.view());
  twin.add(twin.add_group(FloraFactoredOptions{.rank = 5}), "w", v.view(), h.view());
  one.step(), twin.step();
  g.view()(39, 29) = std::nanf("");
  one.step();
  CHECK(one.status("w").skipped == 1);
  CHECK(w.get().values == v.get().values);
  g.set(gradient(leaf, 0, 1)), h.set(gradient(leaf, 0, 1));
  one.step(), twin.step();
  CHECK(w.get().values == v.get().values);
}
