// SPDX-License-Identifier: Apache-2.0
// The tensor that manages, where the one that describes is needed.
// EXPECT: apollo: this is no DLTensor. Of a DLManagedTensor hand over managed->dl_tensor
// EXPECT: docs/adapters.md
// ERRORS: 1
#include <dlpack/dlpack.h>

#include <apollo/bridge/dlpack.hpp>

void see(DLManagedTensor& a) { (void)apollo::dlpack::view<float>(a, "a"); }
