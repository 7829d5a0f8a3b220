// SPDX-License-Identifier: Apache-2.0
// Moments in blocks of codes for double weights.
// EXPECT: apollo: moments are stored as float, double (with double weights), apollo::bfloat16, Int8Linear, Int8Dynamic or
// EXPECT: Int4 (with other weights than double)
// EXPECT: docs/compose.md
// ERRORS: 1
#include <vector>

#include <apollo/apollo.hpp>

void step(std::vector<double>& w, const std::vector<double>& g) {
  apollo::AdamW<double, apollo::AdamMoments<apollo::Int8Linear>> optimizer(w);
  optimizer.step(w, g);
}
