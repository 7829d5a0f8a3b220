// SPDX-License-Identifier: Apache-2.0
// A linear layer on a GPU: Y = W X fitted by APOLLO, with gradient and step captured once in a CUDA graph and replayed, and the
// learning rate lowered in between. Without a GPU it says so and exits with 77.
#include <apollo/cuda.hpp>

#include <cmath>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <vector>

namespace {

constexpr int outputs = 96, inputs = 64, samples = 256;

void check(cudaError_t result) {
  if (result != cudaSuccess) throw std::runtime_error(cudaGetErrorString(result));
}

// E = W X - Y, one thread a value.
__global__ void errors(const float* w, const float* x, const float* y, float* e) {
  const int i = static_cast<int>(blockIdx.x), n = static_cast<int>(threadIdx.x);
  float sum = -y[i * samples + n];
  for (int k = 0; k < inputs; ++k) sum += w[i * inputs + k] * x[k * samples + n];
  e[i * samples + n] = sum;
}
// G = E X^T / samples.
__global__ void gradients(const float* e, const float* x, float* g) {
  const int i = static_cast<int>(blockIdx.x), k = static_cast<int>(threadIdx.x);
  float sum = 0;
  for (int n = 0; n < samples; ++n) sum += e[i * samples + n] * x[k * samples + n];
  g[i * inputs + k] = sum / samples;
}

std::vector<float> values(int count, unsigned seed) {
  std::vector<float> result;
  for (int i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    result.push_back(static_cast<float>(static_cast<int>(seed >> 8) - (1 << 23)) * 0x1p-23f);
  }
  return result;
}

using Memory = apollo::cuda::Memory<apollo::cuda::Gpu>;
Memory on_device(const apollo::cuda::Gpu& gpu, const std::vector<float>& from, const char* name) {
  const auto bytes = static_cast<apollo::Index>(from.size() * sizeof(float));
  Memory memory(gpu, bytes, name, "the example");
  gpu.write(memory.as<float>(), from.data(), bytes, nullptr);
  return memory;
}

double loss(const apollo::cuda::Gpu& gpu, const Memory& e, cudaStream_t stream) {
  std::vector<float> host(outputs * samples);
  gpu.read(host.data(), e.as<float>(), e.bytes(), stream);
  double sum = 0;
  for (const float value : host) sum += static_cast<double>(value) * static_cast<double>(value);
  return sum / static_cast<double>(host.size());
}

int fit() {
  const apollo::cuda::Gpu gpu;
  const std::vector<float> target = values(outputs * inputs, 1), data = values(inputs * samples, 2);
  std::vector<float> answers(outputs * samples, 0.0f);
  for (int i = 0; i < outputs; ++i)
    for (int k = 0; k < inputs; ++k)
      for (int n = 0; n < samples; ++n) answers[i * samples + n] += target[i * inputs + k] * data[k * samples + n];
  const Memory w = on_device(gpu, std::vector<float>(outputs * inputs, 0.0f), "w"), x = on_device(gpu, data, "x");
  const Memory y = on_device(gpu, answers, "y"), e = on_device(gpu, answers, "e"), g = on_device(gpu, target, "g");

  apollo::cuda::Optimizer optimizer(gpu);
  const auto group = optimizer.add_group(apollo::ApolloOptions{.lr = 2e-2, .rank = 16});
  optimizer.add(group, "w", apollo::row_major(w.as<float>(), outputs, inputs),
                apollo::row_major(g.as<float>(), outputs, inputs));

  cudaStream_t stream = nullptr;
  check(cudaStreamCreate(&stream));
  optimizer.prepare(stream);  // tables go to the device now: a capture cannot wait for a copy
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  errors<<<outputs, samples, 0, stream>>>(w.as<float>(), x.as<float>(), y.as<float>(), e.as<float>());
  gradients<<<outputs, inputs, 0, stream>>>(e.as<float>(), x.as<float>(), g.as<float>());
  optimizer.step(stream);
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t replay = nullptr;
  check(cudaGraphInstantiate(&replay, graph, 0));

  double first = 0, last = 0;
  for (int step = 0; step < 400; ++step) {
    if (step == 300) optimizer.set_lr(group, 2e-3, stream);
    check(cudaGraphLaunch(replay, stream));
    if (step % 100 == 0) std::printf("step %3d: loss %.6f\n", step, loss(gpu, e, stream));
    if (step == 0) first = loss(gpu, e, stream);
  }
  last = loss(gpu, e, stream);
  const apollo::cuda::TensorStatus status = optimizer.status("w", stream);
  std::printf("step %3lld: loss %.6f, update norm %.4f, state %lld bytes\n", static_cast<long long>(status.steps), last,
              status.update_norm, static_cast<long long>(optimizer.state_bytes()));
  check(cudaGraphExecDestroy(replay));
  check(cudaGraphDestroy(graph));
  check(cudaStreamDestroy(stream));
  return last < first / 10 && status.steps == 400 ? 0 : 1;
}

}  // namespace

int main() {
  int count = 0;
  const bool has_device = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
  try {
    return fit();
  } catch (const std::exception& error) {
    std::printf("%s%s\n", has_device ? "" : "SKIP: ", error.what());
    return has_device ? 1 : 77;
  }
}
