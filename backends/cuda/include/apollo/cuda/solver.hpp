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
    check(cublasCreate(&blas_), "cublasCreate");
    check(cusolverDnCreate(&solver_), "cusolverDnCreate");
    check(cusolverDnCreateParams(&params_), "cusolverDnCreateParams");
    info_ =
        std::make_unique<Memory<Gpu>>(gpu_, static_cast<Index>(sizeof(int)), std::string_view(), "a solver's answer");
  }
  ~SolverAlgebra() {
    if (params_ != nullptr) cusolverDnDestroyParams(params_);
    if (solver_ != nullptr) cusolverDnDestroy(solver_);
    if (blas_ != nullptr) cublasDestroy(blas_);
  }
  SolverAlgebra(const SolverAlgebra&) = delete;
  SolverAlgebra& operator=(const SolverAlgebra&) = delete;

  /// cuBLAS counts columns first: c^T = b^T a^T.
  void product(const Block& a, const Block& b, const Block& c, bool add, cudaStream_t stream) const {
    const auto here = gpu_.select();
    check(cublasSetStream(blas_, stream), "cublasSetStream");
    const double one = 1, before = add ? 1 : 0;
    const auto operation = [](const Block& block) { return block.transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
    check(cublasDgemm_64(blas_, operation(b), operation(a), c.cols, c.rows, a.cols, &one, b.data, b.stride, a.data,
                         a.stride, &before, c.data, c.stride),
          "cublasDgemm");
  }

  Index eigen_bytes(Index n) const {
    std::size_t device = 0, host = 0;
    sizes(n, device, host);
    return static_cast<Index>(device);
  }
  void symmetric_eigen(Index n, double* a, double* values, void* work, cudaStream_t stream) const {
    const auto here = gpu_.select();
    std::size_t device = 0, host = 0;
    sizes(n, device, host);
    std::vector<unsigned char> memory(host);
    check(cusolverDnSetStream(solver_, stream), "cusolverDnSetStream");
    check(cusolverDnXsyevd(solver_, params_, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, n, CUDA_R_64F, a, n,
                           CUDA_R_64F, values, CUDA_R_64F, work, device, memory.data(), host, info_->as<int>()),
          "cusolverDnXsyevd");
    int info = 0;
    gpu_.read(&info, info_->as<int>(), static_cast<Index>(sizeof(int)), stream);
    if (info != 0)
      raise<std::runtime_error>("apollo: " + gpu_.name() + ": cusolverDnXsyevd found no eigenvectors (info " +
                                text(Index{info}) + ")");
  }

 private:
  void sizes(Index n, std::size_t& device, std::size_t& host) const {
    check(cusolverDnXsyevd_bufferSize(solver_, params_, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, n, CUDA_R_64F,
                                      nullptr, n, CUDA_R_64F, nullptr, CUDA_R_64F, &device, &host),
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
  cublasHandle_t blas_ = nullptr;
  cusolverDnHandle_t solver_ = nullptr;
  cusolverDnParams_t params_ = nullptr;
  std::unique_ptr<Memory<Gpu>> info_;
};

template <class Device>
  requires(std::is_base_of_v<Gpu, Device>)
struct AlgebraOf<Device> {
  using type = SolverAlgebra;
};

}  // namespace apollo::cuda

#endif
