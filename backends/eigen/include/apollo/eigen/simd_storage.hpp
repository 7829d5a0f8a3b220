// SPDX-License-Identifier: Apache-2.0
// Included by simd.hpp once for each instruction set, like simd_kernels.hpp: storages of few bits opened and closed run by run,
// as policy/storage.hpp says.
#if !defined(APOLLO_ISA)
#include <apollo/eigen/simd.hpp>
#else
#include <apollo/eigen/simd_codecs.hpp>

namespace apollo::simd::APOLLO_ISA_NAMESPACE {

struct Storages : Codecs {
  // --- moments ----------------------------------------------------------------------------------------------------------

  template <class Storage, class T>
  APOLLO_KERNEL void open_moments(typename Storage::Pointer stored, const StorageRun& run, int number, T* buffer) {
    if constexpr (Storage::in_blocks) {
      using Format = typename Storage::Format;
      for (int first = 0; first < run.count; first += Format::block) {
        const auto b = Storage::block_at(stored, run, first);
        for (int at = 0; at < Storage::bytes; at += 64) __builtin_prefetch(b.codes + Storage::bytes + at);
        if (b.bytes == Storage::bytes) {
          decode<Format>(b.codes, *b.scale, number, buffer + first);
        } else {
          std::uint8_t padded[Storage::bytes] = {};
          for (int i = 0; i < b.bytes; ++i) padded[i] = b.codes[i];
          decode<Format>(padded, *b.scale, number, buffer + first);
        }
      }
    } else {
      Storage::open(stored, run, number, buffer);
    }
  }

  /// Second moments of a storage that takes roots are given as such: Kernels leaves them.
  template <class Storage, class T>
  APOLLO_KERNEL void close_moments(T* values, typename Storage::Pointer stored, const StorageRun& run, int number,
                                   const std::uint8_t* random) {
    if constexpr (Storage::in_blocks) {
      using Format = typename Storage::Format;
      for (int i = run.count; i < storage_block; ++i) values[i] = 0;
      for (int first = 0; first < run.count; first += Format::block) {
        const auto b = Storage::block_at(stored, run, first);
        if (b.bytes == Storage::bytes) {
          encode<Format>(values + first, b.codes, *b.scale, number, random + first);
        } else {
          std::uint8_t padded[Storage::bytes];
          encode<Format>(values + first, padded, *b.scale, number, random + first);
          for (int i = 0; i < b.bytes; ++i) b.codes[i] = padded[i];
        }
      }
    } else if constexpr (Storage::stochastic && sizeof(T) == 4) {
      narrow_stochastic(values, random, stored + run.value(), run.count);
    } else {
      Storage::close(values, stored, run, number, random);
    }
  }

  // --- weights ----------------------------------------------------------------------------------------------------------

  template <class Kept, class T>
  APOLLO_KERNEL void open_weights(const Kept& w, const StorageRun& run, T* values) {
    if constexpr (Kept::grouped) {
      const int group = static_cast<int>(w.view.group_size);
      for (int at = 0; at < storage_block; at += 64) __builtin_prefetch(w.view.data + run.value() + storage_block + at);
      for (int first = 0; first < run.count; first += group)
        open_group(w.view.data + run.value() + first, w.view.ranges[run.block(group) + first / group],
                   run.count - first < group ? run.count - first : group, values + first);
    } else if (const auto* from = adjacent(w.view, run)) {
      for (int at = 0; at < storage_block; at += 32) __builtin_prefetch(from + storage_block + at);
      if constexpr (Kept::Policy::keeps_remainder)
        join_run(from, w.remainder + run.value(), run.count, values);
      else
        widen_run(from, values, run.count);
    } else {
      weights::open(w, run, values);
    }
  }

  template <class Kept, class T>
  APOLLO_KERNEL void close_weights(const Kept& w, const StorageRun& run, const T* values) {
    if constexpr (Kept::grouped) {
      [[maybe_unused]] std::uint8_t random[Kept::stochastic ? rounding::bytes : 1];
      if constexpr (Kept::stochastic) draw_rounding(w.rounding, run.block(storage_block), random);
      const int group = static_cast<int>(w.view.group_size);
      for (int first = 0; first < run.count; first += group)
        close_group(values + first, run.count - first < group ? run.count - first : group,
                    w.view.data + run.value() + first, w.view.ranges[run.block(group) + first / group],
                    Kept::stochastic ? random + first : nullptr);
    } else {
      auto* to = adjacent(w.view, run);
      if (to == nullptr) return weights::close(w, run, values);
      if constexpr (Kept::Policy::keeps_remainder) {
        split_run(values, to, w.remainder + run.value(), run.count);
      } else {
        std::uint8_t random[rounding::bytes];
        draw_rounding(w.rounding, run.block(storage_block), random);
        narrow_stochastic(values, random, to, run.count);
      }
    }
  }

  /// n values as bits::to_bfloat16_stochastic.
  APOLLO_PART void round_stochastic(const Floats& x, const Ints& noise, bfloat16* to) {
    const Words u = reinterpret_cast<Words>(x), size = u & ~bits::float_sign;
    const Words up = size + reinterpret_cast<Words>(noise), quiet = size | 0x400000u;
    Words rounded = up < bits::float_exponent ? up : size;  // what is not finite, or would not be, is cut off
    rounded = size > bits::float_exponent ? quiet : rounded;
    const Words upper = (rounded | (u & bits::float_sign)) >> 16;
    *reinterpret_cast<LooseHalves*>(to) = __builtin_convertvector(upper, Halves);
  }

 private:
  APOLLO_PART void widen_run(const bfloat16* from, float* to, int count) {
    int i = 0;
    for (; i + n <= count; i += n) {
      Floats x;
      widen<float, n>(from + i, x);
      store(x, to + i);
    }
    for (; i < count; ++i) to[i] = from[i];
  }
  APOLLO_PART void narrow_stochastic(const float* values, const std::uint8_t* random, bfloat16* to, int count) {
    int i = 0;
    for (; i + n <= count; i += n) {
      Floats x;
      Ints noise;
      load(values + i, x);
      load_random(random, i, noise);
      round_stochastic(x, noise, to + i);
    }
    for (; i < count; ++i) to[i].bits = bits::to_bfloat16_stochastic(values[i], rounding::bits_of(random, i));
  }
  APOLLO_PART void join_run(const bfloat16* upper, const std::uint16_t* lower, int count, float* values) {
    int i = 0;
    for (; i + n <= count; i += n) {
      Words low, high;
      load_words(lower + i, low);
      load_words(reinterpret_cast<const std::uint16_t*>(upper + i), high);
      const auto is_zero = (high & 0x7fffu) == 0u;
      const Words borrow = is_zero ? Words{} : (low & 0x8000u) << 1;
      store(reinterpret_cast<Floats>((high << 16) - borrow + low), values + i);
    }
    for (; i < count; ++i) values[i] = join(upper[i], lower[i]);
  }
  APOLLO_PART void split_run(const float* values, bfloat16* upper, std::uint16_t* lower, int count) {
    for (int i = 0; i < count; ++i) {
      const SplitFloat halves = split(values[i]);
      upper[i] = halves.upper;
      lower[i] = halves.lower;
    }
  }

  APOLLO_PART void open_group(const std::uint8_t* codes, const GroupRange& range, int count, float* values) {
    const GroupRange r = range;
    int i = 0;
    for (; i + n <= count; i += n) {
      Floats x;
      load_codes(codes + i, x);
      store(r.minimum + r.scale * x, values + i);
    }
    for (; i < count; ++i) values[i] = r.minimum + r.scale * static_cast<float>(codes[i]);
  }
  APOLLO_PART void close_group(const float* values, int count, std::uint8_t* codes, GroupRange& range,
                               const std::uint8_t* random) {
    if (count % n != 0) return int8::close(values, count, codes, range, random);
    Floats low, high;
    load(values, low);
    high = low;
    for (int i = n; i < count; i += n) {
      Floats x;
      load(values + i, x);
      low = x < low ? x : low;
      high = x > high ? x : high;
    }
    const float least = -highest<float, n>(-low), most = highest<float, n>(high);
    const float width = most - least > int8::least_range ? most - least : int8::least_range;
    const float factor = 255.0f * 65536.0f / width;
    for (int i = 0; i < count; i += n) {
      Floats x;
      Ints code, bits = Ints{} + rounding::half;
      load(values + i, x);
      if (random != nullptr) load_random(random, i, bits);
      code = __builtin_convertvector((x - least) * factor + 0.5f, Ints) + bits;
      code = (code < 256 * 65536 - 1 ? code : Ints{} + (256 * 65536 - 1)) >> 16;
      store_codes(code, codes + i);
    }
    range = {least, width / 255.0f};
  }
};

}  // namespace apollo::simd::APOLLO_ISA_NAMESPACE

#endif
