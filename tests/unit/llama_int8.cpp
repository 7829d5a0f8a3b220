// SPDX-License-Identifier: Apache-2.0
// The LLaMA example's model with int8 weights: what it computes is what a model of floats computes from the dequantised ones,
// to the bit, and its files hold codes and ranges.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "llama/weights.hpp"
#include "support.hpp"

namespace {

using llama::Activations;
using llama::Batch;
using llama::Config;
using llama::Gradients;
using llama::Index;
using llama::Kind;
using llama::Llama;
using llama::Parameter;
using llama::WeightType;
using support::mentions;
using support::refusal;

/// Rows below 256 values, odd ones, and rows above with a last group that is not whole.
std::vector<Config> configs() {
  std::vector<Config> all;
  for (const bool tied : {false, true}) {
    all.push_back({.vocabulary = 300, .hidden = 12, .layers = 3, .heads = 3, .intermediate = 11, .tied = tied});
    all.push_back({.vocabulary = 256, .hidden = 96, .layers = 1, .heads = 3, .intermediate = 261, .tied = tied});
    all.push_back({.vocabulary = 256, .hidden = 264, .layers = 2, .heads = 4, .intermediate = 43, .tied = tied});
  }
  return all;
}

Batch random_batch(const Config& c, Index sequences, Index length) {
  Batch batch{sequences, length, {}, {}};
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(2 * batch.size()); ++i) {
    std::vector<int>& drawn = i % 2 == 0 ? batch.tokens : batch.targets;
    drawn.push_back(static_cast<int>(support::mix(i + 1) % static_cast<std::uint64_t>(c.vocabulary)));
  }
  return batch;
}

Llama<float> int8_model(const Config& config, int threads = 1, Gradients gradients = Gradients::whole,
                        Activations activations = Activations::kept) {
  return {config, 7, threads, gradients, WeightType::int8, activations};
}

/// A model of floats with the same weights.
Llama<float> opened(const Llama<float>& model) {
  Llama<float> floats(model.config(), 1);
  for (const Parameter& p : model.parameters()) {
    auto weight = floats.weight(p);
    if (model.is_int8(p))
      model.int8_weight(p).dequantize(0, p.rows, weight.data());
    else
      weight = model.weight(p);
  }
  return floats;
}

using Values = std::vector<std::vector<float>>;  // of every parameter

/// Larger weights than the initial ones, so that every part of the model matters to the loss.
Values draw_weights(const Config& config) {
  Values all;
  for (const Parameter& p : llama::parameters_of(config)) {
    all.emplace_back();
    for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(p.size()); ++i)
      all.back().push_back((p.kind == Kind::norm ? 1.0f : 0.0f) +
                           static_cast<float>(0.2 * support::uniform(apollo::tensor_id(p.name), 0, i)));
  }
  return all;
}
void set_weights(Llama<float>& model, const Values& values) {
  for (const Parameter& p : model.parameters()) {
    const std::vector<float>& from = values[p.number];
    if (model.is_int8(p))
      model.int8_weight(p).quantize(0, p.rows, from.data());
    else
      std::copy(from.begin(), from.end(), model.weight(p).data());
  }
}

template <class View>
std::vector<float> copy_of(const View& from) {
  return {from.data(), from.data() + from.size()};
}
Values gradients_of(Llama<float>& model) {
  Values all;
  for (const Parameter& p : model.parameters()) all.push_back(copy_of(model.gradient(p)));
  return all;
}
bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}
void check_same_bits(const Values& a, const Values& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < b.size(); ++i) CHECK_MESSAGE(same_bits(a[i], b[i]), "parameter ", i);
}
bool same_weights(const Llama<float>& a, const Llama<float>& b) {
  return std::all_of(a.parameters().begin(), a.parameters().end(), [&](const Parameter& p) {
    if (!a.is_int8(p)) return a.weight(p) == b.weight(p);
    const auto &first = a.int8_weight(p).ranges(), &second = b.int8_weight(p).ranges();
    return a.int8_weight(p).codes() == b.int8_weight(p).codes() && first.size() == second.size() &&
           std::memcmp(first.data(), second.data(), first.size() * sizeof first[0]) == 0;
  });
}

}  // namespace

TEST_CASE("initial int8 weights are those of the model of floats, to half a scale") {
  for (const Config& config : configs()) {
    CAPTURE(config.hidden);
    const Llama<float> exact(config, 7);
    const Llama<float> model = int8_model(config);
    const Llama<float> rounded = opened(model);
    for (const Parameter& p : model.parameters()) {
      CAPTURE(p.name);
      CHECK(model.is_int8(p) == (p.kind != Kind::norm));
      if (!model.is_int8(p)) {
        CHECK(model.weight(p) == exact.weight(p));
        continue;
      }
      const auto& ranges = model.int8_weight(p).ranges();
      const float scale = std::max_element(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) {
                            return a.scale < b.scale;
                          })->scale;
      CHECK((rounded.weight(p) - exact.weight(p)).cwiseAbs().maxCoeff() <= 0.501f * scale);
      CHECK((rounded.weight(p) - exact.weight(p)).norm() < 0.01f * exact.weight(p).norm());
    }
    CHECK(same_weights(int8_model(config, 2), model));
  }
}

TEST_CASE("int8 weights take a byte a value, and 8 a group") {
  for (const Config& config : configs()) {
    const Llama<float> model = int8_model(config);
    Index bytes = 0;
    for (const Parameter& p : model.parameters())
      bytes += model.is_int8(p) ? model.int8_weight(p).bytes() : 4 * p.size();
    CHECK(llama::weight_bytes(config, WeightType::int8) == bytes);
    CHECK(llama::weight_bytes(config, WeightType::fp32) == 4 * llama::parameter_count(config));
  }
  const Config& largest = llama::presets()[5].config;
  CHECK(static_cast<double>(llama::weight_bytes(largest, WeightType::int8)) / (1 << 30) < 6.7);
}

TEST_CASE("loss, gradients and logits are those of the dequantised weights, to the bit") {
  for (const Config& config : configs()) {
    INFO("hidden ", config.hidden, ", tied ", config.tied);
    const Batch batch = random_batch(config, 2, 37);
    const Values weights = draw_weights(config);
    Llama<float> model = int8_model(config);
    set_weights(model, weights);
    Llama<float> floats = opened(model);
    const double loss = floats.loss_and_gradients(batch);
    const Values expected = gradients_of(floats);
    CHECK(model.loss(batch) == floats.loss(batch));
    CHECK(model.next(batch.tokens) == floats.next(batch.tokens));

    for (const int threads : {1, 2})
      for (const Gradients mode : {Gradients::whole, Gradients::one_unit})
        for (const Activations activations : {Activations::kept, Activations::recomputed}) {
          INFO("threads ", threads, ", mode ", static_cast<int>(mode), static_cast<int>(activations));
          Llama<float> other = int8_model(config, threads, mode, activations);
          for (int round = 0; round < 2; ++round) {  // the second finds what the first left in memory
            set_weights(other, weights);
            Values seen(expected.size());
            CHECK(loss == other.loss_and_gradients(batch, 1, false, [&](std::size_t unit) {
              for (const Parameter& p : other.parameters()) {
                if (p.unit != unit) continue;
                seen[p.number] = copy_of(other.gradient(p));
                other.gradient(p).setConstant(NAN);
                if (other.is_int8(p))  // as if it had been stepped, only worse
                  other.int8_weight(p).ranges().assign(other.int8_weight(p).ranges().size(), {NAN, NAN});
                else
                  other.weight(p).setConstant(NAN);
              }
            }));
            check_same_bits(seen, expected);
          }
        }
    model.loss_and_gradients(batch, 0.5);
    model.loss_and_gradients(batch, 0.5, true);
    const Values halves = gradients_of(model);
    double worst = 0;
    for (std::size_t i = 0; i < expected.size(); ++i)
      for (std::size_t k = 0; k < expected[i].size(); ++k)
        support::raise(worst, std::abs(halves[i][k] - expected[i][k]));
    CHECK(worst <= 1e-5);
  }
}

TEST_CASE("activations computed once more give the same bits, with float weights too") {
  const Config config{.vocabulary = 300, .hidden = 24, .layers = 3, .heads = 2, .intermediate = 50};
  const Batch batch = random_batch(config, 3, 70);
  Llama<float> kept(config, 3, 2),
      recomputed(config, 3, 2, Gradients::whole, WeightType::fp32, Activations::recomputed);
  for (int round = 0; round < 2; ++round) {
    CHECK(kept.loss_and_gradients(batch) == recomputed.loss_and_gradients(batch));
    check_same_bits(gradients_of(recomputed), gradients_of(kept));
  }
}

TEST_CASE("files hold codes and ranges, and read back the same") {
  const std::string path = "llama_int8.safetensors";
  for (const Config& config : configs()) {
    INFO("hidden ", config.hidden, ", tied ", config.tied);
    Llama<float> model = int8_model(config), other(config, 8, 1, Gradients::whole, WeightType::int8);
    set_weights(model, draw_weights(config));
    llama::save_weights(model, path);
    {
      const apollo::InputFile file(path);
      const auto header = llama::read_header(file);
      CHECK(file.size() ==
            header.data_offset + static_cast<std::uint64_t>(llama::weight_bytes(config, WeightType::int8)));
      for (const Parameter& p : model.parameters()) {
        CAPTURE(p.name);
        const apollo::safetensors::Tensor* weight = header.find(p.name);
        const apollo::safetensors::Tensor* ranges = header.find(p.name + ".ranges");
        REQUIRE(weight != nullptr);
        CHECK(weight->shape == llama::shape_of(p));
        CHECK((ranges != nullptr) == model.is_int8(p));
        if (ranges == nullptr) continue;
        CHECK(weight->type == apollo::safetensors::Type::U8);
        CHECK(ranges->type == apollo::safetensors::Type::F32);
        CHECK(ranges->shape == std::vector<Index>{static_cast<Index>(model.int8_weight(p).ranges().size()), 2});
      }
    }
    const std::uint8_t* codes = other.int8_weight(other.parameters()[0]).codes().data();
    llama::read_weights(other, path).assign(other);
    CHECK(same_weights(other, model));
    CHECK(other.int8_weight(other.parameters()[0]).codes().data() == codes);  // an optimizer holds the address
    std::filesystem::remove(path);
  }
}

TEST_CASE("files of another type of weights are refused by the tensor's name") {
  const std::string path = "llama_int8_other.safetensors";
  const Config config = configs().front();
  const Llama<float> floats(config, 1);
  const Llama<float> model = int8_model(config);
  llama::save_weights(floats, path);
  CHECK(mentions(refusal<std::runtime_error>([&] { llama::read_weights(model, path); }),
                 {path.c_str(), "model.embed_tokens.weight", "another type"}));
  llama::save_weights(model, path);
  CHECK(mentions(refusal<std::runtime_error>([&] { llama::read_weights(floats, path); }),
                 {path.c_str(), "model.embed_tokens.weight", "another type"}));

  std::string bytes;  // the ranges under another name
  {
    const apollo::InputFile file(path);
    bytes.resize(file.size());
    file.read(bytes.data(), bytes.size(), 0);
  }
  bytes.replace(bytes.find("embed_tokens.weight.ranges"), 26, "embed_tokens.weight.Ranges");
  apollo::AtomicFile file(path);
  file.write(bytes.data(), bytes.size());
  file.commit();
  CHECK(mentions(refusal<std::runtime_error>([&] { llama::read_weights(model, path); }),
                 {path.c_str(), "model.embed_tokens.weight.ranges", "is not in it"}));
  std::filesystem::remove(path);
}
