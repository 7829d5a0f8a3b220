// SPDX-License-Identifier: Apache-2.0
// ResourceDevice: a device whose memory comes from somebody else's pool or allocator.
#pragma once

#include <new>
#include <utility>

#include <apollo/base/config.hpp>

namespace apollo::cuda {

/// Base (Gpu, Emulator) in everything but memory, which comes from a resource of the caller's: any object with
///     pointer allocate(std::size_t bytes, std::size_t alignment)
///     void deallocate(pointer, std::size_t bytes, std::size_t alignment)
/// as std::pmr's and Thrust's resources have them; a pointer may be a class with get(), as Thrust's is. The resource outlives the
/// optimizers on this device. It is called when groups and tensors are added, when tables are prepared and when an optimizer
/// ends, never by steps beside that, and always with the device as the current one.
///
/// Errors: a null pointer and std::bad_alloc are too little memory, which is reported as the device's own is; whatever else it
/// throws passes through. deallocate must not throw.
template <class Base, class Resource>
class ResourceDevice : public Base {
 public:
  /// What cudaMalloc keeps to, and libraries count on.
  static constexpr std::size_t alignment = 256;

  ResourceDevice(const Base& base, Resource& resource) : Base(base), resource_(&resource) {}

  void* allocate(Index bytes) const {
    [[maybe_unused]] const auto here = this->select();
#if defined(__cpp_exceptions)
    try {
      return address(resource_->allocate(static_cast<std::size_t>(bytes), alignment));
    } catch (const std::bad_alloc&) {
      return nullptr;
    }
#else
    return address(resource_->allocate(static_cast<std::size_t>(bytes), alignment));
#endif
  }
  /// A pool may hand the memory on at once, so this waits for everything on the device first. Not for use in a capture.
  void release(void* block, Index bytes) const noexcept {
    [[maybe_unused]] const auto here = this->try_select();
    this->finish();
    resource_->deallocate(static_cast<Pointer>(block), static_cast<std::size_t>(bytes), alignment);
  }

 private:
  using Pointer = decltype(std::declval<Resource&>().allocate(std::size_t{}, std::size_t{1}));

  static void* address(void* pointer) { return pointer; }
  template <class Fancy>
  static void* address(const Fancy& pointer) {
    return pointer.get();
  }

  Resource* resource_;
};

}  // namespace apollo::cuda
