// SPDX-License-Identifier: Apache-2.0
// Float weights with a double gradient.
// EXPECT: apollo: weight and gradient must both be double or both be float, bfloat16 or float16
// ERRORS: 1
#include <vector>

#include <apollo/apollo.hpp>

void add(apollo::Optimizer& optimizer, std::vector<float>& w, std::vector<double>& g) {
  optimizer.add(optimizer.add_group(apollo::AdamWOptions{}), "w", w, g);
}
