// SPDX-License-Identifier: Apache-2.0
// On a GPU: Thrust's vectors are stepped to where the host steps them. Without one: says so, and exits with 77.
#include "thrust.hpp"

#include <cstdio>
#include <exception>

int main() {
  const vectors::Weights expected = vectors::expected();
  try {
    const apollo::cuda::Gpu gpu;
    thrust::device_ptr_memory_resource<thrust::device_memory_resource> memory;
    const double error = vectors::worst_error(vectors::stepped(gpu, memory), expected);
    std::printf("Thrust's vectors: worst error %.2g of a step\n", error);
    return error <= 1e-3 ? 0 : 1;
  } catch (const std::exception& error) {
    std::printf("SKIP: %s\n", error.what());
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess && count > 0 ? 1 : 77;
  }
}
