// SPDX-License-Identifier: Apache-2.0
// Something that is no policy.
// EXPECT: apollo: an argument of StructuredOptimizer is no projection, granularity, moments, limiter or weights policy
// EXPECT: docs/compose.md
// ERRORS: 1
#include <apollo/apollo.hpp>

struct MyIdea {};

using Optimizer = apollo::StructuredOptimizer<apollo::RandomProjection<>, MyIdea, apollo::AdamMoments<>>;

void construct() { Optimizer optimizer({4, 3}); }
