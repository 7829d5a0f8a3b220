// SPDX-License-Identifier: Apache-2.0
// An adapter that forgets value_type.
// EXPECT: apollo: this type is not a tensor to us. Specialise apollo::TensorTraits for it with value_type
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <apollo/apollo.hpp>

struct Tensor {
  float* data;
};

template <>
struct apollo::TensorTraits<Tensor> {
  static apollo::MatrixView<float> view(Tensor& t) { return apollo::row_major(t.data, 4, 3); }
  static apollo::MatrixView<const float> view(const Tensor& t) { return apollo::row_major<const float>(t.data, 4, 3); }
};

void step(Tensor& w, const Tensor& g) {
  apollo::AdamW<> optimizer({4, 3});
  optimizer.step(w, g);
}
