// SPDX-License-Identifier: Apache-2.0
// A kernel of xtensor.
// EXPECT: apollo: this tensor has not one or two dimensions
// EXPECT: apollo::TensorView
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <xtensor/xtensor.hpp>

#include <apollo/tensor/traits.hpp>

void see(xt::xtensor<float, 4>& a) { (void)apollo::view_of(a); }
