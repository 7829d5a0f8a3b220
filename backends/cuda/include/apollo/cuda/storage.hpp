// SPDX-License-Identifier: Apache-2.0
// How threads open and close what is stored: moments and weights as numbers, as halves of a float, or in blocks of codes that share
// a number. A unit is `size` adjacent values of a storage run, those from `at` on, of which `left` are the tensor's.
#pragma once

#include <apollo/cuda/memory.hpp>
#include <apollo/random/normal.hpp>
#include <apollo/step/state.hpp>

namespace apollo::cuda {

/// Values of runs_at_once runs, `arrays` of each, that wait in shared memory until the largest key of their block is known; `keys`
/// of them for each run. Threads put their units of four values and note keys, reduce() is the phase that follows, and
/// then each gets its units and may ask. Blocks are of 32 values or a multiple.
template <int arrays, int keys>
class WaitingRuns {
  static constexpr int unit = 4, part = 32;
  static constexpr std::int32_t none = -0x7fffffff - 1;

 public:
  /// The keys of units that a thread may note: it begins with this.
  APOLLO_HD void clear(int t) {
    for (int k = 0; k < keys; ++k)
      for (int u = 0; u < Units<float>::count; ++u) units_[k][t / warp][Units<float>::at(t % warp, u) / unit] = none;
  }
  APOLLO_INLINE void put(int array, int run, int at, const float* values) {
    copy_aligned<16>(values, values_[array][run] + at);
  }
  APOLLO_INLINE void get(int array, int run, int at, float* values) const {
    copy_aligned<16>(values_[array][run] + at, values);
  }
  APOLLO_INLINE void note(int number, int run, int at, std::int32_t key) {
    std::int32_t& most = units_[number][run][at / unit];
    most = key > most ? key : most;
  }
  APOLLO_HD void reduce(int t) {
    constexpr int of_run = storage_block / part;
    for (int i = t % warp; i < keys * of_run; i += warp) {
      const std::int32_t* from = units_[i / of_run][t / warp] + i % of_run * (part / unit);
      std::int32_t most = none;
      for (int k = 0; k < part / unit; ++k) most = from[k] > most ? from[k] : most;
      parts_[i / of_run][t / warp][i % of_run] = most;
    }
  }
  /// Of the block of that many values that holds value `at` of a run.
  APOLLO_HD std::int32_t largest(int number, int run, int at, int block) const {
    const std::int32_t* from = parts_[number][run] + at / block * (block / part);
    std::int32_t most = none;
    for (int k = 0; k < block / part; ++k) most = from[k] > most ? from[k] : most;
    return most;
  }

 private:
  alignas(16) float values_[arrays][runs_at_once][storage_block];
  std::int32_t units_[keys][runs_at_once][storage_block / unit];
  std::int32_t parts_[keys][runs_at_once][storage_block / part];
};
template <>
class WaitingRuns<0, 0> {};

/// The moments of a policy.
template <class Moments>
struct StoredMoments {
  using Stored = stored_t<Moments, float>;
  using Storage = MomentStorage<Stored, float>;
  static constexpr bool in_blocks = Moments::buffers > 0 && Storage::in_blocks;
  static constexpr bool rounds = Moments::buffers > 0 && Storage::stochastic;
  /// Where they wait in their blocks.
  using Waiting = WaitingRuns<in_blocks ? Moments::buffers : 0, in_blocks ? Moments::buffers : 0>;

  template <int size>
  APOLLO_INLINE static void open(const Entry& entry, int b, const StorageRun& run, int at, bool aligned, int left,
                                 float* values) {
    if constexpr (in_blocks) {
      using Format = typename Storage::Format;
      constexpr int bytes = size * Format::bits / 8;
      const auto from = block_of(entry, b, run, at);
      alignas(16) std::uint8_t codes[bytes];
      load<bytes>(from.codes + offset(at), aligned, bytes_of(left), codes);
      const float unit = Format::unit(*from.scale, b);
      for (int i = 0; i < size; ++i) values[i] = i < left ? Format::value_of(code_at(codes, i), unit, b) : 0.0f;
    } else {
      read<size>(static_cast<const Stored*>(entry.moment[b]) + run.value() + at, aligned, left, values);
    }
  }
  /// One value of R's moments.
  APOLLO_INLINE static float open_one(const Entry& entry, int b, Index at) {
    if constexpr (in_blocks) {
      using Format = typename Storage::Format;
      const Index begin = at / storage_block * storage_block;
      const int in_run = static_cast<int>(at - begin);
      const auto from = block_of(entry, b, flat_run(begin, entry.setup.plan.moment_size()), in_run);
      return Format::value_of(code_at(from.codes, in_run % Format::block), Format::unit(*from.scale, b), b);
    } else {
      return static_cast<float>(static_cast<const Stored*>(entry.moment[b])[at]);
    }
  }

  /// Lets values wait, or their roots where the format takes those, and notes the largest magnitude.
  template <int size, class Runs>
  APOLLO_INLINE static void wait(Runs& waiting, int b, int in_part, int at, int left, const float* values) {
    alignas(16) float kept[size];
    std::int32_t most = 0;
    for (int i = 0; i < size; ++i) {
      kept[i] = i >= left ? 0.0f : Storage::takes_roots && b == 1 ? normal::root(values[i]) : values[i];
      const std::int32_t magnitude = block::magnitude(kept[i]);
      most = magnitude > most ? magnitude : most;
    }
    waiting.put(b, in_part, at, kept);
    waiting.note(b, in_part, at, most);
  }
  /// `random`: RoundingBits of the unit, where it rounds. Values that waited are those to close.
  template <int size, class Random, class Runs>
  APOLLO_INLINE static void close(const Entry& entry, int b, const StorageRun& run, int at, bool aligned, int left,
                                  const float* values, const Random& random, [[maybe_unused]] const Runs& waiting,
                                  [[maybe_unused]] int in_part) {
    if constexpr (in_blocks) {
      using Format = typename Storage::Format;
      constexpr int bytes = size * Format::bits / 8;
      const float scale = block::scale_of(waiting.largest(b, in_part, at, Format::block));
      const float factor = Format::factor(scale, b);
      const auto to = block_of(entry, b, run, at);
      alignas(16) std::uint8_t codes[bytes] = {};
      for (int i = 0; i < size; ++i) {
        const auto bits = static_cast<std::uint16_t>(random.of(i));
        const std::uint8_t code = Format::code_of(values[i], factor, b, bits);
        if constexpr (Format::bits == 4)
          codes[i / 2] = static_cast<std::uint8_t>(codes[i / 2] | code << 4 * (i % 2));
        else
          codes[i] = code;
      }
      write<bytes>(codes, aligned, bytes_of(left), to.codes + offset(at));
      if (at % Format::block == 0) *to.scale = scale;
    } else {
      alignas(16) Stored result[size];
      for (int i = 0; i < size; ++i) result[i] = stored<Stored, rounds>(values[i], random.of(i));
      write<size>(result, aligned, left, static_cast<Stored*>(entry.moment[b]) + run.value() + at);
    }
  }

 private:
  APOLLO_INLINE static auto block_of(const Entry& entry, int b, const StorageRun& run, int at) {
    constexpr int size = Storage::Format::block;
    return Storage::block_at({static_cast<std::uint8_t*>(entry.moment[b]), entry.scales[b]}, run, at / size * size);
  }
  APOLLO_INLINE static int offset(int at) { return at % Storage::Format::block * Storage::Format::bits / 8; }
  APOLLO_INLINE static int bytes_of(int values) { return (values * Storage::Format::bits + 7) / 8; }
  APOLLO_INLINE static std::uint8_t code_at(const std::uint8_t* codes, int i) {
    if constexpr (Storage::Format::bits == 4) return static_cast<std::uint8_t>(codes[i / 2] >> 4 * (i % 2) & 15);
    return codes[i];
  }
};

/// Weights in memory of W.
template <class Policies, class W>
struct StoredWeights {
  using Kept = KeptWeights<typename Policies::Weights, W>;
  static constexpr bool grouped = Kept::grouped;
  static constexpr bool split = Kept::Policy::keeps_remainder;
  static constexpr bool rounds = Kept::stochastic;

  template <int size>
  APOLLO_INLINE static void open(const Entry& entry, const Run& run, int at, int left, float* values) {
    const Index first = run.value + at;
    if constexpr (grouped) {
      alignas(16) std::uint8_t codes[size];
      load<size>(static_cast<const std::uint8_t*>(entry.weight) + first, entry.aligned, left, codes);
      const GroupRange range = *range_of(entry, run, at);
      for (int i = 0; i < size; ++i) values[i] = i < left ? int8::value_of(codes[i], range) : 0.0f;
    } else if constexpr (split) {
      alignas(16) W upper[size];
      alignas(16) std::uint16_t lower[size];
      load<size>(static_cast<const W*>(entry.weight) + first, entry.aligned, left, upper);
      load<size>(entry.remainder + first, entry.aligned, left, lower);
      for (int i = 0; i < size; ++i) values[i] = join(upper[i], lower[i]);
    } else {
      read<size>(static_cast<const W*>(entry.weight) + first, entry.aligned, left, values);
    }
  }

  /// Lets values wait, and notes the largest and the least of a group.
  template <int size, class Waiting>
  APOLLO_INLINE static void wait(Waiting& waiting, int in_part, int at, int left, const float* values) {
    waiting.put(0, in_part, at, values);
    if constexpr (grouped) {
      std::int32_t high = key(values[0]), low = high;
      for (int i = 1; i < size; ++i)
        if (i < left) {
          const std::int32_t k = key(values[i]);
          high = k > high ? k : high;
          low = k < low ? k : low;
        }
      waiting.note(0, in_part, at, high);
      waiting.note(1, in_part, at, ~low);
    }
  }
  /// `random`: RoundingBits of the unit, where it rounds.
  template <int size, class Random, class Waiting>
  APOLLO_INLINE static void close(const Entry& entry, const Run& run, int at, int left, const float* values,
                                  const Random& random, [[maybe_unused]] const Waiting& waiting,
                                  [[maybe_unused]] int in_part) {
    const Index first = run.value + at;
    if constexpr (grouped) {
      const int group = 1 << entry.group_bits;
      const float high = value(waiting.largest(0, in_part, at, group));
      const float low = value(~waiting.largest(1, in_part, at, group));
      const float factor = int8::factor(low, high);
      alignas(16) std::uint8_t codes[size];
      for (int i = 0; i < size; ++i)
        codes[i] =
            int8::code_of(values[i], low, factor, rounds ? static_cast<std::uint16_t>(random.of(i)) : rounding::half);
      write<size>(codes, entry.aligned, left, static_cast<std::uint8_t*>(entry.weight) + first);
      if (at % group == 0) *range_of(entry, run, at) = int8::range_of(low, high);
    } else if constexpr (split) {
      alignas(16) W upper[size];
      alignas(16) std::uint16_t lower[size];
      for (int i = 0; i < size; ++i) {
        const SplitFloat halves = apollo::split(values[i]);
        upper[i] = halves.upper;
        lower[i] = halves.lower;
      }
      write<size>(upper, entry.aligned, left, static_cast<W*>(entry.weight) + first);
      write<size>(lower, entry.aligned, left, entry.remainder + first);
    } else {
      alignas(16) W result[size];
      for (int i = 0; i < size; ++i) result[i] = stored<W, rounds>(values[i], random.of(i));
      write<size>(result, entry.aligned, left, static_cast<W*>(entry.weight) + first);
    }
  }

 private:
  /// Integers that are ordered as the numbers are, and back.
  APOLLO_INLINE static std::int32_t key(float number) { return turned(__builtin_bit_cast(std::int32_t, number)); }
  APOLLO_INLINE static float value(std::int32_t key) { return __builtin_bit_cast(float, turned(key)); }
  APOLLO_INLINE static std::int32_t turned(std::int32_t bits) { return bits < 0 ? bits ^ 0x7fffffff : bits; }

  APOLLO_INLINE static GroupRange* range_of(const Entry& entry, const Run& run, int at) {
    const int bits = entry.group_bits;
    const bool joined = entry.length < storage_block;
    const Index in_line = (entry.length + (Index{1} << bits) - 1) >> bits;
    return entry.ranges + (joined ? run.value >> bits : run.line * in_line + (run.at >> bits)) + (at >> bits);
  }
};

}  // namespace apollo::cuda
