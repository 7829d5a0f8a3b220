// SPDX-License-Identifier: Apache-2.0
// An adapter without a view of constant tensors: gradients are only read.
// EXPECT: view(tensor) is missing for this tensor (did you provide it for a constant tensor too?)
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <apollo/apollo.hpp>

struct Tensor {
  float* data;
};

template <>
struct apollo::TensorTraits<Tensor> {
  using value_type = float;
  static apollo::MatrixView<float> view(Tensor& t) { return apollo::row_major(t.data, 4, 3); }
};

void step(Tensor& w, const Tensor& g) {
  apollo::AdamW<> optimizer({4, 3});
  optimizer.step(w, g);
}
