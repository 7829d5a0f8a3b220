// SPDX-License-Identifier: Apache-2.0
// The memory of gradients, counted where it is taken: what Gradients::one_unit saves is measured, not computed.
#pragma once

#include <atomic>
#include <cstddef>

#include <Eigen/Core>

namespace llama {

/// Bytes of gradients that all models of the program hold. Calls from several threads are allowed.
struct GradientMemory {
  inline static std::atomic<std::size_t> live{0};
  inline static std::atomic<std::size_t> peak{0};  ///< the most that `live` has been

  /// Forgets an earlier peak.
  static void restart() { peak = live.load(); }
};

/// Eigen's aligned memory, counted in GradientMemory.
template <class Scalar>
struct CountedAllocator {
  using value_type = Scalar;

  Scalar* allocate(std::size_t count) {
    Scalar* memory = Eigen::aligned_allocator<Scalar>().allocate(count);
    const std::size_t live = GradientMemory::live += count * sizeof(Scalar);
    std::size_t peak = GradientMemory::peak;
    while (peak < live && !GradientMemory::peak.compare_exchange_weak(peak, live)) {
    }
    return memory;
  }
  void deallocate(Scalar* memory, std::size_t count) {
    GradientMemory::live -= count * sizeof(Scalar);
    Eigen::aligned_allocator<Scalar>().deallocate(memory, count);
  }
  bool operator==(const CountedAllocator&) const { return true; }
};

}  // namespace llama
