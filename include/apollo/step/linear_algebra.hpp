// SPDX-License-Identifier: Apache-2.0
// The narrow interface to linear algebra, in plain loops: products and symmetric eigenvalues. Every backend offers the same
// two functions, so everything built on them can be tested without Eigen or a BLAS.
#pragma once

#include <apollo/tensor/view.hpp>

namespace apollo::plain {

/// c = a b, sums in double. Shapes m x k, k x n, m x n in any layout.
template <class A, class B, class T>
void product(const MatrixView<A>& a, const MatrixView<B>& b, const MatrixView<T>& c) {
  for (Index i = 0; i < c.rows; ++i)
    for (Index j = 0; j < c.cols; ++j) {
      double sum = 0;
      for (Index k = 0; k < a.cols; ++k) sum += static_cast<double>(a(i, k)) * static_cast<double>(b(k, j));
      c(i, j) = static_cast<T>(sum);
    }
}

/// Eigenvalues (ascending) and eigenvectors (columns of `vectors`) of a symmetric n x n matrix, both row-major; `a` is
/// destroyed. Cyclic Jacobi rotations. Cost: about 10 sweeps of 6 n^3 flops. Source: Golub and Van Loan, sec. 8.5.
inline void symmetric_eigen(Index n, double* a, double* values, double* vectors) {
  for (Index i = 0; i < n; ++i)
    for (Index j = 0; j < n; ++j) vectors[i * n + j] = i == j ? 1 : 0;
  for (int sweep = 0; sweep < 60; ++sweep) {
    double off = 0, diagonal = 0;
    for (Index i = 0; i < n; ++i) {
      diagonal += a[i * n + i] * a[i * n + i];
      for (Index j = 0; j < i; ++j) off += a[i * n + j] * a[i * n + j];
    }
    if (!(off > 1e-30 * diagonal)) break;
    for (Index p = 0; p < n; ++p)
      for (Index q = p + 1; q < n; ++q) {
        const double apq = a[p * n + q];
        if (apq == 0) continue;
        const double theta = (a[q * n + q] - a[p * n + p]) / (2 * apq);
        const double magnitude = theta < 0 ? -theta : theta;
        const double tangent = (theta < 0 ? -1 : 1) / (magnitude + __builtin_sqrt(1 + theta * theta));
        const double cosine = 1 / __builtin_sqrt(1 + tangent * tangent), sine = tangent * cosine;
        for (Index k = 0; k < n; ++k) {
          const double kp = a[k * n + p], kq = a[k * n + q];
          a[k * n + p] = cosine * kp - sine * kq;
          a[k * n + q] = sine * kp + cosine * kq;
        }
        for (Index k = 0; k < n; ++k) {
          const double pk = a[p * n + k], qk = a[q * n + k];
          a[p * n + k] = cosine * pk - sine * qk;
          a[q * n + k] = sine * pk + cosine * qk;
        }
        for (Index k = 0; k < n; ++k) {
          const double kp = vectors[k * n + p], kq = vectors[k * n + q];
          vectors[k * n + p] = cosine * kp - sine * kq;
          vectors[k * n + q] = sine * kp + cosine * kq;
        }
      }
  }
  for (Index i = 0; i < n; ++i) values[i] = a[i * n + i];
  for (Index i = 0; i < n; ++i) {  // ascending, by selection: n swaps of columns
    Index least = i;
    for (Index j = i + 1; j < n; ++j)
      if (values[j] < values[least]) least = j;
    if (least == i) continue;
    const double value = values[i];
    values[i] = values[least], values[least] = value;
    for (Index k = 0; k < n; ++k) {
      const double entry = vectors[k * n + i];
      vectors[k * n + i] = vectors[k * n + least], vectors[k * n + least] = entry;
    }
  }
}

}  // namespace apollo::plain
