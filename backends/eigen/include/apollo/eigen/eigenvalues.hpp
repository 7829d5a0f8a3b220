// SPDX-License-Identifier: Apache-2.0
// Symmetric eigenvalues by Eigen, in memory that is allocated once.
#pragma once

#include <apollo/eigen/gemm.hpp>

#include <Eigen/Eigenvalues>

namespace apollo {

/// What Eigen::SelfAdjointEigenSolver does, step by step, because it allocates a vector each time it collects the Householder
/// reflections. Cost: 9 n^3 flops. Memory: n^2 + 4 n - 2 values.
/// A template, so that a program that computes no basis does not compile one.
template <class T>
class SymmetricSolver {
 public:
  using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;
  using Vector = Eigen::Matrix<T, Eigen::Dynamic, 1>;
  using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

  explicit SymmetricSolver(Index n)
      : size_(n),
        vectors_(n, n),
        reflections_(n > 1 ? n - 1 : 1),
        workspace_(n),
        values_(n),
        beside_(n > 1 ? n - 1 : 1) {}

  Index size() const { return size_; }
  static constexpr Index bytes(Index n) {
    return (n * n + 2 * n + 2 * (n > 1 ? n - 1 : 1)) * static_cast<Index>(sizeof(T));
  }

  /// `a` (n x n, only its lower triangle is read) to eigenvalues, ascending, and eigenvectors, columns of a row-major matrix.
  void compute(const T* a, T* values, T* vectors) {
    const Eigen::Map<const RowMajor> matrix(a, size_, size_);
    T scale = matrix.cwiseAbs().maxCoeff();  // to [-1, 1], so that squares neither overflow nor vanish
    if (!(scale > 0)) scale = 1;
    vectors_ = matrix / scale;
    if (size_ == 1) {
      values_[0] = vectors_(0, 0);
      vectors_(0, 0) = 1;
    } else {
      Eigen::internal::tridiagonalization_inplace(vectors_, reflections_);
      values_ = vectors_.diagonal();
      beside_ = vectors_.template diagonal<-1>();
      Eigen::HouseholderSequence<Matrix, Vector>(vectors_, reflections_)
          .setLength(size_ - 1)
          .setShift(1)
          .evalTo(vectors_, workspace_);
      constexpr Eigen::Index iterations = 30;  // per eigenvalue, Eigen's own bound
      Eigen::internal::computeFromTridiagonal_impl(values_, beside_, iterations, true, vectors_);
    }
    Eigen::Map<Vector>(values, size_) = scale * values_;
    Eigen::Map<RowMajor>(vectors, size_, size_) = vectors_;
  }

 private:
  Index size_;
  Matrix vectors_;
  Vector reflections_;
  Vector workspace_;
  Vector values_;
  Vector beside_;
};

}  // namespace apollo
