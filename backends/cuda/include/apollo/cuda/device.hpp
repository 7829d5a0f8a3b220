// SPDX-License-Identifier: Apache-2.0
// Gpu: the device that runs kernels by the CUDA runtime. Only a compiler of CUDA sees it.
#pragma once

#if defined(__CUDACC__)

#if defined(EIGEN_CORE_H) || defined(EIGEN_CORE_MODULE_H)
#error \
    "apollo: Eigen and CUDA must not meet in one translation unit: Eigen changes its code there, under the same names."
#endif

#include <cuda_runtime_api.h>

#include <string>

#include <apollo/base/error.hpp>
#include <apollo/cuda/context.hpp>

namespace apollo::cuda {

/// One CUDA device. Errors of construction: no driver, no device, no device of that number, one older than sm_80.
/// Errors elsewhere: what the runtime reports, with its text. Copying it costs nothing.
class Gpu {
 public:
  using Stream = cudaStream_t;

  explicit Gpu(int device = 0) : device_(device) {
    int count = 0;
    const cudaError_t found = cudaGetDeviceCount(&count);
    if (found == cudaErrorInsufficientDriver)
      refuse_device("there is no driver for this program's CUDA runtime", found);
    if (found == cudaErrorNoDevice || (found == cudaSuccess && count == 0))
      refuse_device("the driver finds no device", found);
    if (found != cudaSuccess) refuse_device("devices cannot be counted", found);
    if (device < 0 || device >= count)
      refuse("CUDA device " + text(Index{device}) + " must be at least 0 and below " + text(Index{count}) +
             ", the number of devices");
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, device), "its properties");
    if (properties.major < 8)
      refuse(name() + " (" + properties.name + ") has compute capability " + text(Index{properties.major}) + "." +
             text(Index{properties.minor}) + ", which must be at least 8.0");
  }

  void* allocate(Index bytes) const {
    const Selected here(*this);
    void* block = nullptr;
    const cudaError_t result = cudaMalloc(&block, static_cast<std::size_t>(bytes));
    if (result != cudaErrorMemoryAllocation) {
      check(result, "an allocation");
      return block;
    }
    (void)cudaGetLastError();  // out of memory is no state that later calls should find
    return nullptr;
  }
  /// Waits for the kernels that use it, as cudaFree does. `bytes` is what was asked for.
  void release(void* block, Index /*bytes*/) const noexcept {
    const auto here = try_select();  // nobody to tell
    cudaFree(block);
  }
  /// Waits for everything that this device was given, on all streams; what the runtime reports is lost.
  void finish() const noexcept {
    const auto here = try_select();
    (void)cudaDeviceSynchronize();
  }
  void clear(void* to, Index bytes, Stream stream) const {
    const Selected here(*this);
    check(cudaMemsetAsync(to, 0, static_cast<std::size_t>(bytes), stream), "setting memory");
  }
  /// `from` may be changed as soon as this returns.
  void write(void* to, const void* from, Index bytes, Stream stream) const {
    const Selected here(*this);
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice, stream), "a copy");
    wait(stream);
  }
  /// Waits for the stream.
  void read(void* to, const void* from, Index bytes, Stream stream) const {
    const Selected here(*this);
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost, stream), "a copy");
    wait(stream);
  }
  void wait(Stream stream) const {
    const Selected here(*this);  // whose default stream the null one is
    check(cudaStreamSynchronize(stream), "waiting for a stream");
  }
  std::string name() const { return "CUDA device " + text(Index{device_}); }

  /// Why memory cannot be stepped here; empty where it can.
  std::string refuses(const void* data, Index) const {
    cudaPointerAttributes attributes{};
    const cudaError_t result = cudaPointerGetAttributes(&attributes, data);
    if (result == cudaErrorInvalidValue)
      (void)cudaGetLastError();
    else
      check(result, "looking at a pointer");
    if (result != cudaSuccess || attributes.type == cudaMemoryTypeUnregistered)
      return "is memory of the host, which " + name() + " cannot step";
    if (attributes.type == cudaMemoryTypeHost) return "is pinned memory of the host; it must lie on " + name();
    if (attributes.type == cudaMemoryTypeDevice && attributes.device != device_)
      return "lies on CUDA device " + text(Index{attributes.device}) + ", not on " + name();
    return {};
  }

  /// Whether calls on the stream are being recorded in a graph instead of run.
  bool capturing(Stream stream) const {
    const Selected here(*this);
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(stream, &status), "asking whether a stream is captured");
    return status != cudaStreamCaptureStatusNone;
  }

  template <class Body>
  void launch(const Body& body, Index blocks, Stream stream) const {
    if (blocks == 0) return;
    if (blocks > Index{0x7fffffff})
      raise<std::runtime_error>("apollo: " + name() + ": " + Body::kernel + " needs " + text(blocks) +
                                " blocks, more than a launch can have; use several optimizers");
    const Selected here(*this);
    check(cudaPeekAtLastError(), "an earlier call of the program");
    entry<Body><<<static_cast<unsigned>(blocks), threads, 0, stream>>>(body);
    check(cudaGetLastError(), Body::kernel);
  }

 private:
  class Selected;

 public:
  /// Makes it the current device for as long as the result lives; errors are those of the runtime, or lost.
  Selected select() const;
  Selected try_select() const noexcept;

 private:
  /// Makes a device the current one, and gives the caller his own back.
  class Selected {
   public:
    explicit Selected(const Gpu& gpu) : device_(gpu.device_) {
      gpu.check(cudaGetDevice(&before_), "asking for the current device");
      if (before_ != device_) gpu.check(cudaSetDevice(device_), "making it the current device");
    }
    /// Whether it can be done or not.
    explicit Selected(int device) noexcept : device_(device) {
      if (cudaGetDevice(&before_) != cudaSuccess) before_ = device;
      if (before_ != device) (void)cudaSetDevice(device);
    }
    ~Selected() {
      if (before_ != device_) (void)cudaSetDevice(before_);
    }
    Selected(const Selected&) = delete;
    Selected& operator=(const Selected&) = delete;

   private:
    int before_ = 0;
    int device_ = 0;
  };

  void check(cudaError_t result, const char* what) const {
    if (result == cudaSuccess) return;
    (void)cudaGetLastError();
    raise<std::runtime_error>("apollo: " + name() + ": " + what + " failed: " + cudaGetErrorString(result));
  }
  [[noreturn]] void refuse_device(const char* what, cudaError_t result) const {
    (void)cudaGetLastError();
    raise<std::runtime_error>("apollo: " + name() + " cannot be used: " + what + " (" + cudaGetErrorString(result) +
                              ")");
  }

  int device_;
};

inline Gpu::Selected Gpu::select() const { return Selected(*this); }
inline Gpu::Selected Gpu::try_select() const noexcept { return Selected(device_); }

}  // namespace apollo::cuda

#endif
