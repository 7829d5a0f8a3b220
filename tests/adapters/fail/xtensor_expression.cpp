// SPDX-License-Identifier: Apache-2.0
// A sum of xtensor's arrays.
// EXPECT: apollo: this is an expression, or has no pointer and strides that we can see
// EXPECT: Evaluate it into a tensor that you keep
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <xtensor/xarray.hpp>

#include <apollo/tensor/traits.hpp>

void see(xt::xarray<float>& a) { (void)apollo::view_of(a + a); }
