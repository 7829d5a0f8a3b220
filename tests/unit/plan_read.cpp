// SPDX-License-Identifier: Apache-2.0
// The planner's inputs and outputs: presets, config.json, safetensors headers and budgets, well-formed, malformed and fuzzed;
// tables, verdicts and bars.
// also: optimised-sanitizers
#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <apollo/apollo.hpp>

#include "plan/read.hpp"
#include "plan/report.hpp"
#include "support.hpp"

namespace {

namespace st = apollo::safetensors;
using apollo::Index;
using plan::Model;
using plan::Number;
using plan::Role;
using support::mentions;

template <class Action>
std::string refusal(Action&& action) {
  return support::refusal<std::runtime_error>(action);
}

bool same(const Model& a, const Model& b, bool blocks = true) {
  if (a.tensors.size() != b.tensors.size() || a.parameters != b.parameters || a.rank != b.rank || a.tied != b.tied)
    return false;
  for (std::size_t i = 0; i < a.tensors.size(); ++i) {
    const plan::Tensor &x = a.tensors[i], &y = b.tensors[i];
    if (x.name != y.name || x.shape != y.shape || x.role != y.role || x.unit != y.unit) return false;
    if (blocks && x.block != y.block) return false;
  }
  return true;
}

nlohmann::json llama_config() {
  return {{"model_type", "llama"},   {"vocab_size", 32000},         {"hidden_size", 4096},
          {"num_hidden_layers", 32}, {"num_attention_heads", 32},   {"intermediate_size", 11008},
          {"rms_norm_eps", 1e-6},    {"tie_word_embeddings", false}};
}

std::vector<st::Tensor> tensors_of(const Model& model) {
  std::vector<st::Tensor> tensors;
  for (const plan::Tensor& t : model.tensors) {
    const bool vector = t.shape.rows == 1;
    tensors.push_back({t.name, st::Type::F32,
                       vector ? std::vector<Index>{t.shape.cols} : std::vector<Index>{t.shape.rows, t.shape.cols}});
  }
  return tensors;
}

Model model_of(const std::string& header, std::uint64_t file_size) {
  plan::SafetensorsReader reader("f");
  reader.add(header, file_size, "f");
  return std::move(reader).model();
}

/// Of tensors as a file's header would name them.
Model model_of(const std::vector<st::Tensor>& tensors) {
  const std::string header = st::serialize(tensors);
  std::uint64_t data = 0;
  for (const st::Tensor& t : tensors) {
    std::uint64_t bytes = 0;
    REQUIRE(st::byte_count(t.type, t.shape, bytes));
    data += bytes;
  }
  return model_of(header, header.size() + data);
}

}  // namespace

TEST_CASE("presets have the tensors of the example's models") {
  const auto known = llama::presets();
  for (const llama::Preset& preset : known) {
    CAPTURE(std::string(preset.name));
    const Model model = plan::model_of_preset(preset.name);
    const auto parameters = llama::parameters_of(preset.config);
    CHECK(model.parameters == llama::parameter_count(preset.config));
    REQUIRE(model.tensors.size() == parameters.size());
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const llama::Parameter& p = parameters[i];
      const plan::Tensor& t = model.tensors[i];
      CHECK(t.name == p.name);
      CHECK(t.shape == apollo::Shape{p.rows, p.cols});
      CHECK(t.unit == p.unit);
      CHECK((t.role == Role::matrix) == (p.kind == llama::Kind::matrix));
      CHECK((t.role == Role::rest) == (p.kind == llama::Kind::norm));
      CHECK(t.block == (p.by_head ? preset.config.head_size() : 1));
    }
    CHECK(model.rank == (model.name == "LLaMA 7b" ? 256 : preset.config.hidden / 4));
  }
  CHECK(support::refusal([] { plan::model_of_preset("8b"); }) == "preset '8b' is none of examples/llama");
}

TEST_CASE("APOLLO's states of a 7B model in bfloat16 are the paper's 1.6 G") {
  const auto rows =
      plan::rows_of(plan::model_of_preset("7b"), {.moments = Number::bf16}, {"apollo"}, apollo::Reference());
  REQUIRE(rows.size() == 1);
  CHECK(rows[0].bytes.matrix_states == Index{2} * 2 * 256 * 32 * (4 * 4096 + 3 * 11008));
  CHECK(plan::in_unit(rows[0].bytes.matrix_states, plan::unit_named("GB")) == "1.62");
}

TEST_CASE("a 13B model fits on 80 GB with APOLLO-Mini and not with AdamW, on each of any number of ranks") {
  const Model model = plan::model_of_preset("13b");
  const plan::Request request{.weights = Number::bf16, .gradients = Number::bf16, .moments = Number::bf16};
  const auto rows = plan::rows_of(model, request, {"adamw", "apollo-mini"}, apollo::Reference());
  const plan::View view{.budget = plan::parse_bytes("80GB"), .world = 8};
  CHECK(plan::verdict(rows, view) == "fits in 80.00 GB: apollo-mini\ndoes not fit: adamw\n");
  CHECK(rows[0].bytes.weights == 2 * model.parameters);
  CHECK(rows[0].bytes.gradients == 2 * model.parameters);
  CHECK(rows[0].bytes.states() == 4 * model.parameters);
  const std::string table = plan::table(rows, view);
  CHECK(mentions(table, {"all 8\nranks"}) == false);  // headings break across lines
  CHECK(mentions(table, {"all 8", "ranks", "of 80.00", "24.13 over", "26.61 left", "833.02"}));
  std::string notes;
  for (const std::string& note : plan::notes(model, rows, view)) notes += note + "\n";
  CHECK(mentions(notes, {"activations", "GB: 1e9 bytes", "each of 8 ranks holds the whole total", "all-reduced"}));
  CHECK(mentions(refusal([&] { plan::table(rows, {.world = std::numeric_limits<Index>::max()}); }),
                 {"more than can be"}));
}

TEST_CASE("a config.json is the model of its keys") {
  nlohmann::json json = llama_config();
  CHECK(same(plan::model_of("7b", plan::parse_config(json.dump(), "c")), [] {
    Model model = plan::model_of_preset("7b");
    model.rank = 1024;
    return model;
  }()));
  json["num_key_value_heads"] = 8, json["head_dim"] = 64, json["tie_word_embeddings"] = true;
  json["attention_bias"] = true, json["mlp_bias"] = true, json["model_type"] = "mistral";
  const Model model = plan::model_of("c", plan::parse_config(json.dump(), "c"));
  CHECK(model.tied);
  const Index hidden = 4096, queries = 32 * 64, keys = 8 * 64, width = 11008;
  CHECK(model.parameters_in(Role::matrix) == 32 * (2 * hidden * (queries + keys) + 3 * hidden * width));
  CHECK(model.parameters_in(Role::embedding) == 32000 * hidden);
  CHECK(model.parameters_in(Role::rest) ==
        32 * (2 * hidden + queries + 2 * keys + hidden + 2 * width + hidden) + hidden);
  json["num_key_value_heads"] = nullptr, json["head_dim"] = nullptr;  // as some writers put them
  CHECK(plan::parse_config(json.dump(), "c").key_value_heads == 32);
  CHECK(plan::parse_config(json.dump(), "c").head_size == 128);

  llama::write_whole("config.json", llama_config().dump(2));
  CHECK(plan::read_config("config.json").name == "config.json");
  CHECK(plan::read_config("config.json").parameters == 6738415616);
}

TEST_CASE("a malformed config.json is refused with its file and its byte or key") {
  const auto said = [](const std::string& text) {
    return refusal([&] { plan::model_of("c.json", plan::parse_config(text, "c.json")); });
  };
  CHECK(said(llama_config().dump()) == "");
  CHECK(mentions(said(""), {"'c.json', byte 0:"}));
  CHECK(mentions(said("{"), {"'c.json', byte 1:"}));
  CHECK(mentions(said("{\"a\":01}"), {"'c.json', byte 6:"}));
  CHECK(mentions(said("{\"a\": \xFF}"), {"'c.json', byte 6:"}));
  CHECK(mentions(said("{\"a\": 1e999}"), {"'c.json'"}));
  CHECK(mentions(said("[]"), {"expected an object"}));
  CHECK(mentions(said("17"), {"expected an object"}));
  CHECK(mentions(said(std::string(100000, '[')), {"'c.json', byte 100000:"}));
  for (const char* key :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"}) {
    nlohmann::json json = llama_config();
    json.erase(key);
    const std::string at = "'c.json', key '" + std::string(key) + "'";
    CHECK(mentions(said(json.dump()), {at.c_str(), "expected an integer", "found none"}));
    for (const char* value :
         {"0", "-1", "\"12\"", "1.5", "1.0", "true", "[1]", "{}", "2147483648", "9223372036854775808",
          "18446744073709551615", "18446744073709551616", "1e30", "-9223372036854775808"}) {
      CAPTURE(std::string(value));
      json[key] = nlohmann::json::parse(value);
      CHECK(mentions(said(json.dump()), {at.c_str(), "expected an integer from 1 to"}));
    }
  }
  const auto with = [&](const char* key, const nlohmann::json& value) {
    nlohmann::json json = llama_config();
    json[key] = value;
    return said(json.dump());
  };
  CHECK(mentions(with("num_key_value_heads", 5), {"'num_key_value_heads'", "5 must divide", "32"}));
  CHECK(mentions(with("num_key_value_heads", 64), {"'num_key_value_heads'", "64 must divide"}));
  CHECK(mentions(with("hidden_size", 4097), {"'hidden_size'", "4097 must be a multiple", "32"}));
  CHECK(mentions(with("head_dim", 0), {"'head_dim'", "expected an integer"}));
  CHECK(mentions(with("tie_word_embeddings", 1), {"'tie_word_embeddings'", "expected true or false, found 1"}));
  CHECK(mentions(with("model_type", "qwen2"), {"'model_type'", "safetensors"}));
  CHECK(mentions(with("model_type", 3), {"'model_type'", "expected a string"}));
  CHECK(mentions(with("num_hidden_layers", 10001), {"'num_hidden_layers'", "10000"}));
  CHECK(mentions(with("num_hidden_layers", std::string(1000, '9')), {"..."}));
  CHECK(mentions(with("hidden_size", 2147483616), {"'c.json'", "more than 4398046511104 parameters"}));
  CHECK(mentions(with("head_dim", 2147483647), {"more than 4398046511104 parameters"}));

  llama::write_whole("long.json", std::string((1 << 20) + 1, ' '));
  CHECK(mentions(refusal([] { plan::read_config("long.json"); }), {"'long.json'", "at most 1048576 bytes"}));
  CHECK(mentions(refusal([] { plan::read_config("absent.json"); }), {"'absent.json'"}));
}

TEST_CASE("a file of the library's own writer is the model it was written from") {
  const Model nano = plan::model_of_preset("nano");
  std::string bytes = st::serialize(tensors_of(nano));
  bytes.resize(bytes.size() + static_cast<std::size_t>(4 * nano.parameters));
  llama::write_whole("nano.safetensors", bytes);
  const Model read = plan::read_safetensors({"nano.safetensors"});
  CHECK(same(nano, read, false));  // a header does not tell the size of a head
  CHECK(read.name == "nano.safetensors");
  CHECK(read.notes.empty());

  // In two files, the order of which does not matter.
  auto tensors = tensors_of(nano);
  const std::vector<st::Tensor> head{tensors.back()};
  tensors.pop_back();
  const auto write = [](const std::string& path, const std::vector<st::Tensor>& list) {
    std::string text = st::serialize(list);
    for (const st::Tensor& t : list) {
      std::uint64_t size = 0;
      st::byte_count(t.type, t.shape, size);
      text.resize(text.size() + size);
    }
    llama::write_whole(path, text);
  };
  write("1.safetensors", tensors), write("2.safetensors", head);
  CHECK(same(nano, plan::read_safetensors({"1.safetensors", "2.safetensors"}), false));
  CHECK(plan::read_safetensors({"1.safetensors"}).tied);
  CHECK(mentions(refusal([] {
                   plan::read_safetensors({"1.safetensors", "1.safetensors"});
                 }),
                 {"'1.safetensors'", "'model.embed_tokens.weight' is in an earlier file too"}));
}

TEST_CASE("roles are told by name and shape") {
  using Type = st::Type;
  const Model model = model_of({{"h.0.attn.c_attn.weight", Type::F32, {24, 72}},
                                {"h.0.attn.c_attn.bias", Type::F32, {72}},
                                {"h.0.attn.bias", Type::F32, {1, 1, 8, 8}},
                                {"h.0.attn.mask", Type::BOOL, {8, 8}},
                                {"h.0.mlp.c_fc.weight", Type::BF16, {24, 96}},
                                {"h.1.mlp.c_fc.weight", Type::F16, {24, 96}},
                                {"h.1.mlp.experts.weight", Type::F16, {2, 24, 96}},
                                {"h.1.mlp.gate.weight", Type::F16, {24, 1}},
                                {"h.1.self_attn.q_norm.weight", Type::F32, {24}},
                                {"h.1.conv.weight", Type::F32, {2, 3, 4}},
                                {"ln_f.weight", Type::F32, {24}},
                                {"scalar", Type::F64, {}},
                                {"empty", Type::F32, {0, 5}},
                                {"positions", Type::I64, {100}},
                                {"wte.weight", Type::F32, {50, 24}},
                                {"lm_head.weight", Type::F32, {50, 24}}});
  const auto find = [&](const std::string& name) -> plan::Tensor {
    for (const plan::Tensor& t : model.tensors)
      if (t.name == name) return t;
    throw std::logic_error("no " + name);
  };
  CHECK(model.tensors.size() == 13);
  for (const char* name : {"h.0.attn.c_attn.weight", "h.0.mlp.c_fc.weight", "h.1.mlp.c_fc.weight"})
    CHECK(find(name).role == Role::matrix);
  for (const char* name : {"wte.weight", "lm_head.weight"}) CHECK(find(name).role == Role::embedding);
  CHECK(find("h.1.mlp.experts.weight").role == Role::rest);
  CHECK(find("h.1.mlp.experts.weight").shape == apollo::Shape{2, 24 * 96});
  CHECK(find("h.0.attn.bias").shape == apollo::Shape{1, 64});
  CHECK(find("h.0.attn.c_attn.bias").shape == apollo::Shape{1, 72});
  CHECK(find("scalar").shape == apollo::Shape{1, 1});
  CHECK(find("wte.weight").unit == 0);
  CHECK(find("h.0.mlp.c_fc.weight").unit == 1);
  CHECK(find("h.1.mlp.c_fc.weight").unit == 2);
  CHECK(find("ln_f.weight").unit == 3);
  CHECK(find("lm_head.weight").unit == 3);
  CHECK(model.rank == 6);
  REQUIRE(model.notes.size() == 2);
  CHECK(mentions(model.notes[0], {"4 tensors of unknown role are counted as dense", "'h.1.mlp.experts.weight'"}));
  CHECK(mentions(model.notes[1], {"2 tensors of integers"}));
  CHECK(mentions(refusal([] { model_of({{"n", Type::I64, {3}}}); }), {"'f' holds no tensors of real numbers"}));
  CHECK(mentions(refusal([] { model_of({{"huge", Type::F32, {1 << 30, 1 << 13}}}); }), {"'f'", "more than"}));
  // A rank that a side is too short for is that side.
  const auto rows = plan::rows_of(model, {.rank = 30}, {"apollo"}, apollo::Reference());
  CHECK(rows[0].bytes.matrix_states == 2 * 4 * 24 * (72 + 96 + 96));
  std::string notes;
  for (const std::string& note : plan::notes(model, rows, {})) notes += note;
  CHECK(mentions(notes, {"3 matrices have a side shorter than rank 30"}));
  CHECK(mentions(support::refusal([&] { plan::rows_of(model, {.rank = 1}, {"apollo"}, apollo::Reference()); }),
                 {"rank = 1 must be at least 2"}));
}

TEST_CASE("a malformed safetensors file is refused with its file and byte") {
  const auto said = [](const std::string& bytes) {
    llama::write_whole("bad.safetensors", bytes);
    return refusal([] { plan::read_safetensors({"bad.safetensors"}); });
  };
  CHECK(mentions(said(""), {"'bad.safetensors', byte 0: expected 8 bytes"}));
  CHECK(mentions(said("1234567"), {"'bad.safetensors', byte 0: expected 8 bytes"}));
  CHECK(mentions(said(std::string(8, '\xFF')), {"'bad.safetensors', byte 0:", "found 18446744073709551615"}));
  const std::string good = st::serialize({{"mlp.weight", st::Type::F32, {2, 3}}});
  CHECK(said(good + std::string(24, '\0')) == "");
  CHECK(mentions(said(good + std::string(23, '\0')), {"'bad.safetensors', byte ", "24 bytes of data, found 23"}));
  std::string bad = good + std::string(24, '\0');
  bad[bad.find(':')] = ';';
  CHECK(mentions(said(bad), {"'bad.safetensors', byte 21: expected ':'"}));
  CHECK(mentions(refusal([] { plan::read_safetensors({"absent"}); }), {"'absent'"}));
  CHECK(mentions(refusal([] { plan::read_safetensors({"."}); }), {"'.'", "not a regular file"}));
}

TEST_CASE("100,000 mutated headers are read or refused") {
  const Model small = plan::model_of("small", {.vocabulary = 40,
                                               .hidden = 16,
                                               .layers = 1,
                                               .heads = 2,
                                               .key_value_heads = 2,
                                               .head_size = 8,
                                               .intermediate = 24});
  const std::string valid = st::serialize(tensors_of(small));
  const std::uint64_t size = valid.size() + 4 * static_cast<std::uint64_t>(small.parameters);
  const std::string alphabet = "{}[]\",:0123456789-.eE \\u\n\x80\xFF abFI_";
  std::mt19937_64 random(1);
  const auto below = [&](std::size_t bound) { return static_cast<std::size_t>(random() % bound); };
  int read = 0, refused = 0;
  for (int i = 0; i < 100000; ++i) {
    std::string bytes = valid;
    for (std::size_t edits = 1 + below(3); edits-- > 0;) {
      const std::size_t at = below(bytes.size()), length = 1 + below(8);
      switch (below(6)) {
        case 0: bytes[at] = static_cast<char>(random()); break;
        case 1: bytes[at] = alphabet[below(alphabet.size())]; break;
        case 2: bytes.insert(at, 1, alphabet[below(alphabet.size())]); break;
        case 3: bytes.erase(at, length); break;
        case 4: bytes.insert(at, bytes.substr(below(bytes.size()), length)); break;
        default: bytes.resize(std::max<std::size_t>(1, at));
      }
      if (bytes.empty()) bytes = "x";
    }
    if (below(4) != 0 && bytes.size() >= 8)  // most keep a length that leads past it
      for (std::size_t k = 0; k < 8; ++k) bytes[k] = static_cast<char>((bytes.size() - 8) >> 8 * k & 0xFF);
    try {
      const Model model = model_of(bytes, below(2) == 0 ? size : bytes.size() + size - valid.size());
      const auto rows = plan::rows_of(model, {.layerwise = true}, {}, apollo::Reference());
      if (!rows.empty() && rows.front().bytes.total() > 0) ++read;
    } catch (const std::exception&) {
      ++refused;
    }
  }
  CHECK(read + refused == 100000);
  CHECK(read > 100);
  CHECK(refused > 10000);
}

TEST_CASE("10,000 mutated configs are read or refused") {
  const std::string valid = llama_config().dump();
  std::mt19937_64 random(2);
  int read = 0, refused = 0;
  for (int i = 0; i < 10000; ++i) {
    std::string text = valid;
    for (std::size_t edits = 1 + random() % 3; edits-- > 0;) text[random() % text.size()] = static_cast<char>(random());
    try {
      plan::parse_config(text, "c");
      ++read;
    } catch (const std::runtime_error&) {
      ++refused;
    }
  }
  CHECK(read + refused == 10000);
  CHECK(read > 10);
}

TEST_CASE("budgets are numbers with a unit") {
  using plan::parse_bytes;
  CHECK(parse_bytes("80GB") == 80'000'000'000);
  CHECK(parse_bytes("12GiB") == Index{12} << 30);
  CHECK(parse_bytes("500MB") == 500'000'000);
  CHECK(parse_bytes("3MiB") == 3 << 20);
  CHECK(parse_bytes("1B") == 1);
  CHECK(parse_bytes("1.5GiB") == Index{3} << 29);
  CHECK(parse_bytes("0.000000001GB") == 1);
  CHECK(parse_bytes("9000000000000000000B") == 9'000'000'000'000'000'000);
  for (const char* bad : {"",
                          "GB",
                          "80",
                          "80 GB",
                          " 80GB",
                          "80GB ",
                          "-1GB",
                          "+1GB",
                          "1e3GB",
                          "0x10B",
                          ".5GB",
                          "1.GB",
                          "1.2.3GB",
                          "80gb",
                          "80KB",
                          "80G",
                          "0GB",
                          "0.0B",
                          "0.4B",
                          "nanGB",
                          "infGB",
                          "1,5GB",
                          "1.0000000001GB",
                          "9223372036854775808B",
                          "9300000000GB",
                          "99999999999999999999999GB"}) {
    CAPTURE(std::string(bad));
    CHECK(mentions(support::refusal([&] { parse_bytes(bad); }), {"such as 80GB, 12GiB"}));
  }
  CHECK(plan::in_unit(1'619'001'344, plan::unit_named("GB")) == "1.62");
  CHECK(plan::in_unit(1'619'001'344, plan::unit_named("GiB")) == "1.51");
  CHECK(plan::in_unit(1'619'001'344, plan::unit_named("B")) == "1619001344");
  CHECK(mentions(support::refusal([] { plan::unit_named("TB"); }), {"'TB'"}));
}

TEST_CASE("bars are XML with one label a member and a line at the budget") {
  Model model = plan::model_of_preset("nano");
  model.name = "a<b>&\"c\x01";
  const auto rows = plan::rows_of(model, {}, {}, apollo::Reference());
  CHECK(rows.size() == plan::member_names().size());
  const std::string svg = plan::svg(model, rows, {.budget = 10'000'000});
  CHECK(mentions(svg, {"a&lt;b&gt;&amp;\"c </text>", ">budget</text>", "(MB)", "</svg>\n"}));
  for (const plan::Row& row : rows) CHECK(mentions(svg, {(">" + row.member + "</text>").c_str()}));
  CHECK(!mentions(svg, {"nan"}));
  CHECK(!mentions(plan::svg(model, rows, {}), {">budget</text>"}));
  for (const double length : {0.003, 0.99, 1.0, 1.01, 9.9, 10.0, 10.1, 104.1, 7e11}) {
    CHECK(length / plan::bars::tick(length) <= 10);
    CHECK(length / plan::bars::tick(length) > 3.9);
  }
  const auto half = plan::rows_of(plan::matrices_of(model), {}, {"adamw"}, apollo::Reference());
  CHECK(half[0].bytes.weights == 4 * 790528);
  CHECK(half[0].bytes.states() == 8 * 790528);
}
