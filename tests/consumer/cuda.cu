// SPDX-License-Identifier: Apache-2.0
#include <apollo/cuda.hpp>

#include <cstdio>
#include <exception>

// Starts without a driver, and says what is missing.
int main() {
  try {
    apollo::cuda::Optimizer optimizer;
    auto group = optimizer.add_group(apollo::AdamWOptions{.lr = 0.1});
    float* memory = nullptr;
    if (cudaMalloc(&memory, 64) != cudaSuccess || cudaMemset(memory, 0, 64) != cudaSuccess) return 1;
    optimizer.add(group, "w", apollo::row_major(memory, 2, 4), apollo::row_major(memory + 8, 2, 4));
    optimizer.step();
    return optimizer.status("w").steps == 1 ? 0 : 1;
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess && count > 0 ? 1 : 0;
  }
}
