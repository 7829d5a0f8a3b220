// SPDX-License-Identifier: Apache-2.0
// A sparse projection without entries.
// EXPECT: apollo: SparseSigns<n> needs n of at least 1
// EXPECT: docs/compose.md
// ERRORS: 1
#include <apollo/apollo.hpp>

void construct() { apollo::Apollo<apollo::RandomProjection<apollo::SparseSigns<0>>> optimizer({4, 3}, {.rank = 2}); }
