// SPDX-License-Identifier: Apache-2.0
// Shapes of LLaMA models and the list of a model's parameters, named as in Hugging Face's checkpoints.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include <apollo/tensor/blocks.hpp>

#include "parallel.hpp"

namespace llama {

/// The shape of a model. Source: Touvron et al., arXiv:2302.13971.
struct Config {
  Index vocabulary = 256;
  Index hidden = 128;
  Index layers = 4;
  Index heads = 4;
  Index intermediate = 344;  ///< width of SwiGLU, about 8/3 of hidden
  bool tied = false;         ///< the head is the embedding
  double rope_base = 1e4;
  double norm_eps = 1e-6;

  Index head_size() const { return hidden / heads; }
};

struct Preset {
  const char* name;
  Config config;
};

/// nano is ours, for a CPU; the others are the shapes of the papers (GaLore, arXiv:2403.03507, appendix C; APOLLO,
/// arXiv:2412.05270, appendix), with their vocabulary of 32000, of which byte tokens use 256.
inline const std::vector<Preset>& presets() {
  static const std::vector<Preset> list{
      {"nano", {}},
      {"60m", {.vocabulary = 32000, .hidden = 512, .layers = 8, .heads = 8, .intermediate = 1376}},
      {"130m", {.vocabulary = 32000, .hidden = 768, .layers = 12, .heads = 12, .intermediate = 2048}},
      {"350m", {.vocabulary = 32000, .hidden = 1024, .layers = 24, .heads = 16, .intermediate = 2736}},
      {"1b", {.vocabulary = 32000, .hidden = 2048, .layers = 24, .heads = 32, .intermediate = 5461}},
      {"7b", {.vocabulary = 32000, .hidden = 4096, .layers = 32, .heads = 32, .intermediate = 11008}},
      {"13b", {.vocabulary = 32000, .hidden = 5120, .layers = 40, .heads = 40, .intermediate = 13824}},
  };
  return list;
}

/// The preset's name, and what was changed of it.
inline std::string model_name(const std::string& preset, const Config& c) {
  Config base;
  for (const Preset& p : presets())
    if (preset == p.name) base = p.config;
  std::string changes;
  const auto note = [&](const char* name, Index value, Index before) {
    if (value != before)
      changes += (changes.empty() ? " with " : ", ") + std::string(name) + " " + std::to_string(value);
  };
  note("vocabulary", c.vocabulary, base.vocabulary);
  note("hidden", c.hidden, base.hidden);
  note("layers", c.layers, base.layers);
  note("heads", c.heads, base.heads);
  note("intermediate", c.intermediate, base.intermediate);
  if (c.tied != base.tied) changes += (changes.empty() ? " with " : ", ") + std::string("a tied head");
  return preset + changes;
}

/// What a parameter is to the optimizer: `matrix` are the attention's and SwiGLU's, which projections apply to.
enum class Kind : std::uint8_t { embedding, norm, matrix, head };

struct Parameter {
  std::string name;
  Kind kind = Kind::matrix;
  Index rows = 0, cols = 0;
  std::size_t unit = 0;    ///< 0 is the embedding, 1 + l layer l, the last the final norm and the head
  Index offset = 0;        ///< of its first element in the unit
  std::size_t number = 0;  ///< in the list
  bool residual = false;   ///< a projection back into the residual stream
  bool by_head = false;    ///< rows come in heads whose gradients differ in size: queries and keys
  Index size() const { return rows * cols; }
};

inline void check(const Config& c) {
  const auto at_least = [](const char* name, Index value, Index bound) {
    if (value < bound)
      throw std::invalid_argument(std::string("model: ") + name + " = " + std::to_string(value) + " must be at least " +
                                  std::to_string(bound));
  };
  at_least("vocabulary", c.vocabulary, 256);
  at_least("hidden", c.hidden, 2);
  at_least("layers", c.layers, 1);
  at_least("heads", c.heads, 1);
  at_least("intermediate", c.intermediate, 1);
  if (c.hidden % (2 * c.heads) != 0)
    throw std::invalid_argument("model: hidden = " + std::to_string(c.hidden) + " must be a multiple of 2 heads = " +
                                std::to_string(2 * c.heads) + ", since rotary embeddings turn pairs");
}

/// Places of a layer's parameters among its own. Norms come first, for they are all of a unit that is always kept in
/// floats. q, k, v follow each other, and so do gate and up: one product serves each row.
namespace part {
inline constexpr std::size_t attention_norm = 0, mlp_norm = 1, q = 2, output = 5, gate = 6, down = 8, count = 9;
}

/// Every parameter, unit by unit.
inline std::vector<Parameter> parameters_of(const Config& c) {
  check(c);
  std::vector<Parameter> list;
  Index offset = 0;
  std::size_t unit = 0;
  const auto add = [&](const std::string& name, Kind kind, Index rows, Index cols, bool residual = false) {
    list.push_back({name, kind, rows, cols, unit, offset, list.size(), residual, false});
    offset += rows * cols;
  };
  add("model.embed_tokens.weight", Kind::embedding, c.vocabulary, c.hidden);
  for (Index l = 0; l < c.layers; ++l) {
    ++unit, offset = 0;
    const std::string layer = "model.layers." + std::to_string(l) + ".";
    add(layer + "input_layernorm.weight", Kind::norm, 1, c.hidden);
    add(layer + "post_attention_layernorm.weight", Kind::norm, 1, c.hidden);
    for (const char* name : {"q", "k", "v"}) {
      add(layer + "self_attn." + name + "_proj.weight", Kind::matrix, c.hidden, c.hidden);
      list.back().by_head = *name != 'v';
    }
    add(layer + "self_attn.o_proj.weight", Kind::matrix, c.hidden, c.hidden, true);
    for (const char* name : {"gate", "up"})
      add(layer + "mlp." + name + "_proj.weight", Kind::matrix, c.intermediate, c.hidden);
    add(layer + "mlp.down_proj.weight", Kind::matrix, c.hidden, c.intermediate, true);
  }
  ++unit, offset = 0;
  add("model.norm.weight", Kind::norm, 1, c.hidden);
  if (!c.tied) add("lm_head.weight", Kind::head, c.vocabulary, c.hidden);
  return list;
}

inline Index parameter_count(const Config& c) {
  Index count = 0;
  for (const Parameter& p : parameters_of(c)) count += p.size();
  return count;
}

/// How a model keeps its weights. int8: matrices, embedding and head as apollo::Int8Matrix, norms as floats.
enum class WeightType : std::uint8_t { fp32, int8 };
inline constexpr Index int8_group = 128;  ///< values that share a minimum and a scale

inline const char* text_of(WeightType type) { return type == WeightType::int8 ? "int8" : "fp32"; }

inline bool is_int8(const Parameter& p, WeightType type) { return type == WeightType::int8 && p.kind != Kind::norm; }

/// Bytes of a model's weights; of int8 codes and of the 8 bytes for the range of each group.
inline Index weight_bytes(const Config& c, WeightType type) {
  Index bytes = 0;
  for (const Parameter& p : parameters_of(c))
    bytes +=
        is_int8(p, type) ? p.size() + 8 * apollo::BlockedLines::of(p.rows, p.cols).count(int8_group) : 4 * p.size();
  return bytes;
}

/// A layer's gradients, laid over the memory of its unit.
template <class Scalar>
struct LayerGradients {
  VectorView<Scalar> attention_norm, mlp_norm;
  View<Scalar> qkv;  // 3 hidden x hidden
  View<Scalar> output;
  View<Scalar> gate_up;  // 2 intermediate x hidden
  View<Scalar> down;     // hidden x intermediate

  LayerGradients(const Config& c, Scalar* at)
      : attention_norm(at, c.hidden),
        mlp_norm(at += c.hidden, c.hidden),
        qkv(view(at += c.hidden, 3 * c.hidden, c.hidden)),
        output(view(at += 3 * c.hidden * c.hidden, c.hidden, c.hidden)),
        gate_up(view(at += c.hidden * c.hidden, 2 * c.intermediate, c.hidden)),
        down(view(at += 2 * c.intermediate * c.hidden, c.hidden, c.intermediate)) {}
};

}  // namespace llama
