// SPDX-License-Identifier: Apache-2.0
// A cube of Armadillo.
// EXPECT: apollo: this tensor has not one or two dimensions
// EXPECT: apollo::TensorView
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <armadillo>

#include <apollo/tensor/traits.hpp>

void see(arma::fcube& a) { (void)apollo::view_of(a); }
