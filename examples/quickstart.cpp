// SPDX-License-Identifier: Apache-2.0
// First steps: one matrix with an optimizer of its own, then a small model with groups. Both fit Y = target X + 1.
#include <cstdio>

#include <Eigen/Core>

#include <apollo/apollo.hpp>
#include <apollo/eigen.hpp>

using Eigen::MatrixXf, Eigen::VectorXf;

float loss(const MatrixXf& error) { return error.array().square().mean(); }

// One matrix: everything is known to the compiler.
float one_matrix(const MatrixXf& X, const MatrixXf& Y) {
  MatrixXf W = MatrixXf::Zero(Y.rows(), X.rows()), E = -Y, G;
  apollo::Apollo<> optimizer(W, {.lr = 2e-2, .rank = 16});
  for (int step = 0; step < 200; ++step) {
    if (step % 50 == 0) std::printf("one matrix, step %3d: loss %.5f\n", step, loss(E));
    G = E * X.transpose() / static_cast<float>(X.cols());  // the gradient of the loss, up to a factor
    optimizer.step(W, G);
    E = W * X - Y;
  }
  std::printf("its state is %lld bytes, AdamW's would be %lld\n\n", static_cast<long long>(optimizer.state_bytes()),
              static_cast<long long>(apollo::AdamW<>::state_bytes({W.rows(), W.cols()})));
  return loss(E);
}

// A whole model: the matrix in a group of APOLLO, the bias in one of AdamW, and a schedule for both.
float small_model(const MatrixXf& X, const MatrixXf& Y) {
  MatrixXf W = MatrixXf::Zero(Y.rows(), X.rows()), E = -Y, G = W;
  VectorXf b = VectorXf::Zero(Y.rows()), g = b;

  apollo::eigen::Optimizer optimizer;
  const auto matrices = optimizer.add_group(apollo::ApolloOptions{.lr = 4e-2, .rank = 16});
  const auto others = optimizer.add_group(apollo::AdamWOptions{.lr = 4e-2});
  optimizer.add(matrices, "layer.weight", W, G);
  optimizer.add(others, "layer.bias", b, g);
  optimizer.schedule(apollo::Cosine{.warmup = 10, .total = 200, .floor = 0.1});

  for (int step = 0; step < 200; ++step) {
    if (step % 50 == 0) std::printf("small model, step %3d: loss %.5f\n", step, loss(E));
    G = E * X.transpose() / static_cast<float>(X.cols());
    g = E.rowwise().mean();
    optimizer.step();
    E = ((W * X).colwise() + b) - Y;
  }
  return loss(E);
}

int main() {
  const MatrixXf X = MatrixXf::Random(64, 512), target = MatrixXf::Random(96, 64);
  const float first = one_matrix(X, target * X);
  const float second = small_model(X, (target * X).array() + 1);
  std::printf("final losses: %.1e and %.1e\n", first, second);
  return first < 1e-3f && second < 1e-3f ? 0 : 1;
}
