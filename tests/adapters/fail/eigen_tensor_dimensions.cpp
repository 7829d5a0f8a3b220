// SPDX-License-Identifier: Apache-2.0
// A kernel of Eigen's tensors.
// EXPECT: apollo: this tensor has not one or two dimensions
// EXPECT: apollo::TensorView
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <unsupported/Eigen/CXX11/Tensor>

#include <apollo/tensor/traits.hpp>

void see(Eigen::Tensor<float, 4>& a) { (void)apollo::view_of(a); }
