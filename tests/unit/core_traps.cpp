// SPDX-License-Identifier: Apache-2.0
// One test for each trap of the reference implementations that the optimizers of one tensor can show, by number. (Trap 2 is
// in core_bf16_moments; traps of whole models, checkpoints and schedules stand with those.)
// also: fast-math
// not: optimised
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include <apollo/optimizer/named.hpp>
#include <apollo/tensor/tensor_view.hpp>

#include "oracles.hpp"
#include "support.hpp"

namespace {

using apollo::Index;
using apollo::ProjType;
using apollo::Shape;
using support::Layout;
using support::Matrix;
using support::mentions;
using support::refusal;
using support::Tensor;

/// A constant, as volatile as the compiler's assumptions under -ffast-math require.
float from_bits(std::uint32_t bits) {
  volatile std::uint32_t hidden = bits;
  const std::uint32_t seen = hidden;
  float value = 0;
  std::memcpy(&value, &seen, sizeof value);
  return value;
}

template <class T>
T poison(int kind) {
  if constexpr (std::is_same_v<T, float>) {
    constexpr std::uint32_t kinds[] = {0x7fc00000u, 0x7f800000u, 0xff800000u, 0x7f800001u};
    return from_bits(kinds[kind]);
  } else if constexpr (std::is_same_v<T, double>) {
    constexpr std::uint64_t kinds[] = {0x7ff8000000000000u, 0x7ff0000000000000u, 0xfff0000000000000u,
                                       0x7ff0000000000001u};
    volatile std::uint64_t hidden = kinds[kind];
    const std::uint64_t seen = hidden;
    double value = 0;
    std::memcpy(&value, &seen, sizeof value);
    return value;
  } else {
    constexpr bool brain = std::is_same_v<T, apollo::bfloat16>;
    constexpr std::uint16_t brains[] = {0x7fc0, 0x7f80, 0xff80, 0x7f81};
    constexpr std::uint16_t halves[] = {0x7e00, 0x7c00, 0xfc00, 0x7c01};
    T value;
    value.bits = brain ? brains[kind] : halves[kind];
    return value;
  }
}

/// Takes three good steps, then one for every position and kind of poison; each must be refused and
/// change nothing. Then
/// another good step must come out as if nothing had happened.
template <class W, class G, class Optimizer>
void survive(Optimizer optimizer, Optimizer untroubled, Shape shape, Layout layout) {
  const Matrix start = support::uniform_matrix(shape.rows, shape.cols, 5);
  Tensor<W> w(start, Layout::row_major), same(start, Layout::row_major);
  Tensor<G> g(start, layout);
  const auto gradient = [&](std::uint64_t step) { g.set(support::uniform_matrix(shape.rows, shape.cols, 6, step)); };
  for (std::uint64_t step = 1; step <= 3; ++step) {
    gradient(step);
    CHECK(optimizer.step(w.view, g.view).stepped);
    CHECK(untroubled.step(same.view, g.view).stepped);
  }
  const auto weights = w.memory;
  const auto state = support::state_of(optimizer).bytes;
  gradient(4);
  int accepted = 0, moved = 0, remembered = 0, counted = 0, unexplained = 0;
  for (Index i = 0; i < shape.rows; ++i)
    for (Index j = 0; j < shape.cols; ++j) {
      const G good = g.view(i, j);
      for (int kind = 0; kind < 4; ++kind) {
        g.view(i, j) = poison<G>(kind);
        const apollo::TensorReport report = optimizer.step(w.view, g.view);
        accepted += report.stepped;
        unexplained += report.reason != apollo::Skip::not_finite;
        moved += !w.same_bits(weights);
        remembered += support::state_of(optimizer).bytes != state;
        counted += optimizer.steps() != 3;
      }
      g.view(i, j) = good;
    }
  CHECK(accepted == 0);
  CHECK(unexplained == 0);
  CHECK(moved == 0);
  CHECK(remembered == 0);
  CHECK(counted == 0);
  for (std::uint64_t step = 4; step <= 6; ++step) {
    gradient(step);
    CHECK(optimizer.step(w.view, g.view).stepped);
    CHECK(untroubled.step(same.view, g.view).stepped);
  }
  CHECK(w.same_bits(same.memory));
  CHECK(support::state_of(optimizer).bytes == support::state_of(untroubled).bytes);
  CHECK(optimizer.steps() == 6);
}

}  // namespace

TEST_CASE("trap 1: a random projection is a seed, and what is kept is as small as the paper says") {
  using namespace apollo;
  constexpr Index m = 4096, n = 11008, r = 256;
  static_assert(AdamW<>::state_bytes({m, n}) == 2 * m * n * 4);
  static_assert(AdamW<AdamMoments<bfloat16>>::state_bytes({m, n}) == 2 * m * n * 2);
  static_assert(AdamW<double>::state_bytes({m, n}) == 2 * m * n * 8);
  static_assert(Sgd<>::state_bytes({m, n}) == 0);
  static_assert(SgdMomentum<>::state_bytes({m, n}) == m * n * 4);
  static_assert(Apollo<>::state_bytes({m, n}, {.rank = r}) == 2 * r * n * 4);
  static_assert(Apollo<>::state_bytes({n, m}, {.rank = r}) == 2 * r * n * 4);
  static_assert(Apollo<>::state_bytes({m, n}, {.rank = r, .proj_type = ProjType::reverse_std}) == 2 * r * m * 4);
  static_assert(Apollo<>::state_bytes({m, n}, {.rank = r, .proj_type = ProjType::right}) == 2 * r * m * 4);
  static_assert(Apollo<>::state_bytes({m, n}, {.rank = r, .proj_type = ProjType::left}) == 2 * r * n * 4);
  static_assert(Apollo<AdamMoments<bfloat16>>::state_bytes({m, n}, {.rank = r}) == 2 * r * n * 2);
  static_assert(Apollo<RandomProjection<Gaussian>>::state_bytes({m, n}, {.rank = r}) == 2 * r * n * 4);
  static_assert(Apollo<double>::state_bytes({m, n}, {.rank = r}) == 2 * r * n * 8);
  static_assert(Apollo<SvdProjection>::state_bytes({m, n}, {.rank = r}) == (2 * r * n + r * m) * 4);
  static_assert(ApolloMini<>::state_bytes({m, n}) == 2 * n * 4);
  static_assert(GaLore<>::state_bytes({m, n}, {.rank = r}) == (2 * r * n + r * m) * 4);

  const auto kept = [](auto&& optimizer, Shape shape, Index bytes, bool basis) {
    Tensor<float> w(support::uniform_matrix(shape.rows, shape.cols, 1), Layout::row_major);
    Tensor<float> g(support::uniform_matrix(shape.rows, shape.cols, 2), Layout::row_major);
    CHECK(optimizer.step(w.view, g.view).stepped);
    const auto dump = support::state_of(optimizer);
    CHECK(optimizer.state_bytes() == bytes);
    CHECK(dump.array_bytes == bytes);  // every array there is, added up
    CHECK((dump.arrays.count("basis") == 1) == basis);
  };
  const Shape shape{30, 20};
  kept(AdamW<>(shape), shape, 2 * 600 * 4, false);
  kept(Sgd<>(shape), shape, 0, false);
  kept(SgdMomentum<>(shape), shape, 600 * 4, false);
  kept(Apollo<>(shape, {.rank = 8}), shape, 2 * 8 * 30 * 4, false);
  kept(Apollo<RandomProjection<Gaussian>>(shape, {.rank = 8}), shape, 2 * 8 * 30 * 4, false);
  kept(ApolloMini<>(shape), shape, 2 * 30 * 4, false);
  kept(ApolloMini<>(shape, {.proj_type = ProjType::left}), shape, 2 * 20 * 4, false);
  kept(GaLore<>(shape, {.rank = 8}), shape, (2 * 8 * 30 + 8 * 20) * 4, true);
  kept(StructuredOptimizer<ChannelScaling, AdamMoments<>>(shape), shape, 2 * 600 * 4, false);
}

TEST_CASE("trap 1: the record beside the state is a step count, a norm and a clock") {
  using namespace apollo;
  const Shape shape{30, 20};
  CHECK(AdamW<>(shape).record_bytes() == 8);
  CHECK(Sgd<>(shape).record_bytes() == 8);
  CHECK(Apollo<>(shape, {.rank = 8}).record_bytes() == 12);
  CHECK(Apollo<NoLimiter>(shape, {.rank = 8}).record_bytes() == 8);
  CHECK(Apollo<>(shape, {.rank = 8, .on_refresh = OnRefresh::reset}).record_bytes() == 20);
  CHECK(GaLore<>(shape, {.rank = 8}).record_bytes() == 8);
  CHECK(GaLore<>(shape, {.rank = 8, .on_refresh = OnRefresh::reset}).record_bytes() == 16);
}

TEST_CASE("trap 3: one zero gradient does not trap a tensor") {
  // Gradients of one size, but for a zero at step 5. The published rule (floor 0) remembers a norm of
  // zero and needs over a
  // thousand steps of growth by 1.01 to come back; with a floor the next update is as long as the one before.
  const Shape shape{24, 16};
  const auto norms = [&](double floor, int steps, int zero) {
    apollo::Apollo<> optimizer(shape, {.lr = 1e-4, .rank = 4, .limiter_floor = floor});
    Tensor<float> w(support::uniform_matrix(24, 16, 1), Layout::row_major);
    Tensor<float> g(Matrix(24, 16), Layout::row_major);
    std::vector<double> lengths;
    for (int step = 1; step <= steps; ++step) {
      g.set(step == zero ? Matrix(24, 16) : support::uniform_matrix(24, 16, 2, static_cast<std::uint64_t>(step)));
      const auto report = optimizer.step(w.view, g.view);
      CHECK(report.stepped);
      lengths.push_back(report.update_norm);
    }
    return lengths;
  };
  const auto untroubled = norms(0.5, 40, 0), ours = norms(0.5, 40, 5);
  CHECK(ours[4] <= 0);
  CHECK(ours[5] >= 0.5 * ours[3]);
  CHECK(ours[39] >= 0.9 * untroubled[39]);
  const auto published = norms(0, 1200, 5);
  CHECK(published[4] <= 0);
  CHECK(published[5] <= 1e-6 * published[3]);
  CHECK(published[999] <= 1e-3 * published[3]);  // still trapped after a thousand steps
  CHECK(published[1199] >= published[999] * 5);  // and growing by 1.01 a step
}

TEST_CASE("trap 3: the limiter, with floor 0 and with floor .5, step by step") {
  // Sizes that shrink, vanish, grow and vanish twice; a zero first gradient too.
  for (const double floor : {0.0, 0.5})
    for (const bool zero_first : {false, true}) {
      CAPTURE(floor);
      CAPTURE(zero_first);
      const double sizes[] = {zero_first ? 0.0 : 1.0, 1, 0.01, 0, 1, 1, 0, 0, 64, 1, 1e-6, 1, 1e-12, 1, 1};
      support::Hyper h;
      h.limiter = true, h.floor = floor;
      support::ScaledOracle oracle{h, true, true};
      const Matrix p = support::uniform_matrix(4, 16, 9);
      apollo::Apollo<double, apollo::FixedProjection> optimizer(Shape{24, 16},
                                                                {.lr = h.lr, .rank = 4, .limiter_floor = floor});
      const Tensor<double> directions(p, Layout::row_major);
      optimizer.set_projection(directions.view);
      Matrix expected = support::uniform_matrix(24, 16, 1);
      Tensor<double> w(expected, Layout::row_major), g(expected, Layout::row_major);
      std::uint64_t step = 0;
      for (const double size : sizes) {
        const Matrix gradient = support::scaled(support::uniform_matrix(24, 16, 2, ++step), size);
        g.set(gradient);
        oracle.step(expected, gradient, &p);
        const auto report = optimizer.step(w.view, g.view);
        CAPTURE(step);
        CHECK(std::fabs(report.limiter - oracle.divisor) <= 1e-5 * oracle.divisor);
        CHECK(std::fabs(report.update_norm - oracle.update_norm) <= 1e-5 * oracle.update_norm);
        const double remembered = support::state_of(optimizer).scalars.at("previous_norm");
        if (oracle.limiter.previous >= 0)
          CHECK(std::fabs(remembered - oracle.limiter.previous) <= 1e-5 * oracle.limiter.previous);
      }
      CHECK(support::relative_error(w.get(), expected) <= 1e-5);
    }
}

TEST_CASE("trap 4: channels are the kept side for every proj_type") {
  // After one step each channel of the update is its gradient times |N_j| / (|R_j| + 1e-8), whichever side is kept.
  for (const Shape shape : {Shape{12, 7}, Shape{7, 12}, Shape{9, 9}})
    for (const ProjType type : support::all_proj_types)
      for (const bool full_rank : {false, true}) {
        CAPTURE(shape.rows);
        CAPTURE(static_cast<int>(type));
        const bool keeps_rows = support::removes_columns(shape.rows, shape.cols, type);
        const Index kept = keeps_rows ? shape.rows : shape.cols, removed = keeps_rows ? shape.cols : shape.rows;
        const Index rank = full_rank ? removed : 3;
        const Matrix p = support::uniform_matrix(rank, removed, 9);
        apollo::Apollo<double, apollo::FixedProjection, apollo::NoLimiter> optimizer(
            shape, {.lr = 1, .rank = rank, .proj_type = type});
        const Tensor<double> directions(p, Layout::row_major);
        optimizer.set_projection(directions.view);
        const Matrix gradient = support::uniform_matrix(shape.rows, shape.cols, 2);
        Tensor<double> w(Matrix(shape.rows, shape.cols), Layout::row_major), g(gradient, Layout::row_major);
        CHECK(optimizer.step(w.view, g.view).stepped);

        const Matrix x = keeps_rows ? gradient : support::transposed(gradient);
        const Matrix r = support::product(x, support::transposed(p));
        Matrix update(kept, removed);
        for (Index j = 0; j < kept; ++j) {
          double n_squared = 0;  // N = M / (sqrt V + eps) with M = .1 R, V = .001 R^2
          for (Index k = 0; k < rank; ++k) {
            const double n = 0.1 * r(j, k) / (std::sqrt(0.001) * std::fabs(r(j, k)) + 1e-6);
            n_squared += n * n;
          }
          const double s = std::sqrt(n_squared) / (support::row_norm(r, j) + 1e-8);
          for (Index k = 0; k < removed; ++k) update(j, k) = -s * x(j, k) * std::sqrt(0.001) / 0.1;
        }
        CHECK(support::relative_error(w.get(), keeps_rows ? update : support::transposed(update)) <= 1e-12);
        CHECK(support::state_of(optimizer).arrays.at("exp_avg").shape() == Shape{kept, rank});
      }
}

TEST_CASE("trap 5: a rank above the removed side is refused, one as large is allowed") {
  using namespace apollo;
  const auto refused = [](auto make) { return refusal([&] { make(); }); };
  CHECK(mentions(refused([] { Apollo<>(Shape{12, 7}, {.rank = 8}, "wq"); }), {"apollo: ", "wq", "rank", "8", "7"}));
  CHECK(mentions(refused([] { Apollo<>(Shape{7, 12}, {.rank = 8}, "wq"); }), {"wq", "8", "7"}));
  CHECK(mentions(refused([] {
                   Apollo<>(Shape{12, 7}, {.rank = 13, .proj_type = ProjType::reverse_std}, "wq");
                 }),
                 {"13", "12"}));
  CHECK(mentions(refused([] { Apollo<>(Shape{12, 7}, {.rank = 8, .proj_type = ProjType::right}, "wq"); }), {"8", "7"}));
  CHECK(mentions(refused([] {
                   Apollo<>(Shape{12, 7}, {.rank = 13, .proj_type = ProjType::left}, "wq");
                 }),
                 {"13", "12"}));
  CHECK(mentions(refused([] { Apollo<>(Shape{12, 7}, {}, "wq"); }), {"256", "7"}));
  CHECK(mentions(refused([] { GaLore<>(Shape{12, 7}, {.rank = 8}, "wq"); }), {"wq", "8", "7"}));
  // A 12 x 7 matrix has 7 singular vectors, whichever side they are taken on.
  CHECK(mentions(refused([] {
                   GaLore<>(Shape{12, 7}, {.rank = 8, .proj_type = ProjType::reverse_std}, "wq");
                 }),
                 {"8", "7"}));
  CHECK(mentions(refused([] { Apollo<>(Shape{12, 7}, {.rank = 0}, "wq"); }), {"rank", "0"}));
  CHECK(mentions(refused([] { Apollo<>(Shape{12, 7}, {.rank = -3}, "wq"); }), {"rank", "-3"}));
  CHECK(mentions(refused([] { Apollo<>(Shape{12, 7}, {.rank = 1}, "wq"); }), {"rank", "1", "allow_rank_1"}));

  const auto accepted = [](auto&& optimizer, Shape shape) {
    Tensor<float> w(support::uniform_matrix(shape.rows, shape.cols, 1), Layout::row_major);
    Tensor<float> g(support::uniform_matrix(shape.rows, shape.cols, 2), Layout::row_major);
    const auto before = w.memory;
    CHECK(optimizer.step(w.view, g.view).stepped);
    CHECK_FALSE(w.same_bits(before));
  };
  accepted(Apollo<>(Shape{12, 7}, {.rank = 7}), {12, 7});
  accepted(Apollo<>(Shape{7, 12}, {.rank = 7}), {7, 12});
  accepted(Apollo<>(Shape{12, 7}, {.rank = 12, .proj_type = ProjType::left}), {12, 7});
  accepted(Apollo<>(Shape{9, 9}, {.rank = 9}), {9, 9});
  accepted(Apollo<>(Shape{12, 7}, {.rank = 1, .allow_rank_1 = true}), {12, 7});
  accepted(GaLore<>(Shape{12, 7}, {.rank = 7}), {12, 7});
  accepted(GaLore<>(Shape{12, 7}, {.rank = 7, .proj_type = ProjType::left}), {12, 7});
}

TEST_CASE("trap 5: a vector has no low rank, and is dense where dense is asked for") {
  using namespace apollo;
  for (const Shape shape : {Shape{16, 1}, Shape{1, 16}, Shape{1, 1}}) {
    CHECK(mentions(refusal([&] { Apollo<>(shape, {.rank = 1, .allow_rank_1 = true}, "norm"); }), {"norm"}));
    CHECK(mentions(refusal([&] { ApolloMini<>(shape, {}, "norm"); }), {"norm"}));
    CHECK(mentions(refusal([&] { GaLore<>(shape, {.rank = 1}, "norm"); }), {"norm"}));
    CHECK(refusal([&] { AdamW<>(shape, {}, "norm"); }).empty());
    CHECK(refusal([&] { Sgd<>(shape, {}, "norm"); }).empty());
  }
  CHECK(mentions(refusal([] { AdamW<>(Shape{0, 4}, {}, "nothing"); }), {"nothing", "0 x 4"}));
}

TEST_CASE("trap 6: the seed of a tensor is its name, not its position") {
  const Matrix start = support::uniform_matrix(24, 16, 1), gradient = support::uniform_matrix(24, 16, 2);
  const auto stepped = [&](const char* name, std::uint64_t seed) {
    apollo::Apollo<> optimizer(Shape{24, 16}, {.rank = 4, .seed = seed}, name);
    Tensor<float> w(start, Layout::row_major), g(gradient, Layout::row_major);
    CHECK(optimizer.step(w.view, g.view).stepped);
    return support::state_of(optimizer).arrays.at("exp_avg").values;
  };
  const auto reference = stepped("layers.0.wq", 0);
  CHECK(stepped("layers.0.wq", 0) == reference);
  CHECK(stepped("layers.1.wq", 0) != reference);
  CHECK(stepped("layers.0.wk", 0) != reference);
  CHECK(stepped("layers.0.wq", 1) != reference);
  CHECK(stepped("layers.0.wq", std::uint64_t{1} << 32) != reference);
}

TEST_CASE("trap 8: no step needs a matrix of the gradient's size") {
  using apollo::bfloat16;
  const Shape shape{4096, 1024};
  const Index whole = 4096 * 1024 * 4;
  CHECK(apollo::Apollo<>(shape, {.rank = 8}).workspace_bytes() * 8 < whole);
  CHECK(apollo::ApolloMini<>(shape).workspace_bytes() * 8 < whole);
  CHECK(apollo::GaLore<>(shape, {.rank = 8}).workspace_bytes() * 4 < whole);
  CHECK(apollo::AdamW<apollo::AdamMoments<bfloat16>>(shape).workspace_bytes() * 8 < whole);
  CHECK(apollo::StructuredOptimizer<apollo::ChannelScaling, apollo::AdamMoments<>>(shape).workspace_bytes() <= whole);
}

TEST_CASE("trap 10: more than two dimensions are stated or refused") {
  float x[24] = {};
  const apollo::TensorView<float> kernel(x, {2, 3, 4});
  CHECK(mentions(refusal([&] { (void)apollo::unfold(kernel, apollo::Unfold::none, "conv"); }),
                 {"apollo: ", "conv", "3"}));
  const auto rest = apollo::unfold(kernel, apollo::Unfold::rest, "conv");
  REQUIRE(rest.size() == 1);
  CHECK(rest[0].shape() == Shape{2, 12});
  const auto batch = apollo::unfold(kernel, apollo::Unfold::batch, "conv");
  REQUIRE(batch.size() == 2);
  CHECK(batch[1].shape() == Shape{3, 4});
}

TEST_CASE("trap 12: a gradient that is not finite leaves weight, state and step count as they are") {
  using namespace apollo;
  const Shape shape{9, 7};
  for (const Layout layout : {Layout::row_major, Layout::column_major, Layout::gaps}) {
    survive<float, float>(AdamW<>(shape), AdamW<>(shape), shape, layout);
    survive<float, float>(Sgd<>(shape), Sgd<>(shape), shape, layout);
    survive<float, float>(SgdMomentum<>(shape), SgdMomentum<>(shape), shape, layout);
    const ApolloOptions low{.rank = 3, .update_proj_gap = 4};  // step 5 refreshes
    survive<float, float>(Apollo<>(shape, low), Apollo<>(shape, low), shape, layout);
    const ApolloOptions now{.rank = 3, .update_proj_gap = 3};  // the refused step would have refreshed
    for (const auto how : {OnRefresh::keep, OnRefresh::reset, OnRefresh::rotate}) {
      ApolloOptions options = now;
      options.on_refresh = how;
      survive<float, float>(Apollo<>(shape, options), Apollo<>(shape, options), shape, layout);
      GaLoreOptions singular{.rank = 3, .update_proj_gap = 3, .on_refresh = how};
      for (const auto method : {SvdMethod::subspace, SvdMethod::exact}) {
        singular.svd = method;
        survive<float, float>(GaLore<>(shape, singular), GaLore<>(shape, singular), shape, layout);
      }
    }
    using OfGaussian = Apollo<RandomProjection<Gaussian>>;
    survive<float, float>(OfGaussian(shape, low), OfGaussian(shape, low), shape, layout);
    survive<float, float>(ApolloMini<>(shape), ApolloMini<>(shape), shape, layout);
    using Structured = StructuredOptimizer<ChannelScaling, AdamMoments<>, NormGrowthLimiter>;
    survive<float, float>(Structured(shape), Structured(shape), shape, layout);
  }
}

TEST_CASE("trap 12: in every number type, and with moments of bfloat16") {
  using namespace apollo;
  const Shape shape{9, 7};
  const ApolloOptions low{.rank = 3, .update_proj_gap = 3};
  const auto types = [&]<class W, class G>(W, G) {
    using T = arithmetic_t<W>;
    using Brain = AdamMoments<bfloat16>;
    survive<W, G>(AdamW<T>(shape), AdamW<T>(shape), shape, Layout::row_major);
    survive<W, G>(Sgd<T>(shape), Sgd<T>(shape), shape, Layout::row_major);
    survive<W, G>(Apollo<T>(shape, low), Apollo<T>(shape, low), shape, Layout::row_major);
    survive<W, G>(AdamW<T, Brain>(shape), AdamW<T, Brain>(shape), shape, Layout::column_major);
    survive<W, G>(Apollo<T, Brain>(shape, low), Apollo<T, Brain>(shape, low), shape, Layout::column_major);
  };
  types(double{}, double{});
  types(double{}, float{});
  types(bfloat16{}, bfloat16{});
  types(float16{}, float16{});
  types(float{}, bfloat16{});
  types(float{}, float16{});
  types(float{}, double{});
}

TEST_CASE("trap 12: without the finite check of a one-pass optimizer the rest still holds for projected ones") {
  // A projected step knows whether |G| is finite before it writes anything; the option saves it nothing
  // and cannot hurt.
  const Shape shape{9, 7};
  Tensor<float> w(support::uniform_matrix(9, 7, 1), Layout::row_major),
      g(support::uniform_matrix(9, 7, 2), Layout::row_major);
  apollo::Apollo<> optimizer(shape, {.rank = 3});
  CHECK(optimizer.step(w.view, g.view).stepped);
  g.view(4, 4) = poison<float>(0);
  const auto weights = w.memory;
  const auto report = optimizer.step(w.view, g.view);
  CHECK_FALSE(report.stepped);
  CHECK(std::string(apollo::describe(report.reason)).find("not finite") != std::string::npos);
  CHECK(w.same_bits(weights));
}

TEST_CASE("trap 12: large and tiny finite gradients are finite") {
  using namespace apollo;
  const Shape shape{9, 7};
  const auto fine = [&](auto&& optimizer, double size) {
    Tensor<float> w(support::uniform_matrix(9, 7, 1), Layout::row_major);
    Tensor<float> g(support::scaled(support::uniform_matrix(9, 7, 2), size), Layout::row_major);
    for (int step = 0; step < 3; ++step) CHECK(optimizer.step(w.view, g.view).stepped);
    int bad = 0;
    for (const float x : w.memory) bad += !bits::finite(x);
    CHECK(bad == 0);
  };
  for (const double size : {1e-30, 1e-15, 1e15}) {
    CAPTURE(size);
    fine(AdamW<>(shape), size);
    fine(Sgd<>(shape), size);
    fine(Apollo<>(shape, {.rank = 3}), size);
    fine(ApolloMini<>(shape), size);
    fine(GaLore<>(shape, {.rank = 3}), size);
    fine(StructuredOptimizer<ChannelScaling, AdamMoments<>, NormGrowthLimiter>(shape), size);
  }
}
