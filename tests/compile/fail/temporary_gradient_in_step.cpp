// SPDX-License-Identifier: Apache-2.0
// Rebinds and steps: the view would stay behind.
// EXPECT: apollo: a temporary that owns its memory cannot be registered
// EXPECT: Give the tensor a name
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <vector>

#include <apollo/apollo.hpp>

void step(apollo::Optimizer& optimizer, std::vector<float>& w) { optimizer.step("w", w, std::vector<float>(w.size())); }
