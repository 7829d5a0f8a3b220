// SPDX-License-Identifier: Apache-2.0
// Row-major matrices, loops over fixed tiles, and matrix products cut into such tiles: the same bits for any number of threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <Eigen/Core>
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "multiply.hpp"

namespace llama {

using Index = Eigen::Index;

template <class Scalar>
using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
/// A row-major matrix in memory of someone else; rows may lie apart.
template <class Scalar>
using View = Eigen::Map<Matrix<Scalar>, Eigen::Unaligned, Eigen::OuterStride<>>;
template <class Scalar>
using ConstView = Eigen::Map<const Matrix<Scalar>, Eigen::Unaligned, Eigen::OuterStride<>>;
template <class Scalar>
using Vector = Eigen::Matrix<Scalar, 1, Eigen::Dynamic>;
template <class Scalar>
using VectorView = Eigen::Map<Vector<Scalar>>;

template <class Scalar>
View<Scalar> view(Matrix<Scalar>& m) {
  return View<Scalar>(m.data(), m.rows(), m.cols(), Eigen::OuterStride<>(m.cols()));
}
template <class Scalar>
View<Scalar> view(Scalar* data, Index rows, Index cols) {
  return View<Scalar>(data, rows, cols, Eigen::OuterStride<>(cols));
}

/// While it lives, libraries that ask OpenMP how many threads to take are offered one.
class OneThread {
 public:
#if defined(_OPENMP)
  OneThread() : offered_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(offered_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int offered_;
#endif
};

/// Calls body(tile) for every tile. Tiles share nothing, so which thread takes one never shows in a result.
template <class Body>
void for_tiles(int threads, Index tiles, Body&& body) {
#if defined(_OPENMP)
  if (threads > 1 && tiles > 1) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (Index tile = 0; tile < tiles; ++tile) body(tile);
    return;
  }
#endif
  (void)threads;
  [[maybe_unused]] const OneThread alone;
  for (Index tile = 0; tile < tiles; ++tile) body(tile);
}

/// Calls body(first, count) for every block of `block` rows.
template <class Body>
void for_rows(int threads, Index rows, Body&& body, Index block = 64) {
  for_tiles(threads, (rows + block - 1) / block, [&](Index tile) {
    const Index first = tile * block;
    body(first, std::min(block, rows - first));
  });
}

/// Matrix products that do not depend on each other, run together so that small ones fill the threads too.
///
/// Each tile of a result is one product on one thread over the whole inner dimension. Cost: 2 m n k flops.
template <class Scalar>
class Products {
 public:
  explicit Products(int threads) : threads_(threads) {
    Eigen::setNbThreads(1);  // Eigen's own threads would cut sums differently for each number of them
  }

  /// result = left right^T, the forward pass of a layer whose weight `right` is out x in.
  void forward(const View<Scalar>& result, const View<Scalar>& left, const View<Scalar>& right) {
    add(Kind::forward, result, left, right, false);
  }
  /// result (+)= left right, the gradient of the layer's input.
  void input(const View<Scalar>& result, const View<Scalar>& left, const View<Scalar>& right, bool accumulate) {
    add(Kind::input, result, left, right, accumulate);
  }
  /// result (+)= left^T right, the gradient of the layer's weight.
  void weight(const View<Scalar>& result, const View<Scalar>& left, const View<Scalar>& right, bool accumulate) {
    add(Kind::weight, result, left, right, accumulate);
  }

  void run() {
    // Large ones first: threads then end at nearly the same time.
    std::stable_sort(tiles_.begin(), tiles_.end(), [](const Tile& a, const Tile& b) { return a.cost > b.cost; });
    for_tiles(threads_, static_cast<Index>(tiles_.size()),
              [&](Index tile) { run(tiles_[static_cast<std::size_t>(tile)]); });
    tiles_.clear();
    products_.clear();
  }

 private:
  enum class Kind { forward, input, weight };
  struct Product {
    Kind kind;
    View<Scalar> result, left, right;
    bool accumulate;
  };
  struct Tile {
    std::size_t product;
    Index row, col, rows, cols;
    Index cost;  // multiplications
  };

  void add(Kind kind, const View<Scalar>& result, const View<Scalar>& left, const View<Scalar>& right,
           bool accumulate) {
    eigen_assert(result.rows() == (kind == Kind::weight ? left.cols() : left.rows()));
    eigen_assert(result.cols() == (kind == Kind::forward ? right.rows() : right.cols()));
    // Results of a weight's gradient are small and their sums long: smaller tiles keep every thread busy.
    const Index tall = kind == Kind::weight ? 64 : 128, wide = kind == Kind::weight ? 128 : 384;
    const Index inner = kind == Kind::weight ? left.rows() : left.cols();
    for (Index row = 0; row < result.rows(); row += tall)
      for (Index col = 0; col < result.cols(); col += wide) {
        const Index rows = std::min(tall, result.rows() - row), cols = std::min(wide, result.cols() - col);
        tiles_.push_back({products_.size(), row, col, rows, cols, rows * cols * inner});
      }
    products_.push_back({kind, result, left, right, accumulate});
  }

  void run(const Tile& tile) {
    Product& p = products_[tile.product];
    const auto multiply_into_tile = [&](Transposed transposed, const auto& left, const auto& right) {
      multiply(transposed, Scalar(1), left, right, p.accumulate,
               p.result.block(tile.row, tile.col, tile.rows, tile.cols));
    };
    switch (p.kind) {
      case Kind::forward:
        multiply_into_tile(Transposed::right, p.left.middleRows(tile.row, tile.rows),
                           p.right.middleRows(tile.col, tile.cols));
        break;
      case Kind::input:
        multiply_into_tile(Transposed::none, p.left.middleRows(tile.row, tile.rows),
                           p.right.middleCols(tile.col, tile.cols));
        break;
      case Kind::weight:
        multiply_into_tile(Transposed::left, p.left.middleCols(tile.row, tile.rows),
                           p.right.middleCols(tile.col, tile.cols));
        break;
    }
  }

  int threads_;
  std::vector<Product> products_;
  std::vector<Tile> tiles_;
};

}  // namespace llama
