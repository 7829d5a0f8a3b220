// SPDX-License-Identifier: Apache-2.0
// A weight that cannot be written to, given to a static optimizer.
// EXPECT: apollo: a weight must be mutable
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <vector>

#include <apollo/apollo.hpp>

void step(const std::vector<float>& w, const std::vector<float>& g) {
  apollo::AdamW<> optimizer(w);
  optimizer.step(w, g);
}
