// SPDX-License-Identifier: Apache-2.0
// Factored moments have no norms to scale channels by.
// EXPECT: apollo: AdafactorMoments need ElementScaling
// EXPECT: docs/compose.md
// ERRORS: 1
#include <apollo/apollo.hpp>

void construct() { apollo::Apollo<apollo::AdafactorMoments> optimizer({4, 3}, {.rank = 2}); }
