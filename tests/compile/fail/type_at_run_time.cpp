// SPDX-License-Identifier: Apache-2.0
// A tensor of C, whose value type is a number in it.
// EXPECT: apollo: the value type of a DLTensor is known at run time only. Hand it to apollo::dlpack::add
// EXPECT: apollo/bridge/dlpack.hpp
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <apollo/tensor/traits.hpp>

struct Tensor {
  void* data;
  struct {
    unsigned char code, bits;
    unsigned short lanes;
  } dtype;
  long *shape, *strides;
  unsigned long byte_offset;
};

void see(Tensor& w) { (void)apollo::view_of(w); }
