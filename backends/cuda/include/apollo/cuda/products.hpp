// SPDX-License-Identifier: Apache-2.0
// Matrix products of large dense ranks, in an arithmetic that the user chooses: what a step asks for, and who computes it on the
// emulated device. blas.hpp has cuBLAS.
#pragma once

#include <bit>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <apollo/cuda/allocation.hpp>
#include <apollo/cuda/emulator.hpp>
#include <apollo/tensor/number.hpp>

namespace apollo::cuda {

/// What the factors of a matrix product are rounded to. Sums are in fp32 whichever it is.
enum class Math {
  fp32,  ///< nothing: all 24 bits of each value count
  tf32,  ///< 11 significant bits, the range of a float
  bf16   ///< 8 significant bits, the range of a float
};

/// Ranks from here on are multiplied by a library, if an optimizer has one. A guess: below it our kernels read G at most eight
/// times.
inline constexpr Index product_rank = 32;

/// bfloat16 numbers whose sum stands for a direction's value, where the gradient is bfloat16 and so the other factor must be: so
/// many as the arithmetic needs to lose no more than it does with floats.
constexpr int splits_of(Math math) { return math == Math::fp32 ? 3 : math == Math::tf32 ? 2 : 1; }

/// A row-major matrix on the device as a factor, or its transpose. Lines are `stride` values apart.
struct Factor {
  const void* data = nullptr;
  Index stride = 0;
  bool transposed = false;
  bool half = false;  ///< values are bfloat16, else float
};

/// C <- alpha A B + beta C; C has no gaps and is not read where beta is 0. Both factors are of one type.
struct Product {
  Index rows = 0, inner = 0, cols = 0;
  Factor a;  ///< rows x inner
  Factor b;  ///< inner x cols
  float* c = nullptr;
  const float* alpha = nullptr;  ///< on the device, as beta is: a captured graph reads both anew
  const float* beta = nullptr;
};

/// Multiplies on one device, with memory that all tensors of an optimizer share.
template <class Device>
class Products {
 public:
  using Stream = typename Device::Stream;

  /// `own_bytes` are for the library itself, from the first reserve() on.
  Products(const Device& device, Math math, Index own_bytes) : device_(device), math_(math), own_bytes_(own_bytes) {}
  virtual ~Products() = default;
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  /// Enqueues a product; waits for nothing. Errors: what the library reports.
  virtual void multiply(const Product& product, Stream stream) const = 0;

  Math math() const { return math_; }
  /// Makes room for a product of so many bytes that is no tensor's own. Errors: too little memory; nothing has been changed then.
  void reserve(Index bytes, std::string_view tensor) {
    if (own_bytes_ + bytes <= memory_.bytes()) return;
    memory_ = Memory<Device>(device_, own_bytes_ + bytes, tensor, "scratch of matrix products");
  }
  float* scratch() const { return reinterpret_cast<float*>(memory_.template as<std::byte>() + own_bytes_); }
  Index bytes() const { return memory_.bytes(); }

 protected:
  const Device& device() const { return device_; }
  void* own_memory() const { return memory_.template as<void>(); }

 private:
  Device device_;
  Math math_;
  Index own_bytes_;
  Memory<Device> memory_;
};

/// On the processor, in plain loops: factors rounded as the arithmetic has it, sums in fp32 and in order. What does not fit in TF32
/// is dropped, not rounded: no device does worse.
template <class Device = Emulator>
class PlainProducts final : public Products<Device> {
 public:
  PlainProducts(const Device& device, Math math) : Products<Device>(device, math, 0) {}

  void multiply(const Product& product, Emulator::Stream) const override {
    this->device().call([this, product] { compute(product); });
  }

 private:
  void compute(const Product& p) const {
    const float alpha = *p.alpha, beta = *p.beta;
    std::vector<float> sums(static_cast<std::size_t>(p.cols));
    for (Index i = 0; i < p.rows; ++i) {
      for (float& sum : sums) sum = 0;
      for (Index k = 0; k < p.inner; ++k) {
        const float a = value(p.a, i, k);
        for (Index j = 0; j < p.cols; ++j) sums[static_cast<std::size_t>(j)] += a * value(p.b, k, j);
      }
      float* const c = p.c + i * p.cols;
      for (Index j = 0; j < p.cols; ++j) {
        const float product = alpha * sums[static_cast<std::size_t>(j)];
        c[j] = beta == 0.0f ? product : product + beta * c[j];
      }
    }
  }
  float value(const Factor& factor, Index i, Index j) const {
    const Index at = factor.transposed ? j * factor.stride + i : i * factor.stride + j;
    if (factor.half) return static_cast<const bfloat16*>(factor.data)[at];
    const float x = static_cast<const float*>(factor.data)[at];
    if (this->math() == Math::tf32) return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) & ~0x1fffu);
    return this->math() == Math::bf16 ? static_cast<float>(bfloat16(x)) : x;
  }
};

/// Who multiplies on a device; nobody, where its header was not included.
template <class Device>
struct ProductsOf {
  using type = void;
};
template <class Device>
  requires(std::is_base_of_v<Emulator, Device>)
struct ProductsOf<Device> {
  using type = PlainProducts<Device>;
};

}  // namespace apollo::cuda
