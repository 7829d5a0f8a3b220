// SPDX-License-Identifier: Apache-2.0
// Fira over a projection that is not orthonormal.
// EXPECT: apollo: ResidualScaling needs an orthonormal projection
// EXPECT: docs/compose.md
// ERRORS: 1
#include <apollo/apollo.hpp>

void construct() { apollo::Fira<apollo::RandomProjection<apollo::Gaussian>> optimizer({4, 3}, {.rank = 2}); }
