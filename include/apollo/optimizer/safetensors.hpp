// SPDX-License-Identifier: Apache-2.0
// The header of a safetensors file, parsed strictly and written from bytes in memory; files themselves are for
// file.hpp.
#pragma once

#include <apollo/base/config.hpp>
#include <apollo/base/error.hpp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace apollo::safetensors {

/// Element types of whole bytes, by the names of the format.
enum class Type { F64, F32, F16, BF16, F8_E4M3, F8_E5M2, F8_E8M0, C64, I64, I32, I16, I8, U64, U32, U16, U8, BOOL };

struct TypeInfo {
  std::string_view name;
  std::uint64_t size;  ///< Bytes of one element.
};
inline constexpr TypeInfo types[] = {{"F64", 8},     {"F32", 4},     {"F16", 2}, {"BF16", 2}, {"F8_E4M3", 1},
                                     {"F8_E5M2", 1}, {"F8_E8M0", 1}, {"C64", 8}, {"I64", 8},  {"I32", 4},
                                     {"I16", 2},     {"I8", 1},      {"U64", 8}, {"U32", 4},  {"U16", 2},
                                     {"U8", 1},      {"BOOL", 1}};

constexpr std::string_view type_name(Type type) { return types[static_cast<std::size_t>(type)].name; }
constexpr std::uint64_t type_size(Type type) { return types[static_cast<std::size_t>(type)].size; }

struct Tensor {
  std::string name;
  Type type = Type::F32;
  std::vector<Index> shape;
  std::uint64_t begin = 0;  ///< First byte of the data, counted from Header::data_offset.
  std::uint64_t end = 0;    ///< One past its last byte.
};

using Metadata = std::vector<std::pair<std::string, std::string>>;

struct Header {
  std::vector<Tensor> tensors;       ///< In the order of the header's text.
  Metadata metadata;                 ///< Likewise.
  std::uint64_t data_offset = 0;     ///< Where the data starts in the file.
  std::vector<std::size_t> by_name;  ///< Positions in `tensors` in order of name: parse() fills it, find() needs it.

  const Tensor* find(std::string_view name) const {
    std::size_t low = 0, high = by_name.size();
    while (low < high) {
      const std::size_t middle = low + (high - low) / 2;
      (tensors[by_name[middle]].name < name ? low : high) = tensors[by_name[middle]].name < name ? middle + 1 : middle;
    }
    return low < by_name.size() && tensors[by_name[low]].name == name ? &tensors[by_name[low]] : nullptr;
  }
  const std::string* find_metadata(std::string_view key) const {
    for (const auto& entry : metadata)
      if (entry.first == key) return &entry.second;
    return nullptr;
  }
};

/// The bound that other readers of the format set too.
inline constexpr std::uint64_t max_header_bytes = 100'000'000;

namespace detail {

// The part of JSON that the format needs.

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
class JsonReader {
 protected:
  JsonReader(std::string_view bytes, std::string_view file) : bytes_(bytes), file_(file) {}

  [[noreturn]] void fail(std::uint64_t at, const std::string& what) const {
    refuse_file(quoted(file_) + ", byte " + std::to_string(at) + ": " + what);
  }

  /// A name as it stands in a message: no control characters, and cut where a hostile file made it long.
  static std::string shown(const std::string& name) {
    std::string out;
    for (std::size_t i = 0, n = 0; i < name.size() && out.size() < 120; i += n) {
      n = utf8_length(std::string_view(name).substr(i));
      out += static_cast<unsigned char>(name[i]) < 0x20 ? "?" : name.substr(i, n);
    }
    return quoted(out.size() < name.size() ? out + "..." : out);
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

// The format itself.

/// Bytes of a tensor. False if an extent is negative or the product of those above zero passes 63 bits.
inline bool byte_count(Type type, const std::vector<Index>& shape, std::uint64_t& bytes) {
  bool empty = false;
  bytes = type_size(type);
  for (const Index extent : shape) {
    empty = empty || extent == 0;
    if (extent < 0 || (extent > 0 && bytes > largest_integer / static_cast<std::uint64_t>(extent))) return false;
    if (extent > 0) bytes *= static_cast<std::uint64_t>(extent);
  }
  if (empty) bytes = 0;
  return true;
}

class Parser : JsonReader {
 public:
  Parser(std::string_view bytes, std::uint64_t file_size, std::string_view file)
      : JsonReader(bytes, file), size_(file_size) {}

  std::uint64_t header_end() const {
    if (bytes_.size() < 8 || size_ < 8) fail(0, "expected 8 bytes of header length, found the end of the file");
    std::uint64_t length = 0;
    for (std::size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(bytes_[i]);
    const std::uint64_t bound = size_ - 8 < max_header_bytes ? size_ - 8 : max_header_bytes;
    if (length > bound) {
      const char* why =
          bound < max_header_bytes ? " bytes (the rest of the file), found " : " bytes (our limit), found ";
      fail(0, "expected a header of at most " + std::to_string(bound) + why + std::to_string(length));
    }
    return length + 8;
  }

  Header run() {
    Header header;
    header.data_offset = header_end();
    if (bytes_.size() < header.data_offset)
      fail(bytes_.size(), "expected more of the header, found the end of the file");
    bytes_ = bytes_.substr(0, static_cast<std::size_t>(header.data_offset));
    at_ = 8;
    if (bytes_.substr(at_, 1) != "{") fail(at_, "expected '{' as first byte of the header, found " + found());
    std::vector<std::size_t> positions;
    object("the '{' of the header", "a tensor's name", [&](const std::string& name, std::size_t at) {
      if (name == "__metadata__") {
        object("'{' of the metadata", "a metadata key", [&](const std::string& key, std::size_t) {
          header.metadata.emplace_back(key, string("a metadata value"));
        });
      } else {
        header.tensors.push_back(tensor(name, at));
        positions.push_back(at);
      }
    });
    for (; at_ < bytes_.size(); ++at_)
      if (bytes_[at_] != ' ') fail(at_, "expected nothing but spaces after the header's '}', found " + found());
    check_coverage(header, positions);
    header.by_name = sorted(header.tensors.size(), [&](std::size_t i, std::size_t j) {
      return header.tensors[i].name < header.tensors[j].name;
    });
    return header;
  }

 private:
  Tensor tensor(const std::string& name, std::size_t at) {
    Tensor result;
    std::vector<Index> offsets;
    bool has_type = false, has_shape = false;
    object("'{' of a tensor", "dtype, shape or data_offsets", [&](const std::string& field, std::size_t field_at) {
      if (field == "dtype") {
        has_type = true;
        result.type = type();
      } else if (field == "shape") {
        has_shape = true;
        result.shape = integers("'[' of a shape");
      } else if (field == "data_offsets") {
        offsets = integers("'[' of data_offsets");
        if (offsets.size() != 2) fail(field_at, "expected 2 data_offsets, found " + std::to_string(offsets.size()));
      } else {
        fail(field_at, "expected dtype, shape or data_offsets, found " + shown(field));
      }
    });
    const char* missing = !has_type ? "dtype" : !has_shape ? "shape" : offsets.empty() ? "data_offsets" : nullptr;
    if (missing) fail(at, "expected a " + std::string(missing) + " for tensor " + shown(name) + ", found none");
    std::uint64_t bytes = 0;
    if (!byte_count(result.type, result.shape, bytes))
      fail(at, "expected fewer than 2^63 bytes for tensor " + shown(name) + ", found a larger shape");
    result.name = name;
    result.begin = static_cast<std::uint64_t>(offsets[0]);
    result.end = static_cast<std::uint64_t>(offsets[1]);
    if (result.end < result.begin || result.end - result.begin != bytes)
      fail(at, "expected " + std::to_string(bytes) + " bytes for tensor " + shown(name) + ", found data_offsets from " +
                   std::to_string(result.begin) + " to " + std::to_string(result.end));
    return result;
  }

  Type type() {
    skip_blanks();
    const std::size_t at = at_;
    const std::string name = string("a dtype");
    for (std::size_t i = 0; i < sizeof types / sizeof types[0]; ++i)
      if (types[i].name == name) return static_cast<Type>(i);
    fail(at, "expected a known dtype such as 'F32', found " + shown(name));
  }

  /// Laid end to end the tensors are the data: no holes, no overlaps, nothing left over.
  void check_coverage(const Header& header, const std::vector<std::size_t>& positions) const {
    const auto& tensors = header.tensors;
    std::uint64_t covered = 0;
    const auto order = sorted(tensors.size(), [&](std::size_t i, std::size_t j) {
      const Tensor &a = tensors[i], &b = tensors[j];
      return a.begin < b.begin || (a.begin == b.begin && a.end < b.end);  // an empty tensor before what follows it
    });
    for (const std::size_t i : order) {
      if (tensors[i].begin != covered)
        fail(positions[i], "expected the data at offset " + std::to_string(covered) + " next, found " +
                               (tensors[i].begin > covered ? "a hole" : "an overlap") + " before tensor " +
                               shown(tensors[i].name));
      covered = tensors[i].end;
    }
    if (covered != size_ - header.data_offset)
      fail(header.data_offset, "expected " + std::to_string(covered) + " bytes of data, found " +
                                   std::to_string(size_ - header.data_offset));
  }

  std::uint64_t size_;
};

}  // namespace detail

/// Where the header ends and the data starts, from the file's first 8 bytes: how much a reader must hand to parse().
inline std::uint64_t header_end(std::string_view prefix, std::uint64_t file_size, std::string_view file_name) {
  return detail::Parser(prefix, file_size, file_name).header_end();
}

/// Reads the start of a file, at least up to its header_end(). Refuses whatever is not exactly as the format demands,
/// and goes further than most readers: no unknown fields, no name twice, no byte of the file without a tensor.
inline Header parse(std::string_view prefix_and_header, std::uint64_t file_size, std::string_view file_name) {
  return detail::Parser(prefix_and_header, file_size, file_name).run();
}

/// The length and the header for tensors whose data follow in this order, without gaps (`begin` and `end` are not
/// read). The data start at a multiple of 8 bytes; put wide types first to keep every tensor aligned. The result goes
/// through our own parser, so what we write can be read: names and shapes it refuses are refused here.
inline std::string serialize(const std::vector<Tensor>& tensors, const Metadata& metadata = {}) {
  std::string out(8, '\0');
  const char* separator = "{";
  if (!metadata.empty()) {
    out += "{\"__metadata__\":";
    for (const auto& [key, value] : metadata) {
      out += separator;
      detail::append_string(out, key);
      out += ':';
      detail::append_string(out, value);
      separator = ",";
    }
    out += '}';
  }
  std::uint64_t begin = 0;
  for (const Tensor& tensor : tensors) {
    out += separator;
    separator = ",";
    detail::append_string(out, tensor.name);
    out += ":{\"dtype\":\"" + std::string(type_name(tensor.type)) + "\",\"shape\":[";
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) out += (i ? "," : "") + std::to_string(tensor.shape[i]);
    std::uint64_t bytes = 0;
    detail::byte_count(tensor.type, tensor.shape, bytes);  // a shape without a count is refused below
    out += "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(begin + bytes) + "]}";
    begin += bytes;
  }
  out += *separator == '{' ? "{}" : "}";
  out.append((8 - out.size() % 8) % 8, ' ');
  for (std::size_t i = 0; i < 8; ++i) out[i] = static_cast<char>((out.size() - 8) >> 8 * i & 0xFF);
  parse(out, out.size() + begin, "the header to be written");
  return out;
}

}  // namespace apollo::safetensors
