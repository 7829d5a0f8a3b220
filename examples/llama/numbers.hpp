// SPDX-License-Identifier: Apache-2.0
// Numbers as text.
#pragma once

#include <charconv>
#include <string>

namespace llama {

namespace report {

/// The shortest digits that read back as the same number; the locale has no say.
inline std::string digits(double value) {
  char buffer[32];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr};
}

inline std::string fixed(double value, int decimals) {
  char buffer[512];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed, decimals).ptr};
}

}  // namespace report

}  // namespace llama
