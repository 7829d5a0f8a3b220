// SPDX-License-Identifier: Apache-2.0
// The cases on a GPU.
#if defined(BENCH_CUDA_SOLVER)
#include <apollo/cuda/solver.hpp>
#endif

#include <cstdio>
#include <exception>

#include "benchmark.hpp"

std::vector<std::string> bench::cuda::member_names() { return all_member_names(); }

int bench::cuda::run(const Arguments& arguments) {
  try {
    const apollo::cuda::Gpu gpu;
  } catch (const std::exception& error) {
    int count = 0;
    const bool has_device = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
    std::fprintf(stderr, "%s%s\n", has_device ? "bench_cuda: " : "SKIP: ", error.what());
    return has_device ? 1 : 77;
  }
  return Benchmark<apollo::cuda::Gpu>(arguments).run() ? 0 : 1;
}
