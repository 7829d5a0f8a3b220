// SPDX-License-Identifier: Apache-2.0
// What a benchmark asks of a device beside what an optimizer does: how much memory is free, copies, marks in a stream and the times
// between them, steps recorded once and replayed. A GPU's by the CUDA runtime; the emulated device's by the processor's clock,
// so that all the rest of the benchmark can be tried where there is no GPU.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <apollo/cuda.hpp>

#include "../figures.hpp"
#include "../models/lists.hpp"

namespace bench::cuda {

/// Machine(memory): device 0, of which `memory` bytes may be used; all that are free where that is 0.
template <class Device>
class Machine;

template <>
class Machine<apollo::cuda::Emulator> {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Machine(Index memory)
      : bytes_(memory > 0 ? memory : Index{1} << 32), device_(apollo::cuda::Emulation{.bytes = bytes_}) {}

  const apollo::cuda::Emulator& device() const { return device_; }
  apollo::cuda::Emulator::Stream stream() const { return {}; }
  Index free_bytes() const { return bytes_ - device_.used(); }
  void copy(void* to, const void* from, Index bytes) const { std::memcpy(to, from, static_cast<std::size_t>(bytes)); }
  void wait() const {}

  /// Marks this point of the stream.
  void mark() { marks_.push_back(Clock::now()); }
  /// Seconds from each mark to the next. Waits for the last one, and forgets all.
  std::vector<Seconds> between_marks() {
    std::vector<Seconds> seconds;
    for (std::size_t i = 1; i < marks_.size(); ++i)
      seconds.push_back(std::chrono::duration<Seconds>(marks_[i] - marks_[i - 1]).count());
    marks_.clear();
    return seconds;
  }

  /// What body() enqueues, to be replayed.
  class Recording {
   public:
    Recording(const Machine& machine, const std::function<void()>& body) : device_(machine.device_) {
      device_.begin_capture();
      body();
      graph_ = device_.end_capture();
    }
    void replay() {
      const Index before = device_.launches();
      device_.replay(graph_);
      kernels_ = device_.launches() - before;
    }
    /// Kernels of a replay, once there was one.
    Index kernels() const { return kernels_; }

   private:
    apollo::cuda::Emulator device_;
    apollo::cuda::Emulator::Graph graph_;
    Index kernels_ = 0;
  };

  void describe(Figures& figures) const { figures.add("cuda/device", "emulated", "name"); }

 private:
  Index bytes_;
  apollo::cuda::Emulator device_;
  std::vector<Clock::time_point> marks_;
};

#if defined(__CUDACC__)

inline void check(cudaError_t result, const char* what) {
  if (result != cudaSuccess) throw std::runtime_error(std::string(what) + " failed: " + cudaGetErrorString(result));
}

template <>
class Machine<apollo::cuda::Gpu> {
 public:
  explicit Machine(Index memory) {
    check(cudaSetDevice(0), "cudaSetDevice");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    most_free_ = free_now();
    if (memory > 0) least_free_ = most_free_ - std::min(memory, most_free_);
  }
  ~Machine() {
    for (const cudaEvent_t event : events_) (void)cudaEventDestroy(event);
    if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  const apollo::cuda::Gpu& device() const { return device_; }
  cudaStream_t stream() const { return stream_; }
  Index free_bytes() const { return std::max<Index>(0, free_now() - least_free_); }
  void copy(void* to, const void* from, Index bytes) const {
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToDevice, stream_),
          "cudaMemcpyAsync");
  }
  void wait() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

  void mark() {
    if (marks_ == events_.size()) {
      cudaEvent_t event = nullptr;
      check(cudaEventCreate(&event), "cudaEventCreate");
      events_.push_back(event);
    }
    check(cudaEventRecord(events_[marks_++], stream_), "cudaEventRecord");
  }
  std::vector<Seconds> between_marks() {
    std::vector<Seconds> seconds;
    if (marks_ > 0) check(cudaEventSynchronize(events_[marks_ - 1]), "cudaEventSynchronize");
    for (std::size_t i = 1; i < marks_; ++i) {
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, events_[i - 1], events_[i]), "cudaEventElapsedTime");
      seconds.push_back(1e-3 * static_cast<Seconds>(milliseconds));
    }
    marks_ = 0;
    return seconds;
  }

  /// A CUDA graph.
  class Recording {
   public:
    Recording(const Machine& machine, const std::function<void()>& body) : stream_(machine.stream()) {
      check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
      cudaGraph_t graph = nullptr;
      try {
        body();
      } catch (...) {
        if (cudaStreamEndCapture(stream_, &graph) == cudaSuccess) (void)cudaGraphDestroy(graph);
        (void)cudaGetLastError();
        throw;
      }
      check(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
      const Owner owner{graph};
      kernels_ = kernels_of(graph);
      check(cudaGraphInstantiate(&replay_, graph, 0), "cudaGraphInstantiate");
      check(cudaGraphUpload(replay_, stream_), "cudaGraphUpload");
    }
    ~Recording() {
      if (replay_ != nullptr) (void)cudaGraphExecDestroy(replay_);
    }
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;

    void replay() const { check(cudaGraphLaunch(replay_, stream_), "cudaGraphLaunch"); }
    Index kernels() const { return kernels_; }

   private:
    struct Owner {
      cudaGraph_t graph;
      ~Owner() { (void)cudaGraphDestroy(graph); }
    };
    static Index kernels_of(cudaGraph_t graph) {
      std::size_t count = 0;
      check(cudaGraphGetNodes(graph, nullptr, &count), "cudaGraphGetNodes");
      std::vector<cudaGraphNode_t> nodes(count);
      if (count > 0) check(cudaGraphGetNodes(graph, nodes.data(), &count), "cudaGraphGetNodes");
      Index kernels = 0;
      for (const cudaGraphNode_t node : nodes) {
        cudaGraphNodeType type = cudaGraphNodeTypeEmpty;
        check(cudaGraphNodeGetType(node, &type), "cudaGraphNodeGetType");
        if (type == cudaGraphNodeTypeKernel) ++kernels;
      }
      return kernels;
    }

    cudaStream_t stream_;
    cudaGraphExec_t replay_ = nullptr;
    Index kernels_ = 0;
  };

  /// The name of the device, and what bounds it; versions as the runtime counts them.
  void describe(Figures& figures) const {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
    std::string name = properties.name;
    std::replace(name.begin(), name.end(), ' ', '_');
    figures.add("cuda/device", name, "name");
    figures.add("cuda/device/memory", static_cast<double>(properties.totalGlobalMem), "B");
    figures.add("cuda/device/multiprocessors", properties.multiProcessorCount, "1");
    figures.add("cuda/device/l2", attribute(cudaDevAttrL2CacheSize), "B");
    // Twice a cycle, as memory of all kinds that there are transfers.
    figures.add("cuda/device/nominal_bandwidth",
                2e-6 * attribute(cudaDevAttrMemoryClockRate) * attribute(cudaDevAttrGlobalMemoryBusWidth) / 8, "GB/s");
    int driver = 0, runtime = 0;
    check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
    figures.add("cuda/driver", driver, "version");
    figures.add("cuda/runtime", runtime, "version");
  }

 private:
  static Index free_now() {
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return static_cast<Index>(free);
  }
  static double attribute(cudaDeviceAttr which) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, 0), "cudaDeviceGetAttribute");
    return value;
  }

  apollo::cuda::Gpu device_;  ///< first: it says why there is none
  cudaStream_t stream_ = nullptr;
  Index most_free_ = 0, least_free_ = 0;
  std::vector<cudaEvent_t> events_;
  std::size_t marks_ = 0;  ///< events in use
};

#endif

}  // namespace bench::cuda
