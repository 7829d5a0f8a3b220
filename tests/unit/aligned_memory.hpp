// SPDX-License-Identifier: Apache-2.0
// Counts aligned memory: state and workspaces, and nothing else, ask for alignment. For one file of a program: it replaces
// operator new.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <map>
#include <new>

#include <apollo/base/config.hpp>

namespace aligned_memory {

inline std::map<void*, std::size_t>& blocks() {
  static std::map<void*, std::size_t> all;
  return all;
}
inline apollo::Index in_use() {
  std::size_t sum = 0;
  for (const auto& block : blocks()) sum += block.second;
  return static_cast<apollo::Index>(sum);
}

}  // namespace aligned_memory

void* operator new(std::size_t size, std::align_val_t alignment) {
  const auto step = static_cast<std::size_t>(alignment);
  void* memory = std::aligned_alloc(step, (size + step - 1) / step * step);
  if (memory == nullptr) throw std::bad_alloc();
  aligned_memory::blocks()[memory] = size;
  return memory;
}
void operator delete(void* memory, std::align_val_t) noexcept {
  aligned_memory::blocks().erase(memory);
  std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t alignment) noexcept {
  operator delete(memory, alignment);
}
