// SPDX-License-Identifier: Apache-2.0
// What both programs here do about a machine without a GPU: they say so, and exit with 77, which ctest counts as skipped.
#pragma once

#include <cstdio>
#include <exception>
#include <vector>

#include <apollo/cuda.hpp>

namespace on_gpu {

/// Exits with 0 if same(expected, found) of all outcomes of run(Gpu()), with 1 if not of some, or if a GPU that is there failed.
template <class Outcome, class Run, class Same>
int compare(const std::vector<Outcome>& expected, Run&& run, Same&& same) {
  if (expected.empty()) return 1;
  std::vector<Outcome> found;
  try {
    found = run(apollo::cuda::Gpu());
  } catch (const std::exception& error) {
    std::printf("SKIP: %s\n", error.what());
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess && count > 0 ? 1 : 77;
  }
  int failures = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) failures += same(expected[i], found[i]) ? 0 : 1;
  return failures == 0 ? 0 : 1;
}

}  // namespace on_gpu
