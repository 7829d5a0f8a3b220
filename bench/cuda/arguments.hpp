// SPDX-License-Identifier: Apache-2.0
// What main.cpp, which no compiler of CUDA sees, asks of the part that runs on a device.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "../models/lists.hpp"

namespace bench::cuda {

struct Arguments {
  std::vector<std::string> lists{"60m", "350m"};
  std::vector<Scope> scopes{Scope::whole, Scope::matrices};
  std::vector<std::string> members{"adamw", "apollo_mini", "apollo_sparse"};
  std::vector<Index> ranks{0};
  std::vector<std::string> types{"float", "bfloat16"};
  int repetitions = 51;
  double seconds = 3;  ///< for the repetitions of a case, of which there are three at least
  Index memory = 0;    ///< bytes of the device that may be used; 0: what is free
  std::string json;
  std::function<bool(const std::string&)> wanted;  ///< which cases, by name
};

/// Exit status: 0, 77 where there is no device, 1 where a case could not be run. In gpu.cu, or in emulated.cpp.
int run(const Arguments& arguments);

/// Names of the members, in the order in which they are run. In the same file.
std::vector<std::string> member_names();

/// A model by its name. Errors: std::invalid_argument.
inline const Llama& model_named(std::string_view name) {
  for (const Llama& m : llamas)
    if (m.name == name) return m;
  for (const Llama& m : device_llamas)
    if (m.name == name) return m;
  throw std::invalid_argument("there is no model '" + std::string(name) + "'");
}

}  // namespace bench::cuda
