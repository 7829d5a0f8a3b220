// SPDX-License-Identifier: Apache-2.0
// A gradient that is gone before the next step.
// EXPECT: apollo: a temporary that owns its memory cannot be registered
// EXPECT: Give the tensor a name
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <array>

#include <apollo/apollo.hpp>

void rebind(apollo::Optimizer& optimizer, std::array<float, 4>& w) { optimizer.rebind("w", w, std::array<float, 4>()); }
