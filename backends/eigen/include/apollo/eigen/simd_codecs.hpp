// SPDX-License-Identifier: Apache-2.0
// Included by simd.hpp once for each instruction set, like simd_kernels.hpp: random bits for rounding, and the block formats of
// policy/block_moments.hpp, vector by vector. Instructions that compilers do not find by themselves are named.
#if !defined(APOLLO_ISA)
#include <apollo/eigen/simd.hpp>
#else
#include <apollo/eigen/simd_lines.hpp>

namespace apollo::simd::APOLLO_ISA_NAMESPACE {

struct Codecs : Lines {
  static constexpr int n = lanes<float>;
  using Ints = typename Vector<std::int32_t, n>::Type;
  using Longs = typename Vector<std::uint64_t, n / 2>::Type;
  using Halves = typename Vector<std::uint16_t, n>::Type;
  using Bytes = typename Vector<std::uint8_t, n>::Type;
  using LooseFloats = typename Vector<float, n>::Loose;
  using LooseHalves = typename Vector<std::uint16_t, n>::Loose;
  using LooseBytes = typename Vector<std::uint8_t, n>::Loose;

  // Vectors go by reference: returned ones would change the ABI.

  // --- memory -----------------------------------------------------------------------------------------------------------

  APOLLO_PART void load(const float* from, Floats& to) { to = *reinterpret_cast<const LooseFloats*>(from); }
  APOLLO_PART void store(const Floats& from, float* to) { *reinterpret_cast<LooseFloats*>(to) = from; }
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
  APOLLO_PART void load_signed(const std::uint8_t* from, Ints& to) {
#if APOLLO_ISA == 0
    load_ints(from, to);
    to = (to << 24) >> 24;
#else
    asm("vpmovsxbd {%1, %0|%0, %1}" : "=v"(to) : "m"(*reinterpret_cast<const LooseBytes*>(from)));
#endif
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

  // --- random bits ------------------------------------------------------------------------------------------------------

  APOLLO_KERNEL void draw_rounding(const RandomStream& stream, Index run, std::uint8_t* random) {
#if APOLLO_ISA == 0
    rounding::draw(stream, run, random);
#else
    constexpr int blocks = 16;
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
    for (int i = storage_block; i < rounding::bytes; ++i) random[i] = random[i - storage_block];
#endif
  }

  /// rounding::bits_of the n values from the i-th on, a multiple of n.
  APOLLO_PART void load_random(const std::uint8_t* random, int i, Ints& bits) {
#if APOLLO_ISA == 0
    for (int l = 0; l < n; ++l) bits[l] = rounding::bits_of(random, i + l);
#else
    // The sixteen stand in every part of 16 bytes, which picks its four values' bytes.
    constexpr int parts = vector_bytes / 16;
    using Sixteen = typename Vector<std::uint8_t, 16>::Loose;
    using Picked = typename Vector<std::uint8_t, 16 * parts>::Type;
    const auto& sixteen = *reinterpret_cast<const Sixteen*>(random + (i & ~15));
    const Picked& picked = *reinterpret_cast<const Picked*>(neighbours.byte + 4 * (i & 15));
    Picked all, result;
#if APOLLO_ISA == 2
    asm("vbroadcasti128 {%1, %0|%0, %1}" : "=x"(all) : "m"(sixteen));
    asm("vpshufb {%2, %1, %0|%0, %1, %2}" : "=x"(result) : "x"(all), "x"(picked));
#else
    asm("vbroadcasti32x4 {%1, %0|%0, %1}" : "=v"(all) : "m"(sixteen));
    asm("vpshufb {%2, %1, %0|%0, %1, %2}" : "=v"(result) : "v"(all), "v"(picked));
#endif
    bits = reinterpret_cast<Ints>(result);
#endif
  }

  // --- sizes ------------------------------------------------------------------------------------------------------------

  /// Takes magnitudes into account, as bits, of which finish() finds the largest; as block::largest.
  APOLLO_PART void note_largest(const Floats& x, Ints& most) {
    const Ints magnitude = reinterpret_cast<Ints>(x) & 0x7fffffff;
    most = magnitude > most ? magnitude : most;
  }
  APOLLO_PART float finish_largest(const Ints& most) {
    const std::int32_t all = highest<std::int32_t, n>(most);
    return all < block::smallest ? 0.0f : __builtin_bit_cast(float, all);
  }
  template <int size>
  APOLLO_PART float largest(const float* values) {
    Ints most{};
    for (int i = 0; i < size; i += n) {
      Floats x;
      load(values + i, x);
      note_largest(x, most);
    }
    return finish_largest(most);
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

  // --- codes ------------------------------------------------------------------------------------------------------------
  // A format's values are decoded from codes of a byte each and the block's unit(), encoded by its factor(), here `per_unit`.

  template <class Format, int number>
  APOLLO_PART void decode_vector(const std::uint8_t* codes, float unit, Floats& x) {
    if constexpr (std::is_same_v<Format, Int8Linear> && number == 0) {
      Ints code;
      load_signed(codes, code);
      x = unit * __builtin_convertvector(code, Floats);
    } else if constexpr (std::is_same_v<Format, Int8Linear>) {
      Floats code;
      load_codes(codes, code);
      const Floats root = unit * code + unit;
      x = root * root;
    } else if constexpr (std::is_same_v<Format, Int4> && number == 1) {
      Floats code;
      load_codes(codes, code);
      x = unit * ((code + 1.0f) * 0.0625f);
    } else {
      decode_dynamic<Format::bits, number == 0>(codes, unit, x);
    }
  }

  /// `bits`: of load_random, for what is stochastic.
  template <class Format, int number>
  APOLLO_PART void encode_vector(const Floats& x, float per_unit, const Ints& bits, std::uint8_t* codes) {
    if constexpr (std::is_same_v<Format, Int8Linear> && number == 0) {
      store_codes((__builtin_convertvector(x * per_unit, Ints) + bits) >> 16, codes);
    } else if constexpr (std::is_same_v<Format, Int8Linear>) {
      const Ints fixed = __builtin_convertvector(x * per_unit - 65536.0f, Ints) + bits;
      store_codes((fixed > 0 ? fixed : Ints{}) >> 16, codes);
    } else if constexpr (std::is_same_v<Format, Int4>) {
      encode_level(number == 0 ? block::first_levels : block::second_levels, x * per_unit, bits, codes);
    } else {
      encode_dynamic<Format::bits, number == 0>(x * per_unit, codes);
    }
  }

  template <class Format>
  APOLLO_PART void decode(const std::uint8_t* stored, float scale, int number, float* values) {
    const std::uint8_t* codes = stored;
    std::uint8_t unpacked[Format::block];
    if constexpr (Format::bits == 4) {
      for (int i = 0; i < Format::block / 2; ++i) {
        unpacked[2 * i] = stored[i] & 15;
        unpacked[2 * i + 1] = stored[i] >> 4;
      }
      codes = unpacked;
    }
    if (number == 0)
      decode_block<Format, 0>(codes, Format::unit(scale, 0), values);
    else
      decode_block<Format, 1>(codes, Format::unit(scale, 1), values);
  }

  template <class Format>
  APOLLO_PART void encode(const float* values, std::uint8_t* stored, float& scale, int number,
                          const std::uint8_t* random) {
    std::uint8_t unpacked[Format::block];
    std::uint8_t* codes = Format::bits == 4 ? unpacked : stored;
    scale = largest<Format::block>(values);
    if (number == 0)
      encode_block<Format, 0>(values, Format::factor(scale, 0), random, codes);
    else
      encode_block<Format, 1>(values, Format::factor(scale, 1), random, codes);
    if constexpr (Format::bits == 4)
      for (int i = 0; i < Format::block / 2; ++i)
        stored[i] = static_cast<std::uint8_t>(codes[2 * i] | codes[2 * i + 1] << 4);
  }

 private:
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

  template <class Format, int number>
  APOLLO_PART void decode_block(const std::uint8_t* codes, float unit, float* values) {
    for (int i = 0; i < Format::block; i += n) {
      Floats x;
      decode_vector<Format, number>(codes + i, unit, x);
      store(x, values + i);
    }
  }
  template <class Format, int number>
  APOLLO_PART void encode_block(const float* values, float per_unit, const std::uint8_t* random, std::uint8_t* codes) {
    for (int i = 0; i < Format::block; i += n) {
      Floats x;
      Ints bits{};
      load(values + i, x);
      if constexpr (Format::stochastic) load_random(random, i, bits);
      encode_vector<Format, number>(x, per_unit, bits, codes + i);
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
    // By two binary exponents from 2^-30 on, between which at most one decade begins: how many have begun below, and where.
    std::int32_t begun[16] = {};
    float begins[16] = {};

    /// Where they begin, as floats have it.
    static constexpr int lowest_exponent = 127 - 30;

    constexpr Decades() {
      constexpr auto& map = block::dynamic_map<bits, two_signs>;
      for (int d = 0; d < Map::decades; ++d) {
        const int exponent = two_signs ? d : d + 1, first = two_signs ? Map::cells(d) : Map::cells(d) - 1;
        width[exponent] = 1 / map.per_value[d];
        offset[exponent] = map.value[Map::zero + first] - static_cast<float>(first) * width[exponent];
        bottom[d] = map.bottom[d];
        per_value[d] = map.per_value[d];
      }
      float low = 0x1p-30f;
      for (int i = 0; i < 16; ++i, low *= 4) {
        begins[i] = 4;  // none
        for (int d = 1; d < Map::decades; ++d) {
          begun[i] += map.from[d] <= low;
          if (map.from[d] > low && map.from[d] < 4 * low) begins[i] = map.from[d];
        }
      }
    }
  };
  template <int bits, bool two_signs>
  static constexpr Decades<bits, two_signs> decades_of{};

  template <int bits, bool two_signs>
  APOLLO_PART void find_decade(const Floats& size, Ints& decade) {
#if APOLLO_ISA == 512
    constexpr auto& decades = decades_of<bits, two_signs>;
    const Ints exponent = (reinterpret_cast<Ints>(size) >> 23) - decades.lowest_exponent;
    const Ints index = (exponent > 0 ? exponent : Ints{}) >> 1;
    Floats begun, begins;
    look_up(reinterpret_cast<const float*>(decades.begun), index, begun);
    look_up(decades.begins, index, begins);
    decade = reinterpret_cast<Ints>(begun) - (size >= begins);  // true is -1
#else
    constexpr auto& map = block::dynamic_map<bits, two_signs>;
    decade = Ints{};
    for (int d = 1; d < block::DynamicMap<bits, two_signs>::decades; ++d) decade -= size >= map.from[d];
#endif
  }

  template <int bits, bool two_signs>
  APOLLO_PART void decode_dynamic(const std::uint8_t* codes, float scale, Floats& x) {
    using Map = block::DynamicMap<bits, two_signs>;
    constexpr auto& decades = decades_of<bits, two_signs>;
    Floats code, width, offset;
    load_codes(codes, code);
    code -= static_cast<float>(Map::zero);
    const Floats k = code < 0.0f ? -code : code;
    const Floats counted = two_signs ? k : k + 1.0f;
    const Ints exponent = ((reinterpret_cast<Ints>(counted) >> 23) - 127) & 7;
    look_up(decades.offset, exponent, offset);
    look_up(decades.width, exponent, width);
    Floats magnitude = offset + k * width;
    magnitude = k >= static_cast<float>(Map::largest) ? Floats{} + 1.0f : magnitude;
    if (two_signs) magnitude = k < 1.0f ? Floats{} : magnitude;
    x = scale * (code < 0.0f ? -magnitude : magnitude);
  }
  template <int bits, bool two_signs>
  APOLLO_PART void encode_dynamic(const Floats& x, std::uint8_t* codes) {
    using Map = block::DynamicMap<bits, two_signs>;
    constexpr auto& map = block::dynamic_map<bits, two_signs>;
    constexpr auto& decades = decades_of<bits, two_signs>;
    Floats low, per_value;
    const Floats size = x < 0.0f ? -x : x;
    Ints decade;
    find_decade<bits, two_signs>(size, decade);
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
    store_codes(code, codes);
  }
  APOLLO_PART void encode_level(const block::Levels& levels, const Floats& x, const Ints& bits, std::uint8_t* codes) {
    Floats low = Floats{} + levels.value[0], per_value = Floats{} + levels.per_value[0];
    Ints code{};
    for (int q = 1; q < 16; ++q) {
      const auto reaches = x >= levels.value[q];
      low = reaches ? Floats{} + levels.value[q] : low;
      per_value = reaches ? Floats{} + levels.per_value[q] : per_value;
      code -= reaches;  // true is -1
    }
    code -= (x - low) * per_value > 0x1p-16f * __builtin_convertvector(bits, Floats);
    store_codes(code, codes);
  }
};

}  // namespace apollo::simd::APOLLO_ISA_NAMESPACE

#endif
