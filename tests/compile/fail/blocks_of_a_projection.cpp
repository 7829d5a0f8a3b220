// SPDX-License-Identifier: Apache-2.0
// Blocks of channels of a projected gradient.
// EXPECT: apollo: BlockAdamMoments need ElementScaling and no projection
// EXPECT: docs/compose.md
// ERRORS: 1
#include <apollo/apollo.hpp>

void construct() { apollo::GaLore<apollo::BlockAdamMoments<>> optimizer({4, 3}, {.rank = 2}); }
