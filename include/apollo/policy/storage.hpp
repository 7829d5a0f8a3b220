// SPDX-License-Identifier: Apache-2.0
// The storage axes: how moments and weights are kept between steps. Values are opened to arithmetic type, updated there, and
// closed again, run by run.
#pragma once

#include <type_traits>

#include <apollo/policy/block_moments.hpp>
#include <apollo/random/rounding.hpp>
#include <apollo/tensor/blocks.hpp>
#include <apollo/tensor/int8.hpp>
#include <apollo/tensor/number.hpp>

namespace apollo {

// --- moments ------------------------------------------------------------------------------------------------------------

/// Where moments in a block format are kept.
struct BlockPointer {
  std::uint8_t* codes = nullptr;
  float* scales = nullptr;
};

/// How moments of this type are opened and closed in arithmetic of T. `open` gives the values of a run, in place where that
/// is what is stored, else in the caller's buffer of storage_block values; `close` stores them, and may change the buffer on
/// the way. `number`: 0 for the first moment, 1 for the second, of which close() is given the square roots where
/// `takes_roots`. `random`: of rounding::draw, for what is `stochastic`.
template <class Stored, class T>
struct MomentStorage {
  /// What has no storage of its own is plain numbers, or refused by check_moments.
  static constexpr bool refused =
      is_block_format<Stored> || !(std::is_same_v<Stored, T> || std::is_same_v<Stored, float>);
  using Pointer = std::conditional_t<is_block_format<Stored>, BlockPointer, Stored*>;
  static constexpr bool in_blocks = false;
  static constexpr bool in_place = std::is_same_v<Stored, T>;
  static constexpr bool stochastic = false;
  static constexpr bool takes_roots = false;

  APOLLO_INLINE static T* open([[maybe_unused]] Pointer stored, [[maybe_unused]] const StorageRun& run, int,
                               T* buffer) {
    if constexpr (in_place) {
      return stored + run.value();
    } else if constexpr (refused) {
      return buffer;
    } else {
      for (int i = 0; i < run.count; ++i) buffer[i] = static_cast<T>(stored[run.value() + i]);
      return buffer;
    }
  }
  APOLLO_INLINE static void close([[maybe_unused]] T* values, [[maybe_unused]] Pointer stored,
                                  [[maybe_unused]] const StorageRun& run, int, const std::uint8_t*) {
    if constexpr (!in_place && !refused)
      for (int i = 0; i < run.count; ++i) stored[run.value() + i] = static_cast<Stored>(values[i]);
  }
};

/// A function: its body is instantiated once and last, so that a type that cannot be is told of once (see adapter::diagnose).
template <class Stored, class T>
void check_moments() {
  static_assert(!MomentStorage<Stored, T>::refused,
                "apollo: moments are stored as float, double (with double weights), apollo::bfloat16, Int8Linear, "
                "Int8Dynamic or Int4 (with other weights than double); see docs/compose.md.");
}

/// bfloat16 with stochastic rounding: with beta2 = .999 rounding to nearest would round V * .999 back to V, so V could never
/// decay. Both moments of a value round by the same bits.
template <class T>
struct MomentStorage<bfloat16, T> {
  static constexpr bool refused = false;
  using Pointer = bfloat16*;
  static constexpr bool in_blocks = false;
  static constexpr bool in_place = false;
  static constexpr bool stochastic = true;
  static constexpr bool takes_roots = false;

  APOLLO_INLINE static T* open(Pointer stored, const StorageRun& run, int, T* buffer) {
    if (run.count == storage_block)
      widen(stored + run.value(), storage_block, buffer);
    else
      widen(stored + run.value(), run.count, buffer);
    return buffer;
  }
  APOLLO_INLINE static void close(T* values, Pointer stored, const StorageRun& run, int, const std::uint8_t* random) {
    if (run.count == storage_block)
      round(values, storage_block, stored + run.value(), random);
    else
      round(values, run.count, stored + run.value(), random);
  }

 private:  // with a constant count these become vectors at -O2
  APOLLO_INLINE static void widen(const bfloat16* from, int count, T* to) {
    for (int i = 0; i < count; ++i) to[i] = static_cast<T>(bits::from_bfloat16(from[i].bits));
  }
  APOLLO_INLINE static void round(const T* from, int count, bfloat16* to, const std::uint8_t* random) {
    for (int i = 0; i < count; ++i)
      to[i].bits = bits::to_bfloat16_stochastic(static_cast<float>(from[i]), rounding::bits_of(random, i));
  }
};

/// Bytes that the codes of so many values take.
template <class Format>
APOLLO_HD constexpr Index code_bytes(Index values) {
  return Format::bits == 8 ? values : (values * Format::bits + 7) / 8;
}

template <class FormatType, class T>
  requires(is_block_format<FormatType>&& std::is_same_v<T, float>)
struct MomentStorage<FormatType, T> {
  static constexpr bool refused = false;
  using Pointer = BlockPointer;
  using Format = FormatType;
  static constexpr bool in_blocks = true;
  static constexpr bool in_place = false;
  static constexpr bool stochastic = Format::stochastic;
  static constexpr bool takes_roots = Format::root_of_second;
  static constexpr int bytes = Format::block * Format::bits / 8;  ///< of a whole block's codes

  APOLLO_INLINE static T* open(Pointer stored, const StorageRun& run, int number, T* buffer) {
    for (int first = 0; first < run.count; first += Format::block) {
      const Block b = block_at(stored, run, first);
      if (b.bytes == bytes) {
        Format::decode(b.codes, *b.scale, number, buffer + first);
      } else {
        std::uint8_t padded[bytes] = {};
        for (int i = 0; i < b.bytes; ++i) padded[i] = b.codes[i];
        Format::decode(padded, *b.scale, number, buffer + first);
      }
    }
    return buffer;
  }
  APOLLO_INLINE static void close(T* values, Pointer stored, const StorageRun& run, int number,
                                  const std::uint8_t* random) {
    for (int i = run.count; i < storage_block; ++i) values[i] = 0;
    for (int first = 0; first < run.count; first += Format::block) {
      const Block b = block_at(stored, run, first);
      if (b.bytes == bytes) {
        Format::encode(values + first, b.codes, *b.scale, number, random + first);
      } else {
        std::uint8_t padded[bytes];
        Format::encode(values + first, padded, *b.scale, number, random + first);
        for (int i = 0; i < b.bytes; ++i) b.codes[i] = padded[i];
      }
    }
  }

  /// For backends with codecs of their own.
  struct Block {
    std::uint8_t* codes;
    float* scale;
    int bytes;  ///< of codes; the last block of a line may have fewer
  };
  /// The block of value `first` of a run.
  APOLLO_INLINE static Block block_at(Pointer stored, const StorageRun& run, int first) {
    const Index line = run.line * code_bytes<Format>(run.length);
    const int left = run.count - first;
    return {stored.codes + line + code_bytes<Format>(run.at + first),
            stored.scales + run.block(Format::block) + first / Format::block,
            left < Format::block ? static_cast<int>(code_bytes<Format>(left)) : bytes};
  }
};

// --- weights ------------------------------------------------------------------------------------------------------------

struct WeightsRole {};

/// Weights stay in the type their owner gave them, rounded to nearest.
struct NativeWeights {
  using role = WeightsRole;
  static constexpr bool stochastic = false;
  static constexpr bool keeps_remainder = false;
  static constexpr const char* name = "native";
};

/// Weights stay in the type their owner gave them; bfloat16 and 8-bit groups round up or down with probability proportional
/// to nearness, so that steps smaller than half a unit are not lost. Float and double have nothing to round.
/// Source: for bfloat16 Zamirai et al., arXiv:2010.06192; for 8 bits Q-GaLore, arXiv:2407.08296, sec. 3.4.
struct StochasticWeights {
  using role = WeightsRole;
  static constexpr bool stochastic = true;
  static constexpr bool keeps_remainder = false;
  static constexpr const char* name = "stochastic";
};

/// bfloat16 weights with the lower half of a float beside them: together a float32 master weight, kept in 4 bytes a value
/// instead of 6. A weight that somebody else changes takes its remainder along, which is less than half a unit.
/// State: 2 bytes a value. Source: split SGD of Kalamkar et al., arXiv:2005.04680, with the upper half rounded to nearest.
struct SplitWeights {
  using role = WeightsRole;
  static constexpr bool stochastic = false;
  static constexpr bool keeps_remainder = true;
  static constexpr const char* name = "split";
};

/// The weights of one step, oriented like X, and what their policy needs to store them.
template <class PolicyType, class W>
struct KeptWeights {
  using Policy = PolicyType;
  using Value = W;
  static_assert(
      !Policy::keeps_remainder || std::is_same_v<W, bfloat16>,
      "apollo: SplitWeights keep the lower half of apollo::bfloat16 weights; weights of other types have none. "
      "See docs/compose.md.");
  static_assert(
      !Policy::stochastic || !std::is_same_v<W, float16>,
      "apollo: StochasticWeights round apollo::bfloat16 and 8-bit groups; float16 weights have NativeWeights. "
      "See docs/compose.md.");

  static constexpr bool grouped = std::is_same_v<W, int8_groups>;
  /// Whether values round by random bits.
  static constexpr bool stochastic = Policy::stochastic && (grouped || std::is_same_v<W, bfloat16>);
  /// Whether they are opened and closed in whole runs; else each is by itself.
  static constexpr bool by_run = grouped || stochastic || Policy::keeps_remainder;

  MatrixView<W> view;
  std::uint16_t* remainder = nullptr;  ///< in order of runs
  RandomStream rounding;
};

/// The two halves of a float that SplitWeights keep. Error of the upper one: half a unit, ties away from zero.
struct SplitFloat {
  bfloat16 upper;
  std::uint16_t lower;
};
APOLLO_INLINE constexpr SplitFloat split(float value) {
  const auto u = __builtin_bit_cast(std::uint32_t, value);
  // Infinity and NaN, and what would round to infinity, are cut off; the lower half then has no sign bit to be taken for.
  const bool cut = (u & bits::float_exponent) == bits::float_exponent ||
                   ((u + 0x8000u) & bits::float_exponent) == bits::float_exponent;
  const std::uint32_t payload = (u & ~bits::float_sign) > bits::float_exponent ? 0x40u : 0u;  // a NaN stays one
  SplitFloat halves{};
  halves.upper.bits = static_cast<std::uint16_t>((cut ? u : u + 0x8000u) >> 16 | payload);
  halves.lower = cut ? std::uint16_t{0} : static_cast<std::uint16_t>(u);
  return halves;
}
APOLLO_INLINE constexpr float join(bfloat16 upper, std::uint16_t lower) {
  // Where the lower half has its highest bit the upper was rounded up, unless somebody has put a zero there since.
  const std::uint32_t borrow = lower >= 0x8000u && (upper.bits & 0x7fffu) != 0 ? 0x10000u : 0u;
  return __builtin_bit_cast(float, (static_cast<std::uint32_t>(upper.bits) << 16) - borrow + lower);
}

namespace weights {

/// Opens a run of weights into `values`, of storage_block.
template <class Kept, class T>
APOLLO_INLINE void open(const Kept& w, const StorageRun& run, T* values) {
  if constexpr (Kept::grouped) {
    const int group = static_cast<int>(w.view.group_size);
    for (int first = 0; first < run.count; first += group)
      int8::open(w.view.data + run.value() + first, w.view.ranges[run.block(group) + first / group],
                 run.count - first < group ? run.count - first : group, values + first);
  } else {
    const Index stride = run.order == Order2D::row_major ? w.view.col_stride : w.view.row_stride;
    run.parts([&](Index j, Index s, int count, int offset) {
      const auto* from = w.view.at(j, s);
      for (int i = 0; i < count; ++i) {
        if constexpr (Kept::Policy::keeps_remainder)
          values[offset + i] = join(from[i * stride], w.remainder[run.value() + offset + i]);
        else
          values[offset + i] = static_cast<T>(from[i * stride]);
      }
    });
  }
}

/// Stores them. `values` has storage_block of them.
template <class Kept, class T>
APOLLO_INLINE void close(const Kept& w, const StorageRun& run, const T* values) {
  using W = typename Kept::Value;
  [[maybe_unused]] std::uint8_t random[Kept::stochastic ? rounding::bytes : 1] = {};
  if constexpr (Kept::stochastic) rounding::draw(w.rounding, run.block(storage_block), random);
  if constexpr (Kept::grouped) {
    const int group = static_cast<int>(w.view.group_size);
    for (int first = 0; first < run.count; first += group)
      int8::close(values + first, run.count - first < group ? run.count - first : group,
                  w.view.data + run.value() + first, w.view.ranges[run.block(group) + first / group],
                  Kept::stochastic ? random + first : nullptr);
  } else {
    const Index stride = run.order == Order2D::row_major ? w.view.col_stride : w.view.row_stride;
    run.parts([&](Index j, Index s, int count, int offset) {
      W* to = w.view.at(j, s);
      for (int i = 0; i < count; ++i) {
        const auto value = static_cast<arithmetic_t<W>>(values[offset + i]);
        if constexpr (Kept::stochastic) {
          to[i * stride].bits = bits::to_bfloat16_stochastic(value, rounding::bits_of(random, offset + i));
        } else if constexpr (Kept::Policy::keeps_remainder) {
          const SplitFloat halves = split(value);
          to[i * stride] = halves.upper;
          w.remainder[run.value() + offset + i] = halves.lower;
        } else {
          to[i * stride] = static_cast<W>(value);
        }
      }
    });
  }
}

}  // namespace weights

}  // namespace apollo
