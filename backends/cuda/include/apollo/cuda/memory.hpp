// SPDX-License-Identifier: Apache-2.0
// How a thread reads and writes adjacent values: 16 bytes at a time where they are aligned.
#pragma once

#include <apollo/cuda/table.hpp>
#include <apollo/random/rounding.hpp>

namespace apollo::cuda {

/// Where a thread's values of a run lie: unit u of `count`, each of `size` adjacent ones, 16 bytes of V.
template <class V>
struct Units {
  static constexpr int size = 16 / static_cast<int>(sizeof(V));
  static constexpr int count = per_thread / size;
  APOLLO_HD static int at(int lane, int u) { return (u * warp + lane) * size; }
};

/// Copies `bytes` that begin at a multiple of 16, or, where they are fewer, of their number.
template <int bytes>
APOLLO_INLINE void copy_aligned(const void* from, void* to) {
#if defined(__CUDA_ARCH__)
  if constexpr (bytes == 2) {
    *static_cast<std::uint16_t*>(to) = *static_cast<const std::uint16_t*>(from);
  } else if constexpr (bytes == 4) {
    *static_cast<std::uint32_t*>(to) = *static_cast<const std::uint32_t*>(from);
  } else if constexpr (bytes == 8) {
    *static_cast<uint2*>(to) = *static_cast<const uint2*>(from);
  } else {
    static_assert(bytes % 16 == 0);
    for (int part = 0; part < bytes / 16; ++part) static_cast<uint4*>(to)[part] = static_cast<const uint4*>(from)[part];
  }
#else
  __builtin_memcpy(to, __builtin_assume_aligned(from, bytes < 16 ? bytes : 16), bytes);
#endif
}

/// Reads `left` of up to `count` values, as they are stored or as numbers; the others are zero.
template <int count, class V>
APOLLO_INLINE void load(const V* from, bool aligned, int left, V* to) {
  if (aligned && left == count) {
    copy_aligned<count* static_cast<int>(sizeof(V))>(from, to);
  } else {
    for (int i = 0; i < count; ++i) to[i] = i < left ? from[i] : V();
  }
}
template <int count, class V>
APOLLO_INLINE void read(const V* from, bool aligned, int left, float* to) {
  alignas(16) V values[count];
  load<count>(from, aligned, left, values);
  for (int i = 0; i < count; ++i) to[i] = static_cast<float>(values[i]);
}
template <int count, class V>
APOLLO_INLINE void write(const V* values, bool aligned, int left, V* to) {
  if (aligned && left == count) {
    copy_aligned<count* static_cast<int>(sizeof(V))>(values, to);
  } else {
    for (int i = 0; i < count; ++i)
      if (i < left) to[i] = values[i];
  }
}

/// Random bytes of one storage run, see random/rounding.hpp.
struct RoundingBytes {
  static constexpr int blocks = 16;  ///< of Philox
  static constexpr int words = 4 * blocks;
  std::uint32_t word[words];

  /// The share of Philox block i.
  APOLLO_INLINE void draw(const RandomStream& stream, Index run, int i) {
    const PhiloxCounter bits = stream.block(static_cast<std::uint64_t>(blocks * run + i));
    for (int k = 0; k < 4; ++k) word[k * blocks + i] = bits.word[k];
  }
  /// The 16 bits of value i.
  APOLLO_INLINE std::uint32_t bits_of(int i) const {
    return rounding::bits_of(reinterpret_cast<const std::uint8_t*>(word), i);
  }
};

/// Those of the runs_at_once runs of a part's turn, by the first so many threads.
APOLLO_HD inline void draw_runs(RoundingBytes* bytes, const RandomStream& stream, Index part, int turn, int t) {
  constexpr int blocks = RoundingBytes::blocks;
  if (t < runs_at_once * blocks) bytes[t / blocks].draw(stream, first_run_of(part, turn) + t / blocks, t % blocks);
}

/// The random bytes of up to `lines` adjacent lines of memory, of the storage run that begins at value `at` of each; where lines
/// are joined, `at` is 0 and they are those of the lines' whole range.
template <int lines>
struct LineBytes {
  RoundingBytes run[lines + 1];

  /// The share of thread t of them all, for `count` lines from `first` on.
  APOLLO_INLINE void draw(const Entry& entry, const RandomStream& stream, Index first, int count, Index at, int t) {
    const Index begin = first_run(entry, first, at), step = step_of(entry);
    const Index last = entry.length < storage_block ? ((first + count) * entry.length - 1) / storage_block
                                                    : begin + (count - 1) * step;
    for (int i = t; i < (lines + 1) * RoundingBytes::blocks; i += threads) {
      const int slot = i / RoundingBytes::blocks;
      if (begin + slot * step <= last) run[slot].draw(stream, begin + slot * step, i % RoundingBytes::blocks);
    }
  }
  /// The 16 bits of value `in_line` of a line, one of the storage run drawn.
  APOLLO_INLINE std::uint32_t bits_of(const Entry& entry, Index first, Index line, Index in_line) const {
    if (entry.length >= storage_block) return run[line - first].bits_of(static_cast<int>(in_line % storage_block));
    const Index value = line * entry.length + in_line;
    return run[value / storage_block - first_run(entry, first, 0)].bits_of(static_cast<int>(value % storage_block));
  }

 private:
  APOLLO_INLINE static Index step_of(const Entry& entry) {
    return entry.length < storage_block ? 1 : (entry.length + storage_block - 1) / storage_block;
  }
  APOLLO_INLINE static Index first_run(const Entry& entry, Index first, Index at) {
    if (entry.length < storage_block) return first * entry.length / storage_block;
    return first * step_of(entry) + at / storage_block;
  }
};

/// The 16 bits of `size` adjacent values of a run, from one on that it divides: words in registers instead of bytes by address.
template <int size>
struct RoundingBits {
  static_assert(size % 4 == 0 && 16 % size == 0);
  std::uint32_t word[size / 4 + 1];

  APOLLO_INLINE RoundingBits(const RoundingBytes& bytes, int at) {
    for (int k = 0; k < size / 4; ++k) word[k] = bytes.word[at / 4 + k];
    word[size / 4] = bytes.word[((at & ~15) | ((at + size) & 15)) / 4];
  }
  APOLLO_INLINE std::uint32_t of(int i) const {
    const std::uint32_t lower = word[i / 4] >> 8 * (i % 4);
    return (i % 4 == 3 ? lower | word[i / 4 + 1] << 8 : lower) & 0xffffu;
  }
};
template <>
struct RoundingBits<0> {  ///< of what rounds to nearest
  APOLLO_INLINE RoundingBits(const RoundingBytes&, int) {}
  APOLLO_INLINE std::uint32_t of(int) const { return 0; }
};

/// A value as it is stored: rounded by `random`, 16 bits, where it is stochastic, which only bfloat16 is.
template <class V, bool stochastic>
APOLLO_INLINE V stored(float value, std::uint32_t random) {
  if constexpr (stochastic && std::is_same_v<V, bfloat16>) {
    V result;
    result.bits = bits::to_bfloat16_stochastic(value, random);
    return result;
  } else {
    return static_cast<V>(value);
  }
}

}  // namespace apollo::cuda
