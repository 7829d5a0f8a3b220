// SPDX-License-Identifier: Apache-2.0
// The scale on the removed side is multiplied into P, and sparse signs have no entries to multiply.
// EXPECT: apollo: FactoredMeanMoments need ElementScaling
// EXPECT: docs/compose.md
// ERRORS: 1
#include <apollo/apollo.hpp>

void construct() { apollo::FloraFactored<apollo::RandomProjection<apollo::SparseSign>> optimizer({4, 3}, {.rank = 2}); }
