// SPDX-License-Identifier: Apache-2.0
// Units of bytes: budgets as flags give them, and numbers as tables show them.
#pragma once

#include <array>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>

#include <apollo/base/config.hpp>

#include "../llama/numbers.hpp"

namespace plan {

struct Unit {
  const char* name;
  apollo::Index bytes;
  const char* meaning;
};

inline constexpr std::array<Unit, 5> units{{{"GB", 1'000'000'000, "1e9 bytes"},
                                            {"GiB", apollo::Index{1} << 30, "2^30 bytes"},
                                            {"MB", 1'000'000, "1e6 bytes"},
                                            {"MiB", apollo::Index{1} << 20, "2^20 bytes"},
                                            {"B", 1, "bytes"}}};

inline const Unit& unit_named(std::string_view name) {
  for (const Unit& unit : units)
    if (unit.name == name) return unit;
  throw std::invalid_argument("unit '" + std::string(name) + "' is none of GB, GiB, MB, MiB, B");
}

/// A number of bytes: digits, at most nine decimals, and a unit. What is left of a byte is cut off.
inline apollo::Index parse_bytes(std::string_view text) {
  const auto refuse = [&](const char* why) {
    throw std::invalid_argument("'" + std::string(text) + "' " + why +
                                "; expected a number with a unit, such as 80GB, "
                                "12GiB, 500MB, 1.5GiB or 4096B");
  };
  constexpr apollo::Index most = std::numeric_limits<apollo::Index>::max();
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  std::size_t at = 0;
  apollo::Index whole = 0;
  for (; at < text.size() && is_digit(text[at]); ++at) {
    if (whole > (most - 9) / 10) refuse("is too large");
    whole = 10 * whole + (text[at] - '0');
  }
  if (at == 0) refuse("does not begin with a digit");
  apollo::Index part = 0, scale = 1;
  if (at < text.size() && text[at] == '.') {
    const std::size_t first = ++at;
    for (; at < text.size() && is_digit(text[at]); ++at) {
      if (at - first == 9) refuse("has more than nine decimals");
      part = 10 * part + (text[at] - '0'), scale *= 10;
    }
    if (at == first) refuse("has no digit after its point");
  }
  const std::string_view name = text.substr(at);
  for (const Unit& unit : units) {
    if (unit.name != name) continue;
    if (whole > most / unit.bytes - 1) refuse("is too large");
    const apollo::Index bytes = whole * unit.bytes + part * unit.bytes / scale;
    if (bytes == 0) refuse("is nothing");
    return bytes;
  }
  refuse(name.empty() ? "has no unit" : "has a unit that is none of GB, GiB, MB, MiB, B");
  return 0;
}

/// In a unit, with two decimals; bytes are whole.
inline std::string in_unit(apollo::Index bytes, const Unit& unit) {
  if (unit.bytes == 1) return std::to_string(bytes);
  return llama::report::fixed(static_cast<double>(bytes) / static_cast<double>(unit.bytes), 2);
}

}  // namespace plan
