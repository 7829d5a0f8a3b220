// SPDX-License-Identifier: Apache-2.0
// Models from files: Hugging Face's config.json, and headers of safetensors files.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <apollo/optimizer/file.hpp>
#include <apollo/optimizer/safetensors.hpp>

#include "../llama/files.hpp"
#include "model.hpp"

namespace plan {

// --- config.json ----------------------------------------------------------------------------------------------------------

/// Reads members of config.json's object. Errors name the file and the key.
class ConfigReader {
 public:
  ConfigReader(const nlohmann::json& json, const std::string& file) : json_(json), file_(file) {}

  bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }

  Index integer(const char* key, Index most = std::numeric_limits<std::int32_t>::max()) const {
    const std::string expected = "expected an integer from 1 to " + std::to_string(most) + ", found ";
    if (!has(key)) fail(key, expected + "none");
    const nlohmann::json& value = json_[key];
    if (!value.is_number_integer() || value < 1 || value > most) fail(key, expected + shown(value));
    return value.get<Index>();
  }
  Index integer_or(const char* key, Index otherwise) const { return has(key) ? integer(key) : otherwise; }

  bool flag(const char* key) const {
    if (!has(key)) return false;
    if (!json_[key].is_boolean()) fail(key, "expected true or false, found " + shown(json_[key]));
    return json_[key].get<bool>();
  }

  std::string text(const char* key) const {
    if (!json_[key].is_string()) fail(key, "expected a string, found " + shown(json_[key]));
    return json_[key].get<std::string>();
  }

  [[noreturn]] void fail(const char* key, const std::string& what) const {
    throw std::runtime_error("'" + file_ + "', key '" + key + "': " + what);
  }

 private:
  static std::string shown(const nlohmann::json& value) {
    if (value.is_structured()) return std::string("an ") + value.type_name();
    const std::string text = value.dump(-1, ' ', true);
    return text.size() > 60 ? text.substr(0, 60) + "..." : text;
  }

  const nlohmann::json& json_;
  const std::string& file_;
};

/// Errors: text that is not JSON, by file and byte; keys that are missing or out of range, by file and key.
inline Config parse_config(const std::string& text, const std::string& file) {
  nlohmann::json json;
  try {
    json = nlohmann::json::parse(text);
  } catch (const nlohmann::json::parse_error& error) {
    throw std::runtime_error("'" + file + "', byte " + std::to_string(error.byte > 0 ? error.byte - 1 : 0) + ": " +
                             error.what());
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error("'" + file + "': " + error.what());
  }
  if (!json.is_object()) throw std::runtime_error("'" + file + "', byte 0: expected an object, found none");
  const ConfigReader read(json, file);
  if (read.has("model_type"))
    if (const std::string type = read.text("model_type"); type != "llama" && type != "mistral")
      read.fail("model_type",
                "expected \"llama\" or \"mistral\", whose tensors these keys describe; others are read from "
                "--safetensors");
  Config c;
  c.vocabulary = read.integer("vocab_size");
  c.hidden = read.integer("hidden_size");
  c.layers = read.integer("num_hidden_layers", 10000);
  c.heads = read.integer("num_attention_heads");
  c.key_value_heads = read.integer_or("num_key_value_heads", c.heads);
  c.intermediate = read.integer("intermediate_size");
  if (c.heads % c.key_value_heads != 0)
    read.fail("num_key_value_heads",
              std::to_string(c.key_value_heads) + " must divide num_attention_heads = " + std::to_string(c.heads));
  if (!read.has("head_dim") && c.hidden % c.heads != 0)
    read.fail("hidden_size", std::to_string(c.hidden) + " must be a multiple of num_attention_heads = " +
                                 std::to_string(c.heads) + " where there is no head_dim");
  c.head_size = read.integer_or("head_dim", c.hidden / c.heads);
  c.tied = read.flag("tie_word_embeddings");
  c.attention_bias = read.flag("attention_bias");
  c.mlp_bias = read.flag("mlp_bias");
  return c;
}

inline Model read_config(const std::string& path) {
  constexpr std::uint64_t largest = 1 << 20;
  if (const apollo::InputFile file(path); file.size() > largest)
    throw std::runtime_error("'" + path + "': expected at most " + std::to_string(largest) + " bytes, found " +
                             std::to_string(file.size()));
  return model_of(path, parse_config(llama::read_whole(path), path));
}

// --- safetensors ----------------------------------------------------------------------------------------------------------

namespace names {

inline std::vector<std::string_view> components(std::string_view name) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    parts.push_back(name.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

inline bool is_number(std::string_view part) {
  return !part.empty() && part.size() <= 9 && part.find_first_not_of("0123456789") == part.npos;
}

/// What stands on a terminal: no control characters, and not for pages.
inline std::string shown(std::string_view name) {
  std::string text(name.substr(0, 80));
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  return "'" + text + (name.size() > text.size() ? "...'" : "'");
}

}  // namespace names

/// The role of a tensor by its name in Hugging Face's checkpoints and by its shape:
///   matrix      two sides above 1, its last part "weight", an earlier one self_attn, attention, attn or mlp
///   embedding   embed_tokens, wte, lm_head or embed_out is a part
///   rest        everything else; known if its last part is "bias" or one of its parts holds "norm" or begins with "ln_"
struct NamedRole {
  Role role = Role::rest;
  bool known = true;
  bool head = false;
};

inline NamedRole role_of(std::string_view name, const std::vector<Index>& shape) {
  const auto parts = names::components(name);
  const auto has = [&](std::initializer_list<std::string_view> wanted) {
    return std::any_of(parts.begin(), parts.end(), [&](std::string_view part) {
      return std::find(wanted.begin(), wanted.end(), part) != wanted.end();
    });
  };
  const bool head = has({"lm_head", "embed_out"});
  if (parts.back() == "bias") return {};
  if (head || has({"embed_tokens", "wte"})) return {Role::embedding, true, head};
  for (const std::string_view part : parts)
    if (part.find("norm") != part.npos || part.substr(0, 3) == "ln_") return {};
  if (shape.size() == 2 && shape[0] > 1 && shape[1] > 1 && parts.back() == "weight" &&
      has({"self_attn", "attention", "attn", "mlp"}))
    return {Role::matrix, true, false};
  return {Role::rest, false, false};
}

inline bool is_real(apollo::safetensors::Type type) {
  using apollo::safetensors::Type;
  return type == Type::F64 || type == Type::F32 || type == Type::F16 || type == Type::BF16 || type == Type::F8_E4M3 ||
         type == Type::F8_E5M2 || type == Type::F8_E8M0;
}

/// A model from the headers of its files, tensor by tensor.
class SafetensorsReader {
 public:
  explicit SafetensorsReader(const std::string& name) { model_.name = name; }

  /// Errors: those of the library's parser, by file and byte; a name twice; too many parameters.
  void add(std::string_view prefix_and_header, std::uint64_t file_size, const std::string& file) {
    const auto header = apollo::safetensors::parse(prefix_and_header, file_size, file);
    for (const apollo::safetensors::Tensor& t : header.tensors) {
      if (!names_.insert(t.name).second)
        throw std::runtime_error("'" + file + "': tensor " + names::shown(t.name) + " is in an earlier file too");
      if (t.begin == t.end) continue;
      if (is_real(t.type))
        add(t);
      else
        ++unreal_;
    }
  }

  /// Error: no tensors.
  Model model() && {
    if (model_.tensors.empty()) throw std::runtime_error("'" + model_.name + "' holds no tensors of real numbers");
    for (Tensor& t : model_.tensors)  // the last unit is the final norm's and the head's
      if (t.unit == last) t.unit = layers_.size() + 1;
    model_.tied = embedding_ && !head_;
    Index side = 4;
    for (const Tensor& t : model_.tensors)
      if (t.role == Role::matrix) side = std::max(side, t.shorter_side());
    model_.rank = side / 4;
    if (unknown_ > 0)
      model_.notes.push_back(std::to_string(unknown_) +
                             " tensors of unknown role are counted as dense, the first of them " + first_unknown_ +
                             ".");
    if (unreal_ > 0)
      model_.notes.push_back(std::to_string(unreal_) +
                             " tensors of integers or complex numbers are no parameters, and not "
                             "counted.");
    return std::move(model_);
  }

 private:
  static constexpr std::size_t last = ~std::size_t{0};

  void add(const apollo::safetensors::Tensor& t) {
    const NamedRole named = role_of(t.name, t.shape);
    if (!named.known && ++unknown_ == 1) first_unknown_ = names::shown(t.name);
    embedding_ = embedding_ || (named.role == Role::embedding && !named.head);
    head_ = head_ || named.head;
    Shape shape{1, 1};  // vectors lie in one row
    for (std::size_t i = 0; i < t.shape.size(); ++i)
      (i == 0 && t.shape.size() > 1 ? shape.rows : shape.cols) *= t.shape[i];
    model_.add({t.name, shape, named.role, unit_of(t.name, named)});
  }

  /// Layers are told apart by the name up to its first number.
  std::size_t unit_of(const std::string& name, const NamedRole& named) {
    std::size_t end = 0;
    for (const std::string_view part : names::components(name)) {
      end += part.size() + 1;
      if (names::is_number(part)) return layers_.try_emplace(name.substr(0, end), layers_.size() + 1).first->second;
    }
    return named.role == Role::embedding && !named.head ? 0 : last;
  }

  Model model_;
  std::set<std::string> names_;
  std::map<std::string, std::size_t> layers_;  ///< their units, from 1 on
  std::size_t unknown_ = 0, unreal_ = 0;
  std::string first_unknown_;
  bool embedding_ = false, head_ = false;
};

/// One model in one file or several.
inline Model read_safetensors(const std::vector<std::string>& paths) {
  SafetensorsReader reader(paths.front() + (paths.size() > 1 ? " and others" : ""));
  for (const std::string& path : paths) {
    const apollo::InputFile file(path);
    std::string bytes(static_cast<std::size_t>(std::min<std::uint64_t>(8, file.size())), '\0');
    file.read(bytes.data(), bytes.size(), 0);
    bytes.resize(apollo::safetensors::header_end(bytes, file.size(), path));
    file.read(bytes.data(), bytes.size(), 0);
    reader.add(bytes, file.size(), path);
  }
  return std::move(reader).model();
}

}  // namespace plan
