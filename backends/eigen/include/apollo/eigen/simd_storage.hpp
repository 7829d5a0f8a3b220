// SPDX-License-Identifier: Apache-2.0
// Included by simd.hpp once for each instruction set, like simd_kernels.hpp: random bits for rounding, and storages of few bits
// opened and closed as policy/storage.hpp says, vector by vector.
#if !defined(APOLLO_ISA)
#include <apollo/eigen/simd.hpp>
#else
#include <apollo/eigen/simd_lines.hpp>

namespace apollo::simd::APOLLO_ISA_NAMESPACE {

struct Storages : Lines {
  // --- rounding ---------------------------------------------------------------------------------------------------------

  APOLLO_KERNEL void draw_rounding(const RandomStream& stream, Index run, std::uint8_t* random) {
#if APOLLO_ISA == 0
    rounding::draw(stream, run, random);
#else
    const PhiloxCounter position = stream.position(static_cast<std::uint64_t>(blocks * run));
    Longs lane{};
    for (int l = 0; l < n / 2; ++l) lane[l] = static_cast<std::uint64_t>(2 * l);
    for (int i = 0; i < blocks; i += n) {
      // Words stand in lanes of 64 bits, of which multiplications read the lower half and leave a product: blocks of even
      // numbers and those of odd ones. Blocks of a run begin with a multiple of 16, so no carry leaves word 0.
      Longs even[4], odd[4];
      for (int k = 0; k < 4; ++k) even[k] = odd[k] = Longs{} + position.word[k];
      even[0] += lane + static_cast<std::uint64_t>(i);
      odd[0] += lane + static_cast<std::uint64_t>(i + 1);
      PhiloxKey key = stream.key();
      for (int round = 0; round < philox_rounds; ++round) {
        philox_round(even, key);
        philox_round(odd, key);
        key.next();
      }
      for (int k = 0; k < 4; ++k) {
        const Longs both = (even[k] & 0xffffffffu) | (odd[k] << 32);
        *reinterpret_cast<LooseWords*>(random + 4 * (k * blocks + i)) = reinterpret_cast<Words>(both);
      }
    }
    random[storage_block] = random[0];
#endif
  }

  // --- moments ----------------------------------------------------------------------------------------------------------

  template <class Storage, class T>
  APOLLO_KERNEL void open_moments(typename Storage::Pointer stored, const StorageRun& run, int number, T* buffer) {
    if constexpr (Storage::in_blocks) {
      using Format = typename Storage::Format;
      for (int first = 0; first < run.count; first += Format::block) {
        const auto b = Storage::block_at(stored, run, first);
        for (int at = 0; at < Storage::bytes; at += 64) __builtin_prefetch(b.codes + Storage::bytes + at);
        if (b.bytes == Storage::bytes) {
          decode(Format{}, b.codes, *b.scale, number, buffer + first);
        } else {
          std::uint8_t padded[Storage::bytes] = {};
          for (int i = 0; i < b.bytes; ++i) padded[i] = b.codes[i];
          decode(Format{}, padded, *b.scale, number, buffer + first);
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
          encode(Format{}, values + first, b.codes, *b.scale, number, random + first);
        } else {
          std::uint8_t padded[Storage::bytes];
          encode(Format{}, values + first, padded, *b.scale, number, random + first);
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
    } else if (const auto* from = adjacent(w, run)) {
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
      auto* to = adjacent(w, run);
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

 private:
  static constexpr int n = lanes<float>;
  static constexpr int blocks = 16;  ///< of Philox that a run takes
  using Ints = typename Vector<std::int32_t, n>::Type;
  using Longs = typename Vector<std::uint64_t, n / 2>::Type;
  using LooseFloats = typename Vector<float, n>::Loose;
  using LooseHalves = typename Vector<std::uint16_t, n>::Loose;
  using Halves = typename Vector<std::uint16_t, n>::Type;
  using LooseBytes = typename Vector<std::uint8_t, n>::Loose;
  using Bytes = typename Vector<std::uint8_t, n>::Type;

  // Vectors go by reference: returned ones would change the ABI.

  APOLLO_PART void philox_round(Longs* word, const PhiloxKey& key) {
    Longs a, b;
    multiply(word[0], philox_multiplier[0], a);
    multiply(word[2], philox_multiplier[1], b);
    word[0] = (b >> 32) ^ word[1] ^ key.word[0];
    word[1] = b;
    word[2] = (a >> 32) ^ word[3] ^ key.word[1];
    word[3] = a;
  }
  /// The lower halves of a, times m.
  APOLLO_PART void multiply(const Longs& a, std::uint32_t m, Longs& product) {
    const Longs factor = Longs{} + m;
#if APOLLO_ISA == 0
    product = (a & 0xffffffffu) * factor;
#elif APOLLO_ISA == 2
    asm("vpmuludq {%2, %1, %0|%0, %1, %2}" : "=x"(product) : "x"(a), "x"(factor));
#else
    asm("vpmuludq {%2, %1, %0|%0, %1, %2}" : "=v"(product) : "v"(a), "v"(factor));
#endif
  }

  APOLLO_PART void load(const float* from, Floats& to) { to = *reinterpret_cast<const LooseFloats*>(from); }
  APOLLO_PART void store(const Floats& from, float* to) { *reinterpret_cast<LooseFloats*>(to) = from; }
  // g++ 12 widens bytes lane by lane, so the instructions that do it are named.
  APOLLO_PART void load_words(const std::uint16_t* from, Words& to) {
    const auto& halves = *reinterpret_cast<const LooseHalves*>(from);
#if APOLLO_ISA == 0
    const Halves copy = halves;
    to = __builtin_convertvector(copy, Words);
#else
    asm("vpmovzxwd {%1, %0|%0, %1}" : "=v"(to) : "m"(halves));
#endif
  }
  APOLLO_PART void load_ints(const std::uint8_t* from, Ints& to) {
    const auto& bytes = *reinterpret_cast<const LooseBytes*>(from);
#if APOLLO_ISA == 0
    const Bytes copy = bytes;
    to = __builtin_convertvector(copy, Ints);
#else
    asm("vpmovzxbd {%1, %0|%0, %1}" : "=v"(to) : "m"(bytes));
#endif
  }
  /// rounding::bits_of n values, `random` being that of the first.
  APOLLO_PART void load_random(const std::uint8_t* random, Ints& bits) {
    Ints upper;
    load_ints(random, bits);
    load_ints(random + 1, upper);
    bits |= upper << 8;
  }
  APOLLO_PART void load_codes(const std::uint8_t* codes, Floats& to) {
    Ints ints;
    load_ints(codes, ints);
    to = __builtin_convertvector(ints, Floats);
  }
  APOLLO_PART void store_codes(const Ints& from, std::uint8_t* codes) {
#if APOLLO_ISA == 512
    asm("vpmovdb {%1, %0|%0, %1}" : "=m"(*reinterpret_cast<LooseBytes*>(codes)) : "v"(from));
#else
    *reinterpret_cast<LooseBytes*>(codes) = __builtin_convertvector(from, Bytes);
#endif
  }
  /// rounding::code of a vector, with `most` in place of its own in 65536ths.
  APOLLO_PART void round(const Floats& scaled, const Ints& bits, std::int32_t most, Ints& code) {
    Ints fixed = __builtin_convertvector(scaled, Ints) + bits;
    fixed = fixed > 0 ? fixed : Ints{};
    code = (fixed < most ? fixed : Ints{} + most) >> 16;
  }
  template <int size>
  APOLLO_PART float largest(const float* values) {
    Ints most{};
    for (int i = 0; i < size; i += n) {
      Floats x;
      load(values + i, x);
      const Ints magnitude = reinterpret_cast<Ints>(x) & 0x7fffffff;
      most = magnitude > most ? magnitude : most;
    }
    const std::int32_t all = highest<std::int32_t, n>(most);
    return all < block::smallest ? 0.0f : __builtin_bit_cast(float, all);
  }
  /// The largest of a vector's values, half to half.
  template <class T, int width>
  APOLLO_PART T highest(const typename Vector<T, width>::Type& values) {
    if constexpr (width == 1) {
      return values[0];
    } else {
      using Half = Vector<T, width / 2>;
      const auto* halves = reinterpret_cast<const typename Half::Loose*>(&values);
      const typename Half::Type low = halves[0], high = halves[1];
      const typename Half::Type most = low > high ? low : high;
      return highest<T, width / 2>(most);
    }
  }

  APOLLO_PART void decode(Int8Linear, const std::uint8_t* codes, float scale, int number, float* values) {
    const float step = scale / (number == 0 ? 127.0f : 256.0f);
    if (number == 0) {
      for (int i = 0; i < Int8Linear::block; i += n) {
        Ints code;
        load_ints(codes + i, code);
        store(step * __builtin_convertvector((code << 24) >> 24, Floats), values + i);
      }
    } else {
      for (int i = 0; i < Int8Linear::block; i += n) {
        Floats root;
        load_codes(codes + i, root);
        root = step * (root + 1.0f);
        store(root * root, values + i);
      }
    }
  }
  APOLLO_PART void encode(Int8Linear, float* values, std::uint8_t* codes, float& scale, int number,
                          const std::uint8_t* random) {
    constexpr int block = Int8Linear::block;
    scale = largest<block>(values);
    const float factor = (number == 0 ? 127.0f : 256.0f) * 65536.0f * block::reciprocal(scale);
    const float above = number == 0 ? 127.0f * 65536.0f : -65536.0f;
    const std::int32_t below = number == 0 ? 127 : 0, most = number == 0 ? 255 * 65536 - 1 : 256 * 65536 - 1;
    for (int i = 0; i < block; i += n) {
      Floats x;
      Ints code, bits;
      load(values + i, x);
      load_random(random + i, bits);
      round(x * factor + above, bits, most, code);
      store_codes(code - below, codes + i);
    }
  }

  /// table[index], of a table of 16; vectors of 8 have 8 of them.
  APOLLO_PART void look_up(const float* table, const Ints& index, Floats& to) {
#if APOLLO_ISA == 0
    for (int l = 0; l < n; ++l) to[l] = table[index[l]];
#else
    Floats entries;
    load(table, entries);
    asm("vpermps {%1, %2, %0|%0, %2, %1}" : "=v"(to) : "v"(entries), "v"(index));
#endif
  }

  /// A DynamicMap by decades, in tables that look_up takes.
  template <int bits, bool two_signs>
  struct Decades {
    using Map = block::DynamicMap<bits, two_signs>;
    // By the exponent of k, or of k + 1 where there is one sign: code `zero` + k stands for offset + k width.
    float offset[16] = {}, width[16] = {};
    float bottom[16] = {}, per_value[16] = {};  // by decade

    constexpr Decades() {
      constexpr auto& map = block::dynamic_map<bits, two_signs>;
      for (int d = 0; d < Map::decades; ++d) {
        const int exponent = two_signs ? d : d + 1, first = two_signs ? Map::cells(d) : Map::cells(d) - 1;
        width[exponent] = 1 / map.per_value[d];
        offset[exponent] = map.value[Map::zero + first] - static_cast<float>(first) * width[exponent];
        bottom[d] = map.bottom[d];
        per_value[d] = map.per_value[d];
      }
    }
  };
  template <int bits, bool two_signs>
  static constexpr Decades<bits, two_signs> decades_of{};

  template <int bits, bool two_signs, int count>
  APOLLO_PART void decode_dynamic(const std::uint8_t* codes, float scale, float* values) {
    using Map = block::DynamicMap<bits, two_signs>;
    constexpr auto& decades = decades_of<bits, two_signs>;
    for (int i = 0; i < count; i += n) {
      Floats code, width, offset;
      load_codes(codes + i, code);
      code -= static_cast<float>(Map::zero);
      const Floats k = code < 0.0f ? -code : code;
      const Floats counted = two_signs ? k : k + 1.0f;
      const Ints exponent = ((reinterpret_cast<Ints>(counted) >> 23) - 127) & 7;
      look_up(decades.offset, exponent, offset);
      look_up(decades.width, exponent, width);
      Floats magnitude = offset + k * width;
      magnitude = k >= static_cast<float>(Map::largest) ? Floats{} + 1.0f : magnitude;
      if (two_signs) magnitude = k < 1.0f ? Floats{} : magnitude;
      store(scale * (code < 0.0f ? -magnitude : magnitude), values + i);
    }
  }
  template <int bits, bool two_signs, int count>
  APOLLO_PART void encode_dynamic(const float* values, std::uint8_t* codes, float& scale) {
    using Map = block::DynamicMap<bits, two_signs>;
    constexpr auto& map = block::dynamic_map<bits, two_signs>;
    constexpr auto& decades = decades_of<bits, two_signs>;
    scale = largest<count>(values);
    const float factor = block::reciprocal(scale);
    for (int i = 0; i < count; i += n) {
      Floats x, low, per_value;
      load(values + i, x);
      x *= factor;
      const Floats size = x < 0.0f ? -x : x;
      Ints decade{};
      for (int d = 1; d < Map::decades; ++d) decade -= size >= map.from[d];  // true is -1
      look_up(decades.bottom, decade, low);
      look_up(decades.per_value, decade, per_value);
      const Ints cells = (Ints{} + Map::cells(0)) << decade;
      const Floats last = __builtin_convertvector(cells - 1, Floats);
      Floats cell = (size - low) * per_value;
      cell = cell < last ? cell : last;
      Ints code = __builtin_convertvector(cell > 0.0f ? cell : Floats{}, Ints) + (two_signs ? cells : cells - 1);
      code = size < map.least ? Ints{} : code;
      code = size >= map.highest ? Ints{} + Map::largest : code;
      if constexpr (two_signs) {
        const Ints below = Map::zero - (code < Map::zero ? code : Ints{} + Map::zero);  // -1 has no code of its own
        code = x < 0.0f ? below : code + Map::zero;
      }
      store_codes(code, codes + i);
    }
  }

  APOLLO_PART void decode(Int8Dynamic, const std::uint8_t* codes, float scale, int number, float* values) {
    if (number == 0)
      decode_dynamic<8, true, Int8Dynamic::block>(codes, scale, values);
    else
      decode_dynamic<8, false, Int8Dynamic::block>(codes, scale, values);
  }
  APOLLO_PART void encode(Int8Dynamic, float* values, std::uint8_t* codes, float& scale, int number,
                          const std::uint8_t*) {
    if (number == 0)
      encode_dynamic<8, true, Int8Dynamic::block>(values, codes, scale);
    else
      encode_dynamic<8, false, Int8Dynamic::block>(values, codes, scale);
  }

  APOLLO_PART void decode(Int4, const std::uint8_t* packed, float scale, int number, float* values) {
    std::uint8_t codes[Int4::block];
    for (int i = 0; i < Int4::block / 2; ++i) {
      codes[2 * i] = packed[i] & 15;
      codes[2 * i + 1] = packed[i] >> 4;
    }
    if (number == 0) return decode_dynamic<4, true, Int4::block>(codes, scale, values);
    for (int i = 0; i < Int4::block; i += n) {
      Floats level;
      load_codes(codes + i, level);
      store(scale * ((level + 1.0f) * 0.0625f), values + i);
    }
  }
  APOLLO_PART void encode(Int4, float* values, std::uint8_t* packed, float& scale, int number,
                          const std::uint8_t* random) {
    const block::Levels& levels = number == 0 ? block::first_levels : block::second_levels;
    scale = largest<Int4::block>(values);
    const float factor = block::reciprocal(scale);
    std::uint8_t codes[Int4::block];
    for (int i = 0; i < Int4::block; i += n) {
      Ints bits;
      Floats x, low = Floats{} + levels.value[0], per_value = Floats{} + levels.per_value[0];
      load(values + i, x);
      load_random(random + i, bits);
      x *= factor;
      Ints code{};
      for (int q = 1; q < 16; ++q) {
        const auto reaches = x >= levels.value[q];
        low = reaches ? Floats{} + levels.value[q] : low;
        per_value = reaches ? Floats{} + levels.per_value[q] : per_value;
        code -= reaches;  // true is -1
      }
      code -= (x - low) * per_value > 0x1p-16f * __builtin_convertvector(bits, Floats);
      store_codes(code, codes + i);
    }
    for (int i = 0; i < Int4::block / 2; ++i)
      packed[i] = static_cast<std::uint8_t>(codes[2 * i] | codes[2 * i + 1] << 4);
  }

  /// The first weight of a run whose weights lie next to each other; else null.
  template <class Kept>
  APOLLO_PART auto* adjacent(const Kept& w, const StorageRun& run) {
    const bool rows = run.order == Order2D::row_major;
    const Index line = rows ? w.view.row_stride : w.view.col_stride;
    const Index stride = rows ? w.view.col_stride : w.view.row_stride;
    const bool whole = stride == 1 && (run.length == run.across || line == run.across);
    const Index first = run.value() / run.across, at = run.value() - first * run.across;
    return whole ? w.view.data + first * line + at : nullptr;
  }
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
      load_random(random + i, noise);
      const Words u = reinterpret_cast<Words>(x), rounded = u + reinterpret_cast<Words>(noise);
      const auto overflows = ((u & bits::float_exponent) == bits::float_exponent) |
                             ((rounded & bits::float_exponent) == bits::float_exponent);
      const Words kept = overflows ? u : rounded;
      const auto is_nan =
          reinterpret_cast<Ints>(u & ~bits::float_sign) > static_cast<std::int32_t>(bits::float_exponent);
      const Words upper = (kept >> 16) | (is_nan ? Words{} + 0x40u : Words{});
      *reinterpret_cast<LooseHalves*>(to + i) = __builtin_convertvector(upper, Halves);
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
      if (random != nullptr) load_random(random + i, bits);
      round((x - least) * factor + 0.5f, bits, 256 * 65536 - 1, code);
      store_codes(code, codes + i);
    }
    range = {least, width / 255.0f};
  }
};

}  // namespace apollo::simd::APOLLO_ISA_NAMESPACE

#endif
