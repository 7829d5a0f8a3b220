// SPDX-License-Identifier: Apache-2.0
// Members of Llama: initial weights, forward and backward passes. Only what instantiates a Llama includes them: model.cpp does
// for floats, so that nothing else compiles Eigen's expressions once more.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <apollo/random/normal.hpp>
#include <apollo/tensor/int8.hpp>

#include "model.hpp"

namespace llama {

template <class Scalar>
Llama<Scalar>::Llama(const Config& config, std::uint64_t seed, int threads, Gradients gradients, WeightType weights,
                     Activations activations)
    : config_(config),
      threads_(threads),
      whole_(gradients == Gradients::whole),
      weight_type_(weights),
      parameters_(parameters_of(config)) {
  if (weights == WeightType::int8 && !std::is_same_v<Scalar, float>)
    throw std::logic_error("int8 weights are opened as floats, the model computes in another type");
  const std::size_t layers = static_cast<std::size_t>(config.layers), units = layers + 2;
  std::vector<std::size_t> sizes(units, 0), floats(units, 0);
  for (const Parameter& p : parameters_) {
    sizes[p.unit] += static_cast<std::size_t>(p.size());
    if (!is_int8(p)) floats[p.unit] += static_cast<std::size_t>(p.size());
  }
  for (const std::size_t size : floats) weights_.emplace_back(size);
  if (weights == WeightType::int8) {
    int8_.resize(parameters_.size());
    for (const Parameter& p : parameters_)
      if (is_int8(p)) int8_[p.number] = apollo::Int8Matrix(p.rows, p.cols, int8_group);
    const Index rows = std::max({3 * config.hidden, 2 * config.intermediate, config.vocabulary});
    opened_.resize(static_cast<std::size_t>(rows * config.hidden));
  }
  if (whole_) {
    for (const std::size_t size : sizes) gradients_.emplace_back(size);
  } else {
    // A tied embedding gets gradients at both ends of the backward pass, so its memory is its own.
    const std::size_t largest = *std::max_element(sizes.begin() + (config.tied ? 1 : 0), sizes.end());
    gradients_.emplace_back(largest);
    if (config.tied) gradients_.emplace_back(sizes[0]);
  }
  inputs_.resize(layers);
  activations_.resize(activations == Activations::kept ? layers : 1);
  initialise(seed);
}

template <class Scalar>
double Llama<Scalar>::loss(const Batch& batch) {
  check(batch.targets, "target", batch.size());
  forward(batch);
  return head(batch, 0, false) / static_cast<double>(batch.size());
}

template <class Scalar>
double Llama<Scalar>::loss_and_gradients(const Batch& batch, double factor, bool accumulate, const OnUnit& on_unit) {
  if (accumulate && !whole_)
    throw std::logic_error("gradients cannot be accumulated where only one layer's are in memory");
  check(batch.targets, "target", batch.size());
  forward(batch);
  const double sum = head(batch, static_cast<Scalar>(factor / static_cast<double>(batch.size())), accumulate);
  const std::size_t last = static_cast<std::size_t>(config_.layers) + 1;
  on_unit(last);
  for (std::size_t l = inputs_.size(); l-- > 0;) {
    // Where one layer's activations are in memory, they are the last layer's after the forward pass.
    if (activations_.size() == 1 && l + 1 < inputs_.size()) layer_forward(batch, l, nullptr);
    layer_backward(batch, l, accumulate);
    on_unit(l + 1);
  }
  embedding_backward(batch, accumulate);
  on_unit(0);
  return sum / static_cast<double>(batch.size());
}

template <class Scalar>
Vector<Scalar> Llama<Scalar>::next(std::span<const int> tokens) {
  Batch batch{1, static_cast<Index>(tokens.size()), {tokens.begin(), tokens.end()}, {}};
  forward(batch);
  return normed_.row(batch.size() - 1) * opened(head_number()).transpose();
}

template <class Scalar>
void Llama<Scalar>::initialise(std::uint64_t seed) {
  for (const Parameter& p : parameters_) {
    if (p.kind == Kind::norm) {
      weight(p).setOnes();
      continue;
    }
    const double deviation = p.residual ? 0.02 / std::sqrt(2.0 * static_cast<double>(config_.layers)) : 0.02;
    const apollo::RandomStream stream{.seed = seed ^ weights_seed, .tensor = apollo::tensor_id(p.name)};
    const auto draw = [&](Index first, Index rows) {
      std::vector<float> values(static_cast<std::size_t>(rows * p.cols));
      apollo::fill_normals(stream, static_cast<std::uint64_t>(first * p.cols), values.size(), values.data());
      if (is_int8(p)) {
        for (float& value : values) value = static_cast<float>(deviation * value);
        int8_[p.number].quantize(first, rows, values.data());
      } else {
        Scalar* to = weight(p).row(first).data();
        for (std::size_t i = 0; i < values.size(); ++i) to[i] = static_cast<Scalar>(deviation * values[i]);
      }
    };
    for_rows(threads_, p.rows, draw, int8_group);  // rows of whole groups, whatever their length
  }
}

template <class Scalar>
View<Scalar> Llama<Scalar>::opened(std::size_t number, std::size_t count) {
  const Index cols = parameters_[number].cols;
  Index rows = 0;
  for (std::size_t i = number; i < number + count; ++i) {
    const Parameter& p = parameters_[i];
    if (is_int8(p))
      for_rows(threads_, p.rows,
               [&](Index first, Index some) { dequantize(p, first, some, opened_.data() + (rows + first) * cols); });
    rows += p.rows;
  }
  const bool in_place = weight_type_ == WeightType::fp32;
  return llama::view(in_place ? weight(parameters_[number]).data() : opened_.data(), rows, cols);
}

template <class Scalar>
void Llama<Scalar>::check(const Batch& batch) {
  if (batch.size() == 0) throw std::invalid_argument("a batch of no tokens");
  check(batch.tokens, "token", batch.size());
}

template <class Scalar>
void Llama<Scalar>::check(const std::vector<int>& list, const char* what, Index size) {
  if (static_cast<Index>(list.size()) != size)
    throw std::invalid_argument("a batch has " + std::to_string(list.size()) + " " + what + "s, must have " +
                                std::to_string(size));
  for (const int token : list)
    if (token < 0 || token >= config_.vocabulary)
      throw std::invalid_argument(std::string(what) + " " + std::to_string(token) +
                                  " is not below the vocabulary's size " + std::to_string(config_.vocabulary));
}

template <class Scalar>
void Llama<Scalar>::forward(const Batch& batch) {
  check(batch);
  const Index tokens = batch.size();
  if (rotary_.positions() < batch.length) rotary_ = {batch.length, config_.head_size(), config_.rope_base};
  resize(tokens);
  const Parameter& embedding = parameters_[0];
  View<Scalar> x = llama::view(inputs_[0]);
  for_rows(threads_, tokens, [&](Index first, Index rows) {
    for (Index i = first; i < first + rows; ++i) {
      const Index token = batch.tokens[static_cast<std::size_t>(i)];
      if (is_int8(embedding))
        dequantize(embedding, token, 1, x.row(i).data());
      else
        x.row(i) = weight(embedding).row(token);
    }
  });
  for (std::size_t l = 0; l < inputs_.size(); ++l)
    layer_forward(batch, l, l + 1 < inputs_.size() ? &inputs_[l + 1] : &final_);
  View<Scalar> last = view(final_), normed = view(normed_);
  for_rows(threads_, tokens, [&](Index first, Index rows) {
    norm_forward(last, final_norm(), config_.norm_eps, normed, final_inverse_.data(), first, rows);
  });
}

template <class Scalar>
void Llama<Scalar>::resize(Index tokens) {
  const Index hidden = config_.hidden, wide = config_.intermediate;
  if (final_.rows() == tokens) return;
  for (Matrix<Scalar>& input : inputs_) input.resize(tokens, hidden);
  for (LayerActivations& a : activations_) {
    for (Matrix<Scalar>* m : {&a.attended, &a.middle}) m->resize(tokens, hidden);
    a.qkv.resize(tokens, 3 * hidden);
    a.gate_up.resize(tokens, 2 * wide);
    a.normaliser.resize(static_cast<std::size_t>(tokens * config_.heads));
    a.attention_inverse.resize(static_cast<std::size_t>(tokens));
    a.mlp_inverse.resize(static_cast<std::size_t>(tokens));
  }
  for (Matrix<Scalar>* m : {&final_, &normed_, &dx_, &dnormed_}) m->resize(tokens, hidden);
  final_inverse_.resize(static_cast<std::size_t>(tokens));
  dqkv_.resize(tokens, 3 * hidden);
  activated_.resize(tokens, wide);
  dactivated_.resize(tokens, wide);
  // Norms' gradients are summed block by block, in a fixed order.
  gain_sums_.resize((tokens + gain_block - 1) / gain_block, hidden);
}

template <class Scalar>
void Llama<Scalar>::layer_forward(const Batch& batch, std::size_t l, Matrix<Scalar>* output) {
  LayerActivations& a = activations(l);
  const Index tokens = batch.size(), hidden = config_.hidden, size = config_.head_size();
  View<Scalar> input = view(inputs_[l]), normed = view(normed_), qkv = view(a.qkv), middle = view(a.middle);
  View<Scalar> gate_up = view(a.gate_up), activated = view(activated_);
  const VectorView<Scalar> attention_norm = norm(number_of(l, part::attention_norm));
  const VectorView<Scalar> mlp_norm = norm(number_of(l, part::mlp_norm));
  Products<Scalar> products(threads_);

  for_rows(threads_, tokens, [&](Index first, Index rows) {
    norm_forward(input, attention_norm, config_.norm_eps, normed, a.attention_inverse.data(), first, rows);
  });
  products.forward(qkv, normed, opened(number_of(l, part::q), 3));
  products.run();
  turn(batch, a.qkv, Scalar(1));
  for_heads(batch, [&](Index s, Index h) {
    attention_forward<Scalar>(head_of(std::as_const(a.qkv), batch, s, h * size),
                              head_of(std::as_const(a.qkv), batch, s, hidden + h * size),
                              head_of(std::as_const(a.qkv), batch, s, 2 * hidden + h * size),
                              head_of(a.attended, batch, s, h * size), normaliser(a, batch, s, h));
  });
  products.forward(middle, view(a.attended), opened(number_of(l, part::output)));
  products.run();
  for_rows(threads_, tokens, [&](Index first, Index rows) {
    middle.middleRows(first, rows) += input.middleRows(first, rows);
    norm_forward(middle, mlp_norm, config_.norm_eps, normed, a.mlp_inverse.data(), first, rows);
  });
  products.forward(gate_up, normed, opened(number_of(l, part::gate), 2));
  products.run();
  if (output == nullptr) return;
  View<Scalar> out = view(*output);
  for_rows(threads_, tokens, [&](Index first, Index rows) { swiglu_forward(gate_up, activated, first, rows); });
  products.forward(out, activated, opened(number_of(l, part::down)));
  products.run();
  for_rows(threads_, tokens,
           [&](Index first, Index rows) { out.middleRows(first, rows) += middle.middleRows(first, rows); });
}

template <class Scalar>
void Llama<Scalar>::layer_backward(const Batch& batch, std::size_t l, bool accumulate) {
  LayerGradients<Scalar> d = layer_gradients(l);
  LayerActivations& a = activations(l);
  const Index tokens = batch.size(), hidden = config_.hidden, size = config_.head_size();
  View<Scalar> input = view(inputs_[l]), normed = view(normed_), middle = view(a.middle);
  View<Scalar> gate_up = view(a.gate_up), activated = view(activated_), attended = view(a.attended);
  View<Scalar> dx = view(dx_), dnormed = view(dnormed_), dactivated = view(dactivated_), dqkv = view(dqkv_);
  const VectorView<Scalar> attention_norm = norm(number_of(l, part::attention_norm));
  const VectorView<Scalar> mlp_norm = norm(number_of(l, part::mlp_norm));
  Products<Scalar> products(threads_);

  products.input(dactivated, dx, opened(number_of(l, part::down)), false);
  products.run();
  for_rows(threads_, tokens, [&](Index first, Index rows) {
    swiglu_backward(gate_up, activated, dactivated, first, rows);
    norm_forward<Scalar>(middle, mlp_norm, config_.norm_eps, normed, nullptr, first, rows);
  });
  products.weight(d.down, dx, activated, accumulate);
  products.weight(d.gate_up, gate_up, normed, accumulate);
  products.input(dnormed, gate_up, opened(number_of(l, part::gate), 2), false);
  products.run();
  norm_gradients(middle, mlp_norm, a.mlp_inverse, d.mlp_norm, accumulate);

  products.weight(d.output, dx, attended, accumulate);
  products.input(dnormed, dx, opened(number_of(l, part::output)), false);  // of the heads' outputs
  products.run();
  for_heads(batch, [&](Index s, Index h) {
    attention_backward<Scalar>(
        head_of(std::as_const(a.qkv), batch, s, h * size), head_of(std::as_const(a.qkv), batch, s, hidden + h * size),
        head_of(std::as_const(a.qkv), batch, s, 2 * hidden + h * size),
        head_of(std::as_const(a.attended), batch, s, h * size), normaliser(a, batch, s, h),
        head_of(std::as_const(dnormed_), batch, s, h * size), head_of(dqkv_, batch, s, h * size),
        head_of(dqkv_, batch, s, hidden + h * size), head_of(dqkv_, batch, s, 2 * hidden + h * size));
  });
  turn(batch, dqkv_, Scalar(-1));
  for_rows(threads_, tokens, [&](Index first, Index rows) {
    norm_forward<Scalar>(input, attention_norm, config_.norm_eps, normed, nullptr, first, rows);
  });
  products.weight(d.qkv, dqkv, normed, accumulate);
  products.input(dnormed, dqkv, opened(number_of(l, part::q), 3), false);
  products.run();
  norm_gradients(input, attention_norm, a.attention_inverse, d.attention_norm, accumulate);
}

template <class Scalar>
void Llama<Scalar>::turn(const Batch& batch, Matrix<Scalar>& qkv, Scalar direction) {
  for_rows(threads_, qkv.rows(), [&](Index first, Index rows) {
    for (Index i = first; i < first + rows; ++i)
      rotary_.turn(qkv.row(i).data(), 2 * config_.heads, i % batch.length, direction);
  });
}

template <class Scalar>
void Llama<Scalar>::norm_gradients(const View<Scalar>& x, const VectorView<Scalar>& gain,
                                   const std::vector<Scalar>& inverse, VectorView<Scalar> dgain, bool accumulate) {
  View<Scalar> dx = view(dx_);
  const View<Scalar> dnormed = view(dnormed_);
  for_rows(
      threads_, x.rows(),
      [&](Index first, Index rows) {
        VectorView<Scalar> sum(gain_sums_.row(first / gain_block).data(), x.cols());
        sum.setZero();
        norm_backward(x, gain, inverse.data(), dnormed, dx, sum, first, rows);
      },
      gain_block);
  if (!accumulate) dgain.setZero();
  for (Index block = 0; block < gain_sums_.rows(); ++block) dgain += gain_sums_.row(block);
}

template <class Scalar>
double Llama<Scalar>::head(const Batch& batch, Scalar factor, bool accumulate) {
  const View<Scalar> w = opened(head_number());
  const bool backward = factor != 0;
  const Index tokens = batch.size();
  const Index rows_at_once = std::min(tokens, std::max<Index>(64, (Index{1} << 22) / config_.vocabulary));
  logits_.resize(rows_at_once, config_.vocabulary);
  std::vector<double> losses(static_cast<std::size_t>((tokens + 63) / 64), 0);
  Products<Scalar> products(threads_);
  // The head's gradient lies behind the final norm's, or is the embedding's.
  Scalar* last_unit = gradients_of(weights_.size() - 1);
  const View<Scalar> dhead =
      llama::view(config_.tied ? gradients_of(0) : last_unit + config_.hidden, w.rows(), w.cols());
  for (Index start = 0; start < tokens; start += rows_at_once) {
    const Index rows = std::min(rows_at_once, tokens - start);
    View<Scalar> logits = llama::view(logits_.data(), rows, w.rows());
    const View<Scalar> normed = llama::view(normed_.row(start).data(), rows, w.cols());
    products.forward(logits, normed, w);
    products.run();
    for_rows(threads_, rows, [&](Index first, Index count) {
      losses[static_cast<std::size_t>((start + first) / 64)] +=
          cross_entropy(logits, batch.targets.data() + start, factor, first, count);
    });
    if (!backward) continue;
    products.weight(dhead, logits, normed, accumulate || start > 0);
    products.input(llama::view(dnormed_.row(start).data(), rows, w.cols()), logits, w, false);
    products.run();
  }
  if (backward) {
    dx_.setZero();
    norm_gradients(view(final_), final_norm(), final_inverse_, VectorView<Scalar>(last_unit, config_.hidden),
                   accumulate);
  }
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

template <class Scalar>
void Llama<Scalar>::embedding_backward(const Batch& batch, bool accumulate) {
  View<Scalar> d = llama::view(gradients_of(0), config_.vocabulary, config_.hidden);
  const bool keep = accumulate || config_.tied;  // the head has written there
  constexpr Index block = 64;
  for_tiles(threads_, (config_.hidden + block - 1) / block, [&](Index tile) {
    const Index first = tile * block, count = std::min(block, config_.hidden - first);
    if (!keep) d.middleCols(first, count).setZero();
    for (Index i = 0; i < batch.size(); ++i)
      d.row(batch.tokens[static_cast<std::size_t>(i)]).segment(first, count) += dx_.row(i).segment(first, count);
  });
}

}  // namespace llama
