// SPDX-License-Identifier: Apache-2.0
// A vector of integers, registered with a model.
// EXPECT: value_type must be float, double, apollo::bfloat16 or apollo::float16
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <vector>

#include <apollo/apollo.hpp>

void add(apollo::Optimizer& optimizer, std::vector<int>& w, std::vector<int>& g) {
  optimizer.add(optimizer.add_group(apollo::AdamWOptions{}), "w", w, g);
}
