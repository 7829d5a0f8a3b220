// SPDX-License-Identifier: Apache-2.0
// A sketch given where the projection that uses it belongs.
// EXPECT: apollo: an argument of StructuredOptimizer is no projection, granularity, moments, limiter or weights policy
// EXPECT: docs/compose.md
// ERRORS: 1
#include <apollo/apollo.hpp>

void construct() { apollo::Apollo<apollo::SparseSign> optimizer({4, 3}); }
