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
  static constexpr Index panel = 48;  ///< columns that are made orthonormal at a time

  T* image = nullptr;         ///< kept x directions: X P^T, then its orthonormal columns
  T* candidate = nullptr;     ///< removed x directions: P^T unscaled, directions that X maps far
  T* block = nullptr;         ///< the longer side x panel
  T* coefficients = nullptr;  ///< directions x panel
  T* rotation = nullptr;      ///< directions x directions
  double* gram = nullptr;
  double* eigenvectors = nullptr;
  double* eigenvalues = nullptr;

  static constexpr Index shorter(const Plan& plan) { return plan.removed < plan.kept ? plan.removed : plan.kept; }

  /// How many directions are iterated: some more than are kept, since the last of them converge slowly.
  static constexpr Index directions(const Plan& plan, SvdMethod method) {
    if (method == SvdMethod::exact) return plan.rank;
    const Index wanted = plan.rank + 8;
    return wanted < shorter(plan) ? wanted : shorter(plan);
  }
  static constexpr Index gram_side(const Plan& plan, SvdMethod method) {
    return method == SvdMethod::exact ? shorter(plan) : directions(plan, method);
  }

  /// `image` is the memory of R, which the projection overwrites right afterwards.
  static constexpr BasisScratch carve(Carver& carver, const Plan& plan, SvdMethod method, T* image) {
    const Index count = directions(plan, method), n = gram_side(plan, method);
    const Index width = count < panel ? count : panel;
    const bool iterates = method != SvdMethod::exact;
    BasisScratch scratch;
    scratch.image = iterates ? carver.take<T>(plan.kept * count) : image;
    scratch.candidate = carver.take<T>(iterates ? plan.removed * count : 0);
    scratch.block = carver.take<T>((plan.removed < plan.kept ? plan.kept : plan.removed) * width);
    scratch.coefficients = carver.take<T>(count * width);
    scratch.rotation = carver.take<T>(iterates ? count * count : 0);
    scratch.gram = carver.take<double>(n * n);
    scratch.eigenvectors = carver.take<double>(n * n);
    scratch.eigenvalues = carver.take<double>(n);
    return scratch;
  }
};

namespace basis {

inline constexpr int iterations_cold = 3;  ///< at least, from rows of the gradient
inline constexpr int iterations_warm = 1;  ///< at least, from the previous basis
inline constexpr int iterations_most = 5;
/// It is enough where the last iteration found no more than this part of the energy, or no more is left of X.
inline constexpr double little = 1.0 / 16;

template <class T>
double dot(const T* a, const T* b, Index size) {
  double lane[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  Index i = 0;
  for (; i + 8 <= size; i += 8)
    for (int l = 0; l < 8; ++l) lane[l] += static_cast<double>(a[i + l]) * static_cast<double>(b[i + l]);
  for (; i < size; ++i) lane[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

/// |A|^2, along its lines of memory.
template <class V>
double squared_norm(MatrixView<V> a) {
  if (memory_order(a) != Order2D::row_major) a = a.transposed();
  double sum = 0;
  for (Index i = 0; i < a.rows; ++i) {
    if (a.col_stride == 1) {
      sum += dot(a.at(i, 0), a.at(i, 0), a.cols);
    } else {
      for (Index j = 0; j < a.cols; ++j) sum += static_cast<double>(a(i, j)) * static_cast<double>(a(i, j));
    }
  }
  return sum;
}

/// To columns whose squares are 1 in the mean, so that what is made of them neither overflows nor vanishes.
template <class T>
void scale_to_unit(const MatrixView<T>& v) {
  const double length = __builtin_sqrt(squared_norm(v) / static_cast<double>(v.cols));
  if (!(length > 0)) return;
  const double factor = 1 / length;
  for (Index i = 0; i < v.rows; ++i)
    for (Index j = 0; j < v.cols; ++j) v(i, j) = static_cast<T>(v(i, j) * factor);
}

/// The orthonormal columns of a matrix, made in order by block Gram-Schmidt. A column that the earlier ones already
/// span is replaced by a random one, so that the result always has full rank.
/// Source: Stewart, SIAM J. Sci. Comput. 31 (2008) (block Gram-Schmidt); Yamamoto et al., ETNA 44 (2015) (Cholesky QR).
template <class T, class Algebra>
class Orthonormaliser {
 public:
  Orthonormaliser(const Algebra& algebra, const BasisScratch<T>& scratch, const RandomStream& stream)
      : algebra_(algebra), scratch_(scratch), stream_(stream) {
    stream_.stream = Stream::start;
  }

  /// Error: orthonormal to a few units of rounding, or, done `roughly`, to a thousand. Cost: 2 count^2 rows flops and
  /// half as many in the panels; twice that where columns are all but dependent.
  void run(const MatrixView<T>& v, bool roughly) {
    const double enough = roughly ? 1e-6 : 0.25;
    for (Index first = 0; first < v.cols; first += panel) {
      const Index width = v.cols - first < panel ? v.cols - first : panel;
      double left = 0;
      int passes = 0;
      do left = pass(v, first, width);
      while (left > 0 && left < enough && ++passes < 3);
      if (!(left >= enough)) one_by_one(v, first, width);
    }
  }

 private:
  static constexpr Index panel = BasisScratch<T>::panel;
  /// What is left of a unit vector below that is rounding.
  static constexpr double smallest = sizeof(T) == 4 ? 1e-5 : 1e-12;

  /// Takes the earlier columns out of a panel and makes its own orthonormal by Cholesky's factor of their products.
  /// Returns what the least column had left, as a part of its square; 0 where the panel's columns depend on each other,
  /// which then are no more than orthogonal to the earlier ones.
  double pass(const MatrixView<T>& v, Index first, Index width) {
    const auto columns = v.middle_cols(first, width);
    const auto constant = MatrixView<const T>(columns);
    double before[panel] = {};
    for (Index i = 0; i < v.rows; ++i)
      for (Index j = 0; j < width; ++j)
        before[j] += static_cast<double>(columns(i, j)) * static_cast<double>(columns(i, j));
    if (first > 0) {
      const auto done = MatrixView<const T>(v.middle_cols(0, first));
      const auto c = row_major(scratch_.coefficients, width, first);
      algebra_.product(constant.transposed(), done, c);
      algebra_.subtract_product(done, MatrixView<const T>(c).transposed(), columns);
    }
    algebra_.product(constant.transposed(), constant, row_major(scratch_.gram, width, width));
    const double left = factorise(width, before);
    if (!(left > 0)) return 0;
    const auto inverse = row_major(static_cast<const T*>(scratch_.coefficients), width, width);
    const auto result = row_major(scratch_.block, v.rows, width);
    algebra_.product(constant, inverse, result);
    for (Index i = 0; i < v.rows; ++i)
      for (Index j = 0; j < width; ++j) columns(i, j) = result(i, j);
    return left;
  }

  /// R^T R = the Gram matrix; then coefficients = R^-1. Returns the least square on R's diagonal as a part of `before`,
  /// or 0.
  double factorise(Index n, const double* before) const {
    constexpr double least_pivot = smallest * smallest > 1e-12 ? smallest * smallest : 1e-12;
    double* r = scratch_.gram;  // lower triangle: R^T
    double left = 1;
    for (Index j = 0; j < n; ++j) {
      double* row = r + j * n;
      const double square = row[j];
      for (Index k = 0; k < j; ++k) row[k] = (row[k] - dot(row, r + k * n, k)) / r[k * n + k];
      const double pivot = square - dot(row, row, j);
      if (!(pivot > least_pivot * square)) return 0;
      if (pivot < left * before[j]) left = pivot / before[j];
      row[j] = __builtin_sqrt(pivot);
    }
    double* column = scratch_.eigenvectors;  // of R^-1, which is upper triangular
    for (Index j = 0; j < n; ++j) {
      for (Index i = j + 1; i-- > 0;) {
        double sum = i == j ? 1 : 0;
        for (Index k = i + 1; k <= j; ++k) sum -= r[k * n + i] * column[k];
        column[i] = sum / r[i * n + i];
      }
      for (Index i = 0; i < n; ++i) scratch_.coefficients[i * n + j] = i <= j ? static_cast<T>(column[i]) : T(0);
    }
    return left;
  }

  /// The same vector by vector, for panels whose columns depend on each other.
  void one_by_one(const MatrixView<T>& v, Index first, Index width) {
    const Index size = v.rows;
    const auto done = MatrixView<const T>(v.middle_cols(0, first));
    const auto columns = v.middle_cols(first, width);
    T* vectors = scratch_.block;  // one after the other
    for (Index s = 0; s < size; ++s)
      for (Index i = 0; i < width; ++i) vectors[i * size + s] = columns(s, i);
    const auto norm = [&](const T* vector) { return __builtin_sqrt(dot(vector, vector, size)); };
    const auto divide = [&](T* vector, double length) {
      for (Index s = 0; s < size; ++s) vector[s] = static_cast<T>(vector[s] / length);
    };
    for (Index i = 0; i < width; ++i) {
      T* vector = vectors + i * size;
      if (const double length = norm(vector); length > 0) divide(vector, length);
      for (int attempt = 0; attempt < 4; ++attempt) {
        for (int pass = 0; pass < 2; ++pass) {
          if (first > 0) {
            const auto row = row_major(vector, 1, size);
            const auto c = row_major(scratch_.coefficients, 1, first);
            algebra_.product(MatrixView<const T>(row), done, c);
            algebra_.subtract_product(MatrixView<const T>(c), done.transposed(), row);
          }
          for (Index j = 0; j < i; ++j) {
            const T* earlier = vectors + j * size;
            const auto along = static_cast<T>(dot(vector, earlier, size));
            for (Index s = 0; s < size; ++s) vector[s] -= along * earlier[s];
          }
        }
        if (const double length = norm(vector); length > smallest) {
          divide(vector, length);
          break;
        }
        stream_.counter = (stream_.counter << 3) | static_cast<std::uint64_t>(attempt + 1);
        draw(Gaussian{}, stream_, size, first + i + 1, first + i, 1, vector);
      }
    }
    for (Index s = 0; s < size; ++s)
      for (Index i = 0; i < width; ++i) columns(s, i) = vectors[i * size + s];
  }

  const Algebra& algebra_;
  const BasisScratch<T>& scratch_;
  RandomStream stream_;
};

/// A singular vector has no sign of its own. With its largest entry positive it keeps it from one refresh to the next as long
/// as it changes little, so that moments that are kept do not point the wrong way, and every backend chooses alike.
template <class T>
void fix_signs(T* directions, Index removed, Index rank) {
  constexpr Index at_once = 16;  // of adjacent directions
  for (Index first = 0; first < rank; first += at_once) {
    const Index count = rank - first < at_once ? rank - first : at_once;
    T largest[at_once] = {};
    for (Index s = 0; s < removed; ++s)
      for (Index k = 0; k < count; ++k) {
        const T entry = directions[s * rank + first + k];
        if ((entry < 0 ? -entry : entry) > (largest[k] < 0 ? -largest[k] : largest[k])) largest[k] = entry;
      }
    for (Index s = 0; s < removed; ++s)
      for (Index k = 0; k < count; ++k)
        if (largest[k] < 0) directions[s * rank + first + k] = -directions[s * rank + first + k];
  }
}

/// Where an iteration starts: columns of `to` (removed x any number) that are sums of up to four rows of X each, with
/// random signs, scaled to lengths of about 1. They are half an iteration ahead of random ones, and cost next to
/// nothing.
template <class T, class G>
void sum_rows(const MatrixView<const G>& x, const RandomStream& stream, const MatrixView<T>& to) {
  constexpr Index at_once = 128, lines = 256;
  const Index rows = x.rows < 4 * to.cols ? x.rows : 4 * to.cols;
  for (Index s = 0; s < to.rows; ++s)
    for (Index k = 0; k < to.cols; ++k) to(s, k) = 0;
  for (Index begin = 0; begin < rows; begin += at_once) {
    const Index count = rows - begin < at_once ? rows - begin : at_once;
    T sign[at_once];
    draw(Rademacher{}, stream, 1, rows, begin, count, sign);
    for (Index line = 0; line < to.rows; line += lines) {
      const Index end = to.rows - line < lines ? to.rows : line + lines;
      for (Index i = 0; i < count; ++i) {
        const Index row = (begin + i) * x.rows / rows, column = (begin + i) % to.cols;
        for (Index s = line; s < end; ++s) to(s, column) += sign[i] * static_cast<T>(x(row, s));
      }
    }
  }
  scale_to_unit(to);
}

/// The r leading directions of X (kept x removed) by subspace iteration on a few more; `directions` is P^T, removed x
/// rank, on entry the start where `warm`. Directions come in falling order of singular value.
/// Energies |X P^T|^2, of which the iteration has bounds from below anyway, say when to stop, so that a previous basis
/// that has nothing to do with X costs time and not directions.
/// Cost: 4 kept removed (r + 8) flops an iteration, and a fraction r / removed of that to make the image orthonormal.
/// Source: Halko, Martinsson, Tropp, SIAM Review 2011, Algorithms 4.4 and 5.1.
template <class T, class Algebra, class G>
void subspace(const Algebra& algebra, const Plan& plan, const MatrixView<const G>& x, bool warm, RandomStream stream,
              T* directions, const BasisScratch<T>& scratch) {
  const Index r = plan.rank, removed = plan.removed, known = warm ? r : 0;
  const Index all = BasisScratch<T>::directions(plan, SvdMethod::subspace);
  stream.stream = Stream::start;
  const auto basis = row_major(directions, removed, r);
  const auto p = row_major(scratch.candidate, removed, all);
  const auto constant = [](const auto& view) { return MatrixView<const T>(view); };
  Orthonormaliser<T, Algebra> orthonormaliser(algebra, scratch, stream);
  for (Index s = 0; s < removed; ++s)
    for (Index k = 0; k < known; ++k) p(s, k) = basis(s, k);
  if (all > known) sum_rows(x, stream, p.middle_cols(known, all - known));
  double before = 0;
  for (int number = 1;; ++number) {
    // From a random start the first iteration sees every other row: what it misses costs less than what that saves.
    const bool thin = !warm && number == 1 && plan.kept >= 2 * all;
    const auto seen = thin ? MatrixView<const G>(x.data, plan.kept / 2, removed, 2 * x.row_stride, x.col_stride) : x;
    const auto image = row_major(scratch.image, seen.rows, all);
    algebra.product(seen, constant(p), image);
    if (warm && number == 1) before = squared_norm(image.middle_cols(0, r));
    orthonormaliser.run(image, true);
    algebra.product(seen.transposed(), constant(image), p);
    const double energy = squared_norm(p.middle_cols(0, r));
    const auto is_enough = [&] {
      if (number < (warm ? iterations_warm : iterations_cold)) return false;
      if (number == iterations_most || energy - before <= little * energy) return true;
      return squared_norm(p) >= (1 - little) * squared_norm(x);
    };
    const bool last = is_enough();
    scale_to_unit(p);
    if (last) break;
    before = energy;
  }
  // Within the subspace, turn to the singular vectors: moments of neighbouring coordinates must not mix.
  // Columns of P fall in size with their number, so their products in T are as exact as they need be.
  algebra.product(constant(p).transposed(), constant(p), row_major(scratch.rotation, all, all));
  for (Index i = 0; i < all * all; ++i) scratch.gram[i] = static_cast<double>(scratch.rotation[i]);
  algebra.symmetric_eigen(all, scratch.gram, scratch.eigenvalues, scratch.eigenvectors);
  const auto rotation = row_major(scratch.rotation, all, r);
  for (Index i = 0; i < all; ++i)
    for (Index k = 0; k < r; ++k) rotation(i, k) = static_cast<T>(scratch.eigenvectors[i * all + (all - 1 - k)]);
  algebra.product(constant(p), constant(rotation), basis);
  orthonormaliser.run(basis, false);
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
  const auto to = row_major(directions, removed, r);
  algebra.product(x.transposed(), MatrixView<const T>(row_major(leading, n, r)), to);
  Orthonormaliser<T, Algebra>(algebra, scratch, stream).run(to, false);
}

/// Moments from the old directions to the new: M <- M Q^T, V <- V (Q o Q)^T with Q = P_new P_old^T. Both P^T are
/// removed x rank; `opened` is memory of kept x rank numbers for moments that are not turned where they are stored.
/// Cost: 4 kept rank^2 flops and the product for Q.
template <class Policies, class T, class Algebra>
void rotate(const Algebra& algebra, const Plan& plan, const T* new_directions, const T* old_directions, T* q, T* row,
            T* opened, const MomentPointers<stored_t<typename Policies::Moments, T>>& moments,
            const RandomStream& rounding) {
  using Storage = MomentStorage<stored_t<typename Policies::Moments, T>, T>;
  const Index r = plan.rank, size = plan.moment_size();
  const auto p_new = MatrixView<const T>(new_directions, plan.removed, r, r, 1);
  const auto p_old = MatrixView<const T>(old_directions, plan.removed, r, r, 1);
  algebra.product(p_new.transposed(), p_old, row_major(q, r, r));
  for (int b = 0; b < Policies::Moments::buffers; ++b) {
    T* values = opened;
    if constexpr (Storage::in_place) values = moments.buffer[b];
    if constexpr (!Storage::in_place)
      for (Index at = 0; at < size; at += storage_block) {
        T buffer[storage_block];
        const StorageRun run = flat_run(at, size);
        Storage::open(moments.buffer[b], run, b, buffer);
        for (int i = 0; i < run.count; ++i) values[at + i] = buffer[i];
      }
    for (Index j = 0; j < plan.kept; ++j) {
      T* line = values + j * r;
      for (Index k = 0; k < r; ++k) {
        T sum = 0;
        for (Index i = 0; i < r; ++i) {
          const T weight = q[k * r + i];
          sum += line[i] * (b == 1 ? weight * weight : weight);
        }
        row[k] = sum;
      }
      for (Index k = 0; k < r; ++k) line[k] = row[k];
    }
    if constexpr (!Storage::in_place)
      for (Index at = 0; at < size; at += storage_block) {
        T buffer[storage_block];
        [[maybe_unused]] std::uint8_t random[Storage::stochastic ? rounding::bytes : 1] = {};
        const StorageRun run = flat_run(at, size);
        for (int i = 0; i < run.count; ++i) buffer[i] = values[at + i];
        if constexpr (Storage::stochastic) rounding::draw(rounding, run.block(storage_block), random);
        close_moments<Storage>(buffer, moments.buffer[b], run, b, random);
      }
  }
}

}  // namespace basis

}  // namespace apollo
