// SPDX-License-Identifier: Apache-2.0
// A model as a planner sees it: its tensors by shape and role.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <apollo/base/config.hpp>
#include <apollo/base/error.hpp>

#include "../llama/config.hpp"

namespace plan {

using apollo::Index;
using apollo::Shape;

/// What a tensor is to the optimizer: a member of the library steps the matrices in attention and MLP, AdamW the others.
enum class Role : std::uint8_t { matrix, embedding, rest };  // `embedding` is the head too

struct Tensor {
  std::string name;
  Shape shape;  ///< a vector is one row
  Role role = Role::rest;
  std::size_t unit = 0;  ///< tensors whose gradients a layer-wise step holds at a time: 0 is the embedding
  Index block = 1;       ///< rows that share one of Adam-mini's second moments: a head of queries or keys

  Index size() const { return shape.rows * shape.cols; }
  Index shorter_side() const { return std::min(shape.rows, shape.cols); }
};

/// More parameters are taken for a mistake. Far below the numbers at which a count of bytes would overflow.
inline constexpr Index largest_model = Index{1} << 42;

struct Model {
  std::string name;
  std::vector<Tensor> tensors;
  Index rank = 1;        ///< of low-rank members unless another is asked for
  bool tied = false;     ///< the head is the embedding, whose gradients come at both ends of the backward pass
  Index parameters = 0;  ///< of all tensors
  std::vector<std::string> notes;  ///< what a reader of the counts should know

  /// Error: too many parameters.
  void add(Tensor tensor) {
    const Index rows = tensor.shape.rows, cols = tensor.shape.cols;
    if (rows > largest_model / cols || rows * cols > largest_model - parameters)
      throw std::runtime_error("'" + name + "': more than " + std::to_string(largest_model) + " parameters");
    parameters += rows * cols;
    tensors.push_back(std::move(tensor));
  }
  Index parameters_in(Role role) const {
    Index sum = 0;
    for (const Tensor& t : tensors)
      if (t.role == role) sum += t.size();
    return sum;
  }
};

/// The shape of a LLaMA model in terms of Hugging Face's config.json.
struct Config {
  Index vocabulary = 0;
  Index hidden = 0;
  Index layers = 0;
  Index heads = 0;
  Index key_value_heads = 0;
  Index head_size = 0;
  Index intermediate = 0;
  bool tied = false;
  bool attention_bias = false;
  bool mlp_bias = false;
};

/// Every tensor, named as in Hugging Face's checkpoints.
inline Model model_of(const std::string& name, const Config& c) {
  Model model;
  model.name = name;
  model.rank = std::max<Index>(1, c.hidden / 4);
  model.tied = c.tied;
  std::size_t unit = 0;
  const auto matrix = [&](const std::string& prefix, Index rows, Index cols, bool bias, Index block = 1) {
    model.add({prefix + ".weight", {rows, cols}, Role::matrix, unit, block});
    if (bias) model.add({prefix + ".bias", {1, rows}, Role::rest, unit});
  };
  const auto norm = [&](const std::string& prefix) {
    model.add({prefix + ".weight", {1, c.hidden}, Role::rest, unit});
  };
  model.add({"model.embed_tokens.weight", {c.vocabulary, c.hidden}, Role::embedding, unit});
  for (Index l = 0; l < c.layers; ++l) {
    ++unit;
    const std::string layer = "model.layers." + std::to_string(l) + ".";
    const std::string attention = layer + "self_attn.", mlp = layer + "mlp.";
    const Index queries = c.heads * c.head_size, keys = c.key_value_heads * c.head_size;
    norm(layer + "input_layernorm");
    norm(layer + "post_attention_layernorm");
    matrix(attention + "q_proj", queries, c.hidden, c.attention_bias, c.head_size);
    matrix(attention + "k_proj", keys, c.hidden, c.attention_bias, c.head_size);
    matrix(attention + "v_proj", keys, c.hidden, c.attention_bias);
    matrix(attention + "o_proj", c.hidden, queries, c.attention_bias);
    matrix(mlp + "gate_proj", c.intermediate, c.hidden, c.mlp_bias);
    matrix(mlp + "up_proj", c.intermediate, c.hidden, c.mlp_bias);
    matrix(mlp + "down_proj", c.hidden, c.intermediate, c.mlp_bias);
  }
  ++unit;
  norm("model.norm");
  if (!c.tied) model.add({"lm_head.weight", {c.vocabulary, c.hidden}, Role::embedding, unit});
  return model;
}

/// A shape of examples/llama. Ranks are a quarter of the hidden size, except at 7B, which APOLLO was published with rank 256
/// for (arXiv:2412.05270, sec. 5.1).
inline Model model_of_preset(const std::string& name) {
  for (const llama::Preset& preset : llama::presets()) {
    if (name != preset.name) continue;
    const llama::Config& c = preset.config;
    Model model = model_of("LLaMA " + name, {.vocabulary = c.vocabulary,
                                             .hidden = c.hidden,
                                             .layers = c.layers,
                                             .heads = c.heads,
                                             .key_value_heads = c.heads,
                                             .head_size = c.head_size(),
                                             .intermediate = c.intermediate,
                                             .tied = c.tied});
    if (name == "7b") model.rank = 256;
    return model;
  }
  throw std::invalid_argument("preset '" + name + "' is none of examples/llama");
}

/// Without everything but the matrices in attention and MLP, which is what tables of papers tend to count.
inline Model matrices_of(const Model& whole) {
  Model model;
  model.name = whole.name + ", matrices alone";
  model.rank = whole.rank;
  for (const Tensor& t : whole.tensors)
    if (t.role == Role::matrix) model.add(t);
  model.notes = whole.notes;
  return model;
}

}  // namespace plan
