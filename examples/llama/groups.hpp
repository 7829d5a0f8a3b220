// SPDX-License-Identifier: Apache-2.0
// Groups of a model's parameters in an optimizer. Apart from optimizers.hpp, because all the optimizers are compiled for it:
// that is most of this program's time to build, and is done once, in groups.cpp.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include <apollo/eigen.hpp>

#include "config.hpp"
#include "optimizers.hpp"

namespace llama {

/// A parameter and its memory, rows after one another: weights are floats, or int8 groups where `int8` is set.
struct Placed {
  Parameter parameter;
  float* weight = nullptr;
  apollo::Int8Matrix* int8 = nullptr;
  float* gradient = nullptr;
};

/// Adds the matrices among `parameters` to groups of their own.
void add_matrices(apollo::eigen::Optimizer& optimizer, std::string_view name, double lr, const MatrixOptions& asked,
                  std::uint64_t seed, const Config& model, const std::vector<Placed>& parameters);

/// Adds the parameters that are no matrices to groups of AdamW. Beside the optimizers of 8 bits the embedding and the head
/// get the AdamW that does, with moments of 8 bits.
void add_others(apollo::eigen::Optimizer& optimizer, std::string_view name, double lr, const MatrixOptions& asked,
                std::uint64_t seed, const std::vector<Placed>& parameters);

}  // namespace llama
