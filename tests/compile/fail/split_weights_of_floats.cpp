// SPDX-License-Identifier: Apache-2.0
// The lower half of weights that are floats already.
// EXPECT: apollo: SplitWeights keep the lower half of apollo::bfloat16 weights; weights of other types have none.
// EXPECT: docs/compose.md
// ERRORS: 1
#include <vector>

#include <apollo/apollo.hpp>

void step(std::vector<float>& w, const std::vector<float>& g) {
  apollo::AdamW<apollo::SplitWeights> optimizer(w);
  optimizer.step(w, g);
}
