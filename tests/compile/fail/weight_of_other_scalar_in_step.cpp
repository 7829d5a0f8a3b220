// SPDX-License-Identifier: Apache-2.0
// A float optimizer that steps double weights.
// EXPECT: apollo: this optimizer computes in another type than its weights need. Name double for double weights
// ERRORS: 1
#include <vector>

#include <apollo/apollo.hpp>

void step(apollo::Apollo<>& optimizer, std::vector<double>& w, const std::vector<double>& g) { optimizer.step(w, g); }
