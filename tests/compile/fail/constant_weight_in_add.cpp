// SPDX-License-Identifier: Apache-2.0
// A weight that cannot be written to, registered with a model.
// EXPECT: apollo: a weight must be mutable
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <vector>

#include <apollo/apollo.hpp>

void add(apollo::Optimizer& optimizer, const std::vector<float>& w, const std::vector<float>& g) {
  optimizer.add(optimizer.add_group(apollo::AdamWOptions{}), "w", w, g);
}
