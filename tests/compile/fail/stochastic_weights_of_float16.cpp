// SPDX-License-Identifier: Apache-2.0
// Stochastic rounding of half precision.
// EXPECT: apollo: StochasticWeights round apollo::bfloat16 and 8-bit groups; float16 weights have NativeWeights.
// EXPECT: docs/compose.md
// ERRORS: 1
#include <vector>

#include <apollo/apollo.hpp>

void step(std::vector<apollo::float16>& w, const std::vector<apollo::float16>& g) {
  apollo::AdamW<apollo::StochasticWeights> optimizer(w);
  optimizer.step(w, g);
}
