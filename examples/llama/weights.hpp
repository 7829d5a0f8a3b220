// SPDX-License-Identifier: Apache-2.0
// A model's weights as a safetensors file under Hugging Face's names, and whether a checkpoint belongs to a run.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <apollo/optimizer/checkpoint.hpp>
#include <apollo/optimizer/file.hpp>
#include <apollo/optimizer/safetensors.hpp>

#include "model.hpp"

namespace llama {

/// Norms are vectors in Hugging Face's files.
inline std::vector<apollo::Index> shape_of(const Parameter& p) {
  return p.kind == Kind::norm ? std::vector<apollo::Index>{p.cols} : std::vector<apollo::Index>{p.rows, p.cols};
}

/// What a file holds of a parameter: F32, or where it is int8 its codes as U8 under its name and the minimum and the scale of
/// each group as F32 under NAME.ranges. Places are left open.
inline std::vector<apollo::safetensors::Tensor> tensors_of(const Parameter& p, WeightType type) {
  using apollo::safetensors::Type;
  if (!is_int8(p, type)) return {{p.name, Type::F32, shape_of(p), 0, 0}};
  const apollo::Index groups = apollo::BlockedLines::of(p.rows, p.cols).count(int8_group);
  return {{p.name, Type::U8, shape_of(p), 0, 0}, {p.name + ".ranges", Type::F32, {groups, 2}, 0, 0}};
}

/// Writes the weights; the file appears whole.
template <class Model>
void save_weights(const Model& model, const std::string& path) {
  std::vector<apollo::safetensors::Tensor> tensors;
  for (const Parameter& p : model.parameters())
    for (const auto& tensor : tensors_of(p, model.weight_type())) tensors.push_back(tensor);
  const std::string header = apollo::safetensors::serialize(tensors, {{"format", "pt"}});
  apollo::AtomicFile file(path);
  const auto write = [&](const auto* values, std::size_t count) { file.write(values, count * sizeof *values); };
  write(header.data(), header.size());
  for (const Parameter& p : model.parameters()) {
    if (model.is_int8(p)) {
      const apollo::Int8Matrix& weight = model.int8_weight(p);
      write(weight.codes().data(), weight.codes().size());
      write(weight.ranges().data(), weight.ranges().size());
    } else {
      write(model.weight(p).data(), static_cast<std::size_t>(p.size()));
    }
  }
  file.commit();
}

/// Weights that were read and compared with a model's parameters, so that assigning them cannot fail.
struct Weights {
  struct Values {
    std::vector<float> floats;
    std::vector<std::uint8_t> codes;  // in place of floats, with ranges
    std::vector<apollo::GroupRange> ranges;
  };
  std::vector<Values> values;  // one for each parameter

  template <class Model>
  void assign(Model& model) const {  // in place: an optimizer holds the addresses
    for (const Parameter& p : model.parameters()) {
      const Values& from = values[p.number];
      if (model.is_int8(p)) {
        std::copy(from.codes.begin(), from.codes.end(), model.int8_weight(p).codes().begin());
        std::copy(from.ranges.begin(), from.ranges.end(), model.int8_weight(p).ranges().begin());
      } else {
        std::copy(from.floats.begin(), from.floats.end(), model.weight(p).data());
      }
    }
  }
};

inline apollo::safetensors::Header read_header(const apollo::InputFile& file) {
  std::string head(std::min<std::uint64_t>(8, file.size()), '\0');
  file.read(head.data(), head.size(), 0);
  head.resize(apollo::safetensors::header_end(head, file.size(), file.path()));
  file.read(head.data(), head.size(), 0);
  return apollo::safetensors::parse(head, file.size(), file.path());
}

/// Errors: a missing tensor, another type or shape, by file and name.
template <class Model>
Weights read_weights(const Model& model, const std::string& path) {
  const apollo::InputFile file(path);
  const auto header = read_header(file);
  Weights weights;
  for (const Parameter& p : model.parameters()) {
    const std::vector<apollo::safetensors::Tensor> expected = tensors_of(p, model.weight_type());
    const auto read = [&](std::size_t number, auto& values) {
      const apollo::safetensors::Tensor& wanted = expected[number];
      const apollo::safetensors::Tensor* found = header.find(wanted.name);
      if (found == nullptr || found->type != wanted.type || found->shape != wanted.shape)
        throw std::runtime_error("cannot load '" + path + "': " + wanted.name +
                                 (found == nullptr ? " is not in it" : " has another type or shape than the model's"));
      const std::uint64_t bytes = found->end - found->begin;
      values.resize(bytes / sizeof values[0]);
      file.read(values.data(), bytes, header.data_offset + found->begin);
    };
    Weights::Values values;
    if (model.is_int8(p)) {
      read(0, values.codes);
      read(1, values.ranges);
    } else {
      read(0, values.floats);
    }
    weights.values.push_back(std::move(values));
  }
  return weights;
}

/// The tick that an optimizer's checkpoint was saved at; -1 if the file does not say.
inline std::int64_t tick_of(const std::string& path) {
  const auto header = read_header(apollo::InputFile(path));
  const std::string* digits = header.find_metadata("tick");
  std::int64_t tick = -1;
  return digits != nullptr && apollo::checkpoint::parse_count(*digits, tick) ? tick : -1;
}

/// Compares `state["settings"]` with the settings of this run, key by key. Errors: the first that differs.
inline void require_same(const nlohmann::json& state, const nlohmann::json& settings, const std::string& where) {
  const nlohmann::json there = state.is_object() ? state.value("settings", nlohmann::json()) : nlohmann::json();
  if (!there.is_object()) throw std::runtime_error("cannot resume from '" + where + "': it has no settings");
  for (const auto& [key, value] : settings.items()) {
    const auto found = there.find(key);
    if (found == there.end() || *found != value)
      throw std::runtime_error("cannot resume from '" + where + "': it was made with " + key + " = " +
                               (found == there.end() ? "nothing" : found->dump()) + ", this run has " + value.dump());
  }
}

inline std::int64_t integer_of(const nlohmann::json& state, const char* key, const std::string& where) {
  const auto found = state.find(key);
  if (found == state.end() || !found->is_number_integer() || found->get<std::int64_t>() < 0)
    throw std::runtime_error("cannot resume from '" + where + "': '" + key + "' must be an integer of at least 0");
  return found->get<std::int64_t>();
}

inline void require_step(const std::string& what, std::int64_t found, std::int64_t step) {
  if (found != step)
    throw std::runtime_error("cannot resume: " + what + " is of step " + std::to_string(found) +
                             ", the checkpoint of step " + std::to_string(step));
}

}  // namespace llama
