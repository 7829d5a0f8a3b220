// SPDX-License-Identifier: Apache-2.0
// A pointer, which says nothing of rows and columns.
// EXPECT: apollo: a pointer has no shape. Hand over apollo::row_major(pointer, rows, cols)
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <apollo/tensor/traits.hpp>

void see(float* w) { (void)apollo::view_of(w); }
