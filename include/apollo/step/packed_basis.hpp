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

  static constexpr Index groups(Index size) { return (size + group - 1) / group; }
  static constexpr Index code_bytes(Index size) { return (size + 1) / 2; }
  static constexpr Index bytes(Index size) {
    return code_bytes(size) + groups(size) * static_cast<Index>(sizeof(GroupRange));
  }
  static constexpr int count_of(Index number, Index size) {
    return static_cast<int>(size - number * group < group ? size - number * group : group);
  }

  /// The nearest codes of group `number` of `size` values. Error: half a scale, which is a fifteenth of the group's range.
  template <class T>
  void pack(Index number, Index size, const T* values) const {
    const T* from = values + number * group;
    const int count = count_of(number, size);
    T low = from[0], high = from[0];
    for (int i = 1; i < count; ++i) {
      low = from[i] < low ? from[i] : low;
      high = from[i] > high ? from[i] : high;
    }
    const float minimum = static_cast<float>(low), width = static_cast<float>(high - low);
    ranges[number] = {minimum, width / 15.0f};
    const float in_scales = width > 0.0f ? 15.0f / width : 0.0f;
    const auto code = [&](int i) {
      const float offset = (static_cast<float>(from[i]) - minimum) * in_scales + 0.5f;
      return static_cast<unsigned>(offset < 15.0f ? (offset > 0.0f ? offset : 0.0f) : 15.0f);
    };
    for (int i = 0; i < count; i += 2)
      codes[(number * group + i) / 2] = static_cast<std::uint8_t>(code(i) | (i + 1 < count ? code(i + 1) << 4 : 0u));
  }

  template <class T>
  void unpack(Index number, Index size, T* values) const {
    T* to = values + number * group;
    const std::uint8_t* from = codes + number * group / 2;
    const int count = count_of(number, size);
    const GroupRange r = ranges[number];
    for (int i = 0; i + 1 < count; i += 2) {
      to[i] = static_cast<T>(r.minimum + r.scale * static_cast<float>(from[i / 2] & 15));
      to[i + 1] = static_cast<T>(r.minimum + r.scale * static_cast<float>(from[i / 2] >> 4));
    }
    if (count % 2 != 0) to[count - 1] = static_cast<T>(r.minimum + r.scale * static_cast<float>(from[count / 2] & 15));
  }
};

}  // namespace apollo
