// SPDX-License-Identifier: Apache-2.0
// A program of a user of Eigen: a few steps of AdamW on an Eigen matrix by the Eigen backend.
#include <Eigen/Core>

#include <apollo/apollo.hpp>
#include <apollo/eigen.hpp>

int main() {
  Eigen::MatrixXf w = Eigen::MatrixXf::Ones(2, 3);
  Eigen::MatrixXf g = Eigen::MatrixXf::Constant(2, 3, 0.5f);
  apollo::AdamW<apollo::EigenBackend> optimizer(w, {.lr = 1e-2f});
  for (int i = 0; i < 3; ++i) optimizer.step(w, g);
  // Adam moves by lr a step along a constant gradient; the decay of 1e-2 * lr is below the slack.
  if (!((w.array() - 0.97f).abs().maxCoeff() < 1e-3f)) return 1;
  return optimizer.steps() == 3 ? 0 : 2;
}
