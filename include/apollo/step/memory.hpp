// SPDX-License-Identifier: Apache-2.0
// Host memory: aligned buffers for state, and the one workspace that steps share.
#pragma once

#include <cstring>
#include <new>
#include <utility>

#include <apollo/base/config.hpp>

namespace apollo {

/// A fixed number of zero-initialised values on a 64-byte boundary. Moves, does not copy.
template <class T>
class HostBuffer {
 public:
  HostBuffer() = default;
  explicit HostBuffer(Index size) : size_(size) {
    if (size <= 0) return;
    const auto bytes = static_cast<std::size_t>(size) * sizeof(T);
    data_ = static_cast<T*>(::operator new(bytes, alignment));
    std::memset(static_cast<void*>(data_), 0, bytes);  // every stored type is all-zero bits at 0
  }
  HostBuffer(HostBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  HostBuffer& operator=(HostBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~HostBuffer() {
    if (data_ != nullptr) ::operator delete(static_cast<void*>(data_), alignment);
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  Index size() const { return size_; }
  Index bytes() const { return size_ * static_cast<Index>(sizeof(T)); }

 private:
  static constexpr std::align_val_t alignment{64};
  T* data_ = nullptr;
  Index size_ = 0;
};

/// Cuts arrays out of a block of memory; without a block it only counts, so that one function both sizes and carves.
class Carver {
 public:
  constexpr explicit Carver(std::byte* block = nullptr) : block_(block) {}

  template <class T>
  constexpr T* take(Index count) {
    if (count <= 0) return nullptr;
    const Index at = used_;
    used_ += (count * static_cast<Index>(sizeof(T)) + 63) / 64 * 64;
    if (block_ == nullptr) return nullptr;
    return reinterpret_cast<T*>(block_ + at);
  }
  constexpr Index used() const { return used_; }

 private:
  std::byte* block_;
  Index used_ = 0;
};

}  // namespace apollo
