// SPDX-License-Identifier: Apache-2.0
// A type that has rows and columns, but no memory that we can see.
// EXPECT: apollo: this is an expression, or has no pointer and strides that we can see
// EXPECT: would need a copy
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <apollo/tensor/traits.hpp>

struct Sum {
  int rows() const;
  int cols() const;
  float operator()(int i, int j) const;
};

void see(Sum& w) { (void)apollo::view_of(w); }
