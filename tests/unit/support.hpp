// SPDX-License-Identifier: Apache-2.0
// What the unit tests share: dense matrices of doubles, reproducible data, tensors in every layout, refusals.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <apollo/core.hpp>

namespace support {

/// worst <- the larger of both; a NaN stays, where comparisons, std::max and std::fmax would lose it to the next number.
inline void raise(double& worst, double value) {
  if (!std::isnan(worst) && !(value <= worst)) worst = value;
}

using apollo::Index;

// --- matrices

struct Matrix {
  Index rows = 0;
  Index cols = 0;
  std::vector<double> values;

  Matrix() = default;
  Matrix(Index rows_, Index cols_, double value = 0)
      : rows(rows_), cols(cols_), values(static_cast<std::size_t>(rows_ * cols_), value) {}
  double& operator()(Index i, Index j) { return values[static_cast<std::size_t>(i * cols + j)]; }
  double operator()(Index i, Index j) const { return values[static_cast<std::size_t>(i * cols + j)]; }
  apollo::Shape shape() const { return {rows, cols}; }
};

inline Matrix transposed(const Matrix& a) {
  Matrix b(a.cols, a.rows);
  for (Index i = 0; i < a.rows; ++i)
    for (Index j = 0; j < a.cols; ++j) b(j, i) = a(i, j);
  return b;
}

inline Matrix product(const Matrix& a, const Matrix& b) {
  Matrix c(a.rows, b.cols);
  for (Index i = 0; i < a.rows; ++i)
    for (Index k = 0; k < a.cols; ++k)
      for (Index j = 0; j < b.cols; ++j) c(i, j) += a(i, k) * b(k, j);
  return c;
}

inline Matrix scaled(Matrix a, double factor) {
  for (double& x : a.values) x *= factor;
  return a;
}

inline Matrix difference(Matrix a, const Matrix& b) {
  for (std::size_t i = 0; i < a.values.size(); ++i) a.values[i] -= b.values[i];
  return a;
}

inline double squared_norm(const Matrix& a) {
  double sum = 0;
  for (const double x : a.values) sum += x * x;
  return sum;
}
inline double norm(const Matrix& a) { return std::sqrt(squared_norm(a)); }

inline double row_norm(const Matrix& a, Index row) {
  double sum = 0;
  for (Index j = 0; j < a.cols; ++j) sum += a(row, j) * a(row, j);
  return std::sqrt(sum);
}

/// The largest |x - y| / max(|y|, rms(y)). NaN, which compares with nothing, comes out as infinity.
inline double relative_error(const Matrix& x, const Matrix& y) {
  if (!(x.shape() == y.shape())) return 1e300;
  const double rms = norm(y) / std::sqrt(static_cast<double>(y.values.size()));
  double worst = 0;
  for (std::size_t i = 0; i < y.values.size(); ++i) {
    const double unit = std::fabs(y.values[i]) > rms ? std::fabs(y.values[i]) : rms;
    const double gap = std::fabs(x.values[i] - y.values[i]);
    const double error = gap <= 0 ? 0 : gap / unit;
    if (!apollo::bits::finite(error)) return 1e300;
    if (error > worst) worst = error;
  }
  return worst;
}

// --- data

inline std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

/// Uniform on [-1, 1), in multiples of 2^-23: exact in float. The same numbers as in tests/parity.
inline double uniform(std::uint64_t seed, std::uint64_t step, std::uint64_t index) {
  const std::uint64_t bits = mix(mix(mix(seed) + step) + index) >> 40;
  return static_cast<double>(bits) * 0x1p-23 - 1;
}

inline Matrix uniform_matrix(Index rows, Index cols, std::uint64_t seed, std::uint64_t step = 0) {
  Matrix a(rows, cols);
  for (std::size_t i = 0; i < a.values.size(); ++i) a.values[i] = uniform(seed, step, i);
  return a;
}

inline Matrix gaussian_matrix(Index rows, Index cols, std::uint64_t seed, std::uint64_t step = 0) {
  Matrix a(rows, cols);
  for (std::size_t i = 0; i < a.values.size(); ++i) {
    const double u = (uniform(seed, 2 * step, i) + 1 + 0x1p-25) / 2;
    const double v = uniform(seed, 2 * step + 1, i);
    a.values[i] = std::sqrt(-2 * std::log(u)) * std::cos(3.14159265358979323846 * v);
  }
  return a;
}

// --- stored values

template <class T>
T stored(double value) {
  if constexpr (std::is_same_v<T, double>)
    return value;
  else
    return static_cast<T>(static_cast<float>(value));
}

template <class T>
double opened(T value) {
  if constexpr (std::is_same_v<T, double>)
    return value;
  else
    return static_cast<double>(static_cast<float>(value));
}

/// The matrix as it is once stored in T.
template <class T>
Matrix rounded(Matrix a) {
  for (double& x : a.values) x = opened(stored<T>(x));
  return a;
}

/// Half a unit in the last place of x stored in T.
template <class T>
double half_ulp(double x) {
  constexpr bool half = std::is_same_v<T, apollo::float16>, brain = std::is_same_v<T, apollo::bfloat16>;
  constexpr int fraction = half ? 10 : brain ? 7 : std::is_same_v<T, float> ? 23 : 52;
  constexpr int least = half ? -14 : std::is_same_v<T, double> ? -1022 : -126;
  const int exponent = std::fabs(x) > 0 ? std::ilogb(x) : least;
  return std::ldexp(1.0, (exponent < least ? least : exponent) - fraction - 1);
}

enum class Layout {
  row_major,
  column_major,
  padded_rows,     ///< row-major, the row stride larger than a row
  padded_columns,  ///< column-major, the column stride larger than a column
  gaps,            ///< neither index is adjacent
  reversed,        ///< rows from the last to the first, columns of stride -2
};

inline constexpr Layout all_layouts[] = {Layout::row_major,      Layout::column_major, Layout::padded_rows,
                                         Layout::padded_columns, Layout::gaps,         Layout::reversed};

/// A matrix in memory of its own. What lies between its elements is filled with a mark and must keep it.
template <class T>
struct Tensor {
  std::vector<T> memory;
  apollo::MatrixView<T> view;

  Tensor(const Matrix& from, Layout layout) {
    const Index m = from.rows, n = from.cols;
    Index row = n, col = 1, first = 0, size = 0;
    switch (layout) {
      case Layout::row_major: size = m * n; break;
      case Layout::column_major: row = 1, col = m, size = m * n; break;
      case Layout::padded_rows: row = n + 3, size = m * row; break;
      case Layout::padded_columns: row = 1, col = m + 5, size = n * col; break;
      case Layout::gaps: row = 3 * n + 1, col = 3, size = m * row; break;
      case Layout::reversed: row = -2 * n, col = 2, first = 2 * n * (m - 1), size = 2 * n * m; break;
    }
    memory.assign(static_cast<std::size_t>(size), mark());
    view = apollo::strided(memory.data() + first, m, n, row, col);
    set(from);
  }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  static T mark() { return stored<T>(-777.0); }

  void set(const Matrix& from) {
    for (Index i = 0; i < from.rows; ++i)
      for (Index j = 0; j < from.cols; ++j) view(i, j) = stored<T>(from(i, j));
  }
  Matrix get() const {
    Matrix to(view.rows, view.cols);
    for (Index i = 0; i < to.rows; ++i)
      for (Index j = 0; j < to.cols; ++j) to(i, j) = opened(view(i, j));
    return to;
  }
  /// True if every element between the matrix's own still holds the mark.
  bool gaps_untouched() const {
    std::vector<char> own(memory.size(), 0);
    for (Index i = 0; i < view.rows; ++i)
      for (Index j = 0; j < view.cols; ++j) own[static_cast<std::size_t>(view.at(i, j) - memory.data())] = 1;
    for (std::size_t k = 0; k < memory.size(); ++k)
      if (own[k] == 0 && opened(memory[k]) != opened(mark())) return false;
    return true;
  }
  bool same_bits(const std::vector<T>& other) const {
    return memory.size() == other.size() && std::memcmp(memory.data(), other.data(), memory.size() * sizeof(T)) == 0;
  }
};

/// Everything an optimizer remembers, as numbers and as bytes.
struct StateDump {
  std::map<std::string, Matrix> arrays;
  std::map<std::string, double> scalars;
  std::vector<unsigned char> bytes;
  Index array_bytes = 0;

  template <class T>
  void array(std::string_view name, const apollo::MatrixView<T>& view) {
    Matrix copy(view.rows, view.cols);
    for (Index i = 0; i < view.rows; ++i)
      for (Index j = 0; j < view.cols; ++j) {
        copy(i, j) = opened(view(i, j));
        append(view.at(i, j), sizeof(T));
        array_bytes += static_cast<Index>(sizeof(T));
      }
    arrays[std::string(name)] = copy;
  }
  template <class T>
  void scalar(std::string_view name, const T& value) {
    scalars[std::string(name)] = static_cast<double>(value);
    append(&value, sizeof(T));
  }

 private:
  void append(const void* from, std::size_t size) {
    const auto* first = static_cast<const unsigned char*>(from);
    bytes.insert(bytes.end(), first, first + size);
  }
};

template <class Optimizer>
StateDump state_of(Optimizer& optimizer) {
  StateDump dump;
  optimizer.visit_state(dump);
  return dump;
}

// --- refusals

#if defined(__cpp_exceptions)
/// The text of the error that `action` raises; empty if it raises none.
template <class Error = std::invalid_argument, class Action>
std::string refusal(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

/// Whether every one of `words` stands in `text`.
inline bool mentions(const std::string& text, std::initializer_list<const char*> words) {
  for (const char* word : words)
    if (text.find(word) == std::string::npos) return false;
  return true;
}
#endif

}  // namespace support
