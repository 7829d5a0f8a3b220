// SPDX-License-Identifier: Apache-2.0
// Bytes as the files of tests/parity keep them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace support {

inline std::vector<unsigned char> decode_base64(const std::string& text) {
  std::vector<unsigned char> bytes;
  std::uint32_t buffer = 0;
  int held = 0;
  for (const char c : text) {
    std::uint32_t six = 0;
    if (c >= 'A' && c <= 'Z')
      six = static_cast<std::uint32_t>(c - 'A');
    else if (c >= 'a' && c <= 'z')
      six = static_cast<std::uint32_t>(c - 'a') + 26;
    else if (c >= '0' && c <= '9')
      six = static_cast<std::uint32_t>(c - '0') + 52;
    else if (c == '+')
      six = 62;
    else if (c == '/')
      six = 63;
    else
      continue;
    buffer = buffer << 6 | six;
    held += 6;
    if (held >= 8) {
      held -= 8;
      bytes.push_back(static_cast<unsigned char>(buffer >> held));
    }
  }
  return bytes;
}

}  // namespace support
