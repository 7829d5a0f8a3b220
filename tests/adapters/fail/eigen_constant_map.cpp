// SPDX-License-Identifier: Apache-2.0
// A map of constant elements as a weight.
// EXPECT: apollo: a weight must be mutable
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <Eigen/Core>

#include <apollo/tensor/traits.hpp>

void see(Eigen::Map<const Eigen::MatrixXf>& a) { (void)apollo::weight_view_of(a); }
