// SPDX-License-Identifier: Apache-2.0
// On a GPU: GaLore and Fira, whose bases cuBLAS and cuSOLVER compute, are where the emulated device has them but for rounding.
// Without one: says so, and exits with 77.
#include <apollo/cuda/solver.hpp>

#include <cmath>
#include <cstdio>

#include "basis.hpp"
#include "gpu.hpp"

int main() {
  const auto run = [](const apollo::cuda::Gpu& gpu) { return bases::run_members(gpu); };
  return on_gpu::compare(bases::run_emulated(), run, [](const bases::Outcome& expected, const bases::Outcome& found) {
    double gap = 0, norm = 0;
    for (std::size_t k = 0; k < expected.change.size(); ++k) {
      const double a = found.change[k], b = expected.change[k];
      gap += (a - b) * (a - b);
      norm += b * b;
    }
    const double error = std::sqrt(gap / norm);
    const bool same = error <= 1e-4;
    std::printf("%-40s %.2g %s\n", expected.name.c_str(), error, same ? "as emulated" : "DIFFERS");
    return same;
  });
}
