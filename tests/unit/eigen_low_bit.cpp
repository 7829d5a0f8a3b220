// SPDX-License-Identifier: Apache-2.0
// Low-bit storage on EigenBackend beside the reference: the same codes but for ties, the same random bits, in every layout
// of memory, and weights that lie otherwise than planned.
// also: optimised-sanitizers
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include <apollo/eigen.hpp>

#include "eigen_compare.hpp"
#include "model.hpp"

namespace {

using apollo::AdamMoments;
using apollo::bfloat16;
using apollo::EigenBackend;
using apollo::Index;
using apollo::Int4;
using apollo::Int8Dynamic;
using apollo::Int8Linear;
using apollo::Int8Matrix;
using apollo::Reference;
using apollo::Shape;
using apollo::SplitWeights;
using apollo::StochasticWeights;
using support::Layout;
using support::Matrix;
using support::raise;

/// The share of equal elements.
template <class T>
double equal_share(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return 0;
  std::size_t equal = 0;
  for (std::size_t i = 0; i < a.size(); ++i) equal += std::memcmp(&a[i], &b[i], sizeof(T)) == 0;
  return static_cast<double>(equal) / static_cast<double>(a.size());
}

std::vector<float> floats(const Matrix& from) { return std::vector<float>(from.values.begin(), from.values.end()); }
Int8Matrix quantized(Shape shape, Index group, std::uint64_t seed = 7) {
  Int8Matrix matrix(shape.rows, shape.cols, group);
  matrix.quantize(0, shape.rows,
                  floats(support::scaled(support::uniform_matrix(shape.rows, shape.cols, seed), 0.5)).data());
  return matrix;
}
Matrix gradient(Shape shape, std::int64_t t) { return compare_backends::gradient(shape.rows, shape.cols, 4, t); }

/// Lines that runs of 256 do not divide, joined ones, and more than one tile.
constexpr Shape shapes[] = {{70, 300}, {300, 70}, {5, 1000}, {1500, 33}};

/// Calls visit(state array of the one, of the other) for the arrays of codes.
template <class A, class B, class Visit>
void for_codes(A& one, B& other, Visit&& visit) {
  const auto here = support::state_of(one), there = support::state_of(other);
  REQUIRE(here.arrays.size() == there.arrays.size());
  for (const auto& each : there.arrays) {
    const std::string& name = each.first;
    REQUIRE(here.arrays.count(name) == 1);
    if (there.arrays.count(name + "_scale") == 1) visit(name, here.arrays.at(name), each.second);
  }
}

/// Float weights, moments in codes.
template <template <class...> class Wrap, class Moments, class Options>
void compare_moments(const char* what, const Options& options, bool vectors) {
  CAPTURE(std::string(what));
  for (const Layout layout : {Layout::row_major, Layout::column_major, Layout::padded_rows})
    for (const Shape shape : {shapes[0], shapes[1], shapes[2], shapes[3], Shape{1, 700}}) {
      if (shape.rows == 1 && !vectors) continue;
      CAPTURE(static_cast<int>(layout));
      CAPTURE(shape.rows);
      const Matrix start = support::uniform_matrix(shape.rows, shape.cols, 7);
      support::Tensor<float> plain_w(start, layout), fast_w(start, layout), g(start, Layout::row_major);
      Wrap<Moments> plain(plain_w.view, options);
      Wrap<Moments, EigenBackend> fast(fast_w.view, options, "tensor", EigenBackend(2));
      CHECK(plain.state_bytes() == fast.state_bytes());
      for (int t = 1; t <= 5; ++t) {
        g.set(gradient(shape, t));
        REQUIRE(plain.step(plain_w.view, g.view).stepped);
        REQUIRE(fast.step(fast_w.view, g.view).stepped);
        if (t != 1 && t != 5) continue;
        CAPTURE(t);
        for_codes(fast, plain, [&](const std::string& name, const Matrix& here, const Matrix& there) {
          CAPTURE(name);
          CHECK(equal_share(here.values, there.values) >= (t == 1 ? 0.99 : 0.97));
        });
        if (t == 1) CHECK(support::relative_error(fast_w.get(), plain_w.get()) <= 1e-5);
        // Whose code fell to the other side moves otherwise from then on; norms of channels take that up a little.
        const double off = support::norm(support::difference(fast_w.get(), plain_w.get()));
        const double way = support::norm(support::difference(plain_w.get(), start));
        CHECK(off <= 0.01 * way);
      }
      CHECK(fast_w.gaps_untouched());
    }
}

/// Weights in 8-bit groups.
template <template <class...> class Wrap, class... Policies, class Options>
void compare_groups(const char* what, const Options& options, bool vectors) {
  CAPTURE(std::string(what));
  for (const Index group : {32, 128})
    for (const Shape shape : {shapes[0], shapes[1], shapes[2], shapes[3], Shape{1, 700}, Shape{700, 1}}) {
      if ((shape.rows == 1 || shape.cols == 1) && !vectors) continue;
      CAPTURE(group);
      CAPTURE(shape.rows);
      CAPTURE(shape.cols);
      Int8Matrix plain_w = quantized(shape, group), fast_w = quantized(shape, group);
      support::Tensor<float> g(Matrix(shape.rows, shape.cols), Layout::padded_rows);
      Wrap<Policies...> plain(plain_w, options);
      Wrap<Policies..., EigenBackend> fast(fast_w, options, "tensor", EigenBackend(2));
      for (int t = 1; t <= 5; ++t) {
        g.set(gradient(shape, t));
        REQUIRE(plain.step(plain_w, g.view).stepped);
        REQUIRE(fast.step(fast_w, g.view).stepped);
        if (t != 1 && t != 5) continue;
        CAPTURE(t);
        CHECK(equal_share(fast_w.codes(), plain_w.codes()) >= (t == 1 ? 0.99 : 0.97));
        int furthest = 0;
        for (std::size_t i = 0; i < fast_w.codes().size(); ++i) {
          const int apart = std::abs(int{fast_w.codes()[i]} - int{plain_w.codes()[i]});
          if (apart > furthest) furthest = apart;
        }
        CHECK(furthest <= (t == 1 ? 1 : 3));
        double worst = 0;
        for (std::size_t i = 0; i < fast_w.ranges().size(); ++i) {
          const auto scale = static_cast<double>(plain_w.ranges()[i].scale);
          raise(worst, std::fabs(static_cast<double>(fast_w.ranges()[i].scale) - scale) / scale);
          raise(worst, std::fabs(static_cast<double>(fast_w.ranges()[i].minimum - plain_w.ranges()[i].minimum)) /
                           (255 * scale));
        }
        CHECK(worst <= (t == 1 ? 1e-4 : 0.01));
      }
    }
}

/// bfloat16 weights that are rounded stochastically, or split.
template <template <class...> class Wrap, class... Policies, class Options>
void compare_narrow(const char* what, const Options& options, double least) {
  CAPTURE(std::string(what));
  for (const Layout layout : support::all_layouts)
    for (const Layout of_gradient : {Layout::row_major, Layout::column_major, Layout::padded_rows})
      for (const Shape shape : {shapes[0], shapes[3], Shape{300, 270}}) {
        if (of_gradient == Layout::padded_rows && shape.rows != 70) continue;
        CAPTURE(static_cast<int>(layout));
        CAPTURE(static_cast<int>(of_gradient));
        CAPTURE(shape.rows);
        const Matrix start = support::uniform_matrix(shape.rows, shape.cols, 7);
        support::Tensor<bfloat16> plain_w(start, layout), fast_w(start, layout);
        support::Tensor<float> g(start, of_gradient);
        Wrap<Policies...> plain(plain_w.view, options);
        Wrap<Policies..., EigenBackend> fast(fast_w.view, options, "tensor", EigenBackend(2));
        for (int t = 1; t <= 3; ++t) {
          g.set(gradient(shape, t));
          REQUIRE(plain.step(plain_w.view, g.view).stepped);
          REQUIRE(fast.step(fast_w.view, g.view).stepped);
          CHECK(equal_share(fast_w.get().values, plain_w.get().values) >= (t == 1 ? least : 2 * least - 1));
        }
        CHECK(fast_w.gaps_untouched());
      }
}

const apollo::AdamWOptions adamw{.lr = 0.01, .eps = 1e-2, .weight_decay = 0.1, .seed = 3};
const apollo::ApolloOptions low_rank{.lr = 0.01, .rank = 4, .eps = 1e-2};
const apollo::GaLoreOptions galore{.lr = 0.01, .rank = 4, .eps = 1e-2};

}  // namespace

TEST_CASE("moments in codes: both backends store the same codes") {
  compare_moments<apollo::AdamW, AdamMoments<Int8Linear>>("AdamW, Int8Linear", adamw, true);
  compare_moments<apollo::AdamW, AdamMoments<Int8Dynamic>>("AdamW, Int8Dynamic", adamw, true);
  compare_moments<apollo::AdamW, AdamMoments<Int4>>("AdamW, Int4", adamw, true);
  compare_moments<apollo::GaLore, AdamMoments<Int8Linear>>("GaLore, Int8Linear", galore, false);
  compare_moments<apollo::AdamMini, apollo::BlockAdamMoments<Int8Dynamic>>(
      "AdamMini, Int8Dynamic", apollo::AdamMiniOptions{.lr = 0.01, .eps = 1e-2}, true);
}

TEST_CASE("weights in 8-bit groups: both backends store the same codes, stochastic or to nearest") {
  compare_groups<apollo::AdamW, AdamMoments<Int8Linear>, StochasticWeights>("AdamW8bit, stochastic", adamw, true);
  compare_groups<apollo::AdamW>("AdamW, native", adamw, true);
  compare_groups<apollo::QApollo>("QApollo", low_rank, false);
  compare_groups<apollo::GaLore, StochasticWeights>("GaLore, stochastic", galore, false);
}

TEST_CASE("bfloat16 weights in every layout: both backends round by the same random bits") {
  compare_narrow<apollo::AdamW, StochasticWeights>("AdamW", adamw, 0.999);
  compare_narrow<apollo::QApollo>("QApollo", low_rank, 0.999);
  compare_narrow<apollo::GaLore, StochasticWeights>("GaLore", galore, 0.998);
  compare_narrow<apollo::AdamW, SplitWeights>("AdamW, split", adamw, 0.999);
}

TEST_CASE("weights in another order of memory than planned step like those that were planned") {
  const auto compare = [](auto tag, auto value, const auto& options, auto backend) {
    using Member = typename decltype(tag)::type;
    using W = decltype(value);
    for (const Shape shape : {Shape{200, 300}, Shape{300, 200}, Shape{70, 300}, Shape{700, 300}}) {
      CAPTURE(shape.rows);
      const Matrix start = support::rounded<bfloat16>(support::uniform_matrix(shape.rows, shape.cols, 7));
      support::Tensor<W> rows(start, Layout::row_major), columns(start, Layout::column_major);
      Member one(shape, options, "tensor", backend), other(shape, options, "tensor", backend);
      for (int t = 1; t <= 3; ++t) {
        const support::Tensor<float> g(gradient(shape, t), Layout::row_major);
        REQUIRE(one.step(rows.view, g.view).stepped);
        REQUIRE(other.step(columns.view, g.view).stepped);
      }
      // Random bits go by memory, so that narrow weights may end a unit apart.
      const double worst = support::relative_error(columns.get(), rows.get());
      CHECK(worst <= (std::is_same_v<W, float> ? 1e-5 : 0x1p-5));
    }
  };
  apollo::GaLoreOptions right = galore;
  right.proj_type = apollo::ProjType::right;
  compare(model::Tag<apollo::GaLore<>>(), float{}, right, Reference());
  compare(model::Tag<apollo::GaLore<EigenBackend>>(), float{}, right, EigenBackend(2));
  compare(model::Tag<apollo::GaLore<StochasticWeights, EigenBackend>>(), bfloat16{}, right, EigenBackend(2));
  compare(model::Tag<apollo::QApollo<EigenBackend>>(), bfloat16{}, low_rank, EigenBackend(2));
}

TEST_CASE("a model whose weights move to memory of another order steps on") {
  model::Leaf<float> rows("w", 200, 300), columns("w", 200, 300, Layout::column_major);
  const Matrix start = rows.w.get();
  const auto run = [&](bool moves) {
    rows.w.set(start);
    apollo::eigen::Optimizer optimizer(EigenBackend(1));
    apollo::GaLoreOptions right = galore;
    right.proj_type = apollo::ProjType::right;
    optimizer.add(optimizer.add_group(right), "w", rows.w.view, rows.g.view);
    for (int t = 1; t <= 4; ++t) {
      rows.g.set(gradient({200, 300}, t));
      if (moves && t == 3) columns.w.set(rows.w.get()), optimizer.rebind("w", columns.w.view, rows.g.view);
      REQUIRE(optimizer.step().stepped == 1);
    }
    return moves ? columns.w.get() : rows.w.get();
  };
  const Matrix stayed = run(false);
  CHECK(support::relative_error(run(true), stayed) <= 1e-5);
}
