// SPDX-License-Identifier: Apache-2.0
// The kernels of updates that are lifted back from random projections, emulated: Flora, and moments turned at a refresh.
// also: threads
// not: optimised
#include "cuda_model.hpp"

using namespace emulated;
using apollo::AdamMoments;
using apollo::Apollo;
using apollo::ApolloOptions;
using apollo::ElementScaling;
using apollo::Flora;
using apollo::FloraOptions;
using apollo::Gaussian;
using apollo::MeanMoments;
using apollo::OnRefresh;
using apollo::Rademacher;
using apollo::RandomProjection;
using apollo::SparseSign;
using apollo::StochasticWeights;
using apollo::StructuredOptimizer;
using apollo::StructuredOptions;

namespace {

/// Channels along memory and across it, of lines shorter and longer than a storage run; a vector, which is dense.
const std::vector<Leaf> leaves = {
    {40, 33}, {33, 40}, {70, 264}, {264, 70}, {300, 290, Order2D::column_major}, {28, 300, Order2D::column_major},
    {50, 1}};

using Sparse = RandomProjection<SparseSign>;

template <class Member, class Double, class Options>
void check_fp32(const Options& options, int steps = 5) {
  const Result device = run<Member, float, float>(leaves, options, steps);
  const Result exact = reference<Double, double, float>(leaves, options, steps);
  CHECK(worst_error(device, exact) <= 5e-7);
  CHECK(worst_change_error(device, exact, leaves) <= 1.2e-5);  // small steps, rounded at 1
  for (std::size_t i = 0; i < leaves.size(); ++i) CHECK(device.status[i].steps == exact.status[i].steps);
}

}  // namespace

TEST_CASE("Flora in fp32 is within 5e-7 of double precision, and its momentum is turned at every refresh") {
  for (const OnRefresh refresh : {OnRefresh::rotate, OnRefresh::keep, OnRefresh::reset}) {
    const FloraOptions options{.lr = 0.2, .rank = 8, .update_proj_gap = 2, .on_refresh = refresh, .seed = 3};
    check_fp32<Flora<>, Flora<double>>(options);
    check_fp32<Flora<Sparse>, Flora<Sparse, double>>(options);
  }
  const FloraOptions odd{
      .lr = 0.2, .rank = 5, .update_proj_gap = 3, .weight_decay = 0.1, .order = apollo::Order::torch};
  check_fp32<Flora<>, Flora<double>>(odd);
  check_fp32<Flora<Sparse>, Flora<Sparse, double>>(odd);
  using Signs = RandomProjection<Rademacher>;
  check_fp32<Flora<Signs>, Flora<Signs, double>>(
      FloraOptions{.lr = 0.2, .rank = 11, .proj_type = apollo::ProjType::left});
}

TEST_CASE("subsampled transforms are the host's, and a projected gradient needs no moments") {
  using Hadamard = RandomProjection<apollo::HadamardTransform>;
  using Cosine = RandomProjection<apollo::CosineTransform>;
  const FloraOptions options{.lr = 1, .rank = 7, .update_proj_gap = 2, .seed = 5};
  check_fp32<Flora<Hadamard>, Flora<Hadamard, double>>(options, 3);
  check_fp32<StructuredOptimizer<Cosine>, StructuredOptimizer<Cosine, double>>(
      StructuredOptions{.lr = 1, .rank = 7, .update_proj_gap = 2, .seed = 5}, 3);
}

TEST_CASE("Adam's moments in a random projection, lifted, and turned under APOLLO's norms") {
  const StructuredOptions options{.lr = 0.02, .rank = 8, .update_proj_gap = 2, .on_refresh = OnRefresh::rotate};
  check_fp32<StructuredOptimizer<RandomProjection<Gaussian>, AdamMoments<>>,
             StructuredOptimizer<RandomProjection<Gaussian>, AdamMoments<>, double>>(options, 4);
  const ApolloOptions apollo{.lr = 0.02, .rank = 8, .update_proj_gap = 2, .on_refresh = OnRefresh::rotate};
  check_fp32<Apollo<>, Apollo<double>>(apollo, 4);
}

TEST_CASE("bfloat16 weights, gradients and momentum round as the reference's, at refreshes too") {
  const FloraOptions options{.lr = 0.1, .rank = 8, .update_proj_gap = 2, .seed = 4};
  using Half = Flora<MeanMoments<bfloat16>, StochasticWeights>;
  CHECK(share_different(run<Half, bfloat16, bfloat16>(leaves, options, 5),
                        reference<Half, bfloat16, bfloat16>(leaves, options, 5)) <= 2e-3);
  using HalfSparse = Flora<Sparse, MeanMoments<bfloat16>>;
  CHECK(share_different(run<HalfSparse, bfloat16, float>(leaves, options, 5),
                        reference<HalfSparse, bfloat16, float>(leaves, options, 5)) <= 2e-3);
}

TEST_CASE("the same bits for any number of workers, and a gradient that is not finite changes nothing") {
  using Half = Flora<MeanMoments<bfloat16>, StochasticWeights>;
  using HalfSparse = Flora<Sparse, MeanMoments<bfloat16>>;
  const FloraOptions options{.lr = 0.1, .rank = 8, .update_proj_gap = 2};
  const Result one = run<Half, bfloat16, bfloat16>(leaves, options, 4);
  const Result sparse = run<HalfSparse, float, bfloat16>(leaves, options, 4);
  for (const int workers : {2, 5}) {
    CHECK(same_bits(one, run<Half, bfloat16, bfloat16>(leaves, options, 4, {.workers = workers})));
    CHECK(same_bits(sparse, run<HalfSparse, float, bfloat16>(leaves, options, 4, {.workers = workers})));
  }
  const std::vector<Leaf> few = {{30, 20}, {20, 30}};
  const FloraOptions often{.lr = 0.1, .rank = 8, .update_proj_gap = 1};
  CHECK(same_bits(run<Half, bfloat16, bfloat16>(few, often, 2),
                  run<Half, bfloat16, bfloat16>(few, often, 2, {.in_step = true})));
  CHECK(same_bits(run<HalfSparse, float, bfloat16>(few, often, 2),
                  run<HalfSparse, float, bfloat16>(few, often, 2, {.in_step = true})));

  // At a refresh: the momentum is not turned either.
  EmulatedOptimizer optimizer;
  const Leaf leaf{40, 30};
  Array<float> w(optimizer.device(), start(leaf, 0)), g(optimizer.device(), gradient(leaf, 0, 0));
  optimizer.add(optimizer.add_group(often), "a", w.view(), g.view());
  optimizer.step();
  const Matrix before = w.get();
  std::vector<float> momentum(40 * 8), after(40 * 8);
  optimizer.read_moment("a", 0, momentum.data());
  g.view()(39, 29) = std::nanf("");
  optimizer.step();
  optimizer.read_moment("a", 0, after.data());
  CHECK(w.get().values == before.values);
  CHECK(momentum == after);
  CHECK(optimizer.status("a").skipped == 1);
  CHECK(optimizer.state_bytes() == Flora<>::state_bytes({40, 30}, often));
}

// --- large ranks: matrix products ------------------------------------------------------------------------------------------

namespace {

/// Channels along memory and across it, two tensors of one shape, sides that no block divides, a rank that is nobody's multiple.
const std::vector<Leaf> large = {
    {50, 264}, {50, 264}, {264, 43}, {47, 260, Order2D::column_major}, {70, 60, Order2D::column_major}, {50, 1}};
constexpr Index rank = 41;
constexpr Math maths[] = {Math::fp32, Math::tf32, Math::bf16};

/// Relative error of what the steps change: R and the lift each round two factors. In fp32 it is the weights' own rounding.
double bound(Math math) { return math == Math::fp32 ? 1e-5 : math == Math::tf32 ? 0x1p-9 : 0x1p-8; }

}  // namespace

TEST_CASE(
    "products of every arithmetic are as far from double precision as the rounding of their factors, and no nearer") {
  const Index rows = 5, inner = 300, cols = 7;
  const Emulator device;
  const Array<float> a(device, support::uniform_matrix(rows, inner, 1)),
      b(device, support::uniform_matrix(inner, cols, 2));
  const Array<float> at(device, support::transposed(a.get())), bt(device, support::transposed(b.get()));
  Matrix magnitude(rows, cols);
  for (Index i = 0; i < rows; ++i)
    for (Index k = 0; k < inner; ++k)
      for (Index j = 0; j < cols; ++j) magnitude(i, j) += std::fabs(a.get()(i, k) * b.get()(k, j));
  const Matrix exact = support::product(a.get(), b.get());
  for (const Math math : maths) {
    const apollo::cuda::PlainProducts products(device, math);
    const double unit = math == Math::fp32 ? 0 : math == Math::tf32 ? 0x1p-10 : 0x1p-9;
    Matrix before;
    for (const bool turned : {false, true}) {
      Array<float> c(device, Matrix(rows, cols, std::nan("")));
      const float scalars[] = {2, 0, -1, 1};
      apollo::cuda::Product product{rows, inner, cols, {a.view().data, inner}, {b.view().data, cols}, c.view().data};
      if (turned) product.a = {at.view().data, rows, true}, product.b = {bt.view().data, inner, true};
      product.alpha = scalars, product.beta = scalars + 1;
      products.multiply(product, {});
      product.alpha = scalars + 2, product.beta = scalars + 3;
      products.multiply(product, {});  // 2 A B - A B
      double worst = 0;
      for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < cols; ++j)
          support::raise(worst, std::fabs(c.get()(i, j) - exact(i, j)) / magnitude(i, j));
      CHECK(worst <= 2 * unit + 300 * 0x1p-24);
      CHECK(worst >= unit / 100);
      if (turned) CHECK(c.get().values == before.values);
      before = c.get();
    }
  }
}

TEST_CASE("Flora at a large rank by products of every arithmetic, both orders of decay, and momentum turned") {
  for (const double decay : {0.0, 0.1, -0.1}) {  // below zero: torch's order
    const FloraOptions options{.lr = 2,
                               .rank = rank,
                               .update_proj_gap = 2,
                               .weight_decay = std::fabs(decay),
                               .order = decay < 0 ? apollo::Order::torch : apollo::Order::huggingface,
                               .seed = 3};
    const Result exact = reference<Flora<double>, double, float>(large, options, 3);
    for (const Math math : maths) {
      const Result device = run<Flora<>, float, float>(large, options, 3, {}, math);
      CHECK(device.kernels.count("BeginLift") == 1);
      const double error = worst_change_error(device, exact, large);
      CHECK(error <= bound(math));
      if (math != Math::fp32 && decay == 0) CHECK(error >= bound(math) / 10);
    }
  }
}

TEST_CASE(
    "bfloat16 weights and gradients: P in as many bfloat16 numbers as the arithmetic needs, weights rounded as ever") {
  using Half = Flora<MeanMoments<bfloat16>, StochasticWeights>;
  const FloraOptions options{.lr = 0.1, .rank = rank, .update_proj_gap = 2, .seed = 4};
  const Result exact = reference<Half, bfloat16, bfloat16>(large, options, 3);
  double before = 0;
  for (const Math math : maths) {
    const Result device = run<Half, bfloat16, bfloat16>(large, options, 3, {}, math);
    CHECK(device.kernels.count("BeginLift") == 0);
    const double different = share_different(device, exact);
    CHECK(different <= (math == Math::fp32 ? 3e-3 : 0.2));
    CHECK(different >= before);
    CHECK((different > 0 || math == Math::fp32));
    before = different;
  }
}

TEST_CASE(
    "a skipped tensor keeps its bits beside one that is stepped, also before its first step; scales and no gradient") {
  for (const double weight_decay : {0.0, 0.5}) {
    const FloraOptions options{.lr = 0.1, .rank = rank, .weight_decay = weight_decay};
    const Leaf leaf{70, 60};
    EmulatedOptimizer optimizer;
    optimizer.math(Math::tf32);
    const auto group = optimizer.add_group(options);
    Array<float> a(optimizer.device(), start(leaf, 0)), b(optimizer.device(), start(leaf, 1)),
        none(optimizer.device(), start(leaf, 2));
    Array<float> g(optimizer.device(), Matrix(70, 60, std::nan(""))), h(optimizer.device(), gradient(leaf, 1, 0));
    optimizer.add(group, leaf_name(0), a.view(), g.view());
    optimizer.add(group, leaf_name(1), b.view(), h.view());
    optimizer.add(group, leaf_name(2), none.view(), apollo::no_gradient);
    const Matrix first = a.get(), other = b.get(), still = none.get();
    optimizer.step();
    CHECK(a.get().values == first.values);
    CHECK(b.get().values != other.values);
    g.set(gradient(leaf, 0, 0));
    optimizer.step();
    const Matrix second = a.get();
    CHECK(second.values != first.values);
    g.view()(69, 59) = HUGE_VALF;
    optimizer.step();
    CHECK(a.get().values == second.values);
    CHECK(none.get().values == still.values);
    CHECK(optimizer.status(leaf_name(0)).skipped == 2);
    CHECK(optimizer.status(leaf_name(1)).steps == 3);
    // Half of a gradient twice as large is the same.
    EmulatedOptimizer scaled;
    scaled.math(Math::tf32);
    scaled.gradient_scale(0.5);
    Array<float> w(scaled.device(), start(leaf, 1)), twice(scaled.device(), support::scaled(gradient(leaf, 1, 0), 2));
    scaled.add(scaled.add_group(options), leaf_name(1), w.view(), twice.view());
    for (int step = 0; step < 3; ++step) scaled.step();
    CHECK(w.get().values == b.get().values);
  }
}

TEST_CASE(
    "an arithmetic changes nothing at small ranks, must be chosen first, and its launches and bytes are as "
    "documented") {
  const FloraOptions small{.lr = 0.1, .rank = 31}, options{.lr = 0.1, .rank = 32};
  CHECK(same_bits(run<Flora<>, float, float>(large, small, 2),
                  run<Flora<>, float, float>(large, small, 2, {}, Math::bf16)));
  const std::vector<Leaf> few = {{43, 50}, {50, 43}};
  std::vector<Leaf> many(10, Leaf{43, 50});
  many.push_back({50, 43});
  using Half = Flora<MeanMoments<bfloat16>, StochasticWeights>;
  const auto launches = [&](const std::vector<Leaf>& tensors, bool half) {
    return (half ? run<Half, bfloat16, bfloat16>(tensors, options, 1, {}, Math::bf16)
                 : run<Flora<>, float, float>(tensors, options, 1, {}, Math::bf16))
        .launches_a_step;
  };
  CHECK(launches(many, false) - launches(few, false) == 9);  // norms
  CHECK(launches(many, true) - launches(few, true) == 18);   // and weights

  EmulatedOptimizer plain, optimizer;
  optimizer.math(Math::tf32);
  Array<bfloat16> w(optimizer.device(), start({43, 50}, 0)), v(plain.device(), start({43, 50}, 0));
  optimizer.add(optimizer.add_group<Half>(options), "w", w.view(), w.view());
  plain.add(plain.add_group<Half>(options), "w", v.view(), v.view());
  CHECK(optimizer.state_bytes() == plain.state_bytes());
  // lift(C), P in two bfloat16 numbers, scalars
  CHECK(optimizer.workspace_bytes() - plain.workspace_bytes() == 4 * 43 * 50 + 2 * 2 * 32 * 43 + 32);
  CHECK(support::mentions(support::refusal([&] { optimizer.math(Math::fp32); }), {"before the first tensor"}));
}
