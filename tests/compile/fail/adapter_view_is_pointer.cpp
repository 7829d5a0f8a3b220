// SPDX-License-Identifier: Apache-2.0
// An adapter whose view is a bare pointer.
// EXPECT: view(tensor) must return apollo::MatrixView of value_type
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <apollo/apollo.hpp>

struct Tensor {
  float* data;
};

template <>
struct apollo::TensorTraits<Tensor> {
  using value_type = float;
  static float* view(Tensor& t) { return t.data; }
  static const float* view(const Tensor& t) { return t.data; }
};

void construct(Tensor& w) { apollo::AdamW<> optimizer(w); }
