// SPDX-License-Identifier: Apache-2.0
// ensmallen: a network of two layers in one flat column, as mlpack keeps it, fitted by ens::SGD with APOLLO's updates.
#include <ensmallen.hpp>

#include <cstdio>

#include <apollo/bridge/ensmallen.hpp>
#include <apollo/eigen.hpp>

constexpr arma::uword inputs = 24, hidden = 64, outputs = 12, points = 1000;

/// Sums of squared distances to a teacher's outputs, separable by points.
struct Network {
  arma::mat x, y;
  std::size_t NumFunctions() const { return x.n_cols; }
  void Shuffle() {
    const arma::uvec order = arma::randperm(x.n_cols);
    x = x.cols(order), y = y.cols(order);
  }
  double EvaluateWithGradient(const arma::mat& p, std::size_t first, arma::mat& gradient, std::size_t count) {
    const arma::mat w1(const_cast<double*>(p.memptr()), hidden, inputs, false);
    const arma::mat w2(const_cast<double*>(p.memptr()) + w1.n_elem, outputs, hidden, false);
    const arma::mat in = x.cols(first, first + count - 1), h = arma::tanh(w1 * in);
    const arma::mat error = w2 * h - y.cols(first, first + count - 1);
    gradient = arma::join_cols(arma::vectorise(2 * ((w2.t() * error) % (1 - h % h)) * in.t()),
                               arma::vectorise(2 * error * h.t()));
    return arma::accu(error % error);
  }
  double Evaluate(const arma::mat& p, std::size_t first, std::size_t count) {
    arma::mat unused;
    return EvaluateWithGradient(p, first, unused, count);
  }
};

int main() {
  arma::arma_rng::set_seed(1);
  Network network{arma::randn(inputs, points), {}};
  network.y = arma::tanh(arma::randn(outputs, inputs) * network.x / 5);
  arma::mat p = 0.1 * arma::randn(hidden * inputs + outputs * hidden, 1);
  const double first = network.Evaluate(p, 0, points) / points;

  using Update = apollo::EnsmallenUpdate<apollo::ApolloOptions, apollo::AdamWOptions, apollo::EigenBackend>;
  apollo::flat::Layout layout;
  layout.matrix("w1", hidden, inputs, apollo::Order2D::column_major);
  layout.matrix("w2", outputs, hidden, apollo::Order2D::column_major);
  ens::SGD<Update> sgd(1e-2, 32, 60 * points, 0, true, Update(32, layout, {.lr = 1e-2, .rank = 6}));
  sgd.Optimize(network, p);

  const double last = network.Evaluate(p, 0, points) / points;
  std::printf("ensmallen: loss %.3f at first, %.4f at last\n", first, last);
  return last < first / 100 ? 0 : 1;
}
