// SPDX-License-Identifier: Apache-2.0
// A type without an adapter, registered with a model.
// EXPECT: apollo: this type is not a tensor to us. Specialise apollo::TensorTraits
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <apollo/apollo.hpp>

struct Tensor {
  float* data;
};

void add(apollo::Optimizer& optimizer, Tensor& w, Tensor& g) {
  optimizer.add(optimizer.add_group(apollo::AdamWOptions{}), "w", w, g);
}
