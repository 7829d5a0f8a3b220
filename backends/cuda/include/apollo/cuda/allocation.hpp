// SPDX-License-Identifier: Apache-2.0
// Memory of a device, with an owner.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <apollo/base/error.hpp>

namespace apollo::cuda {

/// Memory of a device.
template <class Device>
class Memory {
 public:
  Memory() = default;
  /// `tensor` and `what` stand in the error where there is not as much: whose memory, and what for.
  Memory(const Device& device, Index bytes, std::string_view tensor, const char* what)
      : device_(std::make_unique<Device>(device)), bytes_(bytes) {
    if (bytes == 0) return;
    data_ = device.allocate(bytes);
    if (data_ == nullptr)
      raise<std::runtime_error>("apollo: " + (tensor.empty() ? std::string() : "tensor " + quote(tensor) + ": ") +
                                text(bytes) + " bytes of " + what + " are more than " + device.name() +
                                " has left; nothing was changed");
  }
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Memory() {
    if (data_ != nullptr) device_->release(data_, bytes_);
  }

  Index bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void swap(Memory& other) {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  std::unique_ptr<Device> device_;
  void* data_ = nullptr;
  Index bytes_ = 0;
};

}  // namespace apollo::cuda
