// SPDX-License-Identifier: Apache-2.0
// The ensmallen bridge under ens::SGD itself, against the same steps taken by hand.
#include <ensmallen.hpp>

#include <doctest/doctest.h>

#include <apollo/bridge/ensmallen.hpp>
#include <apollo/eigen.hpp>

namespace {

template <class Options>
using Update = apollo::EnsmallenUpdate<Options, apollo::AdamWOptions, apollo::EigenBackend>;

/// Gradients that depend on the batch alone, so that steps can be told by hand: sum over points of (i + 1) / 100 and a sign.
template <class Mat>
struct Slopes {
  std::size_t points;
  using Value = typename Mat::elem_type;
  std::size_t NumFunctions() const { return points; }
  void Shuffle() {}
  static Mat slope(arma::uword rows, arma::uword cols, std::size_t first, std::size_t count) {
    Mat g(rows, cols);
    for (arma::uword i = 0; i < g.n_elem; ++i)
      g[i] = static_cast<Value>(count) * static_cast<Value>(std::sin(double(first) + double(i)));
    return g;
  }
  Value EvaluateWithGradient(const Mat& p, std::size_t first, Mat& gradient, std::size_t count) {
    gradient = slope(p.n_rows, p.n_cols, first, count);
    return static_cast<Value>(count);
  }
  Value Evaluate(const Mat&, std::size_t, std::size_t count) { return static_cast<Value>(count); }
};

}  // namespace

TEST_CASE_TEMPLATE("ens::SGD takes the steps of the optimizer, its division undone, a last batch of two included", Mat,
                   arma::mat, arma::fmat) {
  constexpr std::size_t batch = 4, points = 10, epochs = 3;
  const apollo::ApolloOptions matrices{.lr = 1e-2, .rank = 2, .update_proj_gap = 2};
  const apollo::AdamWOptions others{.lr = 1e-3};
  apollo::flat::Layout layout;
  layout.matrix("w", 5, 3, apollo::Order2D::column_major).vector("b", 5);
  Mat p(20, 1, arma::fill::ones), q = p, g(20, 1);
  ens::SGD<Update<apollo::ApolloOptions>> sgd(1e-2, batch, epochs * points, -1, false,
                                              Update<apollo::ApolloOptions>(batch, layout, matrices, others));
  Slopes<Mat> function{points};
  sgd.Optimize(function, p);

  apollo::eigen::Optimizer byhand;
  const auto a = byhand.add_group(matrices);
  const auto b = byhand.add_group(others);
  apollo::flat::add(byhand, a, b, layout, q.memptr(), static_cast<const typename Mat::elem_type*>(g.memptr()));
  byhand.gradient_scale(1.0 / batch);
  for (std::size_t e = 0; e < epochs; ++e)
    for (std::size_t first = 0; first < points; first += batch) {
      const Mat slope = Slopes<Mat>::slope(20, 1, first, std::min(batch, points - first));
      std::copy(slope.begin(), slope.end(), g.begin());
      byhand.step();
    }
  CHECK(double(arma::abs(p - q).max()) <= 1e-6);
  CHECK(double(arma::abs(p - 1).min()) > 1e-4);
}

TEST_CASE("without a layout the iterate is the matrix; what does not cover it is refused") {
  arma::mat p(6, 4, arma::fill::ones);
  Slopes<arma::mat> function{8};
  ens::SGD<Update<apollo::AdamWOptions>> sgd(1e-2, 4, 4, -1, false,
                                             Update<apollo::AdamWOptions>(4, {}, {.lr = 1e-2, .weight_decay = 0}));
  sgd.Optimize(function, p);
  CHECK(std::abs(p(1, 0) - (1 - 1e-2)) <= 1e-6);  // Adam's first step is lr
  apollo::flat::Layout layout;
  layout.vector("b", 23);
  ens::SGD<Update<apollo::AdamWOptions>> wrong(1e-2, 4, 4, -1, false, Update<apollo::AdamWOptions>(4, layout));
  CHECK_THROWS_WITH_AS(wrong.Optimize(function, p),
                       "apollo: the layout covers 23 of the iterate's 24 elements, and ends at 23",
                       std::invalid_argument);
  CHECK_THROWS_AS(Update<apollo::AdamWOptions>(0), std::invalid_argument);
}
