// SPDX-License-Identifier: Apache-2.0
// What a kernel's body sees of the machine. A body is a function object, called for a block of threads with a context and the
// block's shared memory; it is a sequence of phases, between which the block's threads wait for each other. So no barrier
// can be forgotten, and a context can run a phase as it likes: thread by thread on a GPU, in a loop on a processor.
//
// A context has
//   block()             number of this block
//   phase(body)         body(t) for every thread t, then a barrier
//   last(body)          the same without a barrier: nothing that other threads of the block wrote is read afterwards
//   Each<T>             one T a thread, kept from phase to phase: value[t]
// Outside of phases a body may only compute what is the same for all of a block's threads.
#pragma once

#include <apollo/base/config.hpp>

namespace apollo::cuda {

/// Threads of every block. Sums depend on it, so it is no option.
inline constexpr int threads = 256;

/// Shared memory of block sums.
struct SumMemory {
  static constexpr int parts = 16;
  double value[threads];
  double part[parts];
};

/// The sum of a value of each thread, known to all of them. The order is fixed: thread by thread in steps of 16, then those.
template <class Context>
APOLLO_HD double block_sum(const Context& context, SumMemory& memory,
                           const typename Context::template Each<double>& value) {
  constexpr int parts = SumMemory::parts;
  context.phase([&](int t) { memory.value[t] = value[t]; });
  context.phase([&](int t) {
    if (t >= parts) return;
    double sum = 0;
    for (int i = t; i < threads; i += parts) sum += memory.value[i];
    memory.part[t] = sum;
  });
  double sum = 0;
  for (int i = 0; i < parts; ++i) sum += memory.part[i];
  return sum;
}

#if defined(__CUDACC__)
/// One thread of a CUDA block.
struct GridContext {
  template <class T>
  struct Each {
    T value = T();
    __device__ T& operator[](int) { return value; }
    __device__ const T& operator[](int) const { return value; }
  };
  __device__ Index block() const { return static_cast<Index>(blockIdx.x); }
  template <class Body>
  __device__ void phase(Body&& body) const {
    body(static_cast<int>(threadIdx.x));
    __syncthreads();
  }
  template <class Body>
  __device__ void last(Body&& body) const {
    body(static_cast<int>(threadIdx.x));
  }
};

/// The only kernel entry there is: every body runs in it.
template <class Body>
__global__ void __launch_bounds__(threads, 65536 / (64 * threads)) entry(const Body body) {
  __shared__ alignas(16) unsigned char memory[sizeof(typename Body::Shared)];
  body(GridContext{}, *reinterpret_cast<typename Body::Shared*>(memory));
}
#endif

}  // namespace apollo::cuda
