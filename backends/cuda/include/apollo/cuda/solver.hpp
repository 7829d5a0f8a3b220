// SPDX-License-Identifier: Apache-2.0
// GaLore, Fira and whatever else takes a singular basis on a GPU: their linear algebra by cuBLAS and cuSOLVER. Include it in the
// .cu file that adds such tensors, and link apollo::cuda_solver; both libraries are large, so nothing else of apollo needs them.
#pragma once

#if defined(__CUDACC__)

#include <cusolverDn.h>

#include <memory>
#include <vector>

#include <apollo/cuda/blas.hpp>

namespace apollo::cuda {

/// Products and eigenvectors of one device, in double precision. Errors: what the libraries report, with the call's name.
class SolverAlgebra {
 public:
  explicit SolverAlgebra(const Gpu& gpu) : gpu_(gpu) {
    const auto here = gpu_.select();
    blas_ = made<cublasHandle_t>(cublasCreate, "cublasCreate");
    solver_ = made<cusolverDnHandle_t>(cusolverDnCreate, "cusolverDnCreate");
    params_ = made<cusolverDnParams_t>(cusolverDnCreateParams, "cusolverDnCreateParams");
    info_ = {gpu_, static_cast<Index>(sizeof(int)), std::string_view(), "a solver's answer"};
  }
  ~SolverAlgebra() {  // handles are given back on the device that they were made on
    const auto here = gpu_.try_select();
    params_.reset();
    solver_.reset();
    blas_.reset();
  }
  SolverAlgebra(const SolverAlgebra&) = delete;
  SolverAlgebra& operator=(const SolverAlgebra&) = delete;

  /// cuBLAS counts columns first: c^T = b^T a^T.
  void product(const Block& a, const Block& b, const Block& c, bool add, cudaStream_t stream) const {
    const auto here = gpu_.select();
    check(cublasSetStream(blas_.get(), stream), "cublasSetStream");
    const double one = 1, before = add ? 1 : 0;
    const auto operation = [](const Block& block) { return block.transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
    check(cublasDgemm_64(blas_.get(), operation(b), operation(a), c.cols, c.rows, a.cols, &one, b.data, b.stride,
                         a.data, a.stride, &before, c.data, c.stride),
          "cublasDgemm");
  }

  Index eigen_bytes(Index n) const {
    const auto here = gpu_.select();
    std::size_t device = 0, host = 0;
    sizes(n, device, host);
    return static_cast<Index>(device);
  }
  template <class Device>
  void symmetric_eigen(Index n, double* a, double* values, const Memory<Device>& work, cudaStream_t stream) const {
    const auto here = gpu_.select();
    std::size_t device = 0, host = 0;
    sizes(n, device, host);
    Memory<Gpu> more;  // nobody promises that a smaller matrix needs less
    if (static_cast<Index>(device) > work.bytes())
      more = {gpu_, static_cast<Index>(device), std::string_view(), "scratch of eigenvectors"};
    std::vector<unsigned char> memory(host);
    check(cusolverDnSetStream(solver_.get(), stream), "cusolverDnSetStream");
    check(cusolverDnXsyevd(solver_.get(), params_.get(), CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, n,
                           CUDA_R_64F, a, n, CUDA_R_64F, values, CUDA_R_64F,
                           more.bytes() > 0 ? more.as<void>() : work.template as<void>(), device, memory.data(), host,
                           info_.as<int>()),
          "cusolverDnXsyevd");
    int info = 0;
    gpu_.read(&info, info_.as<int>(), static_cast<Index>(sizeof(int)), stream);
    if (info != 0)
      raise<std::runtime_error>("apollo: " + gpu_.name() + ": cusolverDnXsyevd found no eigenvectors (info " +
                                text(Index{info}) + ")");
  }

 private:
  struct Destroy {
    void operator()(cublasHandle_t handle) const noexcept { cublasDestroy(handle); }
    void operator()(cusolverDnHandle_t handle) const noexcept { cusolverDnDestroy(handle); }
    void operator()(cusolverDnParams_t params) const noexcept { cusolverDnDestroyParams(params); }
  };
  template <class Handle>
  using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy>;

  template <class Handle, class Create>
  Owned<Handle> made(const Create& create, const char* what) const {
    Handle handle = nullptr;
    check(create(&handle), what);
    return Owned<Handle>(handle);
  }
  void sizes(Index n, std::size_t& device, std::size_t& host) const {
    check(cusolverDnXsyevd_bufferSize(solver_.get(), params_.get(), CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, n,
                                      CUDA_R_64F, nullptr, n, CUDA_R_64F, nullptr, CUDA_R_64F, &device, &host),
          "cusolverDnXsyevd_bufferSize");
  }
  void check(cublasStatus_t result, const char* what) const {
    if (result != CUBLAS_STATUS_SUCCESS) fail(what, static_cast<int>(result));
  }
  void check(cusolverStatus_t result, const char* what) const {
    if (result != CUSOLVER_STATUS_SUCCESS) fail(what, static_cast<int>(result));
  }
  [[noreturn]] void fail(const char* what, int status) const {
    raise<std::runtime_error>("apollo: " + gpu_.name() + ": " + what + " failed with status " + text(Index{status}));
  }

  Gpu gpu_;
  Owned<cublasHandle_t> blas_;
  Owned<cusolverDnHandle_t> solver_;
  Owned<cusolverDnParams_t> params_;
  Memory<Gpu> info_;
};

template <class Device>
  requires(std::is_base_of_v<Gpu, Device>)
struct AlgebraOf<Device> {
  using type = SolverAlgebra;
};

}  // namespace apollo::cuda

#endif
