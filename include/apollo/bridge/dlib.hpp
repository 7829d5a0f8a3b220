// SPDX-License-Identifier: Apache-2.0
// dlib: a solver for dlib::dnn_trainer that steps each layer by members of this family.
#pragma once

#include <dlib/dnn.h>

#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include <apollo/apollo.hpp>
#include <apollo/bridge/flat.hpp>

namespace apollo {

/// Weights of fully connected layers (inputs x outputs) and of convolutions (filters x rest) are stepped by the member that
/// `Matrices` stands for, biases and all other layers' parameters by that of `Others`. The learning rate is the trainer's: it
/// is that of the matrices, and the options' lr only say how much of it the others take. Layers' own multipliers of learning
/// rates and weight decay are heeded, those for biases by `Others`; those of decay as they are in the first step.
///
/// State: the members', and, since dlib asks for the step itself and not for stepped parameters, one tensor of the layer's
/// size, which is no part of a checkpoint. dlib names no layer, so identities are made of a layer's first parameters.
/// Errors: those of BasicOptimizer; matrices.lr = 0.
template <class Matrices = ApolloOptions, class Others = AdamWOptions, class Backend = Reference>
class DlibSolver {
 public:
  explicit DlibSolver(const Matrices& matrices = {}, const Others& others = {}, const Backend& backend = Backend())
      : matrices_(matrices), others_(others), backend_(backend) {
    Check{{}}.above("the matrices' lr", matrices.lr, 0);
  }
  /// A copy goes on from the same state, which it takes over in its first step.
  DlibSolver(const DlibSolver& other)
      : matrices_(other.matrices_),
        others_(other.others_),
        backend_(other.backend_),
        key_(other.key_),
        waiting_(other.bytes()) {}
  DlibSolver(DlibSolver&&) = default;
  DlibSolver& operator=(const DlibSolver& other) { return *this = DlibSolver(other); }
  DlibSolver& operator=(DlibSolver&&) = default;

  /// What is to be added to the layer's parameters. Zero where a gradient is not finite.
  template <class Layer>
  const dlib::tensor& operator()(const float learning_rate, const Layer& layer, const dlib::tensor& gradient) {
    const dlib::tensor& parameters = layer.get_layer_params();
    const auto size = static_cast<Index>(parameters.size());
    const float* from = parameters.host();
    step_ = parameters;
    float* to = step_.host();
    if (state_ == nullptr) start(layer, layout_of(layer, size), from, to, gradient.host());
    State& state = *state_;
    const double lr = learning_rate * dlib::get_learning_rate_multiplier(layer);
    state.optimizer.set_lr(state.matrices, lr);
    state.optimizer.set_lr(state.others,
                           lr * others_.lr / matrices_.lr * dlib::get_bias_learning_rate_multiplier(layer));
    flat::rebind(state.optimizer, state.layout, to, gradient.host());
    state.optimizer.step();
    for (Index i = 0; i < size; ++i) to[i] -= from[i];
    return step_;
  }

  /// Bytes of the moments and bases of this layer; 0 before its first step.
  Index state_bytes() const { return state_ == nullptr ? 0 : state_->optimizer.state_bytes(); }

  friend void serialize(const DlibSolver& item, std::ostream& out) {
    dlib::serialize("apollo_1", out);
    dlib::serialize(item.key_, out);
    const std::vector<std::byte> bytes = item.bytes();
    dlib::serialize(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), out);
  }
  /// The state is compared with the layer and taken over in the next step. Options are code, and stay as they are.
  friend void deserialize(DlibSolver& item, std::istream& in) {
    std::string version, key, bytes;
    dlib::deserialize(version, in);
    if (version != "apollo_1")
      throw dlib::serialization_error("Unexpected version found while deserializing apollo::DlibSolver.");
    dlib::deserialize(key, in);
    dlib::deserialize(bytes, in);
    const auto* first = reinterpret_cast<const std::byte*>(bytes.data());
    item.state_.reset();
    item.key_ = key;
    item.waiting_.assign(first, first + bytes.size());
  }
  friend std::ostream& operator<<(std::ostream& out, const DlibSolver& item) {
    return out << "apollo: others' learning rate = " << item.others_.lr / item.matrices_.lr
               << ", state = " << item.state_bytes() << " bytes";
  }

 private:
  template <class Options>
  using PoliciesOf = typename MemberOf<Options>::type::Policies;

  struct State {
    BasicOptimizer<Backend> optimizer;
    Group<PoliciesOf<Matrices>> matrices;
    Group<PoliciesOf<Others>> others;
    flat::Layout layout;
  };

  std::vector<std::byte> bytes() const { return state_ == nullptr ? waiting_ : save_bytes(state_->optimizer); }

  // Where a layer's parameters lie, by its type. `bias` of them come last.
  static flat::Layout matrix_and_bias(Index rows, Index cols, Index bias) {
    flat::Layout layout;
    layout.matrix("weight", rows, cols);
    if (bias > 0) layout.vector("bias", bias);
    return layout;
  }
  template <class Layer>
  static flat::Layout layout_of(const Layer&, Index size) {
    return flat::Layout().vector("parameters", size);
  }
  template <unsigned long outputs, dlib::fc_bias_mode mode>
  static flat::Layout layout_of(const dlib::fc_<outputs, mode>& layer, Index size) {
    const auto cols = static_cast<Index>(layer.get_num_outputs());
    const Index bias = mode == dlib::FC_HAS_BIAS && !layer.bias_is_disabled() ? cols : 0;
    return matrix_and_bias((size - bias) / cols, cols, bias);
  }
  template <long filters, long nr, long nc, int... geometry>
  static flat::Layout layout_of(const dlib::con_<filters, nr, nc, geometry...>& layer, Index size) {
    const Index rows = layer.num_filters();
    const Index bias = layer.bias_is_disabled() ? 0 : rows;
    return matrix_and_bias(rows, (size - bias) / rows, bias);
  }
  template <long filters, long nr, long nc, int... geometry>
  static flat::Layout layout_of(const dlib::cont_<filters, nr, nc, geometry...>& layer, Index size) {
    const Index cols = layer.num_filters() * nr * nc;
    const Index bias = layer.bias_is_disabled() ? 0 : layer.num_filters();
    return matrix_and_bias((size - bias) / cols, cols, bias);
  }

  template <class Layer>
  void start(const Layer& layer, const flat::Layout& shapes, const float* parameters, float* weights,
             const float* gradients) {
    if (key_.empty()) {
      const std::string_view memory(reinterpret_cast<const char*>(parameters),
                                    static_cast<std::size_t>(shapes.size()) * sizeof(float));
      key_ = std::to_string(tensor_id(memory));
    }
    std::vector<flat::Entry> entries = shapes.entries();
    for (flat::Entry& entry : entries) entry.name = key_ + "." + entry.name;
    Matrices matrices = matrices_;
    Others others = others_;
    const double decay = dlib::get_weight_decay_multiplier(layer);
    const double bias_decay = decay * dlib::get_bias_weight_decay_multiplier(layer);
    matrices.weight_decay = decay * matrices.settings().weight_decay;
    others.weight_decay = bias_decay * others.settings().weight_decay;

    std::unique_ptr<State> state(new State{BasicOptimizer<Backend>(backend_), {}, {}, flat::Layout(entries)});
    state->matrices = state->optimizer.add_group(matrices);
    state->others = state->optimizer.add_group(others);
    flat::add(state->optimizer, state->matrices, state->others, state->layout, weights, gradients);
    if (!waiting_.empty()) load_bytes(state->optimizer, waiting_, "a dlib solver's state");
    waiting_.clear();
    state_ = std::move(state);
  }

  Matrices matrices_;
  Others others_;
  Backend backend_;
  std::string key_;  ///< of the layer; empty before its first step
  std::vector<std::byte> waiting_;
  std::unique_ptr<State> state_;
  dlib::resizable_tensor step_;
};

}  // namespace apollo
