// SPDX-License-Identifier: Apache-2.0
// A gradient in 8-bit groups, which only weights may be in.
// EXPECT: apollo: a gradient must be of float, bfloat16 or float16, not of 8-bit groups.
// ERRORS: 1
#include <apollo/apollo.hpp>

void add(apollo::Optimizer& optimizer, apollo::Int8Matrix& w, const apollo::Int8Matrix& g) {
  optimizer.add(optimizer.add_group(apollo::AdamWOptions{}), "w", w, g);
}
