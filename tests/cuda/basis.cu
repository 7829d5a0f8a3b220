// SPDX-License-Identifier: Apache-2.0
// On a GPU: GaLore and Fira, whose bases cuBLAS and cuSOLVER compute, are where the emulated device has them but for rounding.
// Without one: says so, and exits with 77.
#include <apollo/cuda/solver.hpp>

#include <cstdio>
#include <exception>

#include "basis.hpp"

int main() {
  const auto expected = bases::run_emulated();
  if (expected.empty()) return 1;
  std::vector<bases::Outcome> found;
  try {
    found = bases::run_members(apollo::cuda::Gpu());
  } catch (const std::exception& error) {
    std::printf("SKIP: %s\n", error.what());
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess && count > 0 ? 1 : 77;
  }
  return bases::differing(found, expected) == 0 ? 0 : 1;
}
