// SPDX-License-Identifier: Apache-2.0
// The safetensors header: what is written is read back, and whatever departs from the format is refused by name and byte.
#include <doctest/doctest.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <apollo/optimizer/safetensors.hpp>

namespace {
std::size_t allocated = 0;  // bytes asked of operator new, freed or not
}

[[gnu::noinline]] void* operator new(std::size_t size) {
  allocated += size;
  if (void* memory = std::malloc(size ? size : 1)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

namespace st = apollo::safetensors;
using namespace std::string_literals;

std::string prefixed(const std::string& json) {
  std::string out(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) out[i] = static_cast<char>(json.size() >> 8 * i & 0xFF);
  return out + json;
}

/// Parses from memory of exactly that size, so that a sanitizer sees one byte too many.
st::Header parse(const std::string& bytes, std::uint64_t file_size) {
  const std::unique_ptr<char[]> exact(new char[bytes.size()]);
  std::memcpy(exact.get(), bytes.data(), bytes.size());
  return st::parse({exact.get(), bytes.size()}, file_size, "weights.st");
}

std::string refusal(const std::string& bytes, std::uint64_t file_size) {
  try {
    parse(bytes, file_size);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "accepted";
}

/// The refusal of a header with so many bytes of data behind it.
std::string refusal_of(const std::string& json, std::uint64_t data = 0) {
  const std::string bytes = prefixed(json);
  return refusal(bytes, bytes.size() + data);
}

st::Header parse_json(const std::string& json, std::uint64_t data = 0) {
  const std::string bytes = prefixed(json);
  return parse(bytes, bytes.size() + data);
}

/// What every parsed header promises. Returns an empty text or the promise that was broken.
std::string broken_promise(const st::Header& header, std::uint64_t file_size) {
  if (header.by_name.size() != header.tensors.size()) return "by_name is complete";
  std::uint64_t total = 0;
  for (const st::Tensor& tensor : header.tensors) {
    if (tensor.name == "__metadata__") return "metadata is no tensor";
    if (header.find(tensor.name) != &tensor) return "find() finds each tensor, so names are unique";
    std::uint64_t bytes = st::type_size(tensor.type);
    for (const apollo::Index extent : tensor.shape) {
      if (extent < 0) return "extents are not negative";
      bytes *= static_cast<std::uint64_t>(extent);
    }
    if (tensor.end < tensor.begin || tensor.end - tensor.begin != bytes) return "offsets match dtype and shape";
    if (tensor.end > file_size - header.data_offset) return "data lie in the file";
    total += bytes;
    if (bytes == 0) continue;
    for (const st::Tensor& other : header.tensors)
      if (&other != &tensor && other.begin < tensor.end && tensor.begin < other.end) return "data do not overlap";
  }
  if (header.data_offset + total != file_size) return "data cover the file";
  for (const auto& [key, value] : header.metadata)
    if (header.find_metadata(key) != &value) return "metadata keys are unique";
  return "";
}

const std::string tensor_a = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";

TEST_CASE("types have the names and sizes of the format") {
  CHECK(std::size(st::types) == 17);
  CHECK(st::type_name(st::Type::F64) == "F64");
  CHECK(st::type_name(st::Type::F8_E4M3) == "F8_E4M3");
  CHECK(st::type_name(st::Type::BF16) == "BF16");
  CHECK(st::type_name(st::Type::C64) == "C64");
  CHECK(st::type_name(st::Type::I64) == "I64");
  CHECK(st::type_name(st::Type::U32) == "U32");
  CHECK(st::type_name(st::Type::BOOL) == "BOOL");
  for (const auto& info : st::types) {
    const std::string bits(info.name == "BOOL" ? "8" : info.name.substr(info.name.find_first_of("0123456789")));
    CHECK(info.size == static_cast<std::uint64_t>(std::atoi(bits.c_str())) / 8);  // the names give the width
    const std::string json = R"({"a":{"dtype":")" + std::string(info.name) + R"(","shape":[3],"data_offsets":[0,)" +
                             std::to_string(3 * info.size) + "]}}";
    CHECK(st::type_name(parse_json(json, 3 * info.size).tensors.at(0).type) == info.name);
  }
}

TEST_CASE("what is written is read back") {
  std::vector<st::Tensor> tensors = {{"layers.0.wq/exp_avg", st::Type::F32, {3, 5}, 77, 78},
                                     {"scalar", st::Type::I64, {}},
                                     {"empty", st::Type::BF16, {4, 0, 2}},
                                     {"bytes", st::Type::U8, {7}},
                                     {"", st::Type::F16, {1, 1, 1}},
                                     {"quote \" slash \\ / tab \t nul \0 del \x7f ä € 😀"s, st::Type::BOOL, {2}}};
  const st::Metadata metadata = {{"format", "pt"}, {"", ""}, {"é\n\x01", "{\"a\": [1, 2]}"}};
  const std::string bytes = st::serialize(tensors, metadata);
  CHECK(bytes.size() % 8 == 0);
  CHECK(bytes[8] == '{');
  const std::uint64_t size = bytes.size() + 60 + 8 + 7 + 2 + 2;
  CHECK(st::header_end(std::string_view(bytes).substr(0, 8), size, "f") == bytes.size());
  const st::Header header = parse(bytes, size);
  CHECK(broken_promise(header, size) == "");
  CHECK(header.data_offset == bytes.size());
  CHECK(header.metadata == metadata);
  REQUIRE(header.tensors.size() == tensors.size());
  std::uint64_t begin = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    CHECK(header.tensors[i].name == tensors[i].name);
    CHECK(header.tensors[i].type == tensors[i].type);
    CHECK(header.tensors[i].shape == tensors[i].shape);
    CHECK(header.tensors[i].begin == begin);
    begin = header.tensors[i].end;
  }
  CHECK(st::serialize(header.tensors, header.metadata) == bytes);
  CHECK(header.find("byte") == nullptr);
  CHECK(header.find("zzz") == nullptr);
  CHECK(header.find_metadata("pt") == nullptr);
  CHECK(*header.find_metadata("format") == "pt");
}

TEST_CASE("the written text is what the format's documentation shows") {
  CHECK(st::serialize({}) == "\x08\0\0\0\0\0\0\0{}      "s);
  const std::string one = st::serialize({{"a", st::Type::F32, {2}}}, {{"k", "v"}});
  CHECK(one.substr(8, one.find_last_of('}') - 7) == "{\"__metadata__\":{\"k\":\"v\"}," + tensor_a + "}");
  CHECK(parse(one + "somedata", one.size() + 8).tensors.size() == 1);  // bytes beyond the header do no harm
  const st::Header copy = parse(one, one.size() + 8);
  CHECK(copy.find("a") == &copy.tensors[0]);
}

TEST_CASE("headers of other writers are read") {
  CHECK(parse_json("{}").tensors.empty());
  CHECK(parse_json("{}   ").data_offset == 13);
  CHECK(parse_json("{ \n\t\r\"__metadata__\" : { } }").metadata.empty());
  const st::Header shuffled = parse_json(
      R"({"b":{"data_offsets":[4,4],"shape":[0],"dtype":"F64"},"c":{"shape":[4],"dtype":"I8","data_offsets":[4,8]},)"
      R"("a":{"dtype":"U16","shape":[2,1],"data_offsets":[ 0 , 4 ]}})",
      8);
  CHECK(shuffled.tensors[0].name == "b");  // the order of the text, not of the data
  CHECK(shuffled.find("a")->end == 4);
  const st::Header escaped =
      parse_json(R"({"__metadata__":{"\u0041\u00e9\u20AC\ud83d\uDE00":"\"\\\/\b\f\n\r\t\u0000"}})");
  CHECK(escaped.metadata.at(0).first == "Aé€😀");
  CHECK(escaped.metadata.at(0).second == "\"\\/\b\f\n\r\t\0"s);
  CHECK(parse_json(
            "{\"\xF4\x8F\xBF\xBF\xED\x9F\xBF\xEE\x80\x80\xE0\xA0\x80\xF0\x90\x80\x80\":" + tensor_a.substr(4) + "}", 8)
            .tensors.size() == 1);
}

TEST_CASE("a malformed prefix is refused") {
  const std::string good = st::serialize({});
  CHECK(refusal(good, good.size()) == "accepted");
  CHECK(refusal("", 0).find("byte 0: expected 8 bytes of header length") != std::string::npos);
  CHECK(refusal(good.substr(0, 7), 7).find("expected 8 bytes of header length") != std::string::npos);
  CHECK(refusal(good, 7).find("expected 8 bytes of header length") != std::string::npos);
  CHECK(refusal(good, 15).find("at most 7 bytes (the rest of the file), found 8") != std::string::npos);
  CHECK(refusal(good.substr(0, 12), 16).find("byte 12: expected more of the header") != std::string::npos);
  CHECK(refusal(good, 17).find("byte 16: expected 0 bytes of data, found 1") != std::string::npos);
  CHECK(refusal(std::string(8, '\xFF'), ~0ull).find("(our limit), found 18446744073709551615") != std::string::npos);
  CHECK(refusal("\x01\xE1\xF5\x05\0\0\0\0"s, 1ull << 40).find("at most 100000000 bytes") != std::string::npos);
  CHECK(refusal("\0\xE1\xF5\x05\0\0\0\0"s, 1ull << 40).find("byte 8: expected more") != std::string::npos);
  CHECK(refusal(std::string(8, '\0'), 8).find("byte 8: expected '{' as first byte") != std::string::npos);
}

TEST_CASE("a malformed header is refused with its file, its byte and its fault") {
  struct Case {
    std::string json, message;
    std::uint64_t data = 8;
  };
  const auto tensor = [](const std::string& type, const std::string& shape, const std::string& offsets) {
    return "{\"a\":{\"dtype\":" + type + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}";
  };
  const auto name = [](const std::string& text) { return "{\"" + text + "\":" + tensor_a.substr(4) + "}"; };
  const std::string entry = tensor_a.substr(4);
  const std::vector<Case> cases = {
      // the frame
      {"[]", "byte 8: expected '{' as first byte of the header, found '['"},
      {" {}", "byte 8: expected '{' as first byte of the header, found byte 0x20"},
      {"null", "found 'n'"},
      {"{", "byte 9: expected a tensor's name in double quotes, found the end of the header"},
      {"{" + tensor_a, "expected ',' or '}', found the end of the header"},
      {"{" + tensor_a + ",}", "expected a tensor's name in double quotes, found '}'"},
      {"{," + tensor_a + "}", "found ','"},
      {"{" + tensor_a + " " + tensor_a + "}", "expected ',' or '}', found '\"'"},
      {"{" + tensor_a + "}}", "expected nothing but spaces after the header's '}', found '}'"},
      {"{" + tensor_a + "} \n", "found byte 0x0a"},
      {"{" + tensor_a + "}" + "\0"s, "found byte 0x00"},
      {"{" + tensor_a + "} {}", "found '{'"},
      {"{a:1}", "byte 9: expected a tensor's name in double quotes, found 'a'"},
      {"{'a':1}", "found '''"},
      {"{1:1}", "found '1'"},
      {"{\"a\" " + entry + "}", "expected ':' after the name, found '{'"},
      {"{\"a\"::" + entry + "}", "expected '{' of a tensor, found ':'"},
      {"{\"a\":[]}", "expected '{' of a tensor, found '['"},
      {"{\"a\":null}", "expected '{' of a tensor, found 'n'"},
      {"{/**/}", "found '/'"},
      {"{" + tensor_a + "," + tensor_a + "}", "byte 62: expected each name once, found 'a' again"},
      {"{" + tensor_a + ",\"\\u0061\":" + entry + "}", "byte 62: expected each name once, found 'a' again"},
      // strings
      {name("a\x01"), "byte 11: expected UTF-8 without raw control characters, found byte 0x01"},
      {name("a\n"), "found byte 0x0a"},
      {name("a\xFF"), "expected UTF-8 without raw control characters, found byte 0xff"},
      {name("\x80"), "found byte 0x80"},
      {name("\xC0\x80"), "found byte 0xc0"},
      {name("\xC3"), "found byte 0xc3"},
      {name("\xE2\x82"), "found byte 0xe2"},
      {name("\xE0\x9F\xBF"), "found byte 0xe0"},
      {name("\xED\xA0\x80"), "found byte 0xed"},
      {name("\xF0\x8F\xBF\xBF"), "found byte 0xf0"},
      {name("\xF4\x90\x80\x80"), "found byte 0xf4"},
      {name("\xF5\x80\x80\x80"), "found byte 0xf5"},
      {name("\\x41"), "expected an escape of JSON after the backslash, found 'x'"},
      {name("\\u12G4"), "expected 4 hexadecimal digits after \\u, found 'G'"},
      {name("\\u12"), "expected 4 hexadecimal digits after \\u, found '\"'"},
      {name("\\ud800"), "expected a surrogate pair, found half of one"},
      {name("\\ud800x"), "expected a surrogate pair, found half of one"},
      {name("\\udc00"), "expected a surrogate pair, found half of one"},
      {name("\\ud800\\ud800"), "expected a surrogate pair, found half of one"},
      {name("\\ud800\\n"), "expected an escape of JSON after the backslash, found 'n'"},
      {"{\"abc", "byte 9: expected an end of the string that starts here, found the end of the header"},
      {"{\"abc\\", "expected an escape of JSON after the backslash, found the end of the header"},
      {"{\"abc\\u00", "expected 4 hexadecimal digits after \\u, found the end of the header"},
      {"{\"\xF0\x9F", "found byte 0xf0"},
      // metadata
      {"{\"__metadata__\":[]}", "expected '{' of the metadata, found '['"},
      {"{\"__metadata__\":null}", "expected '{' of the metadata, found 'n'"},
      {"{\"__metadata__\":{\"k\":1}}", "expected a metadata value in double quotes, found '1'"},
      {"{\"__metadata__\":{\"k\":{}}}", "expected a metadata value in double quotes, found '{'"},
      {"{\"__metadata__\":{\"k\"}}", "expected ':' after the name, found '}'"},
      {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", "expected each name once, found 'k' again"},
      {"{\"__metadata__\":{},\"__metadata__\":{}}", "found '__metadata__' again"},
      // tensors
      {"{\"a\":{}}", "byte 9: expected a dtype for tensor 'a', found none"},
      {R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", "expected a shape for tensor 'a', found none"},
      {R"({"a":{"dtype":"F32","shape":[2]}})", "expected a data_offsets for tensor 'a', found none"},
      {R"({"a":{"shape":[2],"dtype":"F32","shape":[2]}})", "byte 40: expected each name once, found 'shape' again"},
      {R"({"a":{"dtype":"F32","size":[2]}})", "expected dtype, shape or data_offsets, found 'size'"},
      {tensor("\"f32\"", "[2]", "[0,8]"), "byte 22: expected a known dtype such as 'F32', found 'f32'"},
      {tensor("\"F4\"", "[2]", "[0,8]"), "found 'F4'"},
      {tensor("\"\"", "[2]", "[0,8]"), "found ''"},
      {tensor("32", "[2]", "[0,8]"), "expected a dtype in double quotes, found '3'"},
      {tensor("\"F32\"", "2", "[0,8]"), "expected '[' of a shape, found '2'"},
      {tensor("\"F32\"", "{}", "[0,8]"), "expected '[' of a shape, found '{'"},
      {tensor("\"F32\"", "[-2]", "[0,8]"), "expected a non-negative integer, found '-'"},
      {tensor("\"F32\"", "[+2]", "[0,8]"), "expected a non-negative integer, found '+'"},
      {tensor("\"F32\"", "[2.0]", "[0,8]"), "expected ',' or ']', found '.'"},
      {tensor("\"F32\"", "[2e0]", "[0,8]"), "expected ',' or ']', found 'e'"},
      {tensor("\"F32\"", "[02]", "[0,8]"), "expected no leading zero, found one"},
      {tensor("\"F32\"", "[\"2\"]", "[0,8]"), "expected a non-negative integer, found '\"'"},
      {tensor("\"F32\"", "[2,]", "[0,8]"), "expected a non-negative integer, found ']'"},
      {tensor("\"F32\"", "[2 1]", "[0,8]"), "expected ',' or ']', found '1'"},
      {tensor("\"F32\"", "[[2]]", "[0,8]"), "expected a non-negative integer, found '['"},
      {tensor("\"F32\"", "[9223372036854775808]", "[0,8]"), "expected an integer below 2^63, found a larger one"},
      {tensor("\"F32\"", "[99999999999999999999999]", "[0,8]"), "expected an integer below 2^63"},
      {tensor("\"U8\"", "[4294967296,4294967296]", "[0,0]"), "expected fewer than 2^63 bytes for tensor 'a'", 0},
      {tensor("\"F64\"", "[1152921504606846976]", "[0,0]"), "expected fewer than 2^63 bytes for tensor 'a'", 0},
      {tensor("\"U8\"", "[4294967296,4294967296,0]", "[0,0]"), "expected fewer than 2^63 bytes", 0},
      {tensor("\"F32\"", "[2]", "[]"), "expected 2 data_offsets, found 0"},
      {tensor("\"F32\"", "[2]", "[8]"), "expected 2 data_offsets, found 1"},
      {tensor("\"F32\"", "[2]", "[0,4,8]"), "expected 2 data_offsets, found 3"},
      {tensor("\"F32\"", "[2]", "8"), "expected '[' of data_offsets, found '8'"},
      {tensor("\"F32\"", "[2]", "[8,0]"), "expected 8 bytes for tensor 'a', found data_offsets from 8 to 0"},
      {tensor("\"F32\"", "[3]", "[0,8]"), "expected 12 bytes for tensor 'a', found data_offsets from 0 to 8"},
      {tensor("\"F64\"", "[]", "[0,4]"), "expected 8 bytes for tensor 'a', found data_offsets from 0 to 4"},
      // coverage
      {tensor("\"F32\"", "[1]", "[4,8]"), "byte 9: expected the data at offset 0 next, found a hole before tensor 'a'"},
      {"{" + tensor_a + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
       "found an overlap before tensor 'b'"},
      {"{" + tensor_a + ",\"b\":" + entry + "}", "expected the data at offset 8 next, found an overlap"},
      {"{" + tensor_a + R"(,"b":{"dtype":"U8","shape":[1],"data_offsets":[9,10]}})", "found a hole before tensor 'b'",
       10},
      {"{" + tensor_a + R"(,"b":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}})",
       "found an overlap before tensor 'b'"},
      {"{" + tensor_a + R"(,"b":{"dtype":"U8","shape":[0],"data_offsets":[9,9]}})", "found a hole before tensor 'b'"},
      {"{" + tensor_a + "}", "expected 8 bytes of data, found 7", 7},
      {"{" + tensor_a + "}", "expected 8 bytes of data, found 9", 9},
  };
  CHECK(cases.size() >= 40);
  CHECK(refusal_of("{" + tensor_a + "}", 8) == "accepted");
  for (const Case& c : cases) {
    const std::string message = refusal_of(c.json, c.data);
    INFO(c.json << "\n  gave: " << message << "\n  expected: " << c.message);
    CHECK(message.find(c.message) != std::string::npos);
    CHECK(message.rfind("apollo: 'weights.st', byte ", 0) == 0);
  }
}

TEST_CASE("long names are cut in messages and keep their characters whole") {
  std::string name = "\\u0007";
  for (int i = 0; i < 200; ++i) name += "€";
  const std::string message = refusal_of("{\"" + name + "\":{}}");
  CHECK(message.size() < 250);
  CHECK(message.find("'?€") != std::string::npos);
  CHECK(message.find("€...'") != std::string::npos);
}

TEST_CASE("the writer refuses what the parser would") {
  using Tensors = std::vector<st::Tensor>;
  CHECK_THROWS_AS(st::serialize({{"a", st::Type::F32, {1}}, {"a", st::Type::F32, {1}}}), std::runtime_error);
  CHECK_THROWS_AS(st::serialize({{"a", st::Type::F32, {-1}}}), std::runtime_error);
  CHECK_THROWS_AS(st::serialize({{"a\xFF", st::Type::F32, {1}}}), std::runtime_error);
  CHECK_THROWS_AS(st::serialize({{"__metadata__", st::Type::F32, {1}}}), std::runtime_error);
  CHECK_THROWS_AS(st::serialize({{"a", st::Type::F32, {apollo::Index(1) << 61, 2}}}), std::runtime_error);
  const st::Tensor huge = {"a", st::Type::U8, {apollo::Index(1) << 62}};
  const auto renamed = [&](const char* name) { return st::Tensor{name, huge.type, huge.shape}; };
  CHECK_THROWS_AS(st::serialize({huge, renamed("b"), renamed("c"), renamed("d")}), std::runtime_error);  // 2^64 in all
  CHECK_THROWS_AS(st::serialize(Tensors{}, {{"k", "1"}, {"k", "2"}}), std::runtime_error);
  CHECK_THROWS_AS(st::serialize(Tensors{}, {{"k", "\xC3"}}), std::runtime_error);
}

TEST_CASE("large and hostile headers cost time and memory in proportion") {
  std::vector<st::Tensor> tensors;
  for (int i = 0; i < 20000; ++i) tensors.push_back({"t" + std::to_string(i * 7919 % 20000), st::Type::U8, {1}});
  const std::string bytes = st::serialize(tensors);
  const st::Header header = parse(bytes, bytes.size() + 20000);
  bool all = true;
  for (const st::Tensor& tensor : header.tensors) all = all && header.find(tensor.name) == &tensor;
  CHECK(all);

  CHECK(refusal_of(std::string(1 << 20, '{')).find("byte 9: ") != std::string::npos);
  CHECK(refusal_of("{\"a\":{\"shape\":" + std::string(1 << 20, '[')).find("non-negative integer") != std::string::npos);
  std::string keys = "{\"__metadata__\":{";
  for (int i = 0; i < 100000; ++i) keys += "\"" + std::to_string(i % 99999) + "\":\"\",";
  keys.back() = '}';
  allocated = 0;
  CHECK(refusal_of(keys + "}").find("found '0' again") != std::string::npos);
  CHECK(allocated <= 100 * keys.size());
  allocated = 0;
  CHECK(refusal("\0\xE1\xF5\x05\0\0\0\0{"s, 1ull << 40) != "accepted");
  CHECK(allocated <= 4096);
}

struct SplitMix {
  std::uint64_t state;
  std::uint64_t operator()() {
    std::uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  std::size_t below(std::size_t bound) { return static_cast<std::size_t>((*this)() % bound); }
};

TEST_CASE("20,000 mutated headers are parsed soundly or refused") {
  const std::vector<std::string> seeds = {
      "{" + tensor_a + "}      ",
      R"({"__metadata__":{"format":"pt","\ud83d\ude00":"\u00e9\n"},"b":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}})",
      R"({"x":{"dtype":"U8","shape":[0],"data_offsets":[4,4]},"y":{"dtype":"I8","shape":[4],"data_offsets":[4,8]},)"
      R"("z":{"dtype":"F16","shape":[2,1],"data_offsets":[0,4]}})",
      "{ \"\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80\" :\n{\"shape\":[1,1,8],\"data_offsets\":[0,8],\"dtype\":\"BOOL\"} } "
      " "};
  const std::string alphabet = "{}[]:,\"\\ u0123456789-.eabd\n\t\x80\xC3\xE2\xF0\xFF";
  SplitMix random{2024};
  int accepted = 0, refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string json = seeds[random.below(seeds.size())];
    for (std::size_t edits = 1 + random.below(3); edits-- > 0;) {
      const std::size_t at = random.below(json.size());
      const std::size_t length = 1 + random.below(12);
      const char letter = alphabet[random.below(alphabet.size())];
      switch (random.below(7)) {
        case 0: json[at] = static_cast<char>(random() & 0xFF); break;
        case 1: json[at] = letter; break;
        case 2: json.insert(at, 1, letter); break;
        case 3: json.erase(at, json.size() > length ? length : 0); break;
        case 4: json.insert(at, json.substr(random.below(json.size()), length)); break;
        case 5:
          json.insert(json.find_first_of(",:{}[]", at) == json.npos ? 0 : json.find_first_of(",:{}[]", at), 1, ' ');
          break;
        default:
          if (const std::size_t digit = json.find_first_of("0123456789", at); digit != json.npos)
            json[digit] = static_cast<char>('0' + random.below(10));
      }
    }
    std::string bytes = prefixed(json);
    std::uint64_t file_size = bytes.size() + 8;
    switch (random.below(20)) {
      case 0: bytes[random.below(8)] = static_cast<char>(random() & 0xFF); break;
      case 1: bytes.resize(random.below(bytes.size())); break;
      case 2: file_size = random.below(bytes.size() + 16); break;
      default: break;
    }
    INFO("round " << round << ": " << json);
    allocated = 0;
    bool sound = false;
    std::string message;
    try {
      const st::Header header = parse(bytes, file_size);
      const std::size_t spent = allocated;
      ++accepted;
      message = broken_promise(header, file_size);
      sound = message.empty() && spent <= 100 * bytes.size() + 4096;
    } catch (const std::runtime_error& error) {
      ++refused;
      message = error.what();
      sound = message.rfind("apollo: 'weights.st', byte ", 0) == 0 && message.find(": expected ") != message.npos &&
              message.find(", found ") != message.npos && allocated <= 100 * bytes.size() + 4096;
    }
    INFO(message);
    REQUIRE(sound);
  }
  CHECK(accepted >= 500);
  CHECK(refused >= 5000);
}

}  // namespace
