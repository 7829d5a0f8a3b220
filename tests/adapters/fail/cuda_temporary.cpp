// SPDX-License-Identifier: Apache-2.0
// A vector that is gone with the statement; one of Thrust's is told by the same members.
// EXPECT: apollo: a temporary that owns its memory cannot be registered
// EXPECT: docs/cuda.md
// ERRORS: 1
#include <vector>

#include <apollo/cuda/thrust.hpp>

void see() { (void)apollo::cuda::row_major(std::vector<float>(6), 2, 3); }
