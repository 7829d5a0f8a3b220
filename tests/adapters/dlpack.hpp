// SPDX-License-Identifier: Apache-2.0
// DLTensors for tests, over memory of the test's own.
#pragma once

#include <dlpack/dlpack.h>
#include <doctest/doctest.h>

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include <apollo/bridge/dlpack.hpp>

namespace adapters {

using apollo::Index;
using Extents = std::vector<std::int64_t>;

constexpr DLDataType float32 = {kDLFloat, 32, 1}, float64 = {kDLFloat, 64, 1}, float16 = {kDLFloat, 16, 1};
constexpr DLDataType bfloat16 = {kDLBfloat, 16, 1}, int8 = {kDLInt, 8, 1};

/// A DLTensor with its shape and strides; without strides it is compact.
struct Exported {
  Extents shape, strides;
  DLTensor tensor;
  Exported(void* data, DLDataType type, Extents shape_, Extents strides_ = {}, DLDevice device = {kDLCPU, 0})
      : shape(shape_), strides(strides_) {
    tensor = {data, device,       static_cast<int>(shape.size()),
              type, shape.data(), strides.empty() ? nullptr : strides.data(),
              0};
  }
  Exported(const Exported&) = delete;
  Exported& operator=(const Exported&) = delete;
  operator const DLTensor&() const { return tensor; }
};

template <class Call>
std::string refusal(Call&& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return {};
}

inline bool mentions(const std::string& text, std::initializer_list<const char*> words) {
  for (const char* word : words)
    if (text.find(word) == std::string::npos) {
      MESSAGE("'" << text << "' lacks '" << std::string(word) << "'");
      return false;
    }
  return true;
}

}  // namespace adapters
