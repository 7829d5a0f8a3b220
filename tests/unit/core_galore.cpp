// SPDX-License-Identifier: Apache-2.0
// Singular-vector projections: the right subspace, orthonormal whatever the gradient, refreshed when
// due, and what becomes of
// the moments then.
// also: optimised-sanitizers
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <apollo/optimizer/named.hpp>

#include "oracles.hpp"
#include "support.hpp"

namespace {

using apollo::Index;
using apollo::OnRefresh;
using apollo::ProjType;
using apollo::Shape;
using apollo::SvdMethod;
using support::Layout;
using support::Matrix;
using support::Tensor;

/// Eigenvectors of a symmetric matrix by Jacobi's rotations, as rows, the largest eigenvalue first.
struct Spectrum {
  std::vector<double> values;
  Matrix vectors;
};

Spectrum eigen(Matrix a) {
  const Index n = a.rows;
  Matrix v(n, n);
  for (Index i = 0; i < n; ++i) v(i, i) = 1;
  for (int sweep = 0; sweep < 60; ++sweep) {
    double rest = 0;
    for (Index p = 0; p < n; ++p)
      for (Index q = p + 1; q < n; ++q) rest += a(p, q) * a(p, q);
    if (rest <= 1e-28 * support::squared_norm(a)) break;
    for (Index p = 0; p < n; ++p)
      for (Index q = p + 1; q < n; ++q) {
        if (std::fabs(a(p, q)) <= 0) continue;
        const double angle = 0.5 * std::atan2(2 * a(p, q), a(q, q) - a(p, p));
        const double c = std::cos(angle), s = std::sin(angle);
        for (Index k = 0; k < n; ++k) {
          const double x = a(k, p), y = a(k, q);
          a(k, p) = c * x - s * y, a(k, q) = s * x + c * y;
        }
        for (Index k = 0; k < n; ++k) {
          const double x = a(p, k), y = a(q, k);
          a(p, k) = c * x - s * y, a(q, k) = s * x + c * y;
        }
        for (Index k = 0; k < n; ++k) {
          const double x = v(p, k), y = v(q, k);
          v(p, k) = c * x - s * y, v(q, k) = s * x + c * y;
        }
      }
  }
  Spectrum sorted{{}, Matrix(n, n)};
  std::vector<char> taken(static_cast<std::size_t>(n), 0);
  for (Index place = 0; place < n; ++place) {
    Index best = -1;
    for (Index i = 0; i < n; ++i)
      if (taken[static_cast<std::size_t>(i)] == 0 && (best < 0 || a(i, i) > a(best, best))) best = i;
    taken[static_cast<std::size_t>(best)] = 1;
    sorted.values.push_back(a(best, best));
    for (Index k = 0; k < n; ++k) sorted.vectors(place, k) = v(best, k);
  }
  return sorted;
}

/// The top r right singular vectors of X (L x S), as r x S.
Matrix singular_directions(const Matrix& x, Index rank) {
  const Spectrum e = eigen(support::product(support::transposed(x), x));
  Matrix p(rank, x.cols);
  for (Index k = 0; k < rank; ++k)
    for (Index s = 0; s < x.cols; ++s) p(k, s) = e.vectors(k, s);
  return p;
}

/// P (r x S) as the optimizer keeps it.
template <class Optimizer>
Matrix basis_of(Optimizer& optimizer) {
  return support::transposed(support::state_of(optimizer).arrays.at("basis"));
}

/// The largest entry of |P P^T - I|.
double orthonormality_error(const Matrix& p) {
  const Matrix gram = support::product(p, support::transposed(p));
  double worst = 0;
  for (Index i = 0; i < gram.rows; ++i)
    for (Index j = 0; j < gram.cols; ++j) support::raise(worst, std::fabs(gram(i, j) - (i == j ? 1 : 0)));
  return worst;
}

/// |X P^T|^2, what the directions see of X.
double energy(const Matrix& x, const Matrix& p) {
  return support::squared_norm(support::product(x, support::transposed(p)));
}

double subspace_distance(const Matrix& p, const Matrix& q) {
  return support::norm(
      support::difference(support::product(support::transposed(p), p), support::product(support::transposed(q), q)));
}

/// A matrix whose singular values fall geometrically, with a little noise.
Matrix decaying(Index rows, Index cols, double ratio, std::uint64_t seed) {
  const Index inner = rows < cols ? rows : cols;
  Matrix left = support::gaussian_matrix(rows, inner, seed, 1);
  const Matrix right = support::gaussian_matrix(inner, cols, seed, 2);
  double size = 1;
  for (Index k = 0; k < inner; ++k, size *= ratio)
    for (Index i = 0; i < rows; ++i) left(i, k) *= size;
  return support::product(left, right);
}

Matrix sum(Matrix a, const Matrix& b, double factor) {
  for (std::size_t i = 0; i < a.values.size(); ++i) a.values[i] += factor * b.values[i];
  return a;
}

}  // namespace

TEST_CASE("this file's own eigenvectors are eigenvectors") {
  const Matrix x = support::gaussian_matrix(12, 9, 3);
  const Matrix a = support::product(support::transposed(x), x);
  const Spectrum e = eigen(a);
  CHECK(orthonormality_error(e.vectors) <= 1e-12);
  const Matrix rotated = support::product(support::product(e.vectors, a), support::transposed(e.vectors));
  for (Index i = 0; i < 9; ++i)
    for (Index j = 0; j < 9; ++j)
      CHECK(std::fabs(rotated(i, j) - (i == j ? e.values[static_cast<std::size_t>(i)] : 0)) <= 1e-10);
}

TEST_CASE_TEMPLATE("the exact basis spans the top singular subspace on every side", T, float, double) {
  for (const Shape shape : {Shape{24, 15}, {15, 24}, {18, 18}, {40, 6}, {2, 30}})
    for (const ProjType type : support::all_proj_types)
      for (const Layout layout : {Layout::row_major, Layout::gaps}) {
        const Index shorter = shape.rows < shape.cols ? shape.rows : shape.cols;
        for (const Index rank : {Index{1}, Index{2}, Index{5}, shorter}) {
          if (rank > shorter) continue;
          CAPTURE(shape.rows);
          CAPTURE(shape.cols);
          CAPTURE(rank);
          CAPTURE(static_cast<int>(type));
          const bool keeps_rows = support::removes_columns(shape.rows, shape.cols, type);
          const Matrix gradient = support::rounded<T>(decaying(shape.rows, shape.cols, 0.6, 21));
          apollo::GaLore<T> optimizer(shape, {.rank = rank, .proj_type = type, .svd = SvdMethod::exact});
          Tensor<T> w(Matrix(shape.rows, shape.cols), Layout::row_major), g(gradient, layout);
          CHECK(optimizer.step(w.view, g.view).stepped);
          const Matrix p = basis_of(optimizer), x = keeps_rows ? gradient : support::transposed(gradient);
          REQUIRE(p.shape() == Shape{rank, x.cols});
          CHECK(orthonormality_error(p) <= (sizeof(T) == 4 ? 1e-6 : 1e-10));
          CHECK(subspace_distance(p, singular_directions(x, rank)) <= (sizeof(T) == 4 ? 2e-5 : 1e-8));
        }
      }
}

TEST_CASE_TEMPLATE("subspace iteration keeps 99 % of the exact basis' energy on slowly drifting gradients", T, float,
                   double) {
  // Low rank and as much noise: new coefficients every step, while the directions turn by two degrees a refresh.
  for (const Shape shape : {Shape{60, 40}, {40, 60}, {48, 48}, {160, 24}})
    for (const ProjType type : {ProjType::std, ProjType::reverse_std}) {
      const bool keeps_rows = support::removes_columns(shape.rows, shape.cols, type);
      const Index kept = keeps_rows ? shape.rows : shape.cols, removed = keeps_rows ? shape.cols : shape.rows, rank = 8;
      apollo::GaLore<T> optimizer(shape, {.rank = rank, .update_proj_gap = 3, .proj_type = type});
      Tensor<T> w(Matrix(shape.rows, shape.cols), Layout::row_major),
          g(Matrix(shape.rows, shape.cols), Layout::row_major);
      const Matrix from = support::gaussian_matrix(rank, removed, 5, 1),
                   to = support::gaussian_matrix(rank, removed, 5, 2);
      double worst = 1, first = 0, orthonormality = 0;
      for (int t = 1; t <= 45; ++t) {
        const double angle = 0.035 * t / 3.0;
        const Matrix directions = sum(support::scaled(from, std::cos(angle)), to, std::sin(angle));
        const auto number = static_cast<std::uint64_t>(t);
        Matrix x = support::product(support::gaussian_matrix(kept, rank, 6, number), directions);
        x = sum(x, support::gaussian_matrix(kept, removed, 7, number), 1.5);
        x = support::rounded<T>(x);
        g.set(keeps_rows ? x : support::transposed(x));
        const auto report = optimizer.step(w.view, g.view);
        REQUIRE(report.stepped);
        CHECK(report.refreshed == ((t - 1) % 3 == 0));
        if (!report.refreshed) continue;
        const Matrix p = basis_of(optimizer);
        const double captured = energy(x, p) / energy(x, singular_directions(x, rank));
        if (t == 1) first = captured;
        if (!(captured >= worst)) worst = captured;
        const double error = orthonormality_error(p);
        if (!(error <= orthonormality)) orthonormality = error;
      }
      MESSAGE(apollo::text(shape) << ": least energy " << worst << " of the exact basis', at the cold start " << first);
      CHECK(worst >= 0.99);
      CHECK(worst <= 1 + 1e-5);
      CHECK(orthonormality <= 1e-5);
    }
}

TEST_CASE("a warm start does not hold on to a subspace that is gone") {
  // The gradient moves to directions orthogonal to all it had: iteration from the old basis alone would see nothing.
  const Shape shape{30, 20};
  apollo::GaLore<> optimizer(shape, {.rank = 4, .update_proj_gap = 1});
  Tensor<float> w(Matrix(30, 20), Layout::row_major), g(Matrix(30, 20), Layout::row_major);
  double captured = 0;
  for (int t = 1; t <= 12; ++t) {
    Matrix x(30, 20);
    const Matrix values = support::gaussian_matrix(30, 20, 8, static_cast<std::uint64_t>(t));
    for (Index i = 0; i < 30; ++i)
      for (Index j = 0; j < 4; ++j) x(i, t <= 6 ? j : 10 + j) = values(i, j);
    g.set(x);
    REQUIRE(optimizer.step(w.view, g.view).stepped);
    const Matrix p = basis_of(optimizer);
    CHECK(orthonormality_error(p) <= 1e-5);
    captured = energy(x, p) / support::squared_norm(x);
    if (t == 6) CHECK(captured >= 0.99);
  }
  CHECK(captured >= 0.99);
}

TEST_CASE_TEMPLATE("P is orthonormal whatever the gradient", T, float, double) {
  const Matrix column = support::gaussian_matrix(24, 1, 1), row = support::gaussian_matrix(1, 16, 2);
  std::vector<Matrix> gradients;
  gradients.push_back(Matrix(24, 16));                 // nothing
  gradients.push_back(support::product(column, row));  // rank one
  gradients.push_back(support::product(support::gaussian_matrix(24, 3, 3), support::gaussian_matrix(3, 16, 4)));
  gradients.push_back(Matrix(24, 16, 1));  // all equal
  gradients.push_back(Matrix(24, 16));
  gradients.back()(7, 3) = 5;  // one element
  gradients.push_back(support::scaled(support::gaussian_matrix(24, 16, 5), 1e-12));
  gradients.push_back(support::scaled(support::gaussian_matrix(24, 16, 5), 1e-30));
  gradients.push_back(support::scaled(support::gaussian_matrix(24, 16, 5), 1e12));
  gradients.push_back(decaying(24, 16, 0.05, 6));  // singular values to 1e-20
  gradients.push_back(Matrix(24, 16));
  for (Index i = 0; i < 16; ++i) gradients.back()(i, i) = 1;  // all singular values equal
  for (const auto method : {SvdMethod::exact, SvdMethod::subspace})
    for (const ProjType type : {ProjType::std, ProjType::reverse_std})
      for (const Index rank : {1, 5, 16})
        for (std::size_t first = 0; first < gradients.size(); ++first)
          for (std::size_t second = 0; second < gradients.size(); second += 2) {
            CAPTURE(static_cast<int>(method));
            CAPTURE(static_cast<int>(type));
            CAPTURE(rank);
            CAPTURE(first);
            CAPTURE(second);
            apollo::GaLore<T> optimizer(Shape{24, 16},
                                        {.rank = rank, .update_proj_gap = 1, .proj_type = type, .svd = method});
            Tensor<T> w(Matrix(24, 16), Layout::row_major), g(gradients[first], Layout::row_major);
            REQUIRE(optimizer.step(w.view, g.view).stepped);
            const double cold = orthonormality_error(basis_of(optimizer));
            g.set(gradients[second]);
            REQUIRE(optimizer.step(w.view, g.view).stepped);
            const double warm = orthonormality_error(basis_of(optimizer));
            REQUIRE(cold <= 1e-5);
            REQUIRE(warm <= 1e-5);
            int bad = 0;
            for (const double x : w.get().values) bad += !apollo::bits::finite(x);
            REQUIRE(bad == 0);
          }
}

TEST_CASE("a gradient of less rank than the basis is seen whole") {
  const Matrix x =
      support::rounded<float>(support::product(support::gaussian_matrix(24, 3, 3), support::gaussian_matrix(3, 16, 4)));
  for (const auto method : {SvdMethod::exact, SvdMethod::subspace})
    for (const double size : {1.0, 1e-10, 1e10}) {
      apollo::GaLore<> optimizer(Shape{24, 16}, {.rank = 5, .svd = method});
      const Matrix gradient = support::rounded<float>(support::scaled(x, size));
      Tensor<float> w(Matrix(24, 16), Layout::row_major), g(gradient, Layout::row_major);
      CHECK(optimizer.step(w.view, g.view).stepped);
      CHECK(energy(gradient, basis_of(optimizer)) >= (1 - 1e-5) * support::squared_norm(gradient));
    }
}

TEST_CASE("the basis changes only where (t - 1) mod update_proj_gap is 0") {
  for (const auto method : {SvdMethod::exact, SvdMethod::subspace})
    for (const int gap : {1, 2, 4, 200}) {
      apollo::GaLore<> optimizer(Shape{20, 12}, {.rank = 4, .update_proj_gap = gap, .svd = method});
      Tensor<float> w(Matrix(20, 12), Layout::row_major), g(Matrix(20, 12), Layout::row_major);
      std::vector<double> last;
      int wrong = 0, wrong_reports = 0;
      for (int t = 1; t <= 13; ++t) {
        if (t == 5 || t == 6 || t == 9) {  // a skipped step is no step
          g.set(support::gaussian_matrix(20, 12, 3, static_cast<std::uint64_t>(100 + t)));
          g.view(3, 3) = std::numeric_limits<float>::infinity();
          const auto report = optimizer.step(w.view, g.view);
          wrong_reports += report.stepped || report.refreshed;
          wrong += basis_of(optimizer).values != last;
        }
        g.set(support::gaussian_matrix(20, 12, 3, static_cast<std::uint64_t>(t)));
        const auto report = optimizer.step(w.view, g.view);
        const bool due = (t - 1) % gap == 0;
        wrong_reports += !report.stepped || report.refreshed != due;
        const auto now = basis_of(optimizer).values;
        wrong += (now != last) != due;
        last = now;
      }
      CAPTURE(gap);
      CHECK(wrong == 0);
      CHECK(wrong_reports == 0);
    }
}

TEST_CASE_TEMPLATE("keep, reset and rotate: moments after a refresh", T, float, double) {
  for (const Shape shape : {Shape{20, 12}, {12, 20}, {9, 9}})
    for (const auto method : {SvdMethod::exact, SvdMethod::subspace})
      for (const auto how : {OnRefresh::keep, OnRefresh::reset, OnRefresh::rotate}) {
        CAPTURE(static_cast<int>(method));
        CAPTURE(static_cast<int>(how));
        support::Hyper h;
        h.scale = 0.25, h.weight_decay = 0.125;
        support::GaLoreOracle oracle{h, shape.rows >= shape.cols};
        apollo::GaLore<T> optimizer(shape, {.lr = h.lr,
                                            .rank = 4,
                                            .update_proj_gap = 5,
                                            .svd = method,
                                            .on_refresh = how,
                                            .weight_decay = h.weight_decay});
        Matrix expected = support::uniform_matrix(shape.rows, shape.cols, 1);
        Tensor<T> w(expected, Layout::row_major), g(expected, Layout::column_major);
        Matrix p;
        for (int t = 1; t <= 23; ++t) {
          const Matrix gradient = support::rounded<T>(
              sum(decaying(shape.rows, shape.cols, 0.6, static_cast<std::uint64_t>(t / 6)),
                  support::gaussian_matrix(shape.rows, shape.cols, 2, static_cast<std::uint64_t>(t)), 0.5));
          g.set(gradient);
          REQUIRE(optimizer.step(w.view, g.view).stepped);
          const Matrix next = basis_of(optimizer);  // signs of singular vectors are free, so they are taken as found
          if (t > 1 && (t - 1) % 5 == 0) oracle.moments.refresh(how, p, next);
          p = next;
          oracle.step(expected, gradient, p);
          CHECK(optimizer.steps() == t);
        }
        const auto state = support::state_of(optimizer);
        CHECK(support::relative_error(w.get(), expected) <= (sizeof(T) == 4 ? 1e-5 : 1e-11));
        CHECK(support::relative_error(state.arrays.at("exp_avg"), oracle.moments.m) <= (sizeof(T) == 4 ? 1e-4 : 1e-10));
        CHECK(support::relative_error(state.arrays.at("exp_avg_sq"), oracle.moments.v) <=
              (sizeof(T) == 4 ? 1e-4 : 1e-10));
      }
}

TEST_CASE("reset restarts the clock of the bias correction: the step after a refresh is no longer than the first") {
  const Shape shape{20, 12};
  const auto longest_after_refresh = [&](OnRefresh how) {
    apollo::GaLore<> optimizer(shape, {.lr = 1, .rank = 4, .scale = 1, .update_proj_gap = 50, .on_refresh = how});
    double longest = 0;
    for (int t = 1; t <= 101; ++t) {
      Tensor<float> w(Matrix(20, 12), Layout::row_major);
      const Tensor<float> g(support::gaussian_matrix(20, 12, 2, static_cast<std::uint64_t>(t)), Layout::row_major);
      REQUIRE(optimizer.step(w.view, g.view).stepped);
      if (t == 51 || t == 101) longest = support::norm(w.get()) > longest ? support::norm(w.get()) : longest;
    }
    return longest;
  };
  // All 20 x 4 elements of N are 1 after the correction of a first step.
  CHECK(std::fabs(longest_after_refresh(OnRefresh::reset) / std::sqrt(80.0) - 1) <= 1e-2);
  CHECK(longest_after_refresh(OnRefresh::rotate) <= std::sqrt(80.0));
}

TEST_CASE("a projection that is set again treats moments as on_refresh says") {
  const Shape shape{20, 12};
  for (const auto how : {OnRefresh::keep, OnRefresh::reset, OnRefresh::rotate}) {
    CAPTURE(static_cast<int>(how));
    support::Hyper h;
    h.scale = 0.25;
    support::GaLoreOracle oracle{h, true};
    apollo::GaLore<double, apollo::FixedProjection> optimizer(shape, {.lr = h.lr, .rank = 4, .on_refresh = how});
    Matrix expected = support::uniform_matrix(20, 12, 1), p;
    Tensor<double> w(expected, Layout::row_major), g(expected, Layout::row_major);
    for (int t = 1; t <= 12; ++t) {
      if (t == 1 || t == 5 || t == 8) {
        const Matrix next = support::uniform_matrix(4, 12, 9, static_cast<std::uint64_t>(t));
        const Tensor<double> directions(next, t == 5 ? Layout::column_major : Layout::gaps);
        optimizer.set_projection(directions.view);
        if (t > 1) oracle.moments.refresh(how, p, next);
        p = next;
      }
      const Matrix gradient = support::uniform_matrix(20, 12, 2, static_cast<std::uint64_t>(t));
      g.set(gradient);
      REQUIRE(optimizer.step(w.view, g.view).stepped);
      oracle.step(expected, gradient, p);
    }
    CHECK(support::relative_error(w.get(), expected) <= 1e-11);
  }
}

TEST_CASE("APOLLO with singular vectors scales channels by what they see") {
  const Shape shape{20, 12};
  support::Hyper h;
  h.limiter = true;
  support::ScaledOracle oracle{h, true, true};
  apollo::Apollo<double, apollo::SvdProjection> optimizer(shape, {.lr = h.lr, .rank = 4, .update_proj_gap = 5});
  Matrix expected = support::uniform_matrix(20, 12, 1);
  Tensor<double> w(expected, Layout::row_major), g(expected, Layout::row_major);
  for (int t = 1; t <= 17; ++t) {
    const Matrix gradient = support::gaussian_matrix(20, 12, 2, static_cast<std::uint64_t>(t));
    g.set(gradient);
    REQUIRE(optimizer.step(w.view, g.view).stepped);
    const Matrix p = basis_of(optimizer);
    oracle.step(expected, gradient, &p);
  }
  CHECK(support::relative_error(w.get(), expected) <= 1e-7);
}

TEST_CASE("equal gradients give equal bases, bit by bit") {
  const auto run = [] {
    apollo::GaLore<> optimizer(Shape{40, 30}, {.rank = 6, .update_proj_gap = 2, .seed = 4}, "w");
    Tensor<float> w(Matrix(40, 30), Layout::row_major), g(Matrix(40, 30), Layout::row_major);
    for (int t = 1; t <= 7; ++t) {
      g.set(support::gaussian_matrix(40, 30, 3, static_cast<std::uint64_t>(t)));
      REQUIRE(optimizer.step(w.view, g.view).stepped);
    }
    return support::state_of(optimizer).bytes;
  };
  CHECK(run() == run());
}
