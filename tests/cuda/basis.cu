// SPDX-License-Identifier: Apache-2.0
// On a GPU: GaLore and Fira, whose bases cuBLAS and cuSOLVER compute, are where the emulated device has them but for rounding.
// Without one: says so, and exits with 77.
#include <apollo/cuda/solver.hpp>

#include <cmath>
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
  int failures = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    double gap = 0, norm = 0;
    for (std::size_t k = 0; k < expected[i].change.size(); ++k) {
      const double a = found[i].change[k], b = expected[i].change[k];
      gap += (a - b) * (a - b);
      norm += b * b;
    }
    const double error = std::sqrt(gap / norm);
    const bool same = error <= 1e-4;
    std::printf("%-40s %.2g %s\n", expected[i].name.c_str(), error, same ? "as emulated" : "DIFFERS");
    failures += same ? 0 : 1;
  }
  return failures == 0 ? 0 : 1;
}
