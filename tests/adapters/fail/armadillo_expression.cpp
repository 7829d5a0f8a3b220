// SPDX-License-Identifier: Apache-2.0
// A transpose, which Armadillo writes down when it is assigned.
// EXPECT: apollo: this is an expression, or has no pointer and strides that we can see
// EXPECT: Evaluate it into a tensor that you keep
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <armadillo>

#include <apollo/tensor/traits.hpp>

void see(arma::fmat& a) { (void)apollo::view_of(a.t()); }
