// SPDX-License-Identifier: Apache-2.0
// Adam's update is not kept, so its channels cannot be normalised afterwards.
// EXPECT: apollo: NormalizedScaling is of NoMoments
// EXPECT: docs/compose.md
// ERRORS: 1
#include <apollo/apollo.hpp>

void construct() { apollo::ColumnNormalizedSgd<apollo::AdamMoments<>> optimizer({4, 3}); }
