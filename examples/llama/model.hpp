// SPDX-License-Identifier: Apache-2.0
// LLaMA, forward and backward written out. The model owns weights and gradients; an optimizer sees these very arrays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <type_traits>
#include <vector>

#include <apollo/tensor/int8.hpp>

#include "config.hpp"
#include "counted.hpp"
#include "layers.hpp"
#include "parallel.hpp"

namespace llama {

/// Sequences of equal length, one after the other, and the token that follows each.
struct Batch {
  Index sequences = 0, length = 0;
  std::vector<int> tokens, targets;  // sequences x length

  Index size() const { return sequences * length; }
};

/// Where gradients live: all of them, or those of one unit (a layer, the embedding, or the final norm with the head) at a time,
/// for optimizers that step inside the backward pass.
enum class Gradients : std::uint8_t { whole, one_unit };

/// What the backward pass finds of the forward pass: every layer's activations, or every layer's input, from which it computes
/// them once more, to the same bits. Source: Chen et al., arXiv:1604.06174.
enum class Activations : std::uint8_t { kept, recomputed };

/// Called with a unit whose gradients are complete.
using OnUnit = std::function<void(std::size_t)>;

/// State (Scalar float): 4 bytes a parameter for weights, or those of weight_bytes() and 4 for each value of the largest
/// matrices that one product takes; 4 bytes a parameter for gradients, or those of the largest unit; activations, about
/// layers * tokens * (6 hidden + 2 intermediate) values, or layers * tokens * hidden and those of one layer.
///
/// Most members are defined in passes.hpp, and Llama<float> is compiled once, in model.cpp.
template <class Scalar>
class Llama {
 public:
  Llama(const Config& config, std::uint64_t seed, int threads = 1, Gradients gradients = Gradients::whole,
        WeightType weights = WeightType::fp32, Activations activations = Activations::kept);

  const Config& config() const { return config_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }

  WeightType weight_type() const { return weight_type_; }
  /// Whether a parameter is an int8_weight(), else a weight().
  bool is_int8(const Parameter& p) const { return llama::is_int8(p, weight_type_); }
  View<Scalar> weight(const Parameter& p) {
    eigen_assert(!is_int8(p));
    return llama::view(weights_[p.unit].data() + p.offset, p.rows, p.cols);
  }
  ConstView<Scalar> weight(const Parameter& p) const {
    eigen_assert(!is_int8(p));
    return {weights_[p.unit].data() + p.offset, p.rows, p.cols, Eigen::OuterStride<>(p.cols)};
  }
  apollo::Int8Matrix& int8_weight(const Parameter& p) { return int8_[p.number]; }
  const apollo::Int8Matrix& int8_weight(const Parameter& p) const { return int8_[p.number]; }
  /// With Gradients::one_unit these are valid only while `on_unit` of their own unit runs.
  View<Scalar> gradient(const Parameter& p) { return llama::view(gradients_of(p.unit) + p.offset, p.rows, p.cols); }

  /// Mean of -log p(target) over the batch, nats a token. Forward only.
  double loss(const Batch& batch);

  /// Forward and backward. Gradients are those of factor * mean loss, added to what is there if `accumulate`. on_unit(unit) is
  /// called as soon as all gradients of a unit are complete, from the head down to the embedding; it may change the unit's weights.
  double loss_and_gradients(const Batch& batch, double factor, bool accumulate, const OnUnit& on_unit);
  double loss_and_gradients(const Batch& batch, double factor = 1, bool accumulate = false) {
    return loss_and_gradients(batch, factor, accumulate, [](std::size_t) {});
  }

  /// Logits of the token after the last one of `tokens`.
  Vector<Scalar> next(std::span<const int> tokens);

 private:
  /// What the backward pass needs of a layer, beside its input.
  struct LayerActivations {
    Matrix<Scalar> qkv;       // q and k turned
    Matrix<Scalar> attended;  // the heads' outputs
    Matrix<Scalar> middle;    // the residual stream between attention and SwiGLU
    Matrix<Scalar> gate_up;
    std::vector<Scalar> normaliser;                      // heads x tokens
    std::vector<Scalar> attention_inverse, mlp_inverse;  // of the norms
  };

  /// Every weight from its own random stream, by name: N(0, .02^2), smaller by sqrt(2 layers) where a product ends in the
  /// residual stream; norms are 1. Source: Radford et al., GPT-2 (2019), sec. 2.3.
  void initialise(std::uint64_t seed);

  Scalar* gradients_of(std::size_t unit) {
    if (whole_) return gradients_[unit].data();
    return gradients_[config_.tied && unit == 0 ? 1 : 0].data();
  }
  LayerGradients<Scalar> layer_gradients(std::size_t l) { return {config_, gradients_of(l + 1)}; }
  static std::size_t number_of(std::size_t l, std::size_t place) { return 1 + l * part::count + place; }
  std::size_t head_number() const { return config_.tied ? 0 : parameters_.size() - 1; }
  VectorView<Scalar> norm(std::size_t number) { return {weight(parameters_[number]).data(), config_.hidden}; }
  VectorView<Scalar> final_norm() { return norm(number_of(inputs_.size(), 0)); }

  /// Matrices that lie behind each other, as one. Those of int8 are dequantised into opened_, until the next call.
  View<Scalar> opened(std::size_t number, std::size_t count = 1);
  void dequantize(const Parameter& p, Index first, Index rows, Scalar* to) const {
    if constexpr (std::is_same_v<Scalar, float>) int8_[p.number].dequantize(first, rows, to);
  }

  void check(const Batch& batch);
  void check(const std::vector<int>& list, const char* what, Index size);

  /// From tokens to the final norm's output.
  void forward(const Batch& batch);
  void resize(Index tokens);

  /// One head of one sequence, of a matrix whose rows are tokens.
  ConstView<Scalar> head_of(const Matrix<Scalar>& m, const Batch& batch, Index sequence, Index column) const {
    return {&m(sequence * batch.length, column), batch.length, config_.head_size(), Eigen::OuterStride<>(m.cols())};
  }
  View<Scalar> head_of(Matrix<Scalar>& m, const Batch& batch, Index sequence, Index column) const {
    return {&m(sequence * batch.length, column), batch.length, config_.head_size(), Eigen::OuterStride<>(m.cols())};
  }
  /// Calls body(sequence, head) for all of them.
  template <class Body>
  void for_heads(const Batch& batch, Body&& body) const {
    for_tiles(threads_, batch.sequences * config_.heads,
              [&](Index tile) { body(tile / config_.heads, tile % config_.heads); });
  }

  LayerActivations& activations(std::size_t l) { return activations_[activations_.size() == 1 ? 0 : l]; }

  /// From inputs_[l] to the layer's activations, and to its output unless that is null.
  void layer_forward(const Batch& batch, std::size_t l, Matrix<Scalar>* output);

  /// Expects the gradient of the layer's output in dx_, leaves that of its input there.
  void layer_backward(const Batch& batch, std::size_t l, bool accumulate);

  Scalar* normaliser(LayerActivations& a, const Batch& batch, Index sequence, Index head) const {
    return a.normaliser.data() + (sequence * config_.heads + head) * batch.length;
  }

  /// Turns q and k of every token, or turns their gradients back.
  void turn(const Batch& batch, Matrix<Scalar>& qkv, Scalar direction);

  /// Adds to dx_ what flows through a norm, from dnormed_; writes the gradient of its gain.
  void norm_gradients(const View<Scalar>& x, const VectorView<Scalar>& gain, const std::vector<Scalar>& inverse,
                      VectorView<Scalar> dgain, bool accumulate);

  /// The sum of the losses; with a factor, also the gradients of the head and of the final norm, and dx_. Logits exist for
  /// `rows_at_once` tokens at a time.
  double head(const Batch& batch, Scalar factor, bool accumulate);

  /// Columns are shared out, so that each sum runs over the tokens in order.
  void embedding_backward(const Batch& batch, bool accumulate);

  static constexpr Index gain_block = 64;
  static constexpr std::uint64_t weights_seed = 0x6c6c616d61;  // an optimizer of the same seed draws other numbers

  Config config_;
  int threads_;
  bool whole_;
  WeightType weight_type_;
  std::vector<Parameter> parameters_;
  std::vector<Aligned<Scalar>> weights_;  // unit by unit, those that are floats
  std::vector<apollo::Int8Matrix> int8_;  // one a parameter, empty for norms; none where weights are floats
  Aligned<Scalar> opened_;                // for one product's int8 weights
  std::vector<std::vector<Scalar, CountedAllocator<Scalar>>> gradients_;

  Rotary<Scalar> rotary_;
  std::vector<Matrix<Scalar>> inputs_;                  // of the layers: the residual stream before each
  std::vector<LayerActivations> activations_;           // of every layer, or of one at a time
  Matrix<Scalar> final_, normed_, activated_, logits_;  // normed_ and activated_ serve one layer after another
  std::vector<Scalar> final_inverse_;
  Matrix<Scalar> dx_, dnormed_, dqkv_, dactivated_, gain_sums_;
};

extern template class Llama<float>;

}  // namespace llama
