// SPDX-License-Identifier: Apache-2.0
// On a GPU: GaLore and Fira, whose bases cuBLAS and cuSOLVER compute, are where the emulated device has them but for rounding.
// Without one: says so, and exits with 77.
#include <apollo/cuda/solver.hpp>

#include <cstdio>

#include "basis.hpp"
#include "gpu.hpp"

int main() {
  const auto run = [](const apollo::cuda::Gpu& gpu) { return bases::run_members(gpu); };
  return on_gpu::compare(bases::run_emulated(), run, [](const bases::Outcome& expected, const bases::Outcome& found) {
    return bases::differing({found}, {expected}) == 0;
  });
}
