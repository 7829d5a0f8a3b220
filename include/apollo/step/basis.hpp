// SPDX-License-Identifier: Apache-2.0
// GaLore's basis: the leading singular vectors of X on the removed side, by subspace iteration or exactly; and the rotation of
// moments from one basis to the next. Written on products and symmetric eigenvalues alone, whoever provides them.
#pragma once

#include <apollo/random/normal.hpp>
#include <apollo/step/memory.hpp>
#include <apollo/step/state.hpp>

namespace apollo {

/// Scratch of a refresh.
template <class T>
struct BasisScratch {
  static constexpr Index panel = 16;

  T* image = nullptr;         ///< kept x rank: X P^T
  T* candidate = nullptr;     ///< removed x rank: X^T X P^T, then its orthonormal columns
  T* vectors = nullptr;       ///< rank x removed: the same, one direction after the other
  T* coefficients = nullptr;  ///< panel x rank
  double* gram = nullptr;
  double* eigenvectors = nullptr;
  double* eigenvalues = nullptr;
  T* rotation = nullptr;  ///< rank x rank

  static constexpr Index gram_side(const Plan& plan, SvdMethod method) {
    const Index shorter = plan.removed < plan.kept ? plan.removed : plan.kept;
    return method == SvdMethod::exact ? shorter : plan.rank;
  }

  /// `image` is the memory of R, which the projection overwrites right afterwards.
  static constexpr BasisScratch carve(Carver& carver, const Plan& plan, SvdMethod method, T* image) {
    const Index n = gram_side(plan, method);
    BasisScratch scratch;
    scratch.image = image;
    scratch.candidate = carver.take<T>(plan.removed * plan.rank);
    scratch.vectors = carver.take<T>(plan.removed * plan.rank);
    scratch.coefficients = carver.take<T>(panel * plan.rank);
    scratch.gram = carver.take<double>(n * n);
    scratch.eigenvectors = carver.take<double>(n * n);
    scratch.eigenvalues = carver.take<double>(n);
    scratch.rotation = carver.take<T>(plan.rank * plan.rank);
    return scratch;
  }
};

namespace basis {

inline constexpr int iterations_cold = 5;  ///< from a random start
inline constexpr int iterations_warm = 1;  ///< from the previous basis

template <class T>
double dot(const T* a, const T* b, Index size) {
  double lane[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  Index i = 0;
  for (; i + 8 <= size; i += 8)
    for (int l = 0; l < 8; ++l) lane[l] += static_cast<double>(a[i + l]) * static_cast<double>(b[i + l]);
  for (; i < size; ++i) lane[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

/// Makes `count` vectors of `size` adjacent values orthonormal, in order, by block Gram-Schmidt done twice. A vector that the
/// earlier ones already span is replaced by a random one, so that the result always has full rank.
/// Error: orthonormal to a few units of rounding. Cost: 4 count^2 size flops, most of them in products.
template <class T, class Algebra>
void orthonormalise(const Algebra& algebra, T* vectors, Index count, Index size, T* coefficients, RandomStream stream) {
  constexpr Index panel = BasisScratch<T>::panel;
  constexpr double smallest = sizeof(T) == 4 ? 1e-5 : 1e-12;  // what is left of a unit vector below that is rounding
  stream.stream = Stream::start;
  for (Index first = 0; first < count; first += panel) {
    const Index width = count - first < panel ? count - first : panel;
    T* block = vectors + first * size;
    const auto done = MatrixView<const T>(vectors, first, size, size, 1);
    const auto remove_earlier = [&](T* rows, Index height) {
      if (first == 0) return;
      const auto current = row_major(rows, height, size);
      const auto c = row_major(coefficients, height, first);
      algebra.product(MatrixView<const T>(current), done.transposed(), c);
      algebra.subtract_product(MatrixView<const T>(c), done, current);
    };
    const auto norm = [&](const T* v) { return __builtin_sqrt(dot(v, v, size)); };
    for (Index i = 0; i < width;
         ++i) {  // unit length first: columns of a power iteration differ by orders of magnitude
      const double length = norm(block + i * size);
      if (length > 0)
        for (Index s = 0; s < size; ++s) block[i * size + s] = static_cast<T>(block[i * size + s] / length);
    }
    remove_earlier(block, width);
    remove_earlier(block, width);
    for (Index i = 0; i < width; ++i) {
      T* v = block + i * size;
      for (int attempt = 0; attempt < 4; ++attempt) {
        for (int pass = 0; pass < 2; ++pass) {
          if (attempt > 0 || pass > 0) remove_earlier(v, 1);
          for (Index j = 0; j < i; ++j) {
            const auto along = static_cast<T>(dot(v, block + j * size, size));
            for (Index s = 0; s < size; ++s) v[s] -= along * block[j * size + s];
          }
        }
        const double length = norm(v);
        if (length > smallest) {
          for (Index s = 0; s < size; ++s) v[s] = static_cast<T>(v[s] / length);
          break;
        }
        stream.counter = (stream.counter << 3) | static_cast<std::uint64_t>(attempt + 1);
        draw(Gaussian{}, stream, size, first + i + 1, first + i, 1, v);
      }
    }
  }
}

template <class T>
void transpose(const T* from, Index rows, Index cols, T* to) {
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; ++j) to[j * rows + i] = from[i * cols + j];
}

/// A singular vector has no sign of its own. With its largest entry positive it keeps it from one refresh to the next as long
/// as it changes little, so that moments that are kept do not point the wrong way, and every backend chooses alike.
template <class T>
void fix_signs(T* directions, Index removed, Index rank) {
  for (Index k = 0; k < rank; ++k) {
    T largest = 0;
    for (Index s = 0; s < removed; ++s) {
      const T entry = directions[s * rank + k];
      if ((entry < 0 ? -entry : entry) > (largest < 0 ? -largest : largest)) largest = entry;
    }
    if (largest < 0)
      for (Index s = 0; s < removed; ++s) directions[s * rank + k] = -directions[s * rank + k];
  }
}

/// The r leading directions of X (kept x removed) by subspace iteration with a Rayleigh-Ritz step; `directions` is P^T,
/// removed x rank, on entry the start where `warm`. Directions come in falling order of singular value.
/// Cost: (4 iterations + 2) kept removed rank flops. Source: Halko, Martinsson, Tropp, SIAM Review 2011, Algorithm 4.4.
template <class T, class Algebra, class G>
void subspace(const Algebra& algebra, const Plan& plan, const MatrixView<const G>& x, bool warm, RandomStream stream,
              T* directions, const BasisScratch<T>& scratch) {
  const Index r = plan.rank, removed = plan.removed;
  stream.stream = Stream::start;
  if (!warm) draw(Gaussian{}, stream, r, removed, 0, removed, directions);
  const auto p = row_major(directions, removed, r);
  const auto image = row_major(scratch.image, plan.kept, r);
  const auto candidate = row_major(scratch.candidate, removed, r);
  for (int i = 0; i < (warm ? iterations_warm : iterations_cold); ++i) {
    algebra.product(x, MatrixView<const T>(p), image);
    algebra.product(x.transposed(), MatrixView<const T>(image), candidate);
    transpose(scratch.candidate, removed, r, scratch.vectors);
    orthonormalise(algebra, scratch.vectors, r, removed, scratch.coefficients, stream);
    transpose(scratch.vectors, r, removed, directions);
  }
  // Within the subspace, turn to the singular vectors: moments of neighbouring coordinates must not mix.
  algebra.product(x, MatrixView<const T>(p), image);
  const auto gram = row_major(scratch.gram, r, r);
  algebra.product(MatrixView<const T>(image).transposed(), MatrixView<const T>(image), gram);
  algebra.symmetric_eigen(r, scratch.gram, scratch.eigenvalues, scratch.eigenvectors);
  for (Index i = 0; i < r; ++i)
    for (Index k = 0; k < r; ++k)
      scratch.rotation[i * r + k] = static_cast<T>(scratch.eigenvectors[i * r + (r - 1 - k)]);
  algebra.product(MatrixView<const T>(p), MatrixView<const T>(row_major(scratch.rotation, r, r)), candidate);
  for (Index i = 0; i < removed * r; ++i) directions[i] = scratch.candidate[i];
}

/// The same exactly: eigenvectors of the smaller Gram matrix in double. Cost: kept removed min + 9 min^3 flops in double.
template <class T, class Algebra, class G>
void exact(const Algebra& algebra, const Plan& plan, const MatrixView<const G>& x, const RandomStream& stream,
           T* directions, const BasisScratch<T>& scratch) {
  const Index r = plan.rank, removed = plan.removed;
  const bool direct = removed <= plan.kept;
  const auto side = direct ? x : x.transposed();  // its columns are the side whose eigenvectors are found
  const Index n = side.cols;
  algebra.product(side.transposed(), side, row_major(scratch.gram, n, n));
  algebra.symmetric_eigen(n, scratch.gram, scratch.eigenvalues, scratch.eigenvectors);
  T* leading = direct ? directions : scratch.image;  // n x r
  for (Index i = 0; i < n; ++i)
    for (Index k = 0; k < r; ++k) leading[i * r + k] = static_cast<T>(scratch.eigenvectors[i * n + (n - 1 - k)]);
  if (direct) return;
  algebra.product(x.transposed(), MatrixView<const T>(row_major(leading, n, r)),
                  row_major(scratch.candidate, removed, r));
  transpose(scratch.candidate, removed, r, scratch.vectors);
  orthonormalise(algebra, scratch.vectors, r, removed, scratch.coefficients, stream);
  transpose(scratch.vectors, r, removed, directions);
}

/// Moments from the old directions to the new: M <- M Q^T, V <- V (Q o Q)^T with Q = P_new P_old^T. Both P^T are
/// removed x rank. Cost: 4 kept rank^2 flops and the product for Q.
template <class Policies, class T, class Algebra>
void rotate(const Algebra& algebra, const Plan& plan, const T* new_directions, const T* old_directions, T* q, T* row,
            const MomentPointers<stored_t<typename Policies::Moments, T>>& moments, const RandomStream* rounding) {
  using Stored = stored_t<typename Policies::Moments, T>;
  using Storage = MomentStorage<Stored, T>;
  const Index r = plan.rank;
  const auto p_new = MatrixView<const T>(new_directions, plan.removed, r, r, 1);
  const auto p_old = MatrixView<const T>(old_directions, plan.removed, r, r, 1);
  algebra.product(p_new.transposed(), p_old, row_major(q, r, r));
  T buffer[storage_block];
  for (int b = 0; b < Policies::Moments::buffers; ++b) {
    for (Index j = 0; j < plan.kept; ++j) {
      Stored* stored = moments.buffer[b] + j * r;
      for (Index k = 0; k < r; ++k) row[k] = 0;
      for (Index begin = 0; begin < r; begin += storage_block) {
        const int count = static_cast<int>(r - begin < storage_block ? r - begin : storage_block);
        const T* values = Storage::open(stored + begin, buffer, count);
        for (Index k = 0; k < r; ++k) {
          T sum = 0;
          for (int i = 0; i < count; ++i) {
            const T weight = q[k * r + begin + i];
            sum += values[i] * (b == 1 ? weight * weight : weight);
          }
          row[k] += sum;
        }
      }
      for (Index begin = 0; begin < r; begin += storage_block) {
        const int count = static_cast<int>(r - begin < storage_block ? r - begin : storage_block);
        T* values = Storage::open(stored + begin, buffer, count);
        for (int i = 0; i < count; ++i) values[i] = row[begin + i];
        Storage::close(values, stored + begin, count, rounding[b], j * r + begin);
      }
    }
  }
}

}  // namespace basis

}  // namespace apollo
