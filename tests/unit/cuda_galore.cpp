// SPDX-License-Identifier: Apache-2.0
// Singular bases, emulated: GaLore, Fira and APOLLO over singular vectors beside the reference; refreshes, captures, checkpoints.
// not: optimised
#include "cuda_model.hpp"

using namespace emulated;
using apollo::AdamMoments;
using apollo::ApolloSvd;
using apollo::ApolloSvdOptions;
using apollo::Fira;
using apollo::FiraOptions;
using apollo::GaLore;
using apollo::GaLoreOptions;
using apollo::OnRefresh;
using apollo::QGaLore;
using apollo::QGaLoreOptions;
using apollo::StochasticWeights;
using apollo::SvdMethod;

namespace {

/// The shorter side kept and removed, along memory and across it, of short lines and of long ones; a vector, which is dense.
const std::vector<Leaf> leaves = {
    {24, 17}, {17, 24, Order2D::column_major}, {15, 270}, {270, 15, Order2D::column_major}, {30, 1}};

template <class Member, class Double, class Options>
void check_fp32(const Options& options, int steps = 4) {
  const Result device = run<Member, float, float>(leaves, options, steps);
  const Result exact = reference<Double, double, float>(leaves, options, steps);
  CHECK(worst_error(device, exact) <= 5e-7);
  CHECK(worst_change_error(device, exact, leaves) <= 1e-5);
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    CHECK(device.status[i].steps == exact.status[i].steps);
    CHECK(std::fabs(device.status[i].limiter / exact.status[i].limiter - 1) <= 2e-6);
  }
}

}  // namespace

TEST_CASE("GaLore over exact singular vectors is within 5e-7 of double precision, at refreshes of every kind") {
  for (const OnRefresh refresh : {OnRefresh::keep, OnRefresh::reset, OnRefresh::rotate}) {
    const GaLoreOptions options{
        .lr = 0.05, .rank = 4, .update_proj_gap = 2, .svd = SvdMethod::exact, .on_refresh = refresh};
    check_fp32<GaLore<>, GaLore<double>>(options);
  }
  check_fp32<GaLore<>, GaLore<double>>(GaLoreOptions{.lr = 0.05,
                                                     .rank = 3,
                                                     .update_proj_gap = 3,
                                                     .proj_type = apollo::ProjType::reverse_std,
                                                     .svd = SvdMethod::exact,
                                                     .weight_decay = 0.1});
}

TEST_CASE("Fira, of both residuals, and a channel of which next to nothing is left; APOLLO over singular vectors") {
  for (const auto residual : {apollo::FiraResidual::paper, apollo::FiraResidual::code})
    check_fp32<Fira<>, Fira<double>>(FiraOptions{
        .lr = 0.02, .rank = 4, .scale = 0.5, .update_proj_gap = 2, .svd = SvdMethod::exact, .residual = residual});
  // All directions: only rounding is left.
  const FiraOptions whole{.lr = 0.02, .rank = 15, .svd = SvdMethod::exact};
  CHECK(worst_error(run<Fira<>, float, float>(leaves, whole, 2),
                    reference<Fira<double>, double, float>(leaves, whole, 2)) <= 5e-7);
  check_fp32<ApolloSvd<>, ApolloSvd<double>>(ApolloSvdOptions{.lr = 0.02, .rank = 4, .svd = SvdMethod::exact});
}

namespace {

/// Q-GaLore with moments of 32 bits.
template <class... Overrides>
using FloatQGaLore = QGaLore<AdamMoments<>, Overrides...>;

}  // namespace

TEST_CASE("a basis of 4 bits is packed as the host packs it, and so are the steps, at refreshes of every kind") {
  for (const OnRefresh refresh : {OnRefresh::keep, OnRefresh::reset, OnRefresh::rotate})
    check_fp32<FloatQGaLore<>, FloatQGaLore<double>>(
        QGaLoreOptions{.lr = 0.05, .rank = 5, .update_proj_gap = 2, .svd = SvdMethod::exact, .on_refresh = refresh});
  using Half = QGaLore<AdamMoments<bfloat16>>;
  const QGaLoreOptions options{.lr = 0.05, .rank = 4, .update_proj_gap = 2, .svd = SvdMethod::exact};
  const Result one = run<Half, bfloat16, bfloat16>(leaves, options, 3);
  CHECK(share_different(one, reference<Half, bfloat16, bfloat16>(leaves, options, 3)) <= 4e-3);
  CHECK(same_bits(one, run<Half, bfloat16, bfloat16>(leaves, options, 3, {.workers = 3})));
  // As published, moments in 8 bits too: a code is another where the basis' rounding takes a value over an edge.
  const Result eight = run<QGaLore<>, float, float>(leaves, options, 3);
  CHECK(worst_change_error(eight, reference<QGaLore<>, float, float>(leaves, options, 3), leaves) <= 1e-2);
}

namespace {

/// Three directions of falling weight that turn from step to step, in a gradient that is nothing else.
Matrix low_rank(Index rows, Index cols, int step) {
  Matrix g(rows, cols);
  double weight = 1;
  for (std::uint64_t k = 0; k < 3; ++k, weight /= 3) {
    const auto side = [&](Index size, std::uint64_t seed) {
      const Matrix still = support::uniform_matrix(size, 1, seed, 0);
      const Matrix moving = support::uniform_matrix(size, 1, seed, static_cast<std::uint64_t>(step) + 1);
      Matrix both(size, 1);
      for (Index i = 0; i < size; ++i) both(i, 0) = still(i, 0) + 0.2 * moving(i, 0);
      return both;
    };
    const Matrix u = side(rows, 30 + k), v = side(cols, 40 + k);
    for (Index i = 0; i < rows; ++i)
      for (Index j = 0; j < cols; ++j) g(i, j) += 0.1 * weight * u(i, 0) * v(j, 0);
  }
  return g;
}

template <class G>
double largest_gap(const GaLoreOptions& device_options, const GaLoreOptions& host_options, Leaf leaf, int steps) {
  EmulatedOptimizer optimizer;
  Array<float> w(optimizer.device(), start(leaf, 0), leaf.order);
  Array<G> g(optimizer.device(), start(leaf, 0), leaf.order);
  optimizer.add(optimizer.add_group(device_options), "w", w.view(), g.view());
  apollo::Optimizer host;
  support::Tensor<double> v(support::rounded<float>(start(leaf, 0)), support::Layout::row_major);
  support::Tensor<double> h(start(leaf, 0), support::Layout::row_major);
  host.add(host.add_group<GaLore<double>>(host_options), "w", v.view, h.view);
  for (int step = 0; step < steps; ++step) {
    g.set(low_rank(leaf.rows, leaf.cols, step));
    h.set(support::rounded<G>(low_rank(leaf.rows, leaf.cols, step)));
    optimizer.step();
    host.step();
  }
  return support::norm(support::difference(w.get(), v.get())) /
         support::norm(support::difference(v.get(), support::rounded<float>(start(leaf, 0))));
}

}  // namespace

TEST_CASE("subspace iteration, cold and from the basis before, finds the exact singular vectors of three directions") {
  for (const Leaf leaf : {Leaf{40, 26}, Leaf{26, 40, Order2D::column_major}, Leaf{12, 300}}) {
    GaLoreOptions exact{.lr = 0.05, .rank = 3, .update_proj_gap = 2, .svd = SvdMethod::exact, .seed = 5};
    GaLoreOptions subspace = exact;
    subspace.svd = SvdMethod::subspace;
    CHECK(largest_gap<float>(subspace, exact, leaf, 5) <= 2e-5);
    CHECK(largest_gap<float>(exact, exact, leaf, 5) <= 2e-5);
  }
}

TEST_CASE("a packed basis that changes little is computed ever less often, when the host would") {
  const Leaf leaf{40, 26};
  const QGaLoreOptions options{.lr = 0.05, .rank = 3, .update_proj_gap = 1, .similarity_threshold = 0.5};
  EmulatedOptimizer optimizer;
  Array<float> w(optimizer.device(), start(leaf, 0)), g(optimizer.device(), start(leaf, 0));
  optimizer.add(optimizer.add_group<FloatQGaLore<>>(options), "w", w.view(), g.view());
  apollo::Optimizer host;
  support::Tensor<float> v(support::rounded<float>(start(leaf, 0)), support::Layout::row_major),
      h(start(leaf, 0), support::Layout::row_major);
  host.add(host.add_group<FloatQGaLore<>>(options), "w", v.view, h.view);
  int refreshes = 0;
  for (int step = 0; step < 24; ++step) {
    const Matrix now = step < 8 ? gradient(leaf, static_cast<std::size_t>(step), 0) : low_rank(40, 26, step % 3);
    g.set(now), h.set(support::rounded<float>(now));
    const Index before = optimizer.device().launches();
    optimizer.refresh();
    const bool refreshed = optimizer.device().launches() > before;
    optimizer.device().begin_capture();  // refresh() counts its calls, and a step is one unless it is captured
    optimizer.step();
    optimizer.device().replay(optimizer.device().end_capture());
    CHECK(host.step().tensors[0].refreshed == refreshed);
    refreshes += refreshed ? 1 : 0;
    if (step == 11) {  // the schedule is part of a checkpoint
      optimizer.save("gaps.safetensors");
      apollo::load(host, "gaps.safetensors");
      v.set(w.get());
    }
  }
  CHECK(refreshes > 12);  // at first every step finds others
  CHECK(refreshes < 20);
}

TEST_CASE("a residual of two parts in ten thousand is summed: as a difference of norms fp32 could not tell it") {
  const FiraOptions options{.lr = 0.02, .rank = 3, .svd = SvdMethod::exact};
  for (const Leaf leaf : {Leaf{40, 26}, Leaf{300, 20, Order2D::column_major}}) {
    Matrix g = low_rank(leaf.rows, leaf.cols, 0);
    const double small = 2e-4 * support::norm(g) / std::sqrt(static_cast<double>(g.values.size()));
    const Matrix noise = support::uniform_matrix(leaf.rows, leaf.cols, 77);
    for (std::size_t i = 0; i < g.values.size(); ++i) g.values[i] += small * noise.values[i];
    EmulatedOptimizer optimizer;
    Array<float> w(optimizer.device(), start(leaf, 0), leaf.order), d(optimizer.device(), g, leaf.order);
    optimizer.add(optimizer.add_group(options), "w", w.view(), d.view());
    optimizer.step();
    apollo::Optimizer host;
    support::Tensor<double> v(start(leaf, 0), support::Layout::row_major),
        h(support::rounded<float>(g), support::Layout::row_major);
    host.add(host.add_group<Fira<double>>(options), "w", v.view, h.view);
    const double norm = host.step().tensors[0].update_norm;
    CHECK(norm > 0);
    CHECK(std::fabs(optimizer.status("w").update_norm / norm - 1) <= 2e-3);
  }
}

TEST_CASE(
    "large ranks are multiplied: in fp32 where nothing else is asked for, Fira's and bfloat16 weights through "
    "scratch") {
  const std::vector<Leaf> large = {{45, 64}, {45, 64}, {64, 45}, {50, 270, Order2D::column_major}, {30, 1}};
  for (const OnRefresh refresh : {OnRefresh::keep, OnRefresh::rotate}) {
    const GaLoreOptions options{.lr = 0.05,
                                .rank = 33,
                                .update_proj_gap = 2,
                                .svd = SvdMethod::exact,
                                .on_refresh = refresh,
                                .weight_decay = 0.1};
    const Result device = run<GaLore<>, float, float>(large, options, 3);
    const Result exact = reference<GaLore<double>, double, float>(large, options, 3);
    CHECK(device.kernels.count("BeginLift") == 1);
    CHECK(worst_change_error(device, exact, large) <= 1e-5);
    CHECK(worst_change_error(run<GaLore<>, float, float>(large, options, 3, {}, Math::tf32), exact, large) <= 0.02);
  }
  using Half = GaLore<AdamMoments<bfloat16>, StochasticWeights>;
  const GaLoreOptions half{.lr = 0.05, .rank = 33, .svd = SvdMethod::exact};
  CHECK(share_different(run<Half, bfloat16, bfloat16>(large, half, 2),
                        reference<Half, bfloat16, bfloat16>(large, half, 2)) <= 4e-3);
  const FiraOptions fira{.lr = 0.02, .rank = 33, .scale = 0.5, .svd = SvdMethod::exact};
  const Result residual = reference<Fira<double>, double, bfloat16>(large, fira, 3);
  for (const Math math : {Math::fp32, Math::tf32, Math::bf16}) {
    const Result device = run<Fira<>, float, bfloat16>(large, fira, 3, {}, math);
    CHECK(device.kernels.count("BeginLift") == 0);
    CHECK(worst_change_error(device, residual, large) <= (math == Math::fp32 ? 1e-5 : 0.02));
  }
}

TEST_CASE("bfloat16 weights, gradients and moments, and any number of workers") {
  using Half = GaLore<AdamMoments<bfloat16>, StochasticWeights>;
  const GaLoreOptions options{.lr = 0.05, .rank = 4, .update_proj_gap = 2, .svd = SvdMethod::exact};
  const Result one = run<Half, bfloat16, bfloat16>(leaves, options, 3);
  CHECK(share_different(one, reference<Half, bfloat16, bfloat16>(leaves, options, 3)) <= 4e-3);
  const std::vector<Leaf> few = {{30, 20}, {20, 30}};
  const Result fira = run<Fira<>, float, bfloat16>(few, {.rank = 4}, 2);
  CHECK(same_bits(one, run<Half, bfloat16, bfloat16>(leaves, options, 3, {.workers = 3})));
  CHECK(same_bits(fira, run<Fira<>, float, bfloat16>(few, {.rank = 4}, 2, {.workers = 2})));
  CHECK(same_bits(fira, run<Fira<>, float, bfloat16>(few, {.rank = 4}, 2, {.in_step = true})));
}

TEST_CASE("a zero gradient gives random directions, one that is not finite none, and a captured step computes none") {
  const GaLoreOptions options{.lr = 0.05, .rank = 4, .update_proj_gap = 3};
  const Leaf leaf{20, 15};
  EmulatedOptimizer optimizer;
  Array<float> w(optimizer.device(), start(leaf, 0)), g(optimizer.device(), Matrix(20, 15, std::nan("")));
  optimizer.add(optimizer.add_group(options), "w", w.view(), g.view());
  CHECK(optimizer.state_bytes() == GaLore<>::state_bytes({20, 15}, options));
  const Matrix before = w.get();
  optimizer.step();
  CHECK(optimizer.status("w").skipped == 1);
  CHECK(w.get().values == before.values);
  g.set(gradient(leaf, 0, 0));
  optimizer.device().begin_capture();
  optimizer.step();
  optimizer.device().replay(optimizer.device().end_capture());  // without a basis there is no step
  CHECK(optimizer.status("w").steps == 0);
  CHECK(w.get().values == before.values);
  g.set(Matrix(20, 15, 0.0));
  optimizer.step();
  CHECK(optimizer.status("w").steps == 1);
  CHECK(w.get().values == before.values);
  g.set(gradient(leaf, 0, 0));
  const Index launches = optimizer.device().launches();
  optimizer.step();
  const Index plain = optimizer.device().launches() - launches;
  CHECK(w.get().values != before.values);
  // Replays with refresh() before each are the same as steps.
  EmulatedOptimizer twin;
  Array<float> v(twin.device(), start(leaf, 0)), h(twin.device(), Matrix(20, 15, 0.0));
  twin.add(twin.add_group(options), "w", v.view(), h.view());
  twin.step();
  h.set(gradient(leaf, 0, 0));
  twin.step();
  twin.device().begin_capture();
  twin.step();
  const Emulator::Graph graph = twin.device().end_capture();
  for (int step = 1; step < 6; ++step) {
    g.set(gradient(leaf, 0, step)), h.set(gradient(leaf, 0, step));
    const Index from = optimizer.device().launches();
    optimizer.step();
    CHECK((optimizer.device().launches() - from > plain) == (step == 2 || step == 5));
    twin.refresh();
    twin.device().replay(graph);
    CHECK(w.get().values == v.get().values);
  }
}

TEST_CASE("a checkpoint holds the basis: a run goes on to the bit, and the host reads and writes the same file") {
  const Leaf leaf{15, 20, Order2D::column_major};
  check_checkpoint<GaLore<>>({.lr = 0.05, .rank = 4, .update_proj_gap = 3, .svd = SvdMethod::exact}, leaf);
  check_checkpoint<FloatQGaLore<>>({.lr = 0.05, .rank = 5, .update_proj_gap = 1, .svd = SvdMethod::exact}, leaf);
}
