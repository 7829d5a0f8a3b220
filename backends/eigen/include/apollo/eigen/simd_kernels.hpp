// SPDX-License-Identifier: Apache-2.0
// Included by simd.hpp once for each instruction set, which names the namespace and the target attribute. Elementwise loops
// are plain loops over chunks of 64, which compilers turn into vectors at -O2 already; sums, and what has lanes by
// definition, are written in vectors. A square root that may set errno stays scalar, so roots are taken apart.
#if !defined(APOLLO_ISA)
#include <apollo/eigen/simd.hpp>
#else

namespace apollo::simd::APOLLO_ISA_NAMESPACE {

/// `width` adjacent values; `Loose` is the same anywhere in memory.
template <class T, int width>
struct Vector {
  typedef T Type __attribute__((vector_size(width * sizeof(T))));
  typedef T Loose __attribute__((vector_size(width * sizeof(T)), aligned(alignof(T)), may_alias));
};

struct Kernels {
  static constexpr int chunk = 64;
  static constexpr int vector_bytes = APOLLO_ISA == 512 ? 64 : APOLLO_ISA == 2 ? 32 : 16;
  template <class T>
  static constexpr int lanes = vector_bytes / static_cast<int>(sizeof(T));

  // --- moments and steps ------------------------------------------------------------------------------------------------

  /// Updates `count` moments by r and writes N; n may be r.
  template <class Moments, class T>
  APOLLO_KERNEL void moments(const T* r, T* n, T* first, T* second, int count, const MomentCoefficients<T>& given) {
    const MomentCoefficients<T> c = given;
    T in[chunk], out[chunk], m[chunk], v[chunk];
    for (int i = 0; i < count; i += chunk) {
      const int rest = count - i;
      moments_chunk<Moments>(open(r + i, in, rest), rest < chunk ? out : n + i, open_if<Moments, 1>(first, i, m, rest),
                             open_if<Moments, 2>(second, i, v, rest), c);
      if (rest >= chunk) continue;
      copy(out, n + i, rest);
      close_if<Moments, 1>(m, first, i, rest);
      close_if<Moments, 2>(v, second, i, rest);
    }
  }

  /// Moments and apply in one pass over `count` weights. `steps`, if there, has a step for each; else a.step is everybody's.
  template <class Moments, class T, class W, class G>
  APOLLO_KERNEL void update(W* w, const G* g, T* first, T* second, int count, const StepCoefficients<T>& given,
                            const Apply<T>& apply, const T* steps) {
    const MomentCoefficients<T> c = given.moments;
    const Apply<T> a = apply;
    const T factor = given.gradient_factor, coupled = given.coupled_decay;
    T weight[chunk], gradient[chunk], m[chunk], v[chunk], step[chunk];
    for (int i = 0; i < count; i += chunk) {
      const int rest = count - i;
      update_chunk<Moments>(open(w + i, weight, rest), open(g + i, gradient, rest),
                            open_if<Moments, 1>(first, i, m, rest), open_if<Moments, 2>(second, i, v, rest), c, a,
                            factor, coupled, steps == nullptr ? steps : open(steps + i, step, rest));
      close(weight, w + i, rest);
      if (rest >= chunk) continue;
      close_if<Moments, 1>(m, first, i, rest);
      close_if<Moments, 2>(v, second, i, rest);
    }
  }

  /// W <- after (before W - step x), with one step or, where `steps` is there, one for each.
  template <class T, class W, class X>
  APOLLO_KERNEL void apply(W* w, const X* x, int count, const Apply<T>& given, const T* steps) {
    const Apply<T> a = given;
    T weight[chunk], u[chunk], step[chunk];
    for (int i = 0; i < count; i += chunk) {
      const int rest = count - i;
      apply_chunk(open(w + i, weight, rest), open(x + i, u, rest), a,
                  steps == nullptr ? steps : open(steps + i, step, rest));
      close(weight, w + i, rest);
    }
  }

  /// Adjacent values in another type.
  template <class V, class T>
  APOLLO_KERNEL void convert(const V* APOLLO_RESTRICT from, T* APOLLO_RESTRICT to, int count) {
    int i = 0;
    for (; i + chunk <= count; i += chunk) {
      for (int l = 0; l < chunk; l += line<V>) __builtin_prefetch(from + i + l + prefetch_lines * line<V>);
      for (int l = 0; l < chunk; ++l) to[i + l] = static_cast<T>(from[i + l]);
    }
    for (; i < count; ++i) to[i] = static_cast<T>(from[i]);
  }

  /// Adjacent values rounded to nearest in another type.
  template <class T, class V>
  APOLLO_KERNEL void narrow(const T* APOLLO_RESTRICT from, V* APOLLO_RESTRICT to, int count) {
    int i = 0;
    for (; i + chunk <= count; i += chunk)
      for (int l = 0; l < chunk; ++l) to[i + l] = V(static_cast<arithmetic_t<V>>(from[i + l]));
    for (; i < count; ++i) to[i] = V(static_cast<arithmetic_t<V>>(from[i]));
  }

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
  /// numbers are lines[l], or l where `lines` is null; lines lie `stride` apart. `squares` may be null.
  template <class V, class T>
  APOLLO_KERNEL void add_lines(const V* x, Index stride, const std::int32_t* lines, const T* coefficients, int count,
                               Index width, T* APOLLO_RESTRICT out, T* APOLLO_RESTRICT squares) {
    Index i = 0;
    if (squares == nullptr) {
      for (; i + 4 * lanes<T> <= width; i += 4 * lanes<T>)
        add_vectors<4, false>(x + i, stride, lines, coefficients, count, out + i, static_cast<T*>(nullptr));
      for (; i + lanes<T> <= width; i += lanes<T>)
        add_vectors<1, false>(x + i, stride, lines, coefficients, count, out + i, static_cast<T*>(nullptr));
    } else {
      for (; i + 4 * lanes<T> <= width; i += 4 * lanes<T>)
        add_vectors<4, true>(x + i, stride, lines, coefficients, count, out + i, squares + i);
      for (; i + lanes<T> <= width; i += lanes<T>)
        add_vectors<1, true>(x + i, stride, lines, coefficients, count, out + i, squares + i);
    }
    for (; i < width; ++i)
      for (int l = 0; l < count; ++l) {
        const T value = x[(lines == nullptr ? l : lines[l]) * stride + i];
        out[i] += coefficients[l] * value;
        if (squares != nullptr) squares[i] += value * value;
      }
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
    for (int l = 0; l < 8; ++l) rest += even[l];
    return rest;
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
  /// What is converted is fetched so many cache lines early: the conversion of a run is short, and others follow.
  static constexpr int prefetch_lines = 16;
  template <class V>
  static constexpr int line = 64 / static_cast<int>(sizeof(V));

  /// A vector of stored values in arithmetic of T, by reference: wide vectors that are returned change the ABI.
  template <class T, int width, class V>
  APOLLO_PART void widen(const V* from, typename Vector<T, width>::Type& to) {
    if constexpr (std::is_same_v<V, bfloat16>) {
      using Bits = Vector<std::uint16_t, width>;
      using Wide = typename Vector<std::uint32_t, width>::Type;
      const typename Bits::Type bits = *reinterpret_cast<const typename Bits::Loose*>(from);
      const Wide wide = __builtin_convertvector(bits, Wide) << 16;
      to = reinterpret_cast<typename Vector<T, width>::Type>(wide);
    } else {
      to = *reinterpret_cast<const typename Vector<T, width>::Loose*>(from);
    }
  }

  template <class T>
  APOLLO_PART void copy(const T* from, T* to, int count) {
    for (int i = 0; i < count; ++i) to[i] = from[i];
  }
  /// A whole chunk in place; the rest of a run in `buffer`, filled up with zeros, so that the same code meets it. Values of
  /// another type all go through the buffer.
  template <class V, class T>
  APOLLO_PART auto open(V* values, T* buffer, int rest) {
    if constexpr (std::is_same_v<std::remove_const_t<V>, T>) {
      if (rest >= chunk) return values;
      for (int i = 0; i < chunk; ++i) buffer[i] = 0;
      copy(static_cast<const T*>(values), buffer, rest);
      return static_cast<V*>(buffer);
    } else {
      for (int i = 0; i < chunk; i += line<V>) __builtin_prefetch(values + i + prefetch_lines * line<V>);
      if (rest >= chunk) {
        for (int i = 0; i < chunk; ++i) buffer[i] = static_cast<T>(values[i]);
      } else {
        for (int i = 0; i < chunk; ++i) buffer[i] = 0;
        for (int i = 0; i < rest; ++i) buffer[i] = static_cast<T>(values[i]);
      }
      return buffer;
    }
  }
  /// Stores what was changed in a buffer.
  template <class V, class T>
  APOLLO_PART void close(const T* buffer, V* values, int rest) {
    if constexpr (std::is_same_v<V, T>) {
      if (rest < chunk) copy(buffer, values, rest);
    } else if (rest >= chunk) {
      for (int i = 0; i < chunk; ++i) values[i] = V(buffer[i]);
    } else {
      for (int i = 0; i < rest; ++i) values[i] = V(buffer[i]);
    }
  }
  /// The same from i on, for a buffer that exists only if there are `least` of them.
  template <class Moments, int least, class T>
  APOLLO_PART T* open_if(T* values, int i, T* buffer, int rest) {
    return Moments::buffers >= least ? open(values + i, buffer, rest) : nullptr;
  }
  template <class Moments, int least, class T>
  APOLLO_PART void close_if(const T* buffer, T* values, int i, int rest) {
    if (Moments::buffers >= least) copy(buffer, values + i, rest);
  }

  template <class T>
  APOLLO_PART void roots_chunk(const T* APOLLO_RESTRICT from, T* APOLLO_RESTRICT to) {
#if APOLLO_X86_DISPATCH
    for (int i = 0; i < chunk; i += lanes<T>) {
#if APOLLO_ISA == 512
      if constexpr (sizeof(T) == 4)
        _mm512_storeu_ps(to + i, _mm512_maskz_sqrt_ps(0xffff, _mm512_loadu_ps(from + i)));
      else
        _mm512_storeu_pd(to + i, _mm512_maskz_sqrt_pd(0xff, _mm512_loadu_pd(from + i)));
#elif APOLLO_ISA == 2
      if constexpr (sizeof(T) == 4)
        _mm256_storeu_ps(to + i, _mm256_sqrt_ps(_mm256_loadu_ps(from + i)));
      else
        _mm256_storeu_pd(to + i, _mm256_sqrt_pd(_mm256_loadu_pd(from + i)));
#else
      if constexpr (sizeof(T) == 4)
        _mm_storeu_ps(to + i, _mm_sqrt_ps(_mm_loadu_ps(from + i)));
      else
        _mm_storeu_pd(to + i, _mm_sqrt_pd(_mm_loadu_pd(from + i)));
#endif
    }
#else
    for (int i = 0; i < chunk; ++i)
      to[i] = static_cast<T>(sizeof(T) == 4 ? __builtin_sqrtf(static_cast<float>(from[i])) : __builtin_sqrt(from[i]));
#endif
  }

  template <class Moments, class T>
  APOLLO_PART void accumulate_chunk(const T* APOLLO_RESTRICT r, T* APOLLO_RESTRICT first, T* APOLLO_RESTRICT second,
                                    const MomentCoefficients<T>& c) {
    for (int i = 0; i < chunk; ++i) {
      T value[2] = {first[i], second[i]};
      Moments::accumulate(r[i], value, c);
      first[i] = value[0];
      second[i] = value[1];
    }
  }
  template <class Moments, class T>
  APOLLO_PART void normalise_chunk(T* APOLLO_RESTRICT n, const T* APOLLO_RESTRICT first, const T* APOLLO_RESTRICT root,
                                   const MomentCoefficients<T>& c) {
    for (int i = 0; i < chunk; ++i) n[i] = Moments::normalise(first[i], root[i], c);
  }

  template <class Moments, class T>
  APOLLO_PART void moments_chunk(const T* r, T* n, T* first, T* second, const MomentCoefficients<T>& c) {
    if constexpr (takes_root<Moments>) {
      T root[chunk];
      accumulate_chunk<Moments>(r, first, second, c);
      roots_chunk(second, root);
      normalise_chunk<Moments>(n, first, root, c);
    } else {
      for (int i = 0; i < chunk; ++i) {
        T value[2] = {};
        if constexpr (Moments::buffers > 0) value[0] = first[i];
        if constexpr (Moments::buffers > 1) value[1] = second[i];
        const T result = Moments::update(r[i], value, c);
        if constexpr (Moments::buffers > 0) first[i] = value[0];
        if constexpr (Moments::buffers > 1) second[i] = value[1];
        n[i] = result;
      }
    }
  }

  template <class T>
  APOLLO_PART void apply_chunk(T* APOLLO_RESTRICT w, const T* APOLLO_RESTRICT x, const Apply<T>& a,
                               const T* APOLLO_RESTRICT steps) {
    if (steps == nullptr)
      for (int i = 0; i < chunk; ++i) w[i] = a.after * (a.before * w[i] - a.step * x[i]);
    else
      for (int i = 0; i < chunk; ++i) w[i] = a.after * (a.before * w[i] - steps[i] * x[i]);
  }

  template <class T>
  APOLLO_PART void scale_chunk(const T* APOLLO_RESTRICT g, const T* APOLLO_RESTRICT w, T* APOLLO_RESTRICT r, T factor,
                               T coupled) {
    if (coupled == 0)
      for (int i = 0; i < chunk; ++i) r[i] = factor * g[i];
    else
      for (int i = 0; i < chunk; ++i) r[i] = factor * g[i] + coupled * w[i];
  }

  template <class Moments, class T>
  APOLLO_PART void update_chunk(T* w, const T* g, T* first, T* second, const MomentCoefficients<T>& c,
                                const Apply<T>& a, T factor, T coupled, const T* steps) {
    T r[chunk], n[chunk];
    scale_chunk(g, w, r, factor, coupled);
    moments_chunk<Moments>(r, n, first, second, c);
    apply_chunk(w, n, a, steps);
  }

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
    for (int l = 0; l < n; ++l) rest_squares += square[l];
    if constexpr (with_product) {
      const Type sum = (products[0] + products[1]) + (products[2] + products[3]);
      for (int l = 0; l < n; ++l) rest_products += sum[l];
      product = rest_products;
    }
    return rest_squares;
  }

  template <int vectors, bool with_squares, class V, class T>
  APOLLO_PART void add_vectors(const V* x, Index stride, const std::int32_t* lines, const T* coefficients, int count,
                               T* out, T* squares) {
    constexpr int n = lanes<T>;
    using Type = typename Vector<T, n>::Type;
    using Loose = typename Vector<T, n>::Loose;
    Type sum[vectors], square[vectors];
#pragma GCC unroll 4
    for (int k = 0; k < vectors; ++k) {
      sum[k] = *reinterpret_cast<const Loose*>(out + k * n);
      if constexpr (with_squares) square[k] = *reinterpret_cast<const Loose*>(squares + k * n);
    }
    for (int l = 0; l < count; ++l) {
      const V* line = x + (lines == nullptr ? l : lines[l]) * stride;
      const T coefficient = coefficients[l];
#pragma GCC unroll 4
      for (int k = 0; k < vectors; ++k) {
        Type value;
        widen<T, n>(line + k * n, value);
        sum[k] += coefficient * value;
        if constexpr (with_squares) square[k] += value * value;
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < vectors; ++k) {
      *reinterpret_cast<Loose*>(out + k * n) = sum[k];
      if constexpr (with_squares) *reinterpret_cast<Loose*>(squares + k * n) = square[k];
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
      // Of each index the permutation takes the lowest three bits.
      const __m256i order = _mm256_xor_si256(_mm256_set1_epi32(turned), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
      auto& group = *reinterpret_cast<Loose*>(buckets + (turned & ~7));
      group = group + reinterpret_cast<Eight>(_mm256_permutevar8x32_ps(reinterpret_cast<__m256>(value), order));
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
