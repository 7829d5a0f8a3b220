// SPDX-License-Identifier: Apache-2.0
// A vector of vectors.
// EXPECT: apollo: the rows of a container of containers lie apart, so a view of it would need a copy
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <vector>

#include <apollo/tensor/traits.hpp>

using Rows = std::vector<std::vector<float>>;

void see(Rows& w) { (void)apollo::view_of(w); }
