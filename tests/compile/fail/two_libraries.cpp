// SPDX-License-Identifier: Apache-2.0
// A type that answers to the members of two libraries.
// EXPECT: apollo: this type looks like the tensors of two libraries at once. Specialise apollo::TensorTraits
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <apollo/tensor/traits.hpp>

struct Both {
  using Scalar = float;
  using elem_type = float;
  int n_rows, n_cols;
  float* data() const;
  float* memptr() const;
  int rows() const;
  int cols() const;
  int rowStride() const;
  int colStride() const;
};

void see(Both& w) { (void)apollo::view_of(w); }
