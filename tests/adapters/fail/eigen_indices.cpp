// SPDX-License-Identifier: Apache-2.0
// Rows that Eigen takes by a list.
// EXPECT: apollo: this is an expression, or has no pointer and strides that we can see
// EXPECT: Evaluate it into a tensor that you keep
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <Eigen/Core>
#include <vector>

#include <apollo/tensor/traits.hpp>

void see(Eigen::MatrixXf& a, std::vector<int>& rows) { (void)apollo::view_of(a(rows, Eigen::all)); }
