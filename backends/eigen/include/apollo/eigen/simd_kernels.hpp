// SPDX-License-Identifier: Apache-2.0
// Included by simd.hpp once for each instruction set, which names the namespace and the target attribute. Elementwise loops
// are plain loops over chunks of 64, which compilers turn into vectors at -O2 already. A square root that may set errno
// stays scalar, so roots are taken apart.
#if !defined(APOLLO_ISA)
#include <apollo/eigen/simd.hpp>
#else
#include <apollo/eigen/simd_storage.hpp>

namespace apollo::simd::APOLLO_ISA_NAMESPACE {

/// All loops but those of products.
struct Kernels : Storages {
  // --- moments and steps ------------------------------------------------------------------------------------------------

  /// Updates `count` moments by r and writes N; n may be r. Storages in blocks get roots and quotients that are estimates, and
  /// the second moment's roots in its place where they take them.
  template <class Moments, class Storage, class T>
  APOLLO_KERNEL void moments(const T* r, T* n, T* first, T* second, int count, const MomentCoefficients<T>& given) {
    const MomentCoefficients<T> c = given;
    T in[chunk], out[chunk], m[chunk], v[chunk];
    for (int i = 0; i < count; i += chunk) {
      const int rest = count - i;
      moments_chunk<Moments, Storage>(open(r + i, in, rest), rest < chunk ? out : n + i,
                                      open_if<Moments, 1>(first, i, m, rest), open_if<Moments, 2>(second, i, v, rest),
                                      c);
      if (rest >= chunk) continue;
      copy(out, n + i, rest);
      close_if<Moments, 1>(m, first, i, rest);
      close_if<Moments, 2>(v, second, i, rest);
    }
  }

  /// Updates `count` moments by r and returns |r|^2. N is not written; its squares are added up, of quotients that are estimates.
  template <class Moments>
  APOLLO_KERNEL float moments_norms(const float* r, float* first, float* second, Index count,
                                    const MomentCoefficients<float>& given, float& n_squares) {
    const MomentCoefficients<float> c = given;
    Floats sums[2] = {};
    Index i = 0;
    for (; i + n <= count; i += n) {
      __builtin_prefetch(r + i + prefetch_lines * line<float>);
      __builtin_prefetch(first + i + prefetch_lines * line<float>);
      __builtin_prefetch(second + i + prefetch_lines * line<float>);
      moments_norms_vector<Moments>(r + i, first + i, second + i, c, sums);
    }
    float left[2] = {};
    if (i < count) {
      float in[n] = {}, m[n] = {}, v[n] = {};
      const int rest = static_cast<int>(count - i);
      copy(r + i, in, rest), copy(first + i, m, rest), copy(second + i, v, rest);
      Floats last[2] = {};
      moments_norms_vector<Moments>(in, m, v, c, last);
      copy(m, first + i, rest), copy(v, second + i, rest);
      for (int l = 0; l < rest; ++l) left[0] += last[0][l], left[1] += last[1][l];
    }
    n_squares = left[0] + total<float, n>(sums[0]);
    return left[1] + total<float, n>(sums[1]);
  }

  /// Moments and apply in one pass over `count` weights. `steps`, if there, has a step for each; else a.step is everybody's.
  template <class Moments, class Storage, class T, class W, class G>
  APOLLO_KERNEL void update(W* w, const G* g, T* first, T* second, int count, const StepCoefficients<T>& given,
                            const Apply<T>& apply, const T* steps) {
    const MomentCoefficients<T> c = given.moments;
    const Apply<T> a = apply;
    const T factor = given.gradient_factor, coupled = given.coupled_decay;
    T weight[chunk], gradient[chunk], m[chunk], v[chunk], step[chunk];
    for (int i = 0; i < count; i += chunk) {
      const int rest = count - i;
      update_chunk<Moments, Storage>(open(w + i, weight, rest), open(g + i, gradient, rest),
                                     open_if<Moments, 1>(first, i, m, rest), open_if<Moments, 2>(second, i, v, rest), c,
                                     a, factor, coupled, steps == nullptr ? steps : open(steps + i, step, rest));
      close(weight, w + i, rest);
      if (rest >= chunk) continue;
      close_if<Moments, 1>(m, first, i, rest);
      close_if<Moments, 2>(v, second, i, rest);
    }
  }

  /// The same with one block of 8-bit moments a run, in one pass but for their codes, which need the largest of all. `count`
  /// is a multiple of in_one_pass; `w` and `g` are adjacent.
  template <class Moments, class Storage, class G>
  APOLLO_KERNEL void update_block(float* w, const G* g, const typename Storage::Block& first,
                                  const typename Storage::Block& second, int count, Index run,
                                  const StepCoefficients<float>& given, const Apply<float>& apply) {
    using Format = typename Storage::Format;
    const MomentCoefficients<float> c = given.moments;
    const Apply<float> a = apply;
    const float factor = given.gradient_factor, coupled = given.coupled_decay;
    const float unit0 = Format::unit(*first.scale, 0), unit1 = Format::unit(*second.scale, 1);
    alignas(64) float m[storage_block], v[storage_block];
    alignas(64) std::uint8_t random[Format::stochastic ? rounding::bytes : 1];
    if constexpr (Format::stochastic) draw_rounding(given.rounding, run, random);
    Ints most0{}, most1{};
    for (int i = 0; i < count; i += n) {
      Floats state[2], r, weight, root, below, inverse, update;
      __builtin_prefetch(g + i + 2 * storage_block);
      __builtin_prefetch(w + i + 2 * storage_block);
      widen<float, n>(g + i, r);
      load(w + i, weight);
      decode_vector<Format, 0>(first.codes + i, unit0, state[0]);
      decode_vector<Format, 1>(second.codes + i, unit1, state[1]);
      r *= factor;
      if (coupled != 0.0f) r += coupled * weight;
      Moments::accumulate(r, state, c);
      roots_nearly(state[1], root);
      Moments::denominator(root, c, below);
      reciprocals_nearly(below, inverse);
      Moments::quotient(state[0], inverse, c, update);
      if (Storage::takes_roots) state[1] = root;
      store(a.after * (a.before * weight - a.step * update), w + i);
      store(state[0], m + i);
      store(state[1], v + i);
      note_largest(state[0], most0);
      note_largest(state[1], most1);
    }
    *first.scale = finish_largest(most0);
    *second.scale = finish_largest(most1);
    const float per_unit0 = Format::factor(*first.scale, 0), per_unit1 = Format::factor(*second.scale, 1);
    for (int i = 0; i < count; i += n) {
      Floats x, y;
      Ints bits{};
      if constexpr (Format::stochastic) load_random(random, i, bits);
      load(m + i, x);
      load(v + i, y);
      encode_vector<Format, 0>(x, per_unit0, bits, first.codes + i);
      encode_vector<Format, 1>(y, per_unit1, bits, second.codes + i);
    }
  }

  /// apply() of a storage run of adjacent bfloat16 weights along one channel or one line of channels, rounded stochastically.
  /// `count` is a multiple of in_one_pass.
  template <class X>
  APOLLO_KERNEL void apply_stochastic(bfloat16* w, const X* x, int count, const Apply<float>& given, const float* steps,
                                      const RandomStream& stream, Index run) {
    const Apply<float> a = given;
    alignas(64) std::uint8_t random[rounding::bytes];
    draw_rounding(stream, run, random);
    for (int i = 0; i < count; i += n) {
      Floats weight, u, step = Floats{} + a.step;
      Ints noise;
      __builtin_prefetch(x + i + 2 * storage_block);
      __builtin_prefetch(w + i + 2 * storage_block);
      widen<float, n>(w + i, weight);
      widen<float, n>(x + i, u);
      if (steps != nullptr) load(steps + i, step);
      load_random(random, i, noise);
      round_stochastic(a.after * (a.before * weight - step * u), noise, w + i);
    }
  }

  /// W <- after (before W - step x), with one step or, where `steps` is there, one for each.
  template <class T, class W, class X>
  APOLLO_KERNEL void apply(W* w, const X* x, int count, const Apply<T>& given, const T* steps) {
    const Apply<T> a = given;
    T step[chunk];
    if constexpr (in_pairs<W> && in_pairs<X>) {
      W weight[chunk];
      X u[chunk];
      for (int i = 0; i < count; i += chunk) {
        const int rest = count - i;
        apply_pairs(fill(w + i, weight, rest), fill(x + i, u, rest), a,
                    steps == nullptr ? steps : open(steps + i, step, rest));
        if (rest < chunk) copy(weight, w + i, rest);
      }
    } else {
      T weight[chunk], u[chunk];
      for (int i = 0; i < count; i += chunk) {
        const int rest = count - i;
        apply_chunk(open(w + i, weight, rest), open(x + i, u, rest), a,
                    steps == nullptr ? steps : open(steps + i, step, rest));
        close(weight, w + i, rest);
      }
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

 private:
  /// Streams are fetched so many cache lines early: further than the processor does by itself, which stops at each page.
  static constexpr int prefetch_lines = 32;
  template <class V>
  static constexpr int line = 64 / static_cast<int>(sizeof(V));

  /// A chunk of weights and of values in pairs.
  APOLLO_PART void apply_pairs(bfloat16* w, const bfloat16* x, const Apply<float>& a, const float* steps) {
    constexpr int n = lanes<float>;
    for (int i = 0; i < chunk; i += 2 * n) {
      auto& stored = *reinterpret_cast<LooseWords*>(w + i);
      const Words weights = stored, values = *reinterpret_cast<const LooseWords*>(x + i);
      Floats even = reinterpret_cast<Floats>(weights << 16), odd = reinterpret_cast<Floats>(weights & 0xffff0000u);
      const Floats even_x = reinterpret_cast<Floats>(values << 16),
                   odd_x = reinterpret_cast<Floats>(values & 0xffff0000u);
      if (steps == nullptr) {
        even = a.after * (a.before * even - a.step * even_x);
        odd = a.after * (a.before * odd - a.step * odd_x);
      } else {
        Floats even_step, odd_step;
        for (int l = 0; l < n; ++l) even_step[l] = steps[i + 2 * l], odd_step[l] = steps[i + 2 * l + 1];
        even = a.after * (a.before * even - even_step * even_x);
        odd = a.after * (a.before * odd - odd_step * odd_x);
      }
      Words low, high;
      round_to_bfloat16(even, low);
      round_to_bfloat16(odd, high);
      stored = (low >> 16) | (high & 0xffff0000u);
    }
  }

  template <class T>
  APOLLO_PART void copy(const T* from, T* to, int count) {
    for (int i = 0; i < count; ++i) to[i] = from[i];
  }
  template <class V>
  APOLLO_PART void prefetch(const V* values) {
    for (int i = 0; i < chunk; i += line<V>) __builtin_prefetch(values + i + prefetch_lines * line<V>);
  }
  /// A whole chunk in place; the rest of a run in `buffer`, filled up with zeros, so that the same code meets it.
  template <class V, class T>
  APOLLO_PART V* fill(V* values, T* buffer, int rest) {
    prefetch(values);
    if (rest >= chunk) return values;
    for (int i = 0; i < chunk; ++i) buffer[i] = T(0);
    copy(static_cast<const T*>(values), buffer, rest);
    return buffer;
  }
  /// The same in arithmetic type. Values of another type all go through the buffer.
  template <class V, class T>
  APOLLO_PART auto open(V* values, T* buffer, int rest) {
    if constexpr (std::is_same_v<std::remove_const_t<V>, T>) {
      return fill(values, buffer, rest);
    } else {
      prefetch(values);
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

  /// One vector of moments_norms: sums += n^2, r^2.
  template <class Moments>
  APOLLO_PART void moments_norms_vector(const float* from, float* first, float* second,
                                        const MomentCoefficients<float>& c, Floats* sums) {
    Floats state[2], r, root, below, inverse, quotient;
    load(from, r);
    load(first, state[0]);
    load(second, state[1]);
    Moments::accumulate(r, state, c);
    store(state[0], first);
    store(state[1], second);
    roots_nearly(state[1], root);
    Moments::denominator(root, c, below);
    reciprocals_nearly(below, inverse);
    Moments::quotient(state[0], inverse, c, quotient);
    sums[0] += quotient * quotient;
    sums[1] += r * r;
  }

  template <class T>
  APOLLO_PART void roots_chunk(const T* APOLLO_RESTRICT from, T* APOLLO_RESTRICT to) {
    using Type = typename Vector<T, lanes<T>>::Type;
    using Loose = typename Vector<T, lanes<T>>::Loose;
    for (int i = 0; i < chunk; i += lanes<T>) {
      const Type x = *reinterpret_cast<const Loose*>(from + i);  // a copy: a reference would claim its alignment
      Type root;
      roots<T>(x, root);
      *reinterpret_cast<Loose*>(to + i) = root;
    }
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

  /// The same by estimates, and V becomes its root where that is stored. For moments in few bits: the error is 3e-7.
  template <class Moments, bool leaves_roots>
  APOLLO_PART void normalise_nearly(float* APOLLO_RESTRICT n, const float* APOLLO_RESTRICT first,
                                    float* APOLLO_RESTRICT second, const MomentCoefficients<float>& c) {
    using Loose = typename Vector<float, lanes<float>>::Loose;
    for (int i = 0; i < chunk; i += lanes<float>) {
      const Floats m = *reinterpret_cast<const Loose*>(first + i), v = *reinterpret_cast<const Loose*>(second + i);
      Floats root, below, inverse, quotient;
      roots_nearly(v, root);
      Moments::denominator(root, c, below);
      reciprocals_nearly(below, inverse);
      if (leaves_roots) *reinterpret_cast<Loose*>(second + i) = root;
      Moments::quotient(m, inverse, c, quotient);
      *reinterpret_cast<Loose*>(n + i) = quotient;
    }
  }

  template <class Moments, class Storage, class T>
  APOLLO_PART void moments_chunk(const T* r, T* n, T* first, T* second, const MomentCoefficients<T>& c) {
    if constexpr (Storage::in_blocks && takes_root<Moments>) {
      accumulate_chunk<Moments>(r, first, second, c);
      normalise_nearly<Moments, Storage::takes_roots>(n, first, second, c);
    } else if constexpr (takes_root<Moments>) {
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

  template <class Moments, class Storage, class T>
  APOLLO_PART void update_chunk(T* w, const T* g, T* first, T* second, const MomentCoefficients<T>& c,
                                const Apply<T>& a, T factor, T coupled, const T* steps) {
    T r[chunk], n[chunk];
    scale_chunk(g, w, r, factor, coupled);
    moments_chunk<Moments, Storage>(r, n, first, second, c);
    apply_chunk(w, n, a, steps);
  }
};

}  // namespace apollo::simd::APOLLO_ISA_NAMESPACE

#endif
