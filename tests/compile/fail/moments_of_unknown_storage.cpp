// SPDX-License-Identifier: Apache-2.0
// Moments in a type that has no storage policy.
// EXPECT: apollo: moments are stored as float, double (with double weights), apollo::bfloat16, Int8Linear, Int8Dynamic or
// EXPECT: docs/compose.md
// ERRORS: 1
#include <vector>

#include <apollo/apollo.hpp>

void step(std::vector<float>& w, const std::vector<float>& g) {
  apollo::AdamW<apollo::AdamMoments<int>> optimizer(w);
  optimizer.step(w, g);
}
