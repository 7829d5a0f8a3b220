// SPDX-License-Identifier: Apache-2.0
// An array of three dimensions: how it becomes matrices is not guessed.
// EXPECT: apollo: this tensor has not one or two dimensions
// EXPECT: apollo::TensorView
// EXPECT: Unfold::rest or Unfold::batch
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <apollo/tensor/traits.hpp>

struct Model {
  float w[2][3][4];
};

void see(Model& model) { (void)apollo::view_of(model.w); }
