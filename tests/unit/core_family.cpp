// SPDX-License-Identifier: Apache-2.0
// The family's members against their equations in double (family_oracles.hpp): sides, refreshes, decay, gradient scales; their
// bytes, and what they refuse.
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include <apollo/optimizer/named.hpp>

#include "family_oracles.hpp"
#include "sketches.hpp"
#include "support.hpp"

namespace {

using apollo::ChannelAxis;
using apollo::FixedProjection;
using apollo::Index;
using apollo::OnRefresh;
using apollo::ProjType;
using apollo::Shape;
using support::Hyper;
using support::Layout;
using support::Matrix;
using support::Tensor;

constexpr int steps = 20, gap = 6;
/// Where a limiter remembers its norm in four bytes, fewer digits agree.
constexpr double close = 1e-11, close_limited = 1e-6;

Hyper hyper(double weight_decay = 0) {
  Hyper h;
  h.weight_decay = weight_decay;
  return h;
}

/// The gradient of a step, growing and shrinking so that limiters act.
Matrix gradient(Shape shape, int step) {
  const double size = step == 9 ? 4 : step == 14 ? 0.25 : 1;
  return support::scaled(support::uniform_matrix(shape.rows, shape.cols, 3, static_cast<std::uint64_t>(step)), size);
}

template <class Options>
void fill(Options& o, const Hyper& h) {
  o.lr = h.lr, o.weight_decay = h.weight_decay;
  if constexpr (requires { o.beta1; }) o.beta1 = h.beta1;
  if constexpr (requires { o.beta2; }) o.beta2 = h.beta2, o.eps = h.eps;
}

/// Runs the optimizer and step(w, g, number) of the oracle beside it. The gradient handed over is four times too small, and
/// the optimizer knows.
template <class Optimizer, class Prepare, class Step>
void agree(Optimizer& optimizer, Shape shape, Layout layout, Prepare&& prepare, Step&& step) {
  const double bound = Optimizer::Policies::Limiter::active ? close_limited : close;
  Matrix expected = support::uniform_matrix(shape.rows, shape.cols, 2);
  Tensor<double> w(expected, layout), g(Matrix(shape.rows, shape.cols), Layout::row_major);
  optimizer.set_gradient_scale(4);
  for (int t = 1; t <= steps; ++t) {
    CAPTURE(t);
    prepare(t);
    const Matrix whole = gradient(shape, t);
    g.set(support::scaled(whole, 0.25));
    step(expected, whole, t);
    REQUIRE(optimizer.step(w.view, g.view).stepped);
    REQUIRE(support::relative_error(w.get(), expected) <= bound);
  }
}
const auto nothing = [](int) {};

/// Orthonormal directions, others after every `gap` steps.
Matrix basis(Index rank, Index removed, int number) {
  Matrix p = support::gaussian_matrix(rank, removed, 40 + static_cast<std::uint64_t>(number));
  for (Index k = 0; k < rank; ++k) {
    for (Index i = 0; i < k; ++i) {
      double along = 0;
      for (Index s = 0; s < removed; ++s) along += p(k, s) * p(i, s);
      for (Index s = 0; s < removed; ++s) p(k, s) -= along * p(i, s);
    }
    const double length = support::row_norm(p, k);
    for (Index s = 0; s < removed; ++s) p(k, s) /= length;
  }
  return p;
}

/// The same for optimizers of a fixed projection: step(w, g, p), and refresh(old, new) when it changes.
template <class Optimizer, class Step, class Refresh>
void agree_projected(Optimizer& optimizer, Shape shape, Index rank, bool keeps_rows, Step&& step, Refresh&& refresh) {
  const Index removed = keeps_rows ? shape.cols : shape.rows;
  Matrix p;
  const auto prepare = [&](int t) {
    if ((t - 1) % gap != 0) return;
    const Matrix next = basis(rank, removed, t);
    if (t > 1) refresh(p, next);
    p = next;
    optimizer.set_projection(Tensor<double>(p, Layout::row_major).view);
  };
  agree(optimizer, shape, Layout::row_major, prepare,
        [&](Matrix& w, const Matrix& g, int) { step(w, g, static_cast<const Matrix&>(p)); });
}

const std::vector<Shape> shapes{{17, 9}, {9, 17}, {12, 12}};
constexpr OnRefresh all_refreshes[] = {OnRefresh::keep, OnRefresh::reset, OnRefresh::rotate};

}  // namespace

TEST_CASE("Fira: the paper's residual and the code's, on every side, over refreshes") {
  for (const Shape shape : shapes)
    for (const ProjType type : support::all_proj_types)
      for (const OnRefresh how : all_refreshes)
        for (const bool published : {false, true}) {
          CAPTURE(shape.rows);
          CAPTURE(static_cast<int>(type));
          CAPTURE(static_cast<int>(how));
          CAPTURE(published);
          support::FiraOracle oracle{.h = hyper(0.125),
                                     .keeps_rows = support::removes_columns(shape.rows, shape.cols, type)};
          oracle.h.limiter = true, oracle.h.scale = 0.25, oracle.published_residual = published;
          apollo::FiraOptions options{.rank = 4, .scale = 0.25, .proj_type = type, .on_refresh = how};
          options.residual = published ? apollo::FiraResidual::code : apollo::FiraResidual::paper;
          fill(options, oracle.h);
          apollo::Fira<double, FixedProjection> fira(shape, options);
          agree_projected(
              fira, shape, 4, oracle.keeps_rows,
              [&](Matrix& w, const Matrix& g, const Matrix& p) { oracle.step(w, g, p); },
              [&](const Matrix& from, const Matrix& to) { oracle.refresh(how, from, to); });
        }
}

TEST_CASE("Fira: what is left of a gradient that lies in the basis is summed, not a difference of roundings") {
  const Shape shape{6, 40};
  const Index rank = 3;
  const Matrix p = basis(rank, shape.rows, 1);  // rows are removed
  Matrix left = support::uniform_matrix(shape.rows, shape.cols, 8);
  left = support::difference(left, support::product(support::transposed(p), support::product(p, left)));
  Matrix g = support::product(support::transposed(p), support::uniform_matrix(rank, shape.cols, 9));
  for (std::size_t i = 0; i < g.values.size(); ++i) g.values[i] += 2e-5 * left.values[i];
  apollo::FiraOptions options{.rank = rank, .proj_type = ProjType::left};
  apollo::Fira<FixedProjection> fira(shape, options);
  fira.set_projection(Tensor<float>(p, Layout::row_major).view);
  Tensor<float> w(Matrix(shape.rows, shape.cols), Layout::row_major), gradient(g, Layout::row_major);
  support::FiraOracle oracle{.h = hyper(), .keeps_rows = false};
  Matrix expected(shape.rows, shape.cols);
  const auto report = fira.step(w.view, gradient.view);
  oracle.step(expected, gradient.get(), p);
  CHECK(std::fabs(report.update_norm - oracle.residual_norm) <= 0.02 * oracle.residual_norm);
}

namespace {

/// A member of Flora's kind beside its oracle, on every side, P being drawn again from (seed, name, refresh).
template <class Member, class Oracle>
void agree_with_flora(OnRefresh how) {
  for (const Shape shape : shapes)
    for (const ProjType type : support::all_proj_types) {
      CAPTURE(shape.rows);
      CAPTURE(static_cast<int>(type));
      Oracle oracle{.h = hyper(0.125), .keeps_rows = support::removes_columns(shape.rows, shape.cols, type)};
      typename Member::Options options;
      options.rank = 4, options.update_proj_gap = gap, options.proj_type = type;
      if (how != OnRefresh::rotate) options.on_refresh = how;  // the default turns
      options.lr = oracle.h.lr, options.weight_decay = oracle.h.weight_decay, options.beta1 = oracle.h.beta1;
      options.seed = 21;
      Member flora(shape, options, "w");
      const Index removed = oracle.keeps_rows ? shape.cols : shape.rows;
      Matrix p;
      const auto prepare = [&](int t) {
        if ((t - 1) % gap != 0) return;
        const apollo::RandomStream stream{21, apollo::tensor_id("w"), apollo::Stream::projection,
                                          static_cast<std::uint64_t>((t - 1) / gap)};
        const Matrix next = support::directions<apollo::Gaussian>(stream, 4, removed);
        if (t > 1 && how == OnRefresh::rotate) oracle.refresh(p, next);
        if (t > 1 && how == OnRefresh::reset) oracle.m = Matrix(oracle.m.rows, oracle.m.cols);
        p = next;
      };
      agree(flora, shape, Layout::column_major, prepare,
            [&](Matrix& w, const Matrix& g, int) { oracle.step(w, g, p); });
    }
}

}  // namespace

TEST_CASE("Flora: momentum in a random projection, turned at each refresh") {
  for (const OnRefresh how : all_refreshes) agree_with_flora<apollo::Flora<double>, support::FloraOracle>(how);
}

TEST_CASE("factored Flora: Adafactor's means are of the whole gradient and outlive every refresh") {
  for (const OnRefresh how : all_refreshes)
    agree_with_flora<apollo::FloraFactored<double>, support::FloraFactoredOracle>(how);
}

TEST_CASE("factored Flora: a gradient that is not finite leaves its means alone") {
  apollo::FloraFactored<> flora(Shape{9, 6}, {.rank = 2});
  Tensor<float> w(Matrix(9, 6), Layout::row_major), g(gradient({9, 6}, 1), Layout::row_major);
  REQUIRE(flora.step(w.view, g.view).stepped);
  const auto before = support::state_of(flora).bytes;
  g.view(4, 2) = std::nanf("");
  CHECK(flora.step(w.view, g.view).reason == apollo::Skip::not_finite);
  CHECK(bool(support::state_of(flora).bytes == before));
  g.set(support::scaled(gradient({9, 6}, 1), 1e30));
  flora.set_gradient_scale(1e30);  // only R overflows
  CHECK(flora.step(w.view, g.view).reason == apollo::Skip::not_finite);
  CHECK(bool(support::state_of(flora).bytes == before));
}

TEST_CASE("Adam-mini: blocks of rows or columns, in either layout") {
  for (const Shape shape : {Shape{12, 7}, Shape{6, 20}, Shape{1, 9}})
    for (const ChannelAxis axis : {ChannelAxis::rows, ChannelAxis::cols})
      for (const Index block : {Index{1}, Index{3}, Index{0}})
        for (const Layout layout : {Layout::row_major, Layout::column_major}) {
          const bool rows = axis == ChannelAxis::rows;
          const Index channels = rows ? shape.rows : shape.cols, each = block == 0 ? channels : block;
          if (channels % each != 0) continue;
          CAPTURE(shape.rows);
          CAPTURE(rows);
          CAPTURE(block);
          support::AdamMiniOracle oracle;
          oracle.h = hyper(0.125);
          oracle.h.eps = 1e-3;
          for (const support::Block& b : support::row_blocks(channels, rows ? shape.cols : shape.rows, each))
            oracle.blocks.push_back(rows ? b : support::Block{b.col, b.cols, b.row, b.rows});
          apollo::AdamMiniOptions options{.block = block, .channel_axis = axis};
          fill(options, oracle.h);
          Tensor<double> like(Matrix(shape.rows, shape.cols), layout);
          apollo::AdamMini<double> mini(like.view, options);
          agree(mini, shape, layout, nothing, [&](Matrix& w, const Matrix& g, int) { oracle.step(w, g); });
          CHECK(mini.state_bytes() == 8 * (shape.rows * shape.cols + channels / each));
        }
}

TEST_CASE("GaLore with Adafactor: clipping, decay first, refreshes") {
  for (const Shape shape : shapes)
    for (const OnRefresh how : all_refreshes)
      for (const bool keeps_rows : {true, false}) {
        CAPTURE(shape.rows);
        CAPTURE(static_cast<int>(how));
        CAPTURE(keeps_rows);
        support::GaLoreAdafactorOracle oracle;
        oracle.h = hyper(0.125), oracle.h.torch_order = true, oracle.h.scale = 0.25, oracle.keeps_rows = keeps_rows;
        apollo::GaLoreAdafactorOptions options{.rank = 4, .on_refresh = how};
        options.proj_type = keeps_rows ? ProjType::right : ProjType::left;
        fill(options, oracle.h);
        apollo::GaLoreAdafactor<double, FixedProjection> member(shape, options);
        agree_projected(
            member, shape, 4, keeps_rows, [&](Matrix& w, const Matrix& g, const Matrix& p) { oracle.step(w, g, p); },
            [&](const Matrix& from, const Matrix& to) { oracle.refresh(how, from, to); });
      }
}

TEST_CASE("Adafactor without a projection, and of a vector, whose moment nothing factors; with and without a mean") {
  for (const Shape shape : {Shape{17, 9}, Shape{9, 17}, Shape{1, 11}, Shape{11, 1}}) {
    CAPTURE(shape.rows);
    const bool keeps_rows = shape.rows >= shape.cols;
    const Index side = keeps_rows ? shape.cols : shape.rows;
    Matrix identity(side, side);
    for (Index i = 0; i < side; ++i) identity(i, i) = 1;
    const auto compare = [&](auto& optimizer, auto& oracle) {
      agree(optimizer, shape, Layout::column_major, nothing,
            [&](Matrix& w, const Matrix& g, int) { oracle.step(w, g, identity); });
    };
    Hyper h = hyper(0.125);
    h.torch_order = true;
    const apollo::StructuredOptions options{
        .lr = h.lr, .eps = 1e-30, .weight_decay = h.weight_decay, .order = apollo::Order::torch};
    apollo::StructuredOptimizer<double, apollo::AdafactorMoments> adafactor(shape, options);
    support::GaLoreAdafactorOracle oracle{.h = h, .keeps_rows = keeps_rows};
    compare(adafactor, oracle);
    CHECK(adafactor.state_bytes() == 8 * (shape.rows + shape.cols));
    apollo::StructuredOptimizer<double, apollo::FactoredMeanMoments<>> with_mean(shape, options);
    support::FloraFactoredOracle mean_oracle{.h = h, .keeps_rows = keeps_rows};
    compare(with_mean, mean_oracle);
    CHECK(with_mean.state_bytes() == 8 * (shape.rows * shape.cols + shape.rows + shape.cols));
  }
}

TEST_CASE("SCALE: rows or columns of length one, with and without momentum") {
  for (const Shape shape : shapes)
    for (const bool rows : {true, false})
      for (const Layout layout : {Layout::row_major, Layout::column_major}) {
        CAPTURE(shape.rows);
        CAPTURE(rows);
        apollo::ColumnNormalizedSgdOptions options;
        options.channel_axis = rows ? ChannelAxis::rows : ChannelAxis::cols;
        support::ScaleOracle plain, head;
        plain.h = head.h = hyper(0.125), plain.keeps_rows = head.keeps_rows = rows, head.momentum = true;
        fill(options, plain.h);
        Tensor<double> like(Matrix(shape.rows, shape.cols), layout);
        apollo::ColumnNormalizedSgd<double> stateless(like.view, options);
        apollo::ColumnNormalizedSgd<double, apollo::MeanMoments<>> remembering(like.view, options);
        agree(stateless, shape, layout, nothing, [&](Matrix& w, const Matrix& g, int) { plain.step(w, g); });
        agree(remembering, shape, layout, nothing, [&](Matrix& w, const Matrix& g, int) { head.step(w, g); });
        CHECK(stateless.state_bytes() == 0);
        CHECK(remembering.state_bytes() == 8 * shape.rows * shape.cols);
      }
}

TEST_CASE("a channel of zeros does not move, and does not stop the others") {
  Matrix g = support::uniform_matrix(5, 4, 1);
  for (Index j = 0; j < 4; ++j) g(2, j) = 0;
  Tensor<float> w(Matrix(5, 4, 1), Layout::row_major), gradient(g, Layout::row_major);
  apollo::ColumnNormalizedSgd<> scale(w.view, {.lr = 0.5});
  REQUIRE(scale.step(w.view, gradient.view).stepped);
  for (Index j = 0; j < 4; ++j) CHECK(w.view(2, j) == 1);
  CHECK(support::row_norm(support::difference(w.get(), Matrix(5, 4, 1)), 0) == doctest::Approx(0.5));
}

TEST_CASE("structured AdamW: one scale a channel or a tensor, nothing projected") {
  for (const Shape shape : shapes)
    for (const bool rows : {true, false}) {
      CAPTURE(shape.rows);
      CAPTURE(rows);
      apollo::StructuredAdamWOptions options{.scale = 4};
      options.channel_axis = rows ? ChannelAxis::rows : ChannelAxis::cols;
      support::ScaledOracle channels{.h = hyper(0.125), .keeps_rows = rows};
      channels.h.limiter = true, channels.h.scale = 4;
      fill(options, channels.h);
      support::ScaledOracle tensor = channels;
      tensor.per_channel = false;
      apollo::StructuredAdamW<double> by_channel(shape, options);
      apollo::StructuredAdamW<double, apollo::TensorScaling> by_tensor(shape, options);
      agree(by_channel, shape, Layout::row_major, nothing,
            [&](Matrix& w, const Matrix& g, int) { channels.step(w, g, nullptr); });
      agree(by_tensor, shape, Layout::row_major, nothing,
            [&](Matrix& w, const Matrix& g, int) { tensor.step(w, g, nullptr); });
    }
}

TEST_CASE("APOLLO over an orthonormal basis") {
  for (const Shape shape : shapes) {
    CAPTURE(shape.rows);
    support::ScaledOracle oracle{.h = hyper(),
                                 .keeps_rows = support::removes_columns(shape.rows, shape.cols, ProjType::std)};
    oracle.h.limiter = true;
    apollo::ApolloSvdOptions options{.rank = 4};
    fill(options, oracle.h);
    apollo::ApolloSvd<double, FixedProjection> apollo(shape, options);
    agree_projected(
        apollo, shape, 4, oracle.keeps_rows,
        [&](Matrix& w, const Matrix& g, const Matrix& p) { oracle.step(w, g, &p); },
        [](const Matrix&, const Matrix&) {});
  }
}

TEST_CASE("bytes follow from a shape alone") {
  constexpr Shape shape{64, 48};  // L = 64, S = 48
  static_assert(apollo::Fira<>::state_bytes(shape, {.rank = 8}) == 4 * (2 * 8 * 64 + 8 * 48));
  static_assert(apollo::ApolloSvd<>::state_bytes(shape, {.rank = 8}) == 4 * (2 * 8 * 64 + 8 * 48));
  static_assert(apollo::Flora<>::state_bytes(shape, {.rank = 8}) == 4 * 8 * 64);
  static_assert(apollo::FloraFactored<>::state_bytes(shape, {.rank = 8}) == 4 * (8 * 64 + 64 + 48));
  static_assert(apollo::AdamMini<>::state_bytes(shape) == 4 * (64 * 48 + 64));
  static_assert(apollo::AdamMini<>::state_bytes(shape, {.block = 16}) == 4 * (64 * 48 + 4));
  static_assert(apollo::AdamMini<>::state_bytes(shape, {.block = 0}) == 4 * (64 * 48 + 1));
  static_assert(apollo::GaLoreAdafactor<>::state_bytes(shape, {.rank = 8}) == 4 * (8 * 48 + 64 + 8));
  static_assert(apollo::StructuredAdamW<>::state_bytes(shape) == 4 * 2 * 64 * 48);
  static_assert(apollo::ColumnNormalizedSgd<>::state_bytes(shape) == 0);
  const auto same = [&](auto&& optimizer) {
    const support::StateDump dump = support::state_of(optimizer);
    CHECK(optimizer.state_bytes() == dump.array_bytes);
  };
  same(apollo::Fira<>(shape, {.rank = 8}));
  same(apollo::Flora<>(shape, {.rank = 8}));
  same(apollo::FloraFactored<>(shape, {.rank = 8}));
  same(apollo::AdamMini<>(shape, {.block = 16}));
  same(apollo::AdamMini<apollo::BlockAdamMoments<apollo::bfloat16>>(shape));
  same(apollo::GaLoreAdafactor<>(shape, {.rank = 8}));
  same(apollo::ColumnNormalizedSgd<apollo::MeanMoments<>>(shape));
}

#if defined(__cpp_exceptions)
TEST_CASE("blocks that do not tile, and options that nothing reads") {
  using support::mentions;
  using support::refusal;
  const auto mini = [](apollo::AdamMiniOptions o) {
    return refusal([&] { apollo::AdamMini<>(Shape{12, 20}, o, "attention.wq"); });
  };
  CHECK(mentions(mini({.block = 5}), {"attention.wq", "block = 5", "12 rows", "12 x 20"}));
  CHECK(mentions(mini({.block = 24}), {"block = 24", "12 rows"}));
  CHECK(mentions(mini({.block = 8, .channel_axis = ChannelAxis::cols}), {"block = 8", "20 columns"}));
  CHECK(mentions(mini({.block = -1}), {"block = -1", "at least 0"}));
  CHECK(mini({.block = 5, .channel_axis = ChannelAxis::cols}).empty());

  const auto adafactor = [](apollo::GaLoreAdafactorOptions o) {
    o.rank = 2;
    return refusal([&] { apollo::GaLoreAdafactor<>(Shape{12, 20}, o); });
  };
  CHECK(mentions(adafactor({.decay_rate = 0}), {"decay_rate = 0", "greater than 0"}));
  CHECK(mentions(adafactor({.clip_threshold = -1}), {"clip_threshold = -1", "greater than 0"}));
  CHECK(mentions(adafactor({.eps = 0}), {"eps = 0"}));

  const auto own = [](apollo::StructuredOptions o) {
    return refusal([&] { apollo::StructuredOptimizer<apollo::AdamMoments<>>(Shape{12, 20}, o); });
  };
  CHECK(mentions(own({.block = 2}), {"block", "BlockAdamMoments"}));
  CHECK(mentions(own({.decay_rate = 0.7}), {"decay_rate", "AdafactorMoments"}));
  CHECK(mentions(own({.clip_threshold = 2}), {"clip_threshold", "AdafactorMoments"}));
  CHECK(mentions(own({.residual = apollo::FiraResidual::code}), {"residual", "ResidualScaling"}));
  const auto mean = [](apollo::StructuredOptions o) {
    return refusal([&] { apollo::StructuredOptimizer<apollo::MeanMoments<>>(Shape{12, 20}, o); });
  };
  CHECK(mean({.beta1 = 0.5}).empty());
  CHECK(mentions(mean({.momentum = 0.5}), {"momentum", "MomentumMoments"}));
  const auto sparse = [](Index rank) {
    using Four = apollo::Apollo<apollo::RandomProjection<apollo::SparseSigns<4>>>;
    return refusal([&] { Four(Shape{12, 20}, {.rank = rank}, "w"); });
  };
  CHECK(mentions(sparse(3), {"w", "rank = 3", "at least 4", "nonzeros"}));
}
#endif
