// SPDX-License-Identifier: Apache-2.0
// Moments in a type that has no storage policy.
// EXPECT: apollo: moments are stored as float, double (with double weights) or apollo::bfloat16
// EXPECT: docs/compose.md
// ERRORS: 1
#include <vector>

#include <apollo/apollo.hpp>

void step(std::vector<float>& w, const std::vector<float>& g) {
  apollo::AdamW<apollo::AdamMoments<int>> optimizer(w);
  optimizer.step(w, g);
}
