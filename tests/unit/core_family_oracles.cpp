// SPDX-License-Identifier: Apache-2.0
// The oracles of family_oracles.hpp against properties that follow from the papers: where two algorithms must agree,
// what a symmetry leaves alone, closed forms for gradients simple enough to have one.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "family_oracles.hpp"
#include "oracles.hpp"
#include "support.hpp"

namespace {

using apollo::Index;
using apollo::OnRefresh;
using support::Block;
using support::difference;
using support::gaussian_matrix;
using support::Hyper;
using support::Matrix;
using support::norm;
using support::product;
using support::relative_error;
using support::row_norm;
using support::scaled;
using support::squared_norm;
using support::transposed;

constexpr double tight = 1e-11;

Matrix identity(Index n) {
  Matrix a(n, n);
  for (Index i = 0; i < n; ++i) a(i, i) = 1;
  return a;
}

/// r orthonormal rows of length s, by Gram and Schmidt, twice over.
Matrix orthonormal(Index r, Index s, std::uint64_t seed) {
  Matrix q = gaussian_matrix(r, s, seed);
  for (Index i = 0; i < r; ++i)
    for (int pass = 0; pass < 2; ++pass) {
      for (Index k = 0; k < i; ++k) {
        double dot = 0;
        for (Index j = 0; j < s; ++j) dot += q(i, j) * q(k, j);
        for (Index j = 0; j < s; ++j) q(i, j) -= dot * q(k, j);
      }
      const double length = row_norm(q, i);
      for (Index j = 0; j < s; ++j) q(i, j) /= length;
    }
  return q;
}

/// A permutation with signs: the rotations under which Adam's moments are exactly the same moments, turned.
Matrix signed_permutation(Index n) {
  Matrix q(n, n);
  for (Index i = 0; i < n; ++i) q(i, (i + 1) % n) = i % 2 == 0 ? 1 : -1;
  return q;
}

/// +-1 everywhere, the same signs for the same seed.
Matrix random_signs(Index rows, Index cols, std::uint64_t seed) {
  Matrix a = support::uniform_matrix(rows, cols, seed);
  for (double& x : a.values) x = x < 0 ? -1 : 1;
  return a;
}

/// A positive matrix of rank one, its factors between .5 and 2.
Matrix rank_one(Index rows, Index cols, std::uint64_t seed) {
  Matrix a(rows, cols);
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; ++j)
      a(i, j) = std::exp2(support::uniform(seed, 1, static_cast<std::uint64_t>(i)) +
                          support::uniform(seed, 2, static_cast<std::uint64_t>(j)));
  return a;
}

Matrix times(Matrix a, const Matrix& b) {
  for (std::size_t i = 0; i < a.values.size(); ++i) a.values[i] *= b.values[i];
  return a;
}

Matrix total(Matrix a, const Matrix& b) {
  for (std::size_t i = 0; i < a.values.size(); ++i) a.values[i] += b.values[i];
  return a;
}

/// What `oracle.step(w, ...)` subtracts from W.
template <class Oracle, class... Arguments>
Matrix change(Oracle& oracle, const Matrix& g, const Arguments&... arguments) {
  Matrix w(g.rows, g.cols);
  oracle.step(w, g, arguments...);
  return scaled(w, -1);
}

Hyper hyper(double lr = 0x1p-6) {
  Hyper h;
  h.lr = lr;
  return h;
}

/// The block of a matrix.
Matrix cut(const Matrix& a, const Block& b) {
  Matrix c(b.rows, b.cols);
  for (Index i = 0; i < b.rows; ++i)
    for (Index j = 0; j < b.cols; ++j) c(i, j) = a(b.row + i, b.col + j);
  return c;
}

}  // namespace

// --- Fira

TEST_CASE("oracle of Fira: at full rank nothing is left to add, and it is GaLore") {
  for (const bool published : {false, true}) {
    Hyper h = hyper();
    h.limiter = true;
    h.weight_decay = 0.1;
    support::FiraOracle fira{h};
    fira.published_residual = published;
    support::GaLoreOracle galore{h};
    const Matrix p = orthonormal(6, 6, 3);
    Matrix w = gaussian_matrix(5, 6, 1), v = w;
    for (std::uint64_t t = 1; t <= 5; ++t) {
      const Matrix g = gaussian_matrix(5, 6, 2, t);
      fira.step(w, g, p);
      galore.step(v, g, p);
      CHECK(relative_error(w, v) < tight);
      CHECK(fira.residual_norm < 1e-12);
    }
  }
}

TEST_CASE("oracle of Fira: with the identity as P it is AdamW") {
  Hyper h = hyper();
  h.weight_decay = 0.1;
  support::FiraOracle fira{h};
  support::AdamWOracle adam{h};
  Matrix w = gaussian_matrix(5, 4, 1), v = w;
  for (std::uint64_t t = 1; t <= 5; ++t) {
    const Matrix g = gaussian_matrix(5, 4, 2, t);
    fira.step(w, g, identity(4));
    adam.step(v, g);
    CHECK(relative_error(w, v) < tight);
  }
}

TEST_CASE("oracle of Fira: where phi is one number the whole gradient comes back, scaled by it") {
  // |R| is 8 everywhere, so at t = 1 N = phi R. Then U = phi (X - (1 - alpha) R P) with the paper's residual, which is
  // phi X only for alpha = 1, and phi X for every alpha with the published one.
  const Matrix p = orthonormal(3, 7, 4);
  const Matrix r = scaled(random_signs(5, 3, 5), 8);
  Matrix rest = gaussian_matrix(5, 7, 6);
  rest = difference(rest, product(product(rest, transposed(p)), p));
  const Matrix x = total(product(r, p), rest);
  for (const double alpha : {1.0, 0.25})
    for (const bool published : {false, true}) {
      CAPTURE(alpha);
      CAPTURE(published);
      Hyper h = hyper();
      h.scale = alpha;
      support::FiraOracle fira{h};
      fira.published_residual = published;
      const double phi = 0.1 * 8 / (std::sqrt(0.001) * 8 + h.eps) / 8;
      const double c = std::sqrt(0.001) / 0.1;
      const Matrix whole = published ? x : difference(x, scaled(product(r, p), 1 - alpha));
      CHECK(relative_error(change(fira, x, p), scaled(whole, h.lr * c * phi)) < 1e-8);
    }
}

TEST_CASE("oracle of Fira: the residual's norm from norms alone, P orthonormal") {
  // |x - a R P|^2 = |x|^2 - (2 a - a^2) |R|^2 for each channel.
  const Matrix p = orthonormal(3, 8, 7), x = gaussian_matrix(6, 8, 8), r = product(x, transposed(p));
  for (const double alpha : {1.0, 0.25, 0.7})
    for (const bool published : {false, true}) {
      Hyper h = hyper();
      h.scale = alpha;
      support::FiraOracle fira{h};
      fira.published_residual = published;
      change(fira, x, p);
      const double a = published ? alpha : 1;
      double sum = 0;
      for (Index j = 0; j < x.rows; ++j) {
        double n2 = 0;
        for (Index i = 0; i < r.cols; ++i) {
          const double n = 0.1 * r(j, i) / (std::sqrt(0.001) * std::fabs(r(j, i)) + h.eps);
          n2 += n * n;
        }
        const double phi = std::sqrt(n2) / (row_norm(r, j) + 1e-8);
        sum += phi * phi * (std::pow(row_norm(x, j), 2) - (2 * a - a * a) * std::pow(row_norm(r, j), 2));
      }
      CHECK(fira.residual_norm == doctest::Approx(std::sqrt(sum)).epsilon(1e-12));
    }
}

TEST_CASE("oracle of Fira: the limiter holds the residual's term and leaves GaLore's alone") {
  Hyper h = hyper();
  h.limiter = true;
  h.scale = 0.5;
  support::FiraOracle fira{h};
  support::GaLoreOracle galore{h};
  const Matrix p = orthonormal(2, 6, 9);
  double previous = 0;
  for (std::uint64_t t = 1; t <= 4; ++t) {
    // Outside of P's rows the gradient grows sixfold a step, within them it keeps its size.
    const Matrix g = gaussian_matrix(5, 6, 10, t);
    const Matrix inside = product(product(g, transposed(p)), p);
    const Matrix x = total(inside, scaled(difference(g, inside), std::pow(6, static_cast<double>(t))));
    const Matrix f = change(fira, x, p), l = change(galore, x, p);
    const Matrix f_inside = product(product(f, transposed(p)), p);
    CHECK(relative_error(f_inside, l) < tight);
    const double outside = norm(difference(f, f_inside)) / (h.lr * support::bias_correction(h, fira.moments.clock));
    CHECK(fira.residual_norm == doctest::Approx(outside).epsilon(1e-9));
    if (t == 1) CHECK(fira.divisor == doctest::Approx(1).epsilon(1e-15));
    if (t > 1) CHECK(outside == doctest::Approx(1.01 * previous).epsilon(1e-6));
    previous = outside;
  }
}

TEST_CASE("oracle of Fira: a refresh keeps, resets or turns the moments") {
  const Matrix p = orthonormal(3, 6, 11), turned = product(signed_permutation(3), p), other = orthonormal(3, 6, 12);
  Hyper h = hyper();
  support::FiraOracle still{h}, rotated{h}, kept{h}, reset{h}, fresh{h};
  Matrix ends[5];
  for (std::uint64_t t = 1; t <= 6; ++t) {
    const Matrix g = gaussian_matrix(4, 6, 13, t);
    if (t == 4) {
      rotated.refresh(OnRefresh::rotate, p, turned);
      kept.refresh(OnRefresh::keep, p, turned);
      reset.refresh(OnRefresh::reset, p, other);
    }
    ends[0] = change(still, g, p);
    ends[1] = change(rotated, g, t < 4 ? p : turned);
    ends[2] = change(kept, g, t < 4 ? p : turned);
    ends[3] = change(reset, g, t < 4 ? p : other);
    if (t >= 4) ends[4] = change(fresh, g, other);
  }
  CHECK(relative_error(ends[1], ends[0]) < tight);
  CHECK(relative_error(ends[2], ends[0]) > 1e-3);
  CHECK(relative_error(ends[3], ends[4]) < tight);
}

TEST_CASE("oracle of Fira: the limiter remembers across a reset; a channel without gradient stands still") {
  Hyper h = hyper();
  h.limiter = true;
  support::FiraOracle fira{h};
  const Matrix p = orthonormal(2, 6, 16);
  Matrix g = gaussian_matrix(4, 6, 17);
  for (Index k = 0; k < g.cols; ++k) g(1, k) = 0;
  const Matrix first = change(fira, g, p);
  CHECK(row_norm(first, 1) <= 0);
  CHECK(row_norm(first, 0) > 0);
  const double previous = fira.residual_norm;
  fira.refresh(OnRefresh::reset, p, p);
  change(fira, scaled(gaussian_matrix(4, 6, 18), 100), p);
  CHECK(fira.moments.clock == 1);
  CHECK(fira.residual_norm == doctest::Approx(1.01 * previous).epsilon(1e-6));
}

TEST_CASE("oracle of Fira: columns kept is the transpose of rows kept") {
  support::FiraOracle rows{hyper()}, cols{hyper()};
  cols.keeps_rows = false;
  const Matrix p = orthonormal(2, 5, 14);
  for (std::uint64_t t = 1; t <= 3; ++t) {
    const Matrix g = gaussian_matrix(4, 5, 15, t);
    CHECK(relative_error(transposed(change(cols, transposed(g), p)), change(rows, g, p)) < tight);
  }
}

// --- Flora

TEST_CASE("oracle of Flora: at full rank and P orthogonal it is momentum, whatever is refreshed") {
  Hyper h = hyper(), plain = hyper();
  h.torch_order = true;
  h.weight_decay = 0.1;
  // SGD's momentum has no 1 - b1: that goes into its learning rate, and the decay is the same again.
  plain.lr = h.lr * (1 - h.beta1);
  plain.weight_decay = h.weight_decay / (1 - h.beta1);
  plain.momentum = h.beta1;
  support::FloraOracle flora{h};
  support::SgdOracle sgd{plain};
  Matrix w = gaussian_matrix(4, 6, 1), v = w, p = orthonormal(6, 6, 20);
  for (std::uint64_t t = 1; t <= 8; ++t) {
    if (t % 3 == 0) {
      const Matrix next = orthonormal(6, 6, 20 + t);
      flora.refresh(p, next);
      p = next;
    }
    const Matrix g = gaussian_matrix(4, 6, 21, t);
    flora.step(w, g, p);
    sgd.step(v, g);
    CHECK(relative_error(w, v) < tight);
  }
}

TEST_CASE("oracle of Flora: two steps written out, with any P and a refresh between") {
  Hyper h = hyper();
  const Matrix p1 = gaussian_matrix(2, 6, 22), p2 = gaussian_matrix(2, 6, 23);
  const Matrix x1 = gaussian_matrix(3, 6, 24, 1), x2 = gaussian_matrix(3, 6, 24, 2);
  const Matrix back1 = product(transposed(p1), p1), back2 = product(transposed(p2), p2);
  support::FloraOracle flora{h};
  flora.refresh(p2, p1);  // nothing there yet
  CHECK(relative_error(change(flora, x1, p1), scaled(product(x1, back1), h.lr * 0.1)) < tight);
  flora.refresh(p1, p2);
  const Matrix old = scaled(product(product(x1, back1), back2), h.lr * 0.9 * 0.1);
  CHECK(relative_error(change(flora, x2, p2), total(old, scaled(product(x2, back2), h.lr * 0.1))) < tight);
}

TEST_CASE("oracle of Flora: micro-batches are summed in the projected space") {
  support::FloraOracle parts{hyper()}, whole{hyper()};
  const Matrix p = gaussian_matrix(2, 5, 25);
  for (std::uint64_t t = 1; t <= 3; ++t) {
    Matrix sum(4, 5), w(4, 5);
    for (std::uint64_t micro = 0; micro < 3; ++micro) {
      const Matrix g = gaussian_matrix(4, 5, 26, 3 * t + micro);
      sum = total(sum, g);
      parts.accumulate(g, p);
    }
    parts.step_accumulated(w, p);
    CHECK(relative_error(scaled(w, -1), change(whole, sum, p)) < tight);
  }
}

TEST_CASE("oracle of Flora: columns kept is the transpose of rows kept; the scale stands under a root") {
  support::FloraOracle rows{hyper()}, cols{hyper()}, large{hyper()};
  cols.keeps_rows = false;
  large.h.scale = 4;
  support::FloraFactoredOracle rows2{hyper()}, cols2{hyper()}, large2{hyper()};
  cols2.keeps_rows = false;
  large2.h.scale = 4;
  const Matrix p = gaussian_matrix(2, 5, 27);
  for (std::uint64_t t = 1; t <= 3; ++t) {
    const Matrix g = gaussian_matrix(4, 5, 28, t), step = change(rows, g, p), step2 = change(rows2, g, p);
    CHECK(relative_error(transposed(change(cols, transposed(g), p)), step) < tight);
    CHECK(relative_error(change(large, g, p), scaled(step, 2)) < tight);
    CHECK(relative_error(transposed(change(cols2, transposed(g), p)), step2) < tight);
    CHECK(relative_error(change(large2, g, p), scaled(step2, 2)) < tight);
  }
}

TEST_CASE("oracle of factored Flora: a gradient of rank one in |X| becomes its signs") {
  // Adafactor's estimate of X^2 is then exact, as long as |X| stays the same. With P orthogonal the update is the EMA
  // of the signs, across refreshes too: P lifts M without D_S.
  Hyper h = hyper();
  support::FloraFactoredOracle flora{h};
  Matrix p = orthonormal(6, 6, 30), ema(4, 6);
  const Matrix magnitude = rank_one(4, 6, 31);
  for (std::uint64_t t = 1; t <= 6; ++t) {
    if (t == 4) {
      const Matrix next = orthonormal(6, 6, 32);
      flora.refresh(p, next);
      p = next;
    }
    const Matrix signs = random_signs(4, 6, 33 + t);
    ema = total(scaled(ema, 0.9), scaled(signs, 0.1));
    CHECK(relative_error(change(flora, times(magnitude, signs), p), scaled(ema, h.lr)) < tight);
  }
}

TEST_CASE("oracle of factored Flora: the size of the gradient does not matter, nor a zero gradient") {
  support::FloraFactoredOracle one{hyper()}, large{hyper()}, none{hyper()};
  const Matrix p = gaussian_matrix(2, 5, 34);
  for (std::uint64_t t = 1; t <= 4; ++t) {
    const Matrix g = gaussian_matrix(4, 5, 35, t);
    CHECK(relative_error(change(large, scaled(g, 1024), p), change(one, g, p)) < tight);
    CHECK(norm(change(none, Matrix(4, 5), p)) <= 0);
  }
}

TEST_CASE("oracle of factored Flora: the projection of what Adafactor makes of the whole gradient") {
  // Without momentum and clipping (the gradients shrink, so nothing is clipped from the second step on) Flora's update
  // is Adafactor's, projected and lifted. D is that of the current gradient included: the weights are 0 and 1 at t = 1.
  Hyper h = hyper();
  h.beta1 = 0;
  support::FloraFactoredOracle flora{h};
  support::GaLoreAdafactorOracle adafactor{h};
  const Matrix p = orthonormal(2, 5, 36), back = product(transposed(p), p);
  for (std::uint64_t t = 1; t <= 5; ++t) {
    const Matrix g = scaled(gaussian_matrix(4, 5, 37, t), std::pow(0.3, static_cast<double>(t)));
    const Matrix f = change(flora, g, p), whole = change(adafactor, g, identity(5));
    if (t > 1) CHECK(relative_error(f, product(whole, back)) < tight);
  }
}

TEST_CASE("oracle of factored Flora: the decay of the statistics in numbers") {
  Hyper h = hyper();
  h.beta1 = 0;
  support::FloraFactoredOracle flora{h};
  const Matrix p(1, 1, 1.0);
  CHECK(change(flora, Matrix(1, 1, -3.0), p)(0, 0) == doctest::Approx(-h.lr).epsilon(1e-14));
  const double d2 = 1 - std::exp2(-0.8), v2 = d2 * 9 + (1 - d2) * 25;
  CHECK(change(flora, Matrix(1, 1, 5.0), p)(0, 0) == doctest::Approx(h.lr * 5 / std::sqrt(v2)).epsilon(1e-14));
  const double d3 = 1 - std::pow(3.0, -0.8), v3 = d3 * v2 + (1 - d3) * 1;
  CHECK(change(flora, Matrix(1, 1, 1.0), p)(0, 0) == doctest::Approx(h.lr / std::sqrt(v3)).epsilon(1e-14));
}

TEST_CASE("oracles with Adafactor: both statistics are means, of one mean") {
  const Matrix g = gaussian_matrix(4, 6, 38), p = orthonormal(6, 6, 39);
  support::FloraFactoredOracle flora{hyper()};
  support::GaLoreAdafactorOracle galore{hyper()};
  change(flora, g, p);
  change(galore, g, p);
  const auto mean = [](const Matrix& a) {
    double sum = 0;
    for (const double x : a.values) sum += x;
    return sum / static_cast<double>(a.values.size());
  };
  const double square = squared_norm(g) / 24;
  for (const Matrix* statistic : {&flora.a, &flora.b, &galore.a, &galore.b})
    CHECK(mean(*statistic) == doctest::Approx(square).epsilon(1e-13));
  CHECK(flora.a(2, 0) == doctest::Approx(std::pow(row_norm(g, 2), 2) / 6).epsilon(1e-13));
  CHECK(flora.b(3, 0) == doctest::Approx(std::pow(row_norm(transposed(g), 3), 2) / 4).epsilon(1e-13));
}

// --- Adam-mini

TEST_CASE("oracle of Adam-mini: blocks of one element are AdamW in torch order") {
  Hyper h = hyper();
  h.torch_order = true;
  h.weight_decay = 0.1;
  support::AdamMiniOracle mini{h};
  for (Index i = 0; i < 4; ++i)
    for (Index j = 0; j < 5; ++j) mini.blocks.push_back({i, 1, j, 1});
  REQUIRE(support::tiles(mini.blocks, 4, 5));
  support::AdamWOracle adam{h};
  Matrix w = gaussian_matrix(4, 5, 40), v = w;
  for (std::uint64_t t = 1; t <= 6; ++t) {
    const Matrix g = gaussian_matrix(4, 5, 41, t);
    mini.step(w, g);
    adam.step(v, g);
    CHECK(relative_error(w, v) < tight);
  }
}

TEST_CASE("oracle of Adam-mini: one block and a gradient of one magnitude are AdamW in torch order") {
  Hyper h = hyper();
  h.torch_order = true;
  support::AdamMiniOracle mini{h, support::row_blocks(4, 5, 4)};
  REQUIRE(mini.blocks.size() == 1);
  support::AdamWOracle adam{h};
  Matrix w = gaussian_matrix(4, 5, 42), v = w;
  for (std::uint64_t t = 1; t <= 6; ++t) {
    const Matrix g = scaled(random_signs(4, 5, 43 + t), static_cast<double>(t));
    mini.step(w, g);
    adam.step(v, g);
    CHECK(relative_error(w, v) < tight);
  }
}

TEST_CASE("oracle of Adam-mini: every block is a tensor of its own") {
  Hyper h = hyper();
  h.weight_decay = 0.05;
  const std::vector<Block> blocks = {{0, 2, 0, 3}, {2, 3, 0, 3}, {0, 5, 3, 2}, {0, 1, 5, 1}, {1, 4, 5, 1}};
  REQUIRE(support::tiles(blocks, 5, 6));
  support::AdamMiniOracle mini{h, blocks};
  std::vector<support::AdamMiniOracle> alone;
  Matrix w = gaussian_matrix(5, 6, 50);
  std::vector<Matrix> parts;
  for (const Block& b : blocks) {
    alone.push_back({h, support::row_blocks(b.rows, b.cols, b.rows)});
    parts.push_back(cut(w, b));
  }
  for (std::uint64_t t = 1; t <= 4; ++t) {
    const Matrix g = gaussian_matrix(5, 6, 51, t);
    mini.step(w, g);
    for (std::size_t k = 0; k < blocks.size(); ++k) {
      alone[k].step(parts[k], cut(g, blocks[k]));
      CHECK(relative_error(cut(w, blocks[k]), parts[k]) < tight);
    }
  }
}

TEST_CASE("oracle of Adam-mini: v is the mean over the block, in numbers") {
  Hyper h = hyper();
  h.eps = 0.5;
  h.weight_decay = 2;
  support::AdamMiniOracle mini{h, support::row_blocks(2, 2, 1)};
  Matrix g(2, 2), w(2, 2, 1.0);
  g(0, 0) = 3, g(0, 1) = -4;
  mini.step(w, g);
  const double keep = 1 - 2 * h.lr, unit = h.lr / (std::sqrt(12.5) + 0.5);
  CHECK(w(0, 0) == doctest::Approx(keep - 3 * unit).epsilon(1e-14));
  CHECK(w(0, 1) == doctest::Approx(keep + 4 * unit).epsilon(1e-14));
  CHECK(w(1, 0) == doctest::Approx(keep).epsilon(1e-15));  // a block without gradient only decays
}

TEST_CASE("oracle of Adam-mini: blocks of rows, and what is no tiling") {
  CHECK(support::row_blocks(7, 3, 1).size() == 7);
  CHECK(support::row_blocks(8, 3, 4).size() == 2);
  CHECK(support::tiles(support::row_blocks(7, 3, 2), 7, 3));
  CHECK_FALSE(support::tiles({{0, 2, 0, 2}}, 2, 3));                // a hole
  CHECK_FALSE(support::tiles({{0, 2, 0, 2}, {0, 2, 1, 2}}, 2, 3));  // twice
  CHECK_FALSE(support::tiles({{0, 3, 0, 3}}, 2, 3));                // outside
}

// --- GaLore with Adafactor

TEST_CASE("oracle of GaLore with Adafactor: a projected gradient of rank one in |R| becomes its signs") {
  Hyper h = hyper();
  h.scale = 0.25;
  support::GaLoreAdafactorOracle oracle{h};
  const Matrix p = orthonormal(3, 7, 60), magnitude = rank_one(5, 3, 61), rest = gaussian_matrix(5, 7, 62);
  const Matrix outside = difference(rest, product(product(rest, transposed(p)), p));
  for (std::uint64_t t = 1; t <= 5; ++t) {
    const Matrix signs = random_signs(5, 3, 63 + t);
    const Matrix x = total(product(times(magnitude, signs), p), outside);
    CHECK(relative_error(change(oracle, x, p), scaled(product(signs, p), h.lr * 0.25)) < tight);
  }
}

TEST_CASE("oracle of GaLore with Adafactor: a gradient that grows is clipped, one that shrinks is not") {
  const Matrix p = identity(3), magnitude = rank_one(4, 3, 64), signs = random_signs(4, 3, 65);
  const Matrix g = times(magnitude, signs);
  Hyper h = hyper();
  support::GaLoreAdafactorOracle grows{h}, shrinks{h};
  change(grows, g, p);
  change(shrinks, g, p);
  CHECK(relative_error(change(grows, scaled(g, 100), p), scaled(signs, h.lr)) < tight);
  const double d = 1 - std::exp2(-0.8), u = 0.01 / std::sqrt(d + (1 - d) * 1e-4);
  CHECK(relative_error(change(shrinks, scaled(g, 0.01), p), scaled(signs, h.lr * u)) < tight);
}

TEST_CASE("oracle of GaLore with Adafactor: the estimate of R^2 has the row and column sums of R^2") {
  // At t = 1 and up to one factor, which is the clipping's: (R / u)^2 is the estimate.
  support::GaLoreAdafactorOracle oracle{hyper()};
  const Matrix g = gaussian_matrix(6, 4, 66), u = change(oracle, g, identity(4));
  std::vector<double> ratios;
  for (Index i = 0; i < g.rows; ++i) {
    double estimate = 0;
    for (Index j = 0; j < g.cols; ++j) estimate += std::pow(g(i, j) / u(i, j), 2);
    ratios.push_back(estimate / std::pow(row_norm(g, i), 2));
  }
  for (Index j = 0; j < g.cols; ++j) {
    double estimate = 0;
    for (Index i = 0; i < g.rows; ++i) estimate += std::pow(g(i, j) / u(i, j), 2);
    ratios.push_back(estimate / std::pow(row_norm(transposed(g), j), 2));
  }
  for (const double ratio : ratios) CHECK(ratio == doctest::Approx(ratios[0]).epsilon(1e-12));
  CHECK(norm(u) <= oracle.h.lr * std::sqrt(24.0) * (1 + 1e-12));
}

TEST_CASE("oracle of GaLore with Adafactor: refresh, transpose, decay, a zero gradient") {
  const Matrix p = orthonormal(3, 6, 67), turned = product(signed_permutation(3), p), other = orthonormal(3, 6, 68);
  Hyper h = hyper();
  support::GaLoreAdafactorOracle still{h}, rotated{h}, kept{h}, reset{h}, fresh{h}, cols{h}, none{h};
  cols.keeps_rows = false;
  Matrix ends[5];
  for (std::uint64_t t = 1; t <= 5; ++t) {
    const Matrix g = gaussian_matrix(4, 6, 69, t);
    if (t == 4) {
      rotated.refresh(OnRefresh::rotate, p, turned);
      kept.refresh(OnRefresh::keep, p, turned);
      reset.refresh(OnRefresh::reset, p, other);
    }
    ends[0] = change(still, g, p);
    ends[1] = change(rotated, g, t < 4 ? p : turned);
    ends[2] = change(kept, g, t < 4 ? p : turned);
    ends[3] = change(reset, g, t < 4 ? p : other);
    if (t >= 4) ends[4] = change(fresh, g, other);
    CHECK(relative_error(transposed(change(cols, transposed(g), p)), ends[0]) < tight);
    CHECK(norm(change(none, Matrix(4, 6), p)) <= 0);
  }
  CHECK(relative_error(ends[1], ends[0]) < tight);
  CHECK(relative_error(ends[2], ends[0]) > 1e-3);
  CHECK(relative_error(ends[3], ends[4]) < tight);

  h.weight_decay = 4;
  support::GaLoreAdafactorOracle decayed{h};
  Matrix w(1, 1, 1.0);
  decayed.step(w, Matrix(1, 1, -3.0), Matrix(1, 1, 1.0));
  CHECK(w(0, 0) == doctest::Approx((1 - 4 * h.lr) * (1 + h.lr)).epsilon(1e-14));
}

// --- SCALE

TEST_CASE("oracle of SCALE: every column moves by lr, along the gradient") {
  Hyper h = hyper();
  support::ScaleOracle scale{h};
  Matrix g = gaussian_matrix(6, 4, 70);
  for (Index i = 0; i < g.rows; ++i) g(i, 2) = 0;
  const Matrix u = change(scale, g), columns = transposed(u), gradients = transposed(g);
  for (Index j = 0; j < g.cols; ++j) {
    if (j == 2) {
      CHECK(row_norm(columns, j) <= 0);
      continue;
    }
    CHECK(row_norm(columns, j) == doctest::Approx(h.lr).epsilon(1e-7));
    for (Index i = 0; i < g.rows; ++i)
      CHECK(columns(j, i) == doctest::Approx(h.lr * gradients(j, i) / row_norm(gradients, j)).epsilon(1e-7));
  }
}

TEST_CASE("oracle of SCALE: rows as channels are the transpose; eps is added to the norm; the published size") {
  Hyper h = hyper();
  support::ScaleOracle cols{h}, rows{h}, tiny{h};
  rows.keeps_rows = true;
  const Matrix g = gaussian_matrix(6, 4, 71);
  CHECK(relative_error(transposed(change(rows, transposed(g))), change(cols, g)) < tight);
  CHECK(change(tiny, Matrix(1, 1, 1e-8))(0, 0) == doctest::Approx(h.lr / 2).epsilon(1e-12));
  h.scale = 6;
  support::ScaleOracle published{h};
  const Matrix columns = transposed(change(published, g));
  for (Index j = 0; j < g.cols; ++j)
    CHECK(row_norm(columns, j) / std::sqrt(6.0) == doctest::Approx(h.lr).epsilon(1e-7));
}

TEST_CASE("oracle of SCALE: the head's columns follow the EMA, the others forget") {
  Hyper h = hyper();
  h.beta1 = 0.75;
  support::ScaleOracle head{h}, memoryless{h}, second{h}, ema{h};
  head.momentum = true;
  const Matrix g1 = gaussian_matrix(5, 3, 72, 1), g2 = gaussian_matrix(5, 3, 72, 2);
  // One step in, the EMA points where the gradient does.
  CHECK(relative_error(change(head, g1), change(memoryless, g1)) < 1e-6);
  CHECK(relative_error(change(memoryless, g2), change(second, g2)) < tight);
  const Matrix m = total(scaled(g1, 0.75 * 0.25), scaled(g2, 0.25));
  CHECK(relative_error(change(head, g2), change(ema, m)) < tight);
  // eps meets the EMA, not the bias-corrected mean.
  support::ScaleOracle tiny{h};
  tiny.momentum = true;
  CHECK(change(tiny, Matrix(1, 1, 4e-8))(0, 0) == doctest::Approx(h.lr / 2).epsilon(1e-12));
}

TEST_CASE("oracle of SCALE: decay before or behind the step") {
  for (const bool torch : {false, true}) {
    Hyper h = hyper();
    h.weight_decay = 8;
    h.torch_order = torch;
    support::ScaleOracle scale{h};
    Matrix w(1, 1, 1.0);
    scale.step(w, Matrix(1, 1, -2.0));
    const double keep = 1 - 8 * h.lr;
    CHECK(w(0, 0) == doctest::Approx(torch ? keep + h.lr : keep * (1 + h.lr)).epsilon(1e-7));
  }
}

// --- sketches

TEST_CASE("sparse sign: k values of size 1 / sqrt(k) in every column, in the buckets given") {
  const std::vector<std::vector<Index>> buckets = {{0, 3}, {2, 1}, {3, 1}};
  const std::vector<std::vector<double>> signs = {{1, -1}, {-1, -1}, {1, 1}};
  const Matrix p = support::sparse_sign_sketch(5, buckets, signs);
  REQUIRE(p.shape() == apollo::Shape{5, 3});
  Matrix expected(5, 3);
  expected(0, 0) = 1, expected(3, 0) = -1, expected(2, 1) = -1, expected(1, 1) = -1, expected(3, 2) = 1;
  expected(1, 2) = 1;
  CHECK(relative_error(scaled(p, std::sqrt(2.0)), expected) < tight);
  for (Index s = 0; s < 3; ++s) CHECK(row_norm(transposed(p), s) == doctest::Approx(1).epsilon(1e-14));
}

TEST_CASE("sparse sign: the mean of |P x|^2 over all signs is |x|^2") {
  const Matrix x = gaussian_matrix(4, 1, 80);
  const std::vector<std::vector<std::vector<Index>>> all_buckets = {
      {{0}, {0}, {1}, {0}}, {{0, 1}, {0, 2}, {1, 2}, {0, 1}}, {{0, 1, 2}, {0, 1, 2}, {2, 1, 0}, {1, 0, 2}}};
  for (const auto& buckets : all_buckets) {
    const std::size_t k = buckets[0].size(), draws = std::size_t{1} << (4 * k);
    double sum = 0, least = 1e300, most = 0;
    for (std::size_t draw = 0; draw < draws; ++draw) {
      std::vector<std::vector<double>> signs(4, std::vector<double>(k));
      for (std::size_t s = 0; s < 4; ++s)
        for (std::size_t i = 0; i < k; ++i) signs[s][i] = (draw >> (s * k + i)) % 2 == 0 ? 1 : -1;
      const double square = squared_norm(product(support::sparse_sign_sketch(3, buckets, signs), x));
      sum += square;
      least = std::min(least, square);
      most = std::max(most, square);
    }
    CHECK(sum / static_cast<double>(draws) == doctest::Approx(squared_norm(x)).epsilon(1e-12));
    CHECK(least < 0.9 * most);  // single draws differ
  }
}

TEST_CASE("SRHT and DCT: distinct rows are orthogonal, P P^T = (S / r) I, and all rows are a rotation") {
  const std::vector<double> signs = {1, -1, -1, 1, -1, 1, 1, 1};
  for (const bool cosine : {false, true})
    for (const std::vector<Index>& sample :
         {std::vector<Index>{5, 0, 3}, std::vector<Index>{7}, std::vector<Index>{0, 1, 2, 3, 4, 5, 6, 7}}) {
      const Matrix p = cosine ? support::dct_sketch(sample, signs) : support::srht_sketch(sample, signs);
      REQUIRE(p.shape() == apollo::Shape{static_cast<Index>(sample.size()), 8});
      const double ratio = 8 / static_cast<double>(p.rows);
      CHECK(relative_error(product(p, transposed(p)), scaled(identity(p.rows), ratio)) < tight);
      if (p.rows == 8) CHECK(relative_error(product(transposed(p), p), identity(8)) < tight);
    }
}

TEST_CASE("SRHT and DCT: the mean of |P x|^2 over all samples is |x|^2, padded or not") {
  for (const bool cosine : {false, true})
    for (const Index inputs : {1, 2, 5, 6, 8}) {
      CAPTURE(cosine);
      CAPTURE(inputs);
      const Matrix x = gaussian_matrix(inputs, 1, 81), random = random_signs(inputs, 1, 82);
      const Index rows = cosine ? inputs : support::next_power_of_two(inputs);
      double one = 0, pairs = 0;
      for (Index a = 0; a < rows; ++a) {
        const auto p = [&](const std::vector<Index>& sample) {
          return cosine ? support::dct_sketch(sample, random.values) : support::srht_sketch(sample, random.values);
        };
        one += squared_norm(product(p({a}), x)) / static_cast<double>(rows);
        for (Index b = 0; b < rows; ++b)
          if (b != a) pairs += squared_norm(product(p({a, b}), x)) / static_cast<double>(rows * (rows - 1));
      }
      CHECK(one == doctest::Approx(squared_norm(x)).epsilon(1e-12));
      if (rows > 1) CHECK(pairs == doctest::Approx(squared_norm(x)).epsilon(1e-12));
    }
}

TEST_CASE("SRHT: plus or minus 1 / sqrt(r) everywhere, in natural order, the signs on the inputs") {
  CHECK(support::next_power_of_two(1) == 1);
  CHECK(support::next_power_of_two(5) == 8);
  CHECK(support::next_power_of_two(8) == 8);
  const Matrix p = support::srht_sketch({3, 1, 2, 0}, {1, 1, 1, 1});
  const std::vector<double> natural = {1, -1, -1, 1, 1, -1, 1, -1, 1, 1, -1, -1, 1, 1, 1, 1};
  for (std::size_t i = 0; i < 16; ++i) CHECK(p.values[i] == doctest::Approx(natural[i] / 2).epsilon(1e-14));
  const Matrix q = support::srht_sketch({3, 1}, {1, 1, -1});  // padded to four inputs
  const std::vector<double> padded = {1, -1, 1, 1, -1, -1};
  REQUIRE(q.shape() == apollo::Shape{2, 3});
  for (std::size_t i = 0; i < 6; ++i) CHECK(q.values[i] == doctest::Approx(padded[i] / std::sqrt(2.0)).epsilon(1e-14));
}

TEST_CASE("DCT: type two, the row is the frequency, the signs on the inputs") {
  const Matrix p = support::dct_sketch({0, 1, 2, 3}, {1, 1, 1, -1});
  // cos(pi / 8) / sqrt(2) and cos(3 pi / 8) / sqrt(2)
  const double a = 0.65328148243818826, b = 0.27059805007309849;
  const std::vector<double> known = {0.5, 0.5, 0.5, -0.5, a, b, -b, a, 0.5, -0.5, -0.5, -0.5, b, -a, a, b};
  for (std::size_t i = 0; i < 16; ++i) CHECK(p.values[i] == doctest::Approx(known[i]).epsilon(1e-14));
}
