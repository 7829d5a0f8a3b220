// SPDX-License-Identifier: Apache-2.0
// A DLTensor given to the optimizer itself.
// EXPECT: apollo: the value type of a DLTensor is known at run time only
// EXPECT: apollo::dlpack::add
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <dlpack/dlpack.h>

#include <apollo/tensor/traits.hpp>

void see(DLTensor& a) { (void)apollo::view_of(a); }
