// SPDX-License-Identifier: Apache-2.0
// One matrix product on the calling thread: by oneDNN where the program is built with it (LLAMA_ONEDNN), else by Eigen.
#pragma once

#include <cstdint>
#include <type_traits>

#include <Eigen/Core>

#if defined(LLAMA_ONEDNN)
#include <new>
#include <stdexcept>
#include <string>

#include <dnnl.h>
#endif

namespace llama {

/// Which factor of a product is read as its transpose.
enum class Transposed : std::uint8_t { none, left, right };

namespace by_eigen {

template <class Scalar, class Left, class Right, class Out>
void multiply(Transposed transposed, Scalar scale, const Left& left, const Right& right, bool accumulate, Out&& out) {
  const auto assign = [&](const auto& product) {
    if (accumulate)
      out.noalias() += scale * product;
    else
      out.noalias() = scale * product;
  };
  switch (transposed) {
    case Transposed::none: assign(left * right); break;
    case Transposed::left: assign(left.transpose() * right); break;
    case Transposed::right: assign(left * right.transpose()); break;
  }
}

}  // namespace by_eigen

#if defined(LLAMA_ONEDNN)
namespace by_onednn {

/// oneDNN takes as many threads as OpenMP offers: one inside a parallel region, and where the caller asks for no more.
template <class Left, class Right, class Out>
void multiply(Transposed transposed, float scale, const Left& left, const Right& right, bool accumulate, Out&& out) {
  const auto letter = [](bool turned) { return turned ? 'T' : 'N'; };
  const auto inner = transposed == Transposed::left ? left.rows() : left.cols();
  const dnnl_status_t status =
      dnnl_sgemm(letter(transposed == Transposed::left), letter(transposed == Transposed::right), out.rows(),
                 out.cols(), inner, scale, left.data(), left.outerStride(), right.data(), right.outerStride(),
                 accumulate ? 1.0F : 0.0F, out.data(), out.outerStride());
  if (status == dnnl_out_of_memory) throw std::bad_alloc();
  if (status != dnnl_success) throw std::runtime_error("oneDNN's sgemm failed with status " + std::to_string(status));
}

}  // namespace by_onednn
#endif

/// out (+)= scale op(left) op(right), of row-major matrices whose rows may lie apart. Cost: 2 m n k flops.
template <class Scalar, class Left, class Right, class Out>
void multiply(Transposed transposed, Scalar scale, const Left& left, const Right& right, bool accumulate, Out&& out) {
#if defined(LLAMA_ONEDNN)
  if constexpr (std::is_same_v<Scalar, float>) {
    by_onednn::multiply(transposed, scale, left, right, accumulate, out);
    return;
  }
#endif
  by_eigen::multiply(transposed, scale, left, right, accumulate, out);
}

/// The library that float products come from.
inline constexpr const char* products_by =
#if defined(LLAMA_ONEDNN)
    "oneDNN";
#else
    "Eigen";
#endif

}  // namespace llama
