// SPDX-License-Identifier: Apache-2.0
// One optimizer on EigenBackend and on the reference: the same gradients, then weights, state and reports side by side.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include <apollo/eigen.hpp>

#include "model.hpp"
#include "oracles.hpp"

namespace compare_backends {

using apollo::EigenBackend;
using apollo::Index;
using apollo::ProjType;
using apollo::Reference;
using model::Leaf;
using model::Matrix;
using support::Layout;

/// The largest relative_error allowed after `steps` steps. Both sides round each sum differently; 16-bit weights also
/// round each step, so that a difference in the last place of a float now and then costs one of theirs.
template <class T>
constexpr double tolerance(int steps) {
  if constexpr (std::is_same_v<T, double>) return 1e-11 * steps;
  if constexpr (std::is_same_v<T, float>) return 4e-6 * steps;
  if constexpr (std::is_same_v<T, apollo::float16>) return 0x1p-10 * (1 + steps / 2);
  return 0x1p-7 * (1 + steps / 2);
}

/// Gradients with separated singular values, so that a basis is what it is and not a matter of rounding: random ones plus
/// `rank` strong directions.
inline Matrix gradient(Index rows, Index cols, Index rank, std::int64_t step) {
  const auto t = static_cast<std::uint64_t>(step);
  Matrix g = support::scaled(support::uniform_matrix(rows, cols, 1, t), 1e-4);
  for (Index k = 0; k < rank; ++k) {
    const Matrix u = support::uniform_matrix(rows, 1, 100 + static_cast<std::uint64_t>(k), t / 3);
    const Matrix v = support::uniform_matrix(1, cols, 200 + static_cast<std::uint64_t>(k), t / 3);
    const double strength = 4 * std::pow(0.6, static_cast<double>(k)) / std::sqrt(support::norm(u) * support::norm(v));
    for (Index i = 0; i < rows; ++i)
      for (Index j = 0; j < cols; ++j) g(i, j) += strength * u(i, 0) * v(0, j);
  }
  return g;
}

/// Q^T Q of the rows' span: what a basis means, whatever its signs and rotations. `basis` is removed x rank.
inline Matrix projector(const Matrix& basis) { return support::product(basis, support::transposed(basis)); }

struct Setting {
  Index rows, cols, rank;
  ProjType type = ProjType::std;
  Layout weight = Layout::row_major, gradient = Layout::row_major;
  int steps = 5;
};

/// Moments that are kept while the signs of singular vectors change mean something else on each side afterwards.
template <class Member, class Options>
void one_basis_if_kept(Options& options, int steps) {
  if constexpr (std::is_same_v<typename Member::Policies::Projection, apollo::SvdProjection>)
    if (options.on_refresh == apollo::OnRefresh::keep) options.update_proj_gap = steps;
}

// What is compared does not depend on the optimizer, so these two are compiled once, not for each of them.

/// Two reports of one step. `rounding`: the updates are made of rounding errors, only the gradients' norms can be compared.
inline void compare_reports(const apollo::TensorReport& report, const apollo::TensorReport& expected, bool rounding) {
  REQUIRE(expected.stepped);
  REQUIRE(report.stepped);
  CHECK(report.refreshed == expected.refreshed);
  const double close = 1e-4;
  CHECK(std::fabs(report.gradient_norm - expected.gradient_norm) <= close * std::fabs(expected.gradient_norm));
  if (rounding) return;
  CHECK(std::fabs(report.update_norm - expected.update_norm) <= close * std::fabs(expected.update_norm));
  CHECK(std::fabs(report.limiter - expected.limiter) <= close * expected.limiter);
}

/// State arrays within `allowed`, bases within `basis_allowed` as the spaces that they span, numbers.
inline void compare_states(support::StateDump here, support::StateDump there, bool rounding, double allowed,
                           double basis_allowed) {
  REQUIRE(here.arrays.size() == there.arrays.size());
  // A singular vector has no sign of its own, and its moments have that of the vector: they are compared lifted.
  for (support::StateDump* dump : {&here, &there})
    for (const char* name : {"exp_avg", "momentum_buffer"})
      if (dump->arrays.count("basis") != 0 && dump->arrays.count(name) != 0)
        dump->arrays[name] = support::product(dump->arrays[name], support::transposed(dump->arrays["basis"]));
  for (const auto& each : there.arrays) {
    const std::string& name = each.first;
    const Matrix& array = each.second;
    CAPTURE(name);
    if (name == "basis") {
      CHECK(support::relative_error(projector(here.arrays.at(name)), projector(array)) <= basis_allowed);
      const Matrix gram = support::product(support::transposed(here.arrays.at(name)), here.arrays.at(name));
      for (Index i = 0; i < gram.rows; ++i)
        for (Index j = 0; j < gram.cols; ++j) CHECK(std::fabs(gram(i, j) - (i == j ? 1 : 0)) <= 1e-5);
    } else {
      CHECK(support::relative_error(here.arrays.at(name), array) <= allowed);
    }
  }
  for (const auto& each : there.scalars) {
    const std::string& name = each.first;
    const double value = each.second;
    CAPTURE(name);
    if (rounding && name == "previous_norm") continue;
    CHECK(std::fabs(here.scalars.at(name) - value) <= 1e-4 * std::fabs(value));
  }
}

/// Runs `Member` of both backends over the same gradients and compares weights, state and reports.
template <class T, template <class...> class Wrap, class Options>
void compare(const Setting& s, Options options, int threads = 2) {
  using Plain = Wrap<apollo::arithmetic_t<T>, Reference>;
  using Fast = Wrap<apollo::arithmetic_t<T>, EigenBackend>;
  one_basis_if_kept<Plain>(options, s.steps);
  const Matrix start = support::uniform_matrix(s.rows, s.cols, 7);
  support::Tensor<T> plain_w(start, s.weight), fast_w(start, s.weight), g(start, s.gradient);
  Plain plain(plain_w.view, options, "tensor");
  Fast fast(fast_w.view, options, "tensor", EigenBackend(threads));
  CHECK(plain.state_bytes() == fast.state_bytes());
  CHECK(plain.plan().tiles == fast.plan().tiles);
  // What a projection of full rank leaves has a norm and a history, but not a digit in common.
  const bool rounding = Plain::Policies::Granularity::residual && s.rank == plain.plan().removed;
  for (int t = 1; t <= s.steps; ++t) {
    g.set(gradient(s.rows, s.cols, s.rank, t));
    if (t % 2 == 0) {  // in two micro-batches of a half each
      g.set(support::scaled(g.get(), 0.5));
      CHECK(fast.accumulate(g.view).accumulated == plain.accumulate(g.view).accumulated);
      CHECK(fast.accumulation_bytes() == plain.accumulation_bytes());
    }
    const auto expected = plain.step(plain_w.view, g.view);
    compare_reports(fast.step(fast_w.view, g.view), expected, rounding);
  }
  CHECK(plain.steps() == fast.steps());
  CHECK(fast_w.gaps_untouched());
  CHECK(g.gaps_untouched());
  // A limited residual takes up what rounding does to the weakest directions of a basis.
  const double slack = Plain::Policies::Granularity::residual ? 2 : 1;
  CHECK(support::relative_error(fast_w.get(), plain_w.get()) <= slack * tolerance<T>(s.steps));
  // Stored in bfloat16 with random rounding, a value may fall one place to the other side.
  using Stored = apollo::stored_t<typename Plain::Policies::Moments, apollo::arithmetic_t<T>>;
  constexpr bool narrow = std::is_same_v<Stored, apollo::bfloat16>;
  compare_states(support::state_of(fast), support::state_of(plain), rounding, narrow ? 0x1p-5 : 2e-3,
                 std::is_same_v<T, double> ? 1e-9 : 2e-3);
}

/// eps is large, so that signs of sums near zero do not decide steps.
inline constexpr double eps = 1e-2;

template <class T>
void every_optimizer(const Setting& s, int gap) {
  CAPTURE(s.rows);
  CAPTURE(s.cols);
  CAPTURE(s.rank);
  CAPTURE(static_cast<int>(s.type));
  CAPTURE(static_cast<int>(s.weight));
  CAPTURE(static_cast<int>(s.gradient));
  CAPTURE(std::string(apollo::type_name<T>));
  std::string optimizer;
  CAPTURE(optimizer);  // the one at hand: a context's text is made when a check fails
  const auto run = [&](const char* what, auto tag, const auto& options) {
    using Member = typename decltype(tag)::type;
    optimizer = what;
    compare<T, model::Rewrap<Member>::template with>(s, options);
  };
  model::for_each_dense<>(run, eps);
  if (s.rows > 1 && s.cols > 1) model::for_each_projected<>(s.rank, gap, s.type, run, eps);
}

}  // namespace compare_backends
