// SPDX-License-Identifier: Apache-2.0
// A program of a user without Eigen: a few steps of AdamW on a matrix in a std::vector.
#include <vector>

#include <apollo/apollo.hpp>

int main() {
  std::vector<float> weights(6, 1.0f);
  std::vector<float> gradients(6, 0.5f);
  auto w = apollo::row_major(weights.data(), 2, 3);
  auto g = apollo::row_major(gradients.data(), 2, 3);
  apollo::AdamW<> optimizer(w, {.lr = 1e-2f});
  for (int i = 0; i < 3; ++i) optimizer.step(w, g);
  for (float weight : weights) {
    // Adam moves by lr a step along a constant gradient; the decay of 1e-2 * lr is below the slack.
    if (!(weight > 0.969f && weight < 0.971f)) return 1;
  }
  return optimizer.steps() == 3 ? 0 : 2;
}
