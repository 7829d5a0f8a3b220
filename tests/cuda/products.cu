// SPDX-License-Identifier: Apache-2.0
// On a GPU: large dense ranks, which cuBLAS multiplies, come out as the emulated device has them but for rounding, and a captured
// graph of a step as the step. It links no more than apollo::cuda_blas. Without a GPU: says so, and exits with 77.
#include <apollo/cuda/blas.hpp>

#include <cstdio>
#include <exception>

#include "products.hpp"

namespace {

/// A tensor stepped twice, the second time by a graph that was captured: whether another, stepped twice, is the same.
bool replays(const apollo::cuda::Gpu& gpu) {
  using apollo::cuda::Memory;
  const apollo::Index rows = 200, cols = 100, bytes = rows * cols * 4;
  const std::vector<float> values = bases::gradient(rows, cols, 0);
  Memory<apollo::cuda::Gpu> g(gpu, bytes, {}, "a test"), w[2];
  gpu.write(g.as<float>(), values.data(), bytes, {});
  std::vector<float> left[2];
  for (int captured = 0; captured < 2; ++captured) {
    w[captured] = Memory<apollo::cuda::Gpu>(gpu, bytes, {}, "a test");
    cudaStream_t stream = nullptr;
    if (cudaStreamCreate(&stream) != cudaSuccess) return false;
    gpu.clear(w[captured].as<void>(), bytes, stream);
    apollo::cuda::Optimizer optimizer(gpu);
    optimizer.math(apollo::cuda::Math::tf32);
    const auto group = optimizer.add_group(apollo::FloraOptions{.lr = 0.1, .rank = 40});
    optimizer.add(group, "w", apollo::row_major(w[captured].as<float>(), rows, cols),
                  apollo::row_major(g.as<float>(), rows, cols), stream);
    optimizer.step(stream);
    if (captured == 0) {
      optimizer.step(stream);
    } else {
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t ready = nullptr;
      if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) return false;
      optimizer.step(stream);
      if (cudaStreamEndCapture(stream, &graph) != cudaSuccess) return false;
      if (cudaGraphInstantiate(&ready, graph, 0) != cudaSuccess) return false;
      if (cudaGraphLaunch(ready, stream) != cudaSuccess) return false;
    }
    left[captured].resize(values.size());
    gpu.read(left[captured].data(), w[captured].as<float>(), bytes, stream);
  }
  return left[0] == left[1];
}

}  // namespace

int main() {
  const auto expected = products::run_emulated();
  if (expected.empty()) return 1;
  try {
    const apollo::cuda::Gpu gpu;
    const int failures = bases::differing(products::run_members(gpu), expected);
    const bool same = replays(gpu);
    std::printf("%-48s %s\n", "a captured step", same ? "as a step" : "DIFFERS");
    return failures == 0 && same ? 0 : 1;
  } catch (const std::exception& error) {
    std::printf("SKIP: %s\n", error.what());
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess && count > 0 ? 1 : 77;
  }
}
