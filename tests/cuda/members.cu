// SPDX-License-Identifier: Apache-2.0
// On a GPU: every member leaves the bits that it leaves on the emulated device. Without one: says so, and exits with 77.
#include <cstdio>

#include "gpu.hpp"
#include "suite.hpp"

int main() {
  const auto run = [](const apollo::cuda::Gpu& gpu) { return suite::run_members(gpu); };
  return on_gpu::compare(suite::run_emulated(), run, [](const suite::Outcome& expected, const suite::Outcome& found) {
    const bool same = found.hash == expected.hash;
    std::printf("%-48s %016llx %s\n", expected.name.c_str(), static_cast<unsigned long long>(found.hash),
                same ? "as emulated" : "DIFFERS");
    return same;
  });
}
