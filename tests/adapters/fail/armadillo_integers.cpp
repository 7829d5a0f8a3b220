// SPDX-License-Identifier: Apache-2.0
// A matrix of integers.
// EXPECT: value_type must be float, double, apollo::bfloat16 or apollo::float16
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <armadillo>

#include <apollo/tensor/traits.hpp>

void see(arma::imat& a) { (void)apollo::view_of(a); }
