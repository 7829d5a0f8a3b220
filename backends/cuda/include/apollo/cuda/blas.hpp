// SPDX-License-Identifier: Apache-2.0
// Matrix products of large dense ranks on a GPU by cuBLAS. Include it in the .cu file that calls optimizer.math(...), and link
// apollo::cuda_blas; the library is large, so nothing else of apollo needs it.
#pragma once

#if defined(__CUDACC__)

#include <cublas_v2.h>

#include <memory>
#include <type_traits>

#include <apollo/cuda.hpp>

namespace apollo::cuda {

/// cuBLAS on one device, with one handle and a workspace of its own, so that what a graph captured stays right. Results are the
/// same bits every time on one kind of GPU and version of the library. Errors: what it reports, with the call's name.
template <class Device>
class Blas final : public Products<Device> {
 public:
  /// As much workspace as cuBLAS takes by default on sm_90; less costs speed alone.
  static constexpr Index workspace_bytes = Index{32} << 20;

  Blas(const Device& device, Math math) : Products<Device>(device, math, workspace_bytes) {
    const auto here = this->device().select();
    cublasHandle_t blas = nullptr;
    check(cublasCreate(&blas), "cublasCreate");
    blas_.reset(blas);
    check(cublasSetPointerMode(blas, CUBLAS_POINTER_MODE_DEVICE), "cublasSetPointerMode");
  }

  ~Blas() override {  // a handle is given back on the device that it was made on
    const auto here = this->device().try_select();
    blas_.reset();
  }

  /// cuBLAS counts columns first: C^T = B^T A^T.
  void multiply(const Product& p, cudaStream_t stream) const override {
    const auto here = this->device().select();
    check(cublasSetStream(blas_.get(), stream), "cublasSetStream");  // which takes the workspace away
    check(cublasSetWorkspace(blas_.get(), this->own_memory(), static_cast<std::size_t>(workspace_bytes)),
          "cublasSetWorkspace");
    check(cublasGemmEx_64(blas_.get(), operation(p.b), operation(p.a), p.cols, p.rows, p.inner, p.alpha, p.b.data,
                          type(p.b), p.b.stride, p.a.data, type(p.a), p.a.stride, p.beta, p.c, CUDA_R_32F, p.cols,
                          arithmetic(p.a.half), CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx");
  }

 private:
  struct Destroy {
    void operator()(cublasHandle_t blas) const noexcept { cublasDestroy(blas); }
  };

  static cublasOperation_t operation(const Factor& factor) { return factor.transposed ? CUBLAS_OP_T : CUBLAS_OP_N; }
  static cudaDataType type(const Factor& factor) { return factor.half ? CUDA_R_16BF : CUDA_R_32F; }
  /// Products of bfloat16 numbers are exact in fp32, so there is nothing to choose. Pedantic: no switch of the environment makes
  /// fp32 something else.
  cublasComputeType_t arithmetic(bool half) const {
    if (half) return CUBLAS_COMPUTE_32F;
    switch (this->math()) {
      case Math::tf32: return CUBLAS_COMPUTE_32F_FAST_TF32;
      case Math::bf16: return CUBLAS_COMPUTE_32F_FAST_16BF;
      default: return CUBLAS_COMPUTE_32F_PEDANTIC;
    }
  }
  void check(cublasStatus_t result, const char* what) const {
    if (result != CUBLAS_STATUS_SUCCESS)
      raise<std::runtime_error>("apollo: " + this->device().name() + ": " + what +
                                " failed: " + cublasGetStatusString(result));
  }

  std::unique_ptr<std::remove_pointer_t<cublasHandle_t>, Destroy> blas_;
};

template <class Device>
  requires(std::is_base_of_v<Gpu, Device>)
struct ProductsOf<Device> {
  using type = Blas<Device>;
};

}  // namespace apollo::cuda

#endif
