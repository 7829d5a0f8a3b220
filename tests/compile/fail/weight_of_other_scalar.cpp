// SPDX-License-Identifier: Apache-2.0
// A float optimizer constructed for double weights.
// EXPECT: apollo: this optimizer computes in another type than its weights need. Name double for double weights
// ERRORS: 1
#include <vector>

#include <apollo/apollo.hpp>

void construct(std::vector<double>& w) { apollo::AdamW<> optimizer(w); }
