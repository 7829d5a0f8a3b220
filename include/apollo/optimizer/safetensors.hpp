// SPDX-License-Identifier: Apache-2.0
// The header of a safetensors file, parsed strictly and written from bytes in memory; files themselves are for
// file.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <apollo/base/error.hpp>
#include <apollo/optimizer/json.hpp>

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

/// Bytes of a tensor. False if an extent is negative or the product of those above zero passes 63 bits.
inline bool byte_count(Type type, const std::vector<Index>& shape, std::uint64_t& bytes) {
  bool empty = false;
  bytes = type_size(type);
  for (const Index extent : shape) {
    empty = empty || extent == 0;
    if (extent < 0 || (extent > 0 && bytes > json::largest_integer / static_cast<std::uint64_t>(extent))) return false;
    if (extent > 0) bytes *= static_cast<std::uint64_t>(extent);
  }
  if (empty) bytes = 0;
  return true;
}

class Parser : json::Reader {
 public:
  Parser(std::string_view bytes, std::uint64_t file_size, std::string_view file)
      : json::Reader(bytes, file), size_(file_size) {}

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
    header.by_name = json::sorted(header.tensors.size(), [&](std::size_t i, std::size_t j) {
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
    const auto order = json::sorted(tensors.size(), [&](std::size_t i, std::size_t j) {
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

/// Where the header ends and the data starts, from the file's first 8 bytes: how much a reader must hand to parse().
inline std::uint64_t header_end(std::string_view prefix, std::uint64_t file_size, std::string_view file_name) {
  return Parser(prefix, file_size, file_name).header_end();
}

/// Reads the start of a file, at least up to its header_end(). Refuses whatever is not exactly as the format demands,
/// and goes further than most readers: no unknown fields, no name twice, no byte of the file without a tensor.
inline Header parse(std::string_view prefix_and_header, std::uint64_t file_size, std::string_view file_name) {
  return Parser(prefix_and_header, file_size, file_name).run();
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
      json::append_string(out, key);
      out += ':';
      json::append_string(out, value);
      separator = ",";
    }
    out += '}';
  }
  std::uint64_t begin = 0;
  for (const Tensor& tensor : tensors) {
    out += separator;
    separator = ",";
    json::append_string(out, tensor.name);
    out += ":{\"dtype\":\"" + std::string(type_name(tensor.type)) + "\",\"shape\":[";
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) out += (i ? "," : "") + std::to_string(tensor.shape[i]);
    std::uint64_t bytes = 0;
    byte_count(tensor.type, tensor.shape, bytes);  // a shape without a count is refused below
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
