// SPDX-License-Identifier: Apache-2.0
// A weight that cannot be written to, given to a tensor that is registered already.
// EXPECT: apollo: a weight must be mutable
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <vector>

#include <apollo/apollo.hpp>

void rebind(apollo::Optimizer& optimizer, const std::vector<float>& w, const std::vector<float>& g) {
  optimizer.rebind("w", w, g);
}
