// SPDX-License-Identifier: Apache-2.0
// The kernels of APOLLO and APOLLO-Mini, emulated: projections along channels and across them, limiter, skips, refreshes.
// also: threads
// not: optimised
#include "cuda_model.hpp"

using namespace emulated;
using apollo::AdamMoments;
using apollo::Apollo;
using apollo::ApolloMini;
using apollo::ApolloMiniOptions;
using apollo::ApolloOptions;
using apollo::Gaussian;
using apollo::Rademacher;
using apollo::RandomProjection;
using apollo::StochasticWeights;
using apollo::TensorScaling;

namespace {

/// Tall and wide, of both orders in memory, so that channels lie both ways; sides that no block size divides; a removed side
/// of several windows; lines shorter than a storage run; a vector, which is dense.
const std::vector<Leaf> leaves = {
    {40, 33}, {33, 40}, {70, 264}, {264, 70}, {300, 290, Order2D::column_major}, {28, 300, Order2D::column_major},
    {24, 24}, {50, 1}};

/// Both far from 0 and from each other: the limiter's divisor is what it should be.
void check_limiter(const Result& device, const Result& exact) {
  bool limited = false;
  for (std::size_t i = 0; i < device.status.size(); ++i) {
    limited = limited || exact.status[i].limiter > 1.05;
    CHECK(std::fabs(device.status[i].limiter / exact.status[i].limiter - 1) <= 2e-6);
    CHECK(std::fabs(device.status[i].update_norm - exact.status[i].update_norm) <=
          2e-6 * std::fabs(exact.status[i].update_norm));
    CHECK(device.status[i].steps == exact.status[i].steps);
  }
  CHECK(limited);
}

template <class Member, class Double, class Options>
void check_fp32(Options options, int steps = 5, const std::vector<Leaf>& tensors = leaves) {
  const Result device = run<Member, float, float>(tensors, options, steps);
  const Result exact = reference<Double, double, float>(tensors, options, steps);
  CHECK(worst_error(device, exact) <= 5e-7);
  CHECK(worst_change_error(device, exact, tensors) <= 4e-6);
  check_limiter(device, exact);
}

}  // namespace

TEST_CASE("APOLLO-Mini in fp32 is within 5e-7 of double precision after five steps that the limiter holds") {
  check_fp32<ApolloMini<>, ApolloMini<double>>(ApolloMiniOptions{.lr = 0.2, .scale = 4, .seed = 3});
  check_fp32<ApolloMini<>, ApolloMini<double>>(ApolloMiniOptions{.lr = 0.2,
                                                                 .scale = 4,
                                                                 .update_proj_gap = 2,
                                                                 .on_refresh = apollo::OnRefresh::reset,
                                                                 .weight_decay = 0.1,
                                                                 .order = apollo::Order::torch});
  for (const auto type : {apollo::ProjType::reverse_std, apollo::ProjType::left, apollo::ProjType::right})
    check_fp32<ApolloMini<>, ApolloMini<double>>(ApolloMiniOptions{.lr = 0.2, .scale = 4, .proj_type = type});
}

TEST_CASE("APOLLO by sparse signs, at ranks of one lane and of eight, per channel and per tensor") {
  for (const Index rank : {8, 16, 5, 24})
    check_fp32<Apollo<>, Apollo<double>>(ApolloOptions{.lr = 0.05, .rank = rank, .update_proj_gap = 3, .seed = 9});
  check_fp32<Apollo<TensorScaling>, Apollo<TensorScaling, double>>(ApolloOptions{.lr = 0.05, .rank = 8});
  // Tiles of one channel, more than a thread's share of buckets.
  const std::vector<Leaf> large = {{400, 330}, {330, 400}};
  check_fp32<Apollo<>, Apollo<double>>(ApolloOptions{.lr = 0.05, .rank = 264}, 5, large);
  check_fp32<Apollo<>, Apollo<double>>(ApolloOptions{.lr = 0.05, .rank = 330}, 5, large);
}

TEST_CASE("APOLLO by dense sketches, also of more directions than a pass takes") {
  using Normal = RandomProjection<Gaussian>;
  using Signs = RandomProjection<Rademacher>;
  for (const Index rank : {3, 4, 11})
    check_fp32<Apollo<Normal>, Apollo<Normal, double>>(ApolloOptions{.lr = 0.05, .rank = rank, .update_proj_gap = 2});
  // At rank 2 some channel's R is nearly zero, and floats cannot tell its scale: the reference has the same error.
  const ApolloOptions two{.lr = 0.05, .rank = 2};
  const Result exact = reference<Apollo<Normal, double>, double, float>(leaves, two, 5);
  const double plain = worst_error(reference<Apollo<Normal>, float, float>(leaves, two, 5), exact);
  CHECK(worst_error(run<Apollo<Normal>, float, float>(leaves, two, 5), exact) <= 1.05 * plain);
  CHECK(plain < 1e-4);
  check_fp32<Apollo<Signs>, Apollo<Signs, double>>(ApolloOptions{.lr = 0.05, .rank = 6});
}

TEST_CASE("APOLLO by dense sketches of a large rank: products of every arithmetic, of float and bfloat16 gradients") {
  using Normal = RandomProjection<Gaussian>;
  const std::vector<Leaf> large = {
      {40, 64}, {40, 64}, {64, 40}, {260, 41, Order2D::column_major}, {41, 270, Order2D::column_major}, {50, 1}};
  const ApolloOptions options{.lr = 0.05, .rank = 40, .update_proj_gap = 2};
  const auto check = [&]<class G>(G, Math math, double bound) {
    const Result device = run<Apollo<Normal>, float, G>(large, options, 4, {}, math);
    const Result exact = reference<Apollo<Normal, double>, double, G>(large, options, 4);
    CHECK(device.kernels.count("BeginProduct") == 1);
    CHECK(worst_change_error(device, exact, large) <= bound);
    for (std::size_t i = 0; i < large.size(); ++i) {
      CHECK(std::fabs(device.status[i].gradient_norm / exact.status[i].gradient_norm - 1) <= 1e-6);
      CHECK(std::fabs(device.status[i].update_norm / exact.status[i].update_norm - 1) <= bound);
      CHECK(device.status[i].steps == exact.status[i].steps);
    }
  };
  // A scale is a quotient of norms, in which what single values lose is averaged, but for what Adam makes of a sign.
  check(0.0f, Math::fp32, 1e-5);
  check(0.0f, Math::tf32, 0x1p-9);
  check(0.0f, Math::bf16, 0x1p-8);
  check(bfloat16(), Math::fp32, 1e-5);
  check(bfloat16(), Math::tf32, 1e-4);  // two bfloat16 numbers have 16 bits
  check(bfloat16(), Math::bf16, 0x1p-8);
}

TEST_CASE("bfloat16 weights, gradients and moments round as the reference's") {
  const ApolloOptions options{.lr = 0.01, .rank = 8, .seed = 4};
  const ApolloMiniOptions mini{.lr = 0.01, .scale = 4, .seed = 4};
  // Norms are summed in another order, so now and then a value rounds the other way.
  using Half = Apollo<AdamMoments<bfloat16>, StochasticWeights>;
  CHECK(share_different(run<Half, bfloat16, bfloat16>(leaves, options, 5),
                        reference<Half, bfloat16, bfloat16>(leaves, options, 5)) <= 2e-3);
  CHECK(share_different(run<Apollo<>, bfloat16, float>(leaves, options, 5),
                        reference<Apollo<>, bfloat16, float>(leaves, options, 5)) <= 2e-3);
  using HalfMini = ApolloMini<AdamMoments<bfloat16>, StochasticWeights>;
  CHECK(share_different(run<HalfMini, bfloat16, bfloat16>(leaves, mini, 5),
                        reference<HalfMini, bfloat16, bfloat16>(leaves, mini, 5)) <= 2e-3);
  CHECK(worst_error(run<ApolloMini<AdamMoments<bfloat16>>, float, bfloat16>(leaves, mini, 5),
                    reference<ApolloMini<AdamMoments<bfloat16>>, float, bfloat16>(leaves, mini, 5)) <= 2e-5);
}

TEST_CASE("the same bits for any number of workers, and with a thread for each of a block") {
  using Half = Apollo<AdamMoments<bfloat16>, StochasticWeights>;
  using HalfMini = ApolloMini<AdamMoments<bfloat16>, StochasticWeights>;
  const ApolloOptions options{.lr = 0.01, .rank = 8};
  const Result one = run<Half, bfloat16, bfloat16>(leaves, options, 4);
  const Result mini = run<HalfMini, bfloat16, bfloat16>(leaves, {.lr = 0.01}, 4);
  for (const int workers : {2, 3, 5}) {
    CHECK(same_bits(one, run<Half, bfloat16, bfloat16>(leaves, options, 4, {.workers = workers})));
    CHECK(same_bits(mini, run<HalfMini, bfloat16, bfloat16>(leaves, {.lr = 0.01}, 4, {.workers = workers})));
  }
  const std::vector<Leaf> few = {{30, 20}, {20, 30}};
  CHECK(same_bits(run<Half, bfloat16, bfloat16>(few, options, 2),
                  run<Half, bfloat16, bfloat16>(few, options, 2, {.in_step = true})));
  CHECK(same_bits(run<HalfMini, bfloat16, bfloat16>(few, {.lr = 0.01}, 2),
                  run<HalfMini, bfloat16, bfloat16>(few, {.lr = 0.01}, 2, {.in_step = true})));
}

TEST_CASE("a gradient that is not finite leaves moments, limiter and step count as they were") {
  // The last two are finite: one of a norm whose projection might not be, and one that must be taken.
  for (const double bad : {std::nan(""), HUGE_VAL, 3e38, 1e34}) {
    EmulatedOptimizer optimizer;
    const auto group = optimizer.add_group(ApolloOptions{.lr = 0.01, .rank = 8});
    const Leaf leaf{40, 30};
    Array<float> w(optimizer.device(), start(leaf, 0)), g(optimizer.device(), gradient(leaf, 0, 0));
    Array<float> twin_w(optimizer.device(), start(leaf, 0)), twin_g(optimizer.device(), gradient(leaf, 0, 0));
    optimizer.add(group, "a", w.view(), g.view());
    optimizer.step();
    const Matrix before = w.get();
    g.view()(7, 3) = static_cast<float>(bad);
    optimizer.step();
    if (bad == 1e34) {
      CHECK(optimizer.status("a").steps == 2);
      continue;
    }
    CHECK(w.get().values == before.values);
    CHECK(optimizer.status("a").skipped == 1);
    g.set(gradient(leaf, 0, 1));
    optimizer.step();
    // One that never met the bad gradient is now the same.
    EmulatedOptimizer other;
    Array<float> v(other.device(), start(leaf, 0)), h(other.device(), gradient(leaf, 0, 0));
    other.add(other.add_group(ApolloOptions{.lr = 0.01, .rank = 8}), "a", v.view(), h.view());
    other.step();
    h.set(gradient(leaf, 0, 1));
    other.step();
    CHECK(v.get().values == w.get().values);
    CHECK(optimizer.status("a").limiter == other.status("a").limiter);
  }
}

TEST_CASE("state bytes are the reference's, and launches do not grow with the number of tensors") {
  EmulatedOptimizer optimizer;
  const auto group = optimizer.add_group(ApolloOptions{.rank = 8});
  Array<float> w(optimizer.device(), Matrix(40, 30, 1.0)), g(optimizer.device(), Matrix(40, 30, 1.0));
  optimizer.add(group, "a", w.view(), g.view());
  CHECK(optimizer.state_bytes() == Apollo<>::state_bytes({40, 30}, {.rank = 8}));
  const ApolloOptions options{.rank = 8};
  const std::vector<Leaf> two = {{40, 33}, {33, 40}};
  std::vector<Leaf> many(20, Leaf{40, 33});
  many.push_back({33, 40});
  CHECK(run<Apollo<>, float, float>(many, options, 1).launches_a_step ==
        run<Apollo<>, float, float>(two, options, 1).launches_a_step);
}

TEST_CASE("what the kernels cannot do is refused at registration") {
  EmulatedOptimizer optimizer;
  Array<float> w(optimizer.device(), Matrix(2100, 2100, 1.0)), small(optimizer.device(), Matrix(40, 30, 1.0));
  const auto wide = optimizer.add_group(ApolloOptions{.rank = 2049});
  CHECK(support::mentions(support::refusal([&] { optimizer.add(wide, "w", w.view(), w.view()); }),
                          {"'w'", "rank = 2049", "2048"}));
  const auto large = optimizer.add_group(ApolloOptions{.rank = 31});
  CHECK(support::mentions(support::refusal([&] { optimizer.add(large, "w", small.view(), small.view()); }),
                          {"'w'", "rank = 31", "30"}));
  CHECK(optimizer.state_bytes() == 0);
}
