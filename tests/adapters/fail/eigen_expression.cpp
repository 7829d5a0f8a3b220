// SPDX-License-Identifier: Apache-2.0
// A sum of Eigen's matrices.
// EXPECT: apollo: this is an expression, or has no pointer and strides that we can see
// EXPECT: Evaluate it into a tensor that you keep
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <Eigen/Core>

#include <apollo/tensor/traits.hpp>

void see(Eigen::MatrixXf& a, Eigen::MatrixXf& b) { (void)apollo::view_of(a + b); }
