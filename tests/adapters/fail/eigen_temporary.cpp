// SPDX-License-Identifier: Apache-2.0
// A gradient that Eigen evaluates into a temporary.
// EXPECT: apollo: a temporary that owns its memory cannot be registered
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <Eigen/Core>

#include <apollo/optimizer/optimizer.hpp>

void rebind(apollo::Optimizer& optimizer, Eigen::MatrixXf& w) { optimizer.rebind("w", w, (w * w.transpose()).eval()); }
