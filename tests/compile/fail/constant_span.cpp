// SPDX-License-Identifier: Apache-2.0
// A view of constant elements as a weight.
// EXPECT: apollo: a weight must be mutable
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <span>

#include <apollo/tensor/traits.hpp>

void see(std::span<const float> w) { (void)apollo::weight_view_of(w); }
