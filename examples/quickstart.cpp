// SPDX-License-Identifier: Apache-2.0
// First steps: one matrix with an optimizer of its own, then a small model with groups; both print a falling loss.
#include <Eigen/Core>
#include <apollo/apollo.hpp>
#include <apollo/eigen.hpp>
#include <cstdio>

// Linear regression: find W with W X = Y.
void one_matrix(const Eigen::MatrixXf& X, const Eigen::MatrixXf& Y) {
  Eigen::MatrixXf W = Eigen::MatrixXf::Zero(Y.rows(), X.rows());
  apollo::Apollo<> optimizer(W, {.lr = 2e-2, .rank = 16});
  for (int step = 0; step <= 200; ++step) {
    const Eigen::MatrixXf error = W * X - Y;
    const Eigen::MatrixXf G = error * X.transpose() / static_cast<float>(X.cols());  // the gradient of half the loss
    optimizer.step(W, G);
    if (step % 50 == 0) std::printf("one matrix, step %3d: loss %.4f\n", step, error.squaredNorm() / 512);
  }
  std::printf("state: %lld bytes, AdamW's would be %lld\n", static_cast<long long>(optimizer.state_bytes()),
              static_cast<long long>(apollo::AdamW<>::state_bytes({W.rows(), W.cols()})));
}

// The same with a bias: the matrix takes APOLLO, the vector AdamW.
void small_model(const Eigen::MatrixXf& X, const Eigen::MatrixXf& Y) {
  Eigen::MatrixXf W = Eigen::MatrixXf::Zero(Y.rows(), X.rows()), G(W.rows(), W.cols());
  Eigen::VectorXf b = Eigen::VectorXf::Zero(Y.rows()), g(Y.rows());

  apollo::Optimizer optimizer;
  const auto matrices = optimizer.add_group(apollo::ApolloOptions{.lr = 2e-2, .rank = 16});
  const auto others = optimizer.add_group(apollo::AdamWOptions{.lr = 2e-2});
  optimizer.add(matrices, "layer.weight", W, G);
  optimizer.add(others, "layer.bias", b, g);
  optimizer.schedule(apollo::Cosine{.warmup = 10, .total = 201, .floor = 0.1});

  for (int step = 0; step <= 200; ++step) {
    const Eigen::MatrixXf error = (W * X).colwise() + b - Y;
    G = error * X.transpose() / static_cast<float>(X.cols());
    g = error.rowwise().mean();
    optimizer.step();
    if (step % 50 == 0) std::printf("small model, step %3d: loss %.4f\n", step, error.squaredNorm() / 512);
  }
}

int main() {
  const Eigen::MatrixXf X = Eigen::MatrixXf::Random(64, 512);
  const Eigen::MatrixXf Y = Eigen::MatrixXf::Random(96, 64) * X;
  one_matrix(X, Y);
  small_model(X, Y.array() + 1.0f);
}
