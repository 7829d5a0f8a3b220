// SPDX-License-Identifier: Apache-2.0
// The training example's backward pass against central finite differences of its forward pass.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "fashion_mnist/mlp.hpp"

namespace {

using Model = example::Mlp<double>;
using Matrix = example::RowMajor<double>;

constexpr std::array<Eigen::Index, 4> widths{7, 6, 5, 4};
const std::vector<int> labels{3, 0, 2, 2, 1};

/// The images and the hidden biases avoid round values, so that no ReLU sits on its kink.
Matrix images() {
  Matrix x(5, 7);
  for (Eigen::Index i = 0; i < x.rows(); ++i) {
    for (Eigen::Index j = 0; j < x.cols(); ++j) x(i, j) = std::sin(1.3 * double(i) + 0.7 * double(j) + 0.1);
  }
  return x;
}

double loss(Model& model, const Matrix& x) {
  Matrix ignored;
  return Model::cross_entropy(model.forward(x), labels, ignored);
}

/// The largest difference over one parameter, relative to its gradient's largest entry. A NaN anywhere comes out as
/// infinity: std::max would drop it.
template <class Parameter>
double worst_error(Model& model, const Matrix& x, Parameter& parameter, const Parameter& gradient) {
  constexpr double step = 1e-6;
  double worst = 0;
  for (Eigen::Index i = 0; i < parameter.size(); ++i) {
    double& value = parameter.data()[i];
    const double kept = value;
    value = kept + step;
    const double above = loss(model, x);
    value = kept - step;
    const double below = loss(model, x);
    value = kept;
    const double error = std::abs((above - below) / (2 * step) - gradient.data()[i]);
    if (!std::isfinite(error)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, error);
  }
  return worst / gradient.cwiseAbs().maxCoeff();
}

}  // namespace

TEST_CASE("every gradient of the perceptron agrees with central differences") {
  const Matrix x = images();
  Model model(widths, 1);
  for (auto& layer : model.layers()) layer.bias.setLinSpaced(-0.11, 0.13);

  const double returned = model.loss_and_gradients(x, labels);
  CHECK(returned == doctest::Approx(loss(model, x)).epsilon(1e-14));

  for (std::size_t i = 0; i < model.layers().size(); ++i) {
    CAPTURE(i);
    auto& layer = model.layers()[i];
    REQUIRE(layer.weight_gradient.cwiseAbs().maxCoeff() > 1e-3);
    REQUIRE(layer.bias_gradient.cwiseAbs().maxCoeff() > 1e-3);
    CHECK(worst_error(model, x, layer.weight, layer.weight_gradient) <= 1e-7);
    CHECK(worst_error(model, x, layer.bias, layer.bias_gradient) <= 1e-7);
  }
}

TEST_CASE("a product in blocks of columns is the product") {
  for (const Eigen::Index cols : {1, 127, 128, 129, 300}) {
    CAPTURE(cols);
    const Matrix left = Matrix::Random(5, 17), right = Matrix::Random(17, cols);
    Matrix result;
    example::multiply(result, left, right);
    CHECK((result - left.lazyProduct(right)).norm() <= 1e-13);
    example::multiply(result, left, Matrix(right.transpose()).transpose());
    CHECK((result - left.lazyProduct(right)).norm() <= 1e-13);
  }
}

TEST_CASE("a ReLU that is off passes no gradient") {
  const Matrix x = images();
  Model model(widths, 1);
  auto& first = model.layers().front();
  first.bias[2] = -100;  // unit 2 is off for every image, so nothing that feeds it can matter
  model.loss_and_gradients(x, labels);
  CHECK(first.weight_gradient.row(2).cwiseAbs().maxCoeff() == 0.0);
  CHECK(first.bias_gradient[2] == 0.0);
  CHECK(first.bias_gradient.cwiseAbs().maxCoeff() > 0.0);
}

TEST_CASE("cross-entropy of known logits, and of logits that overflow exp") {
  Matrix logits = Matrix::Zero(5, 4), gradient;
  CHECK(Model::cross_entropy(logits, labels, gradient) == doctest::Approx(std::log(4.0)));
  CHECK(gradient(0, 3) == doctest::Approx((0.25 - 1) / 5));
  CHECK(gradient(0, 0) == doctest::Approx(0.25 / 5));
  CHECK(gradient.rowwise().sum().cwiseAbs().maxCoeff() <= 1e-16);

  logits.setConstant(1e4);
  CHECK(Model::cross_entropy(logits, labels, gradient) == doctest::Approx(std::log(4.0)));
  logits.col(0).setConstant(2e4);  // sure of class 0: right for one image of five, wrong by 1e4 for the others
  CHECK(Model::cross_entropy(logits, labels, gradient) == doctest::Approx(0.8e4));
  CHECK(gradient.allFinite());
}
