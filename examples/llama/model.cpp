// SPDX-License-Identifier: Apache-2.0
#include "model.hpp"

#include "passes.hpp"

namespace llama {

template class Llama<float>;

}  // namespace llama
