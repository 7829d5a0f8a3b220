// SPDX-License-Identifier: Apache-2.0
// A gradient that is gone before the first step.
// EXPECT: apollo: a temporary that owns its memory cannot be registered
// EXPECT: Give the tensor a name
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <vector>

#include <apollo/apollo.hpp>

void add(apollo::Optimizer& optimizer, std::vector<float>& w) {
  optimizer.add(optimizer.add_group(apollo::AdamWOptions{}), "w", w, std::vector<float>(w.size()));
}
