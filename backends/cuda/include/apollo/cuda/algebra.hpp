// SPDX-License-Identifier: Apache-2.0
// The narrow interface to linear algebra on a device, which the basis of GaLore is written on: products and symmetric
// eigenvectors, in double precision. Here in plain loops, for the emulator; solver.hpp has cuBLAS and cuSOLVER.
//
// An algebra is a class made from a device, with
//   product(a, b, c, add, stream)             c = a b, or c += a b; row-major blocks of device memory
//   eigen_bytes(n)                            device memory that symmetric_eigen works in beside its arrays
//   symmetric_eigen(n, a, values, work, stream)   n x n, no gaps: row k of `a` becomes the eigenvector of values[k]; ascending
// `work` is memory for the largest n of those that ask; what n needs beyond it the algebra allocates.
// Products may be enqueued; symmetric_eigen may wait for the stream.
#pragma once

#include <type_traits>
#include <vector>

#include <apollo/cuda/allocation.hpp>
#include <apollo/cuda/emulator.hpp>
#include <apollo/step/linear_algebra.hpp>

namespace apollo::cuda {

/// A row-major block of doubles, or its transpose: `rows` x `cols` as it is multiplied, lines `stride` apart.
struct Block {
  double* data = nullptr;
  Index rows = 0;
  Index cols = 0;
  Index stride = 0;
  bool transposed = false;

  Block transpose() const { return {data, cols, rows, stride, !transposed}; }
};

/// On the processor. Sums in order, in double. Cost: that of plain loops.
class PlainAlgebra {
 public:
  explicit PlainAlgebra(const Emulator&) {}

  void product(const Block& a, const Block& b, const Block& c, bool add, Emulator::Stream) const {
    const auto view = [](const Block& block) {
      const Index rows = block.transposed ? 1 : block.stride, cols = block.transposed ? block.stride : 1;
      return MatrixView<double>(block.data, block.rows, block.cols, rows, cols);
    };
    if (!add) return plain::product(view(a), view(b), view(c));
    std::vector<double> sum(static_cast<std::size_t>(c.rows * c.cols));
    plain::product(view(a), view(b), apollo::row_major(sum.data(), c.rows, c.cols));
    for (Index i = 0; i < c.rows; ++i)
      for (Index j = 0; j < c.cols; ++j) view(c)(i, j) += sum[static_cast<std::size_t>(i * c.cols + j)];
  }

  Index eigen_bytes(Index) const { return 0; }
  template <class Device>
  void symmetric_eigen(Index n, double* a, double* values, const Memory<Device>&, Emulator::Stream) const {
    std::vector<double> vectors(static_cast<std::size_t>(n * n));
    plain::symmetric_eigen(n, a, values, vectors.data());
    for (Index i = 0; i < n; ++i)
      for (Index k = 0; k < n; ++k) a[k * n + i] = vectors[static_cast<std::size_t>(i * n + k)];
  }
};

/// The algebra of a device; none, where its header was not included.
template <class Device>
struct AlgebraOf {
  using type = void;
};
template <class Device>
  requires(std::is_base_of_v<Emulator, Device>)
struct AlgebraOf<Device> {
  using type = PlainAlgebra;
};

}  // namespace apollo::cuda
