// SPDX-License-Identifier: Apache-2.0
// The tensors of a model, as an optimizer is given them.
#pragma once

#include <ostream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <apollo/apollo.hpp>

namespace bench {

using apollo::Index;
using apollo::Shape;

/// A decoder with rotary attention and SwiGLU: per layer four square matrices, two of ffn x hidden, one of hidden x ffn and two
/// norms; around the layers an embedding, a last norm and a head, unless `vocabulary` is 0.
struct Llama {
  std::string_view name;
  Index hidden, ffn, layers, heads, vocabulary;
};

/// Of LLaMA-1B 6 of its 24 layers, of LLaMA-7B one alone: with the roofline's copy, they would need more memory than 24 GB.
inline constexpr Llama llamas[] = {
    {"small", 128, 344, 5, 4, 256},          // 1 million parameters in 48 tensors
    {"60m", 512, 1376, 8, 8, 32000},         //
    {"130m", 768, 2048, 12, 12, 32000},      //
    {"350m", 1024, 2736, 24, 16, 32000},     //
    {"1b_6of24", 2048, 5461, 6, 32, 32000},  //
    {"7b_1of32", 4096, 11008, 1, 32, 0},     //
};

/// What a device with a memory of its own may hold: a benchmark there takes as many of their layers as fit.
inline constexpr Llama device_llamas[] = {
    {"tiny", 32, 80, 3, 2, 64},          // 38 thousand parameters, for the emulated device
    {"1b", 2048, 5461, 24, 32, 32000},   //
    {"7b", 4096, 11008, 32, 32, 32000},  //
};

/// Copies of one matrix, for the cost of a step against its size. About 45 million parameters each, so that a step
/// finds all of them in memory and not in a cache.
struct Copies {
  std::string_view name;
  Shape shape;
  Index copies;
};

inline constexpr Copies growth[] = {
    {"matrix_1024x2736", {1024, 2736}, 16},
    {"matrix_2048x5461", {2048, 5461}, 4},
    {"matrix_4096x11008", {4096, 11008}, 1},
};
inline constexpr Index growth_rank = 256;

struct Tensor {
  std::string name;
  Shape shape;
  bool low_rank = false;  ///< in attention or MLP: what the low-rank optimizers are for
  bool by_heads = false;  ///< queries and keys, whose blocks are heads (Adam-mini)
  Index size() const { return shape.rows * shape.cols; }

  /// What a step moves of weights and gradients where caches keep nothing between two reads: weights in and out, gradients as
  /// often as the member has to read them.
  Index step_bytes(int gradient_reads, Index value_bytes) const { return (gradient_reads + 2) * size() * value_bytes; }
};

/// The whole model, or only those of its tensors that are stepped in low rank.
enum class Scope { whole, matrices };

inline const char* name_of(Scope scope) { return scope == Scope::whole ? "whole" : "matrices"; }

struct List {
  std::string name;
  Scope scope = Scope::whole;
  Index hidden = 0;
  Index head_size = 0;
  Index rank = 0;           ///< unless another one is asked for
  bool one_matrix = false;  ///< copies of one, the same in both scopes
  std::vector<Tensor> tensors;

  Index parameters() const {
    Index sum = 0;
    for (const Tensor& tensor : tensors) sum += tensor.size();
    return sum;
  }
};

/// The list of a model of `layers` layers; the model's own number where that is 0.
inline List make_list(const Llama& m, Scope scope, Index layers = 0) {
  std::vector<Tensor> all;
  if (m.vocabulary > 0) all.push_back({"embedding", {m.vocabulary, m.hidden}});
  for (Index i = 0; i < (layers > 0 ? layers : m.layers); ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    for (const char* square : {"q", "k"}) all.push_back({layer + square, {m.hidden, m.hidden}, true, true});
    for (const char* square : {"v", "o"}) all.push_back({layer + square, {m.hidden, m.hidden}, true});
    for (const char* wide : {"gate", "up"}) all.push_back({layer + wide, {m.ffn, m.hidden}, true});
    all.push_back({layer + "down", {m.hidden, m.ffn}, true});
    for (const char* norm : {"attention_norm", "mlp_norm"}) all.push_back({layer + norm, {1, m.hidden}});
  }
  if (m.vocabulary > 0) {
    all.push_back({"norm", {1, m.hidden}});
    all.push_back({"head", {m.vocabulary, m.hidden}});
  }
  List list{std::string(m.name), scope, m.hidden, m.hidden / m.heads, m.hidden / 4, false, {}};
  for (Tensor& tensor : all)
    if (scope == Scope::whole || tensor.low_rank) list.tensors.push_back(std::move(tensor));
  return list;
}

inline List make_list(std::string_view name, Scope scope) {
  for (const Llama& m : llamas)
    if (m.name == name) return make_list(m, scope);
  for (const Copies& c : growth) {
    if (c.name != name) continue;
    List list{std::string(name), scope, 0, 0, growth_rank, true, {}};
    for (Index i = 0; i < c.copies; ++i) list.tensors.push_back({"matrix." + std::to_string(i), c.shape, true});
    return list;
  }
  std::string names;
  for (const Llama& m : llamas) names += " " + std::string(m.name);
  for (const Copies& c : growth) names += " " + std::string(c.name);
  throw std::invalid_argument("list '" + std::string(name) + "' is none of" + names);
}

inline Index rank_of(const List& list, Index asked) { return asked > 0 ? asked : list.rank; }

/// For programs that step the same: a line NAME ROWS COLS RANK for each tensor, rank 0 for those that are stepped densely.
inline void print_tensors(std::ostream& out, const List& list, Index asked_rank) {
  for (const Tensor& tensor : list.tensors)
    out << tensor.name << ' ' << tensor.shape.rows << ' ' << tensor.shape.cols << ' '
        << (tensor.low_rank ? rank_of(list, asked_rank) : 0) << '\n';
}

}  // namespace bench
