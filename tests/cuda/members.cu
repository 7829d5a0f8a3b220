// SPDX-License-Identifier: Apache-2.0
// On a GPU: every member leaves the bits that it leaves on the emulated device. Without one: says so, and exits with 77.
#include <cstdio>
#include <exception>

#include "suite.hpp"

int main() {
  const auto expected = suite::run_emulated();
  if (expected.empty()) return 1;
  std::vector<suite::Outcome> found;
  try {
    found = suite::run_members(apollo::cuda::Gpu());
  } catch (const std::exception& error) {
    std::printf("SKIP: %s\n", error.what());
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess && count > 0 ? 1 : 77;
  }
  int failures = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const bool same = found[i].hash == expected[i].hash;
    std::printf("%-48s %016llx %s\n", expected[i].name.c_str(), static_cast<unsigned long long>(found[i].hash),
                same ? "as emulated" : "DIFFERS");
    failures += same ? 0 : 1;
  }
  return failures == 0 ? 0 : 1;
}
