// SPDX-License-Identifier: Apache-2.0
// A type without an adapter.
// EXPECT: apollo: this type is not a tensor to us. Specialise apollo::TensorTraits
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <apollo/apollo.hpp>

struct Tensor {
  float* data;
};

void step(Tensor& w, Tensor& g) {
  apollo::AdamW<> optimizer({4, 3});
  optimizer.step(w, g);
}
