// SPDX-License-Identifier: Apache-2.0
// An adapter whose view has another element type than value_type says.
// EXPECT: view(tensor) must return apollo::MatrixView of value_type
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <apollo/apollo.hpp>

struct Tensor {
  double* data;
};

template <>
struct apollo::TensorTraits<Tensor> {
  using value_type = float;
  static apollo::MatrixView<double> view(Tensor& t) { return apollo::row_major(t.data, 4, 3); }
  static apollo::MatrixView<const double> view(const Tensor& t) {
    return apollo::row_major<const double>(t.data, 4, 3);
  }
};

void step(Tensor& w, const Tensor& g) {
  apollo::AdamW<> optimizer({4, 3});
  optimizer.step(w, g);
}
