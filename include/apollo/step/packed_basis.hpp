// SPDX-License-Identifier: Apache-2.0
// A basis in 4 bits: P^T in groups of 256 codes, each with a minimum and a scale (Q-GaLore, arXiv:2407.08296, sec. 3.3).
#pragma once

#include <apollo/tensor/int8.hpp>

namespace apollo {

/// Two codes a byte. Group g is of values 256 g and on, the last one shorter; its codes begin with a byte.
struct PackedBasis {
  static constexpr int group = 256;
  std::uint8_t* codes = nullptr;
  GroupRange* ranges = nullptr;

  APOLLO_HD static constexpr Index groups(Index size) { return (size + group - 1) / group; }
  static constexpr Index code_bytes(Index size) { return (size + 1) / 2; }
  static constexpr Index bytes(Index size) {
    return code_bytes(size) + groups(size) * static_cast<Index>(sizeof(GroupRange));
  }
  APOLLO_HD static constexpr int count_of(Index number, Index size) {
    return static_cast<int>(size - number * group < group ? size - number * group : group);
  }

  /// How a group whose values lie between `low` and `high` is packed: to the nearest codes. Error: half a scale, which is a
  /// fifteenth of the group's range.
  struct Packer {
    GroupRange range;
    float in_scales = 0;

    template <class T>
    APOLLO_INLINE Packer(T low, T high) {
      const float width = static_cast<float>(high - low);
      range = {static_cast<float>(low), width / 15.0f};
      in_scales = width > 0.0f ? 15.0f / width : 0.0f;
    }
    template <class T>
    APOLLO_INLINE unsigned code(T value) const {
      const float offset = (static_cast<float>(value) - range.minimum) * in_scales + 0.5f;
      return static_cast<unsigned>(offset < 15.0f ? (offset > 0.0f ? offset : 0.0f) : 15.0f);
    }
  };
  /// Two codes as they share a byte.
  APOLLO_INLINE static std::uint8_t both(unsigned lower, unsigned upper) {
    return static_cast<std::uint8_t>(lower | upper << 4);
  }
  APOLLO_INLINE static float opened(const GroupRange& range, int code) {
    return range.minimum + range.scale * static_cast<float>(code);
  }

  /// Value i.
  APOLLO_INLINE float value(Index i) const {
    return opened(ranges[i / group], (i & 1) != 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15);
  }

  /// Group `number` of `size` values.
  template <class T>
  void pack(Index number, Index size, const T* values) const {
    const T* from = values + number * group;
    const int count = count_of(number, size);
    T low = from[0], high = from[0];
    for (int i = 1; i < count; ++i) {
      low = from[i] < low ? from[i] : low;
      high = from[i] > high ? from[i] : high;
    }
    const Packer packer(low, high);
    ranges[number] = packer.range;
    for (int i = 0; i < count; i += 2)
      codes[(number * group + i) / 2] = both(packer.code(from[i]), i + 1 < count ? packer.code(from[i + 1]) : 0u);
  }

  template <class T>
  void unpack(Index number, Index size, T* values) const {
    T* to = values + number * group;
    const std::uint8_t* from = codes + number * group / 2;
    const int count = count_of(number, size);
    const GroupRange r = ranges[number];
    for (int i = 0; i + 1 < count; i += 2) {
      to[i] = static_cast<T>(opened(r, from[i / 2] & 15));
      to[i + 1] = static_cast<T>(opened(r, from[i / 2] >> 4));
    }
    if (count % 2 != 0) to[count - 1] = static_cast<T>(opened(r, from[count / 2] & 15));
  }
};

}  // namespace apollo
