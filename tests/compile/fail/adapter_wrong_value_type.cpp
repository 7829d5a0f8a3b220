// SPDX-License-Identifier: Apache-2.0
// An adapter of integers.
// EXPECT: value_type must be float, double, apollo::bfloat16 or apollo::float16
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <apollo/apollo.hpp>

struct Tensor {
  int* data;
};

template <>
struct apollo::TensorTraits<Tensor> {
  using value_type = int;
  static apollo::MatrixView<int> view(Tensor& t) { return apollo::row_major(t.data, 4, 3); }
  static apollo::MatrixView<const int> view(const Tensor& t) { return apollo::row_major<const int>(t.data, 4, 3); }
};

void step(Tensor& w, const Tensor& g) {
  apollo::AdamW<> optimizer({4, 3});
  optimizer.step(w, g);
}
