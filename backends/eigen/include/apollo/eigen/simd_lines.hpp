// SPDX-License-Identifier: Apache-2.0
// Included by simd.hpp once for each instruction set, like simd_kernels.hpp: sums over lines, sparse sign projections, and the
// turning of their results. What has lanes by definition is written in vectors.
#if !defined(APOLLO_ISA)
#include <apollo/eigen/simd.hpp>
#else
#include <apollo/eigen/simd_vectors.hpp>

namespace apollo::simd::APOLLO_ISA_NAMESPACE {

struct Lines : Vectors {
  // --- sums -------------------------------------------------------------------------------------------------------------

  /// Sum of squares in arithmetic of T. Whoever finds it not finite looks again, in double.
  template <class V>
  APOLLO_KERNEL arithmetic_t<V> sum_squares(const V* x, Index count) {
    arithmetic_t<V> product = 0;
    return sums<false>(x, static_cast<const arithmetic_t<V>*>(nullptr), count, product);
  }

  /// The same, and the sum of x p.
  template <class V, class T>
  APOLLO_KERNEL T dot_squares(const V* x, const T* p, Index count, T& product) {
    return sums<true>(x, p, count, product);
  }

  /// out_i += sum over lines l of coefficient_l x(line_l, i), and squares_i += sum of x(line_l, i)^2, for i < width. Line
  /// numbers are lines[l], or l where `lines` is null; lines lie `stride` apart. `squares` may be null. Line l + ahead is
  /// fetched meanwhile: the processor foresees no lines that are scattered over memory.
  template <class V, class T>
  APOLLO_KERNEL void add_lines(const V* x, Index stride, const std::int32_t* lines, const T* coefficients, int count,
                               int ahead, Index width, T* APOLLO_RESTRICT out, T* APOLLO_RESTRICT squares) {
    if (squares == nullptr)
      add_in_groups<false>(x, stride, lines, coefficients, count, ahead, width, out, squares);
    else
      add_in_groups<true>(x, stride, lines, coefficients, count, ahead, width, out, squares);
  }

  template <class T>
  APOLLO_KERNEL void add_squares(const T* APOLLO_RESTRICT x, double* APOLLO_RESTRICT sums, int count) {
    int i = 0;
    for (; i + chunk <= count; i += chunk)
      for (int l = 0; l < chunk; ++l) sums[i + l] += static_cast<double>(x[i + l]) * static_cast<double>(x[i + l]);
    for (; i < count; ++i) sums[i] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }

  // --- sparse sign projections ------------------------------------------------------------------------------------------

  /// One channel in one map: groups of eight adjacent inputs are added to eight adjacent buckets, turned, with their
  /// signs. Returns the sum of squares of x.
  template <class V, class T>
  APOLLO_KERNEL T scatter(const V* x, Index count, const std::int32_t* bucket, const std::uint32_t* sign, T* out) {
    using Eight = typename Vector<T, 8>::Type;
    Eight even = {}, odd = {};
    T rest = 0;
    Index i = 0;
    for (; i + 16 <= count; i += 16) {
      __builtin_prefetch(x + i + stream_ahead / static_cast<int>(sizeof(V)));
      scatter_eight(x + i, out, bucket[i / 8], sign + i, even);
      scatter_eight(x + i + 8, out, bucket[i / 8 + 1], sign + i + 8, odd);
    }
    for (; i + 8 <= count; i += 8) scatter_eight(x + i, out, bucket[i / 8], sign + i, even);
    for (; i < count; ++i) {
      const T value = x[i];
      out[bucket[i / 8] ^ static_cast<std::int32_t>(i % 8)] += sign[i] != 0 ? -value : value;
      rest += value * value;
    }
    even += odd;
    return rest + total<T, 8>(even);
  }

  /// values *= factor. Returns the sum of their squares, as sum_squares().
  template <class T>
  APOLLO_KERNEL T scale(T* values, Index count, T factor) {
    constexpr int n = lanes<T>;
    using Type = typename Vector<T, n>::Type;
    using Loose = typename Vector<T, n>::Loose;
    Type squares[2] = {};
    T rest = 0;
    Index i = 0;
    for (; i + 2 * n <= count; i += 2 * n)
#pragma GCC unroll 2
      for (int k = 0; k < 2; ++k) {
        auto& stored = *reinterpret_cast<Loose*>(values + i + k * n);
        const Type value = factor * stored;
        stored = value;
        squares[k] += value * value;
      }
    for (; i < count; ++i) {
      values[i] *= factor;
      rest += values[i] * values[i];
    }
    const Type sum = squares[0] + squares[1];
    return rest + total<T, n>(sum);
  }

  /// to(j, k) = factor from(k, j) for `rows` x `cols` values of `to`.
  template <class T>
  APOLLO_KERNEL void transpose(const T* APOLLO_RESTRICT from, Index from_stride, T* APOLLO_RESTRICT to, Index to_stride,
                               Index rows, Index cols, T factor) {
    Index j = 0;
    if constexpr (sizeof(T) == 4)
      for (; j + 8 <= rows; j += 8) {
        Index k = 0;
        for (; k + 8 <= cols; k += 8)
          transpose_eight(from + k * from_stride + j, from_stride, to + j * to_stride + k, to_stride, factor);
        for (; k < cols; ++k)
          for (Index i = j; i < j + 8; ++i) to[i * to_stride + k] = factor * from[k * from_stride + i];
      }
    for (; j < rows; ++j)
      for (Index k = 0; k < cols; ++k) to[j * to_stride + k] = factor * from[k * from_stride + j];
  }

 private:
  /// Bytes that one stream alone is fetched ahead: the processor's own prefetch ends with each page.
  static constexpr int stream_ahead = 8192;

  template <bool with_product, class V, class T>
  APOLLO_PART T sums(const V* x, const T* p, Index count, T& product) {
    constexpr int n = lanes<T>;
    using Type = typename Vector<T, n>::Type;
    using Loose = typename Vector<T, n>::Loose;
    Type squares[4] = {}, products[4] = {};
    T rest_squares = 0, rest_products = 0;
    Index i = 0;
    for (; i + 4 * n <= count; i += 4 * n)
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        Type value;
        __builtin_prefetch(x + i + k * n + stream_ahead / static_cast<int>(sizeof(V)));
        widen<T, n>(x + i + k * n, value);
        squares[k] += value * value;
        if constexpr (with_product) products[k] += value * *reinterpret_cast<const Loose*>(p + i + k * n);
      }
    for (; i < count; ++i) {
      const T value = x[i];
      rest_squares += value * value;
      if constexpr (with_product) rest_products += value * p[i];
    }
    const Type square = (squares[0] + squares[1]) + (squares[2] + squares[3]);
    rest_squares += total<T, n>(square);
    if constexpr (with_product) {
      const Type sum = (products[0] + products[1]) + (products[2] + products[3]);
      product = rest_products + total<T, n>(sum);
    }
    return rest_squares;
  }

  /// Lines are walked along, several abreast: down a column of lines, which may lie a multiple of a page apart, memory is slower.
  template <bool with_squares, class V, class T>
  APOLLO_PART void add_in_groups(const V* x, Index stride, const std::int32_t* lines, const T* coefficients, int count,
                                 int ahead, Index width, T* APOLLO_RESTRICT out, T* APOLLO_RESTRICT squares) {
    int l = 0;
    for (; l + 8 <= count; l += 8)
      add_group<8, with_squares>(x, stride, lines, coefficients, l, ahead, width, out, squares);
    for (; l + 4 <= count; l += 4)
      add_group<4, with_squares>(x, stride, lines, coefficients, l, ahead, width, out, squares);
    for (; l < count; ++l) add_group<1, with_squares>(x, stride, lines, coefficients, l, ahead, width, out, squares);
  }

  template <int group, bool with_squares, class V, class T>
  APOLLO_PART void add_group(const V* x, Index stride, const std::int32_t* lines, const T* coefficients, int first,
                             int ahead, Index width, T* APOLLO_RESTRICT out, T* APOLLO_RESTRICT squares) {
    constexpr int n = lanes<T>;
    using Type = typename Vector<T, n>::Type;
    using Loose = typename Vector<T, n>::Loose;
    const V* line[group];
    const V* later[group];
    T coefficient[group];
    for (int k = 0; k < group; ++k) {
      const int l = first + k;
      line[k] = x + (lines == nullptr ? l : lines[l]) * stride;
      later[k] = x + (lines == nullptr ? l + ahead : lines[l + ahead]) * stride;
      coefficient[k] = coefficients[l];
    }
    Index i = 0;
    for (; i + n <= width; i += n) {
      Type sum = *reinterpret_cast<const Loose*>(out + i), square = {};
      if constexpr (with_squares) square = *reinterpret_cast<const Loose*>(squares + i);
#pragma GCC unroll 8
      for (int k = 0; k < group; ++k) {
        Type value;
        __builtin_prefetch(later[k] + i);
        widen<T, n>(line[k] + i, value);
        sum += coefficient[k] * value;
        if constexpr (with_squares) square += value * value;
      }
      *reinterpret_cast<Loose*>(out + i) = sum;
      if constexpr (with_squares) *reinterpret_cast<Loose*>(squares + i) = square;
    }
    for (; i < width; ++i)
      for (int k = 0; k < group; ++k) {
        const T value = line[k][i];
        out[i] += coefficient[k] * value;
        if constexpr (with_squares) squares[i] += value * value;
      }
  }

  /// Adds eight values to eight buckets, value l to bucket `turned` ^ l, negated where the highest bit of its sign is set.
  template <class V, class T>
  APOLLO_PART void scatter_eight(const V* x, T* buckets, std::int32_t turned, const std::uint32_t* sign,
                                 typename Vector<T, 8>::Type& squares) {
    using Eight = typename Vector<T, 8>::Type;
    Eight value;
    widen<T, 8>(x, value);
    squares += value * value;
#if APOLLO_ISA > 0
    if constexpr (sizeof(T) == 4) {
      using Loose = typename Vector<T, 8>::Loose;
      using Bits = Vector<std::uint32_t, 8>;
      const auto bits = *reinterpret_cast<const typename Bits::Loose*>(sign);
      value = reinterpret_cast<Eight>(reinterpret_cast<typename Bits::Type>(value) ^ bits);
      constexpr typename Vector<std::int32_t, 8>::Type places = {0, 1, 2, 3, 4, 5, 6, 7};
      const auto order = places ^ turned;  // of which the permutation takes the lowest three bits
      Eight in_turn;
      asm("vpermps {%1, %2, %0|%0, %2, %1}" : "=x"(in_turn) : "x"(value), "x"(order));
      auto& group = *reinterpret_cast<Loose*>(buckets + (turned & ~7));
      group = group + in_turn;
      return;
    }
#endif
    for (int l = 0; l < 8; ++l) buckets[turned ^ l] += sign[l] != 0 ? -value[l] : value[l];
  }

  /// Eight by eight floats.
  APOLLO_PART void transpose_eight(const float* from, Index from_stride, float* to, Index to_stride, float factor) {
    using Eight = Vector<float, 8>::Type;
    using Loose = Vector<float, 8>::Loose;
    Eight a[8], b[8];
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) a[k] = factor * *reinterpret_cast<const Loose*>(from + k * from_stride);
#pragma GCC unroll 4
    for (int k = 0; k < 8; k += 2) {
      b[k] = __builtin_shufflevector(a[k], a[k + 1], 0, 8, 2, 10, 4, 12, 6, 14);
      b[k + 1] = __builtin_shufflevector(a[k], a[k + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    }
#pragma GCC unroll 4
    for (int k = 0; k < 8; k += 4)
#pragma GCC unroll 2
      for (int i = k; i < k + 2; ++i) {
        a[i] = __builtin_shufflevector(b[i], b[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        a[i + 2] = __builtin_shufflevector(b[i], b[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
      }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      *reinterpret_cast<Loose*>(to + i * to_stride) = __builtin_shufflevector(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
      *reinterpret_cast<Loose*>(to + (i + 4) * to_stride) =
          __builtin_shufflevector(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
  }
};

}  // namespace apollo::simd::APOLLO_ISA_NAMESPACE

#endif
