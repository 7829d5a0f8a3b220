// SPDX-License-Identifier: Apache-2.0
// The part of JSON that a safetensors header is made of, read strictly: flat objects, strings, arrays of integers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <apollo/base/config.hpp>
#include <apollo/base/error.hpp>

namespace apollo::json {

inline constexpr std::uint64_t largest_integer = 0x7fff'ffff'ffff'ffff;

/// Bytes of the UTF-8 character at the front of a text that is not empty; 0 if there is none.
inline std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  if (length > text.size()) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xC0) != 0x80) return 0;
  const bool overlong = (lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xF0 && byte(1) < 0x90);
  const bool surrogate_or_beyond = (lead == 0xED && byte(1) >= 0xA0) || (lead == 0xF4 && byte(1) >= 0x90);
  return overlong || surrogate_or_beyond ? 0 : length;
}

inline void append_utf8(std::string& out, unsigned code) {
  const auto put = [&](unsigned byte) { out += static_cast<char>(static_cast<unsigned char>(byte & 0xFF)); };
  if (code < 0x80) return put(code);
  int tails = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  put(0xFF00u >> (tails + 1) | code >> 6 * tails);
  while (tails-- > 0) put(0x80 | (code >> 6 * tails & 0x3F));
}

inline void append_string(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20) {
      char buffer[8];
      std::snprintf(buffer, sizeof buffer, "\\u%04x", static_cast<unsigned>(c) & 0xFF);
      out += buffer;
    } else {
      if (c == '"' || c == '\\') out += '\\';
      out += c;
    }
  }
  out += '"';
}

/// 0 .. count-1 in ascending order by `less`: a stable merge sort, quick on any input, that spares us <algorithm>.
template <class Less>
std::vector<std::size_t> sorted(std::size_t count, Less less) {
  std::vector<std::size_t> order(count), merged(count);
  for (std::size_t i = 0; i < count; ++i) order[i] = i;
  for (std::size_t width = 1; width < count; width *= 2, order.swap(merged)) {
    for (std::size_t start = 0; start < count; start += 2 * width) {
      const std::size_t middle = start + width < count ? start + width : count;
      const std::size_t stop = start + 2 * width < count ? start + 2 * width : count;
      std::size_t a = start, b = middle;
      for (std::size_t out = start; out < stop; ++out)
        merged[out] = a < middle && (b == stop || !less(order[b], order[a])) ? order[a++] : order[b++];
    }
  }
  return order;
}

/// Reads objects, arrays of integers and strings from bytes_, in one pass and without recursion.
class Reader {
 protected:
  Reader(std::string_view bytes, std::string_view file) : bytes_(bytes), file_(file) {}

  [[noreturn]] void fail(std::uint64_t at, const std::string& what) const {
    refuse_file(quote(file_) + ", byte " + std::to_string(at) + ": " + what);
  }

  /// A name as it stands in a message: no control characters, and cut where a hostile file made it long.
  static std::string shown(const std::string& name) {
    std::string out;
    for (std::size_t i = 0, n = 0; i < name.size() && out.size() < 120; i += n) {
      n = utf8_length(std::string_view(name).substr(i));
      out += static_cast<unsigned char>(name[i]) < 0x20 ? "?" : name.substr(i, n);
    }
    return quote(out.size() < name.size() ? out + "..." : out);
  }

  std::string found() const {
    if (at_ == bytes_.size()) return "the end of the header";
    const auto byte = static_cast<unsigned char>(bytes_[at_]);
    char buffer[16];
    std::snprintf(buffer, sizeof buffer, byte > 0x20 && byte < 0x7F ? "'%c'" : "byte 0x%02x", byte);
    return buffer;
  }

  void skip_blanks() {
    while (at_ < bytes_.size() && std::string_view(" \t\n\r").find(bytes_[at_]) != std::string_view::npos) ++at_;
  }
  bool accept(char c) {
    skip_blanks();
    const bool here = at_ < bytes_.size() && bytes_[at_] == c;
    if (here) ++at_;
    return here;
  }
  void expect(char c, const char* what) {
    if (!accept(c)) fail(at_, std::string("expected ") + what + ", found " + found());
  }

  /// An object: calls member(name, position of the name) in front of each value, which it must consume.
  template <class Member>
  void object(const char* what, const char* name_what, Member member) {
    std::vector<std::pair<std::string, std::size_t>> names;
    expect('{', what);
    if (accept('}')) return;
    do {
      skip_blanks();
      const std::size_t at = at_;
      names.emplace_back(string(name_what), at);
      expect(':', "':' after the name");
      member(names.back().first, at);
    } while (accept(','));
    expect('}', "',' or '}'");
    const auto order =
        sorted(names.size(), [&](std::size_t i, std::size_t j) { return names[i].first < names[j].first; });
    for (std::size_t i = 1; i < order.size(); ++i)
      if (const auto& name = names[order[i]]; names[order[i - 1]].first == name.first)
        fail(name.second, "expected each name once, found " + shown(name.first) + " again");
  }

  std::vector<Index> integers(const char* what) {
    std::vector<Index> values;
    expect('[', what);
    if (accept(']')) return values;
    do {
      values.push_back(integer());
    } while (accept(','));
    expect(']', "',' or ']'");
    return values;
  }

  Index integer() {
    skip_blanks();
    const std::size_t at = at_;
    std::uint64_t value = 0;
    for (; at_ < bytes_.size() && bytes_[at_] >= '0' && bytes_[at_] <= '9'; ++at_) {
      const auto digit = static_cast<std::uint64_t>(bytes_[at_] - '0');
      if (value > (largest_integer - digit) / 10) fail(at, "expected an integer below 2^63, found a larger one");
      value = 10 * value + digit;
    }
    if (at_ == at) fail(at, "expected a non-negative integer, found " + found());
    if (bytes_[at] == '0' && at_ > at + 1) fail(at, "expected no leading zero, found one");
    return static_cast<Index>(value);
  }

  std::string string(const char* what) {
    if (!accept('"')) fail(at_, std::string("expected ") + what + " in double quotes, found " + found());
    const std::size_t open = at_ - 1;
    std::string out;
    for (;;) {
      if (at_ == bytes_.size()) fail(open, "expected an end of the string that starts here, found " + found());
      const auto byte = static_cast<unsigned char>(bytes_[at_]);
      const std::size_t length = utf8_length(bytes_.substr(at_));
      if (length == 0 || byte < 0x20) fail(at_, "expected UTF-8 without raw control characters, found " + found());
      at_ += length;
      if (byte == '"') return out;
      if (byte == '\\') {
        escape(out);
      } else {
        out.append(bytes_.data() + at_ - length, length);
      }
    }
  }

  std::string_view bytes_;  // from the start of the file, so that positions are offsets in it
  std::string_view file_;
  std::size_t at_ = 0;

 private:
  void escape(std::string& out) {
    constexpr std::string_view letters = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
    const std::size_t at = at_, letter = letters.find(at < bytes_.size() ? bytes_[at] : '\0');
    if (letter != letters.npos) {
      ++at_;
      out += meanings[letter];
      return;
    }
    unsigned code = code_unit();
    if (code >= 0xD800 && code < 0xE000) {
      const bool more = code < 0xDC00 && bytes_.substr(at_, 1) == "\\";
      const unsigned low = more ? (++at_, code_unit()) : 0;
      if (low < 0xDC00 || low >= 0xE000) fail(at, "expected a surrogate pair, found half of one");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    append_utf8(out, code);
  }

  /// The uXXXX of an escape.
  unsigned code_unit() {
    if (bytes_.substr(at_, 1) != "u") fail(at_, "expected an escape of JSON after the backslash, found " + found());
    unsigned code = 0;
    ++at_;
    for (int i = 0; i < 4; ++i, ++at_) {
      constexpr std::string_view digits = "0123456789abcdef0123456789ABCDEF";
      const std::size_t digit = digits.find(at_ < bytes_.size() ? bytes_[at_] : '\0');
      if (digit == digits.npos) fail(at_, "expected 4 hexadecimal digits after \\u, found " + found());
      code = code << 4 | static_cast<unsigned>(digit % 16);
    }
    return code;
  }
};

}  // namespace apollo::json
