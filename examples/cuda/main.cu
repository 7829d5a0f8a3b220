// SPDX-License-Identifier: Apache-2.0
// A linear layer on a GPU: Y = W X fitted by APOLLO. Tensors are Thrust's vectors; gradient and step run on a stream of their own,
// captured once in a CUDA graph and replayed, the learning rate lowered in between; at the end the optimizer's state is saved and
// loaded by another one. Without a GPU it says so and exits with 77.
#include <apollo/cuda.hpp>
#include <apollo/cuda/thrust.hpp>

#include <thrust/device_vector.h>
#include <thrust/inner_product.h>
#include <thrust/system/cuda/execution_policy.h>

#include <cstdio>
#include <exception>
#include <stdexcept>
#include <vector>

namespace {

constexpr int outputs = 96, inputs = 64, samples = 256;
constexpr int steps = 400, lowered_at = 300;
constexpr const char* state_file = "fit.safetensors";

void check(cudaError_t result) {
  if (result != cudaSuccess) throw std::runtime_error(cudaGetErrorString(result));
}

class Stream {
 public:
  Stream() { check(cudaStreamCreate(&stream_)); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// What `work` enqueues on a stream, to be enqueued again at the price of one call.
class Graph {
 public:
  template <class Work>
  Graph(cudaStream_t stream, Work&& work) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    work();
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream, &graph));
    const cudaError_t result = cudaGraphInstantiate(&replay_, graph, 0);
    cudaGraphDestroy(graph);
    check(result);
  }
  ~Graph() { cudaGraphExecDestroy(replay_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void launch(cudaStream_t stream) const { check(cudaGraphLaunch(replay_, stream)); }

 private:
  cudaGraphExec_t replay_ = nullptr;
};

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

/// Uniform on [-1, 1).
std::vector<float> values(int count, unsigned seed) {
  std::vector<float> result;
  for (int i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    result.push_back(static_cast<float>(static_cast<int>(seed >> 8) - (1 << 23)) * 0x1p-23f);
  }
  return result;
}

/// The data, and what is computed of it.
struct Problem {
  thrust::device_vector<float> x, y, w, e, g;

  Problem() : w(outputs * inputs), e(outputs * samples), g(outputs * inputs) {
    const std::vector<float> target = values(outputs * inputs, 1), data = values(inputs * samples, 2);
    std::vector<float> answers(outputs * samples);
    for (int i = 0; i < outputs; ++i)
      for (int k = 0; k < inputs; ++k)
        for (int n = 0; n < samples; ++n) answers[i * samples + n] += target[i * inputs + k] * data[k * samples + n];
    x = data;
    y = answers;
  }

  void enqueue_gradient(cudaStream_t stream) {
    errors<<<outputs, samples, 0, stream>>>(w.data().get(), x.data().get(), y.data().get(), e.data().get());
    check(cudaGetLastError());
    gradients<<<outputs, inputs, 0, stream>>>(e.data().get(), x.data().get(), g.data().get());
    check(cudaGetLastError());
  }

  /// The mean square of E. Waits for the stream.
  double loss(cudaStream_t stream) const {
    return thrust::inner_product(thrust::cuda::par.on(stream), e.begin(), e.end(), e.begin(), 0.0) /
           static_cast<double>(e.size());
  }
};

/// The optimizer of a problem's weights.
struct Fit {
  apollo::cuda::Optimizer optimizer;
  apollo::Group<apollo::Apollo<>::Policies> group;

  Fit(const apollo::cuda::Gpu& gpu, Problem& problem)
      : optimizer(gpu), group(optimizer.add_group(apollo::ApolloOptions{.lr = 2e-2, .rank = 16})) {
    using apollo::cuda::row_major;
    optimizer.add(group, "w", row_major(problem.w, outputs, inputs), row_major(problem.g, outputs, inputs));
  }
};

int run() {
  const apollo::cuda::Gpu gpu;
  const Stream stream;
  Problem problem;
  Fit fit(gpu, problem);
  const auto work = [&] {
    problem.enqueue_gradient(stream);
    fit.optimizer.step(stream);
  };
  work();  // once as it is: tables go to the device, and CUDA loads a kernel when it is first launched
  const Graph step(stream, work);

  double first = 0;
  for (int number = 0; number < steps; ++number) {
    if (number == lowered_at) fit.optimizer.set_lr(fit.group, 2e-3, stream);  // read by the replays from here on
    if (number > 0) step.launch(stream);
    if (number % 100 != 0) continue;
    const double loss = problem.loss(stream);
    std::printf("step %3d: loss %.6f\n", number, loss);
    if (number == 0) first = loss;
  }
  const double last = problem.loss(stream);
  const apollo::cuda::TensorStatus status = fit.optimizer.status("w", stream);
  std::printf("step %3lld: loss %.6f, update norm %.4f, state %lld bytes\n", static_cast<long long>(status.steps), last,
              status.update_norm, static_cast<long long>(fit.optimizer.state_bytes()));

  fit.optimizer.save(state_file, stream);
  Fit resumed(gpu, problem);
  resumed.optimizer.load(state_file, stream);
  const bool loaded = resumed.optimizer.status("w", stream).steps == status.steps;
  std::printf("%s: %s\n", state_file, loaded ? "saved and loaded" : "does not hold what was saved");
  return last < first / 10 && status.steps == steps && loaded ? 0 : 1;
}

}  // namespace

int main() {
  int count = 0;
  const bool has_device = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
  try {
    return run();
  } catch (const std::exception& error) {
    std::printf("%s%s\n", has_device ? "" : "SKIP: ", error.what());
    return has_device ? 1 : 77;
  }
}
