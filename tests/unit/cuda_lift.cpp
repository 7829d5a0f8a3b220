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
