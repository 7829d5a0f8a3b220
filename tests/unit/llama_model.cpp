// SPDX-License-Identifier: Apache-2.0
// The LLaMA example's model: its loss against the published equations written out once more, its gradients against finite
// differences, and what the trainer counts on: causality, the same bits for any number of threads, units from last to first.
// also: optimised-sanitizers
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "llama/model.hpp"
#include "llama/passes.hpp"  // for Llama<double>
#include "support.hpp"

namespace {

using llama::Batch;
using llama::Config;
using llama::Gradients;
using llama::Index;
using llama::Kind;
using llama::Llama;
using llama::Parameter;
using support::mentions;
using support::refusal;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// Tokens and targets that do not depend on each other.
Batch random_batch(const Config& c, Index sequences, Index length, std::uint64_t seed = 1) {
  Batch batch{sequences, length, {}, {}};
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(2 * batch.size()); ++i) {
    std::vector<int>& drawn = i % 2 == 0 ? batch.tokens : batch.targets;
    drawn.push_back(static_cast<int>(support::mix(support::mix(seed) + i) % static_cast<std::uint64_t>(c.vocabulary)));
  }
  return batch;
}

/// Sequence `s` of a batch, alone.
Batch sequence_of(const Batch& batch, Index s) {
  const auto token = batch.tokens.begin() + s * batch.length, target = batch.targets.begin() + s * batch.length;
  return {1, batch.length, {token, token + batch.length}, {target, target + batch.length}};
}

/// Weights much larger than the initial ones, exact in float, so that every part of the model matters to the loss.
template <class Scalar>
void draw_weights(Llama<Scalar>& model) {
  for (const Parameter& p : model.parameters()) {
    Scalar* w = model.weight(p).data();
    for (Index i = 0; i < p.size(); ++i)
      w[i] = static_cast<Scalar>((p.kind == Kind::norm ? 1 : 0) +
                                 0.5 * support::uniform(apollo::tensor_id(p.name), 0, static_cast<std::uint64_t>(i)));
  }
}
template <class Scalar>
Llama<Scalar> drawn(const Config& config, int threads = 1) {
  Llama<Scalar> model(config, 1, threads);
  draw_weights(model);
  return model;
}

using Values = std::vector<support::Matrix>;  // of every parameter; floats as doubles, which loses no bit

template <class View>
support::Matrix copy_of(const View& from) {
  support::Matrix to(from.rows(), from.cols());
  std::copy(from.data(), from.data() + from.size(), to.values.begin());
  return to;
}
template <class Model>
Values gradients_of(Model& model) {
  Values all;
  for (const Parameter& p : model.parameters()) all.push_back(copy_of(model.gradient(p)));
  return all;
}

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}
void check_same_bits(const Values& a, const Values& b) {
  for (std::size_t i = 0; i < b.size(); ++i) CHECK_MESSAGE(same_bits(a[i].values, b[i].values), "parameter ", i);
}
/// The largest over the parameters, huge where there is a NaN.
double relative_error(const Values& a, const Values& b) {
  double worst = 0;
  for (std::size_t i = 0; i < b.size(); ++i) support::raise(worst, support::relative_error(a[i], b[i]));
  return worst;
}

// --- the equations, one number at a time --------------------------------------------------------------------------------

class Reference {
 public:
  using Row = std::vector<double>;
  using Rows = std::vector<Row>;

  explicit Reference(Llama<double>& model) : c_(model.config()) {
    for (const Parameter& p : model.parameters()) weights_[p.name] = copy_of(model.weight(p)).values;
  }

  /// Logits at every place of one sequence.
  Rows logits(const std::vector<int>& tokens) const {
    Rows x;
    for (const int token : tokens) {
      const auto row = weights_.at("model.embed_tokens.weight").begin() + token * c_.hidden;
      x.emplace_back(row, row + c_.hidden);
    }
    for (Index l = 0; l < c_.layers; ++l) layer("model.layers." + std::to_string(l) + ".", x);
    for (Row& row : x)
      row = times(c_.tied ? "model.embed_tokens.weight" : "lm_head.weight", norm("model.norm.weight", row));
    return x;
  }

  static double cross_entropy(const Row& logits, int target) {
    double sum = 0;  // of probabilities over the target's
    for (const double value : logits) sum += std::exp(value - logits[at(target)]);
    return std::log(sum);
  }

  double loss(const Batch& batch) const {
    double sum = 0;
    for (Index s = 0; s < batch.sequences; ++s) {
      const Rows all = logits(sequence_of(batch, s).tokens);
      for (Index t = 0; t < batch.length; ++t)
        sum += cross_entropy(all[at(t)], batch.targets[at(s * batch.length + t)]);
    }
    return sum / static_cast<double>(batch.size());
  }

 private:
  /// y + W x; y may be missing.
  Row times(const std::string& name, const Row& x, Row y = {}) const {
    const Row& w = weights_.at(name);
    y.resize(w.size() / x.size(), 0);
    for (std::size_t i = 0; i < y.size(); ++i)
      for (std::size_t j = 0; j < x.size(); ++j) y[i] += w[i * x.size() + j] * x[j];
    return y;
  }

  Row norm(const std::string& name, Row x) const {
    double squares = 0;
    for (const double value : x) squares += value * value;
    const double root = std::sqrt(squares / static_cast<double>(x.size()) + c_.norm_eps);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] *= weights_.at(name)[i] / root;
    return x;
  }

  /// Every pair (i, i + half) of every head, seen as a complex number, times exp(i angle).
  Row rotated(const Row& x, std::size_t position) const {
    const std::size_t size = at(c_.hidden / c_.heads), half = size / 2;
    Row y = x;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const std::size_t pair = i % size % half;
      const double angle = static_cast<double>(position) *
                           std::pow(c_.rope_base, -2 * static_cast<double>(pair) / static_cast<double>(size));
      const bool real = i % size < half;
      y[i] = real ? x[i] * std::cos(angle) - x[i + half] * std::sin(angle)
                  : x[i - half] * std::sin(angle) + x[i] * std::cos(angle);
    }
    return y;
  }

  /// For every head: softmax(q . k / sqrt(size)) over all places in k, times v.
  Row attended(const Row& q, const Rows& k, const Rows& v) const {
    const std::size_t size = at(c_.hidden / c_.heads);
    Row out(q.size(), 0);
    for (std::size_t first = 0; first < q.size(); first += size) {
      Row chance;
      double sum = 0;
      for (const Row& key : k) {
        double score = 0;
        for (std::size_t i = first; i < first + size; ++i) score += q[i] * key[i];
        chance.push_back(std::exp(score / std::sqrt(static_cast<double>(size))));
        sum += chance.back();
      }
      for (std::size_t i = first; i < first + size; ++i)
        for (std::size_t t = 0; t < k.size(); ++t) out[i] += chance[t] / sum * v[t][i];
    }
    return out;
  }

  void layer(const std::string& name, Rows& x) const {
    Rows k, v;  // of the places up to this one
    for (std::size_t t = 0; t < x.size(); ++t) {
      const Row normed = norm(name + "input_layernorm.weight", x[t]);
      k.push_back(rotated(times(name + "self_attn.k_proj.weight", normed), t));
      v.push_back(times(name + "self_attn.v_proj.weight", normed));
      const Row q = rotated(times(name + "self_attn.q_proj.weight", normed), t);
      x[t] = times(name + "self_attn.o_proj.weight", attended(q, k, v), x[t]);
    }
    for (Row& row : x) {
      const Row normed = norm(name + "post_attention_layernorm.weight", row);
      const Row gate = times(name + "mlp.gate_proj.weight", normed);
      Row wide = times(name + "mlp.up_proj.weight", normed);
      for (std::size_t i = 0; i < wide.size(); ++i) wide[i] *= gate[i] / (1 + std::exp(-gate[i]));
      row = times(name + "mlp.down_proj.weight", wide, row);
    }
  }

  Config c_;
  std::map<std::string, Row> weights_;
};

constexpr Index sequences = 2, length = 37;  // several blocks of rows and of attention, no whole number of either
Config small(bool tied) {
  return {.vocabulary = 256, .hidden = 8, .layers = 2, .heads = 2, .intermediate = 11, .tied = tied};
}

}  // namespace

TEST_CASE("the loss and the logits are those of the published equations") {
  struct Shape {
    Config config;
    Index sequences, length;
  };
  const Config narrow{.vocabulary = 300, .hidden = 12, .layers = 3, .heads = 3, .intermediate = 5};
  const Config wide{.hidden = 12, .layers = 1, .heads = 1, .intermediate = 300, .rope_base = 50, .norm_eps = 0.3};
  for (const Shape& shape : {Shape{small(false), sequences, length}, Shape{small(true), sequences, length},
                             Shape{narrow, 1, 1}, Shape{wide, 3, 65}}) {
    CAPTURE(shape.length);
    const Batch batch = random_batch(shape.config, shape.sequences, shape.length);
    auto model = drawn<double>(shape.config, 2);
    const Reference reference(model);
    const double expected = reference.loss(batch);
    CHECK(std::abs(model.loss(batch) - expected) <= 1e-12 * expected);
    CHECK(std::abs(model.loss_and_gradients(batch) - expected) <= 1e-12 * expected);

    const Batch last = sequence_of(batch, shape.sequences - 1);
    support::Matrix logits = copy_of(model.next(last.tokens)), wanted = logits;
    wanted.values = reference.logits(last.tokens).back();
    CHECK(support::relative_error(logits, wanted) <= 1e-12);
    CHECK(std::abs(drawn<float>(shape.config).loss(batch) - expected) <= 1e-5 * expected);
  }
}

TEST_CASE("every gradient agrees with central differences, on one thread and on two") {
  for (const bool tied : {false, true}) {
    CAPTURE(tied);
    const Config config = small(tied);
    const Batch batch = random_batch(config, sequences, length);
    auto model = drawn<double>(config), second = drawn<double>(config, 2);
    model.loss_and_gradients(batch);
    second.loss_and_gradients(batch);
    check_same_bits(gradients_of(second), gradients_of(model));
    for (const Parameter& p : model.parameters()) {
      CAPTURE(p.name);
      const auto gradient = model.gradient(p);
      double* weight = model.weight(p).data();
      const Index stride = p.kind == Kind::embedding || p.kind == Kind::head ? 5 : 1;  // prime to the width
      support::Matrix numeric(1, (p.size() + stride - 1) / stride), analytic = numeric;
      for (Index k = 0; k < numeric.cols; ++k) {
        const double kept = weight[k * stride], step = 2e-5;
        for (const int sign : {1, -1}) {
          weight[k * stride] = kept + sign * step;
          numeric(0, k) += sign * model.loss(batch) / (2 * step);
        }
        weight[k * stride] = kept;
        analytic(0, k) = gradient.data()[k * stride];
      }
      REQUIRE(support::norm(analytic) > 1e-3);
      CHECK(support::relative_error(numeric, analytic) <= 1e-6);
    }
  }
}

TEST_CASE("a later token changes no earlier loss, another sequence none at all") {
  const Config config = small(false);
  const Batch batch = random_batch(config, 2, 40);
  auto model = drawn<double>(config);
  // A target's change moves the loss by a difference of logits at its place, whatever the other places lose.
  const auto logit_gap = [&](Batch b, Index place) {
    b.targets[at(place)] = 0;
    const double first = model.loss(b);
    b.targets[at(place)] = 1;
    return static_cast<double>(b.size()) * (first - model.loss(b));
  };
  const auto changed = [&](Index first, Index last) {
    Batch b = batch;
    for (Index i = first; i < last; ++i) b.tokens[at(i)] = (b.tokens[at(i)] + 1) % 256;
    return b;
  };
  for (const Index place : {0, 1, 30, 31, 32, 38}) {
    CAPTURE(place);
    const double gap = logit_gap(batch, place);
    CHECK(std::abs(logit_gap(changed(place + 1, 80), place) - gap) <= 1e-11);
    CHECK(std::abs(logit_gap(changed(place, place + 1), place) - gap) > 1e-3);
    if (place > 0) CHECK(std::abs(logit_gap(changed(0, 1), place) - gap) > 1e-6);  // it does see the earlier ones
    CHECK(std::abs(logit_gap(changed(0, 40), 40 + place) - logit_gap(batch, 40 + place)) <= 1e-11);
  }

  double sum = 0;  // each token predicted from what stands before it, and from nothing else
  const Batch one = sequence_of(batch, 1);
  for (std::size_t i = 0; i < one.tokens.size(); ++i) {
    const support::Matrix logits = copy_of(model.next({one.tokens.data(), i + 1}));
    sum += Reference::cross_entropy(logits.values, one.targets[i]);
  }
  CHECK(std::abs(sum / 40 - model.loss(one)) <= 1e-12 * model.loss(one));
}

TEST_CASE("uniform logits lose the logarithm of the vocabulary, huge ones stay finite") {
  for (const Index vocabulary : {256, 1000}) {
    Config config = small(false);
    config.vocabulary = vocabulary;
    auto model = drawn<double>(config);
    model.weight(model.parameters().back()).setZero();
    const Batch batch = random_batch(config, sequences, length);
    CHECK(model.loss(batch) == doctest::Approx(std::log(static_cast<double>(vocabulary))).epsilon(1e-14));

    draw_weights(model);
    model.weight(model.parameters().back()) *= 1e5;
    CHECK(std::isfinite(model.loss_and_gradients(batch)));
    for (const Parameter& p : model.parameters()) CHECK(model.gradient(p).allFinite());
  }
}

TEST_CASE("one, two and three threads give the same bits") {
  for (const bool tied : {false, true}) {
    // Shapes that take several tiles of every kind.
    const Config config{.vocabulary = 400, .hidden = 96, .layers = 2, .heads = 3, .intermediate = 200, .tied = tied};
    const Batch batch = random_batch(config, 3, 70);
    Llama<float> model(config, 7, 1);
    const double loss = model.loss_and_gradients(batch);
    const Values gradients = gradients_of(model);
    for (const int threads : {2, 3}) {
      CAPTURE(threads);
      Llama<float> other(config, 7, threads);
      for (const Parameter& p : model.parameters()) REQUIRE(model.weight(p) == other.weight(p));
      CHECK(same_bits({other.loss_and_gradients(batch)}, {loss}));
      check_same_bits(gradients_of(other), gradients);
    }
  }
}

TEST_CASE("a vocabulary whose logits do not fit at once gives the same loss and gradients") {
  for (const bool tied : {false, true}) {
    // Chunks of 104, 104 and 2 tokens, which are no blocks of 64.
    const Config config{.vocabulary = 40000, .hidden = 4, .layers = 1, .heads = 1, .intermediate = 3, .tied = tied};
    const Batch batch = random_batch(config, 3, 70);
    auto model = drawn<double>(config, 2), parts = drawn<double>(config);
    const double expected = Reference(model).loss(batch);
    CHECK(std::abs(model.loss(batch) - expected) <= 1e-12 * expected);
    CHECK(std::abs(model.loss_and_gradients(batch) - expected) <= 1e-12 * expected);
    for (Index s = 0; s < 3; ++s) parts.loss_and_gradients(sequence_of(batch, s), 1.0 / 3, s > 0);  // a chunk each
    CHECK(relative_error(gradients_of(model), gradients_of(parts)) <= 1e-12);
  }
}

TEST_CASE_TEMPLATE("two halves accumulated are one batch", Scalar, float, double) {
  const double bound = sizeof(Scalar) == 4 ? 1e-5 : 1e-12;
  for (const bool tied : {false, true}) {
    const Config config = small(tied);
    const Batch batch = random_batch(config, 2, length);
    auto whole = drawn<Scalar>(config), parts = drawn<Scalar>(config);
    const double loss = whole.loss_and_gradients(batch);
    parts.loss_and_gradients(random_batch(config, 1, 5, 9));  // what was there before counts for nothing
    double sum = 0.5 * parts.loss_and_gradients(sequence_of(batch, 0), 0.5, false);
    sum += 0.5 * parts.loss_and_gradients(sequence_of(batch, 1), 0.5, true);
    CHECK(std::abs(sum - loss) <= bound * loss);
    CHECK(relative_error(gradients_of(parts), gradients_of(whole)) <= bound);
  }
  Llama<Scalar> one_unit(small(false), 1, 1, Gradients::one_unit);
  CHECK_THROWS_AS(one_unit.loss_and_gradients(random_batch(small(false), 1, 3), 1, true), std::logic_error);
}

TEST_CASE("units are announced from the last to the first, with gradients complete and nothing of them needed again") {
  for (const bool tied : {false, true}) {
    CAPTURE(tied);
    const Config config = small(tied);
    const Batch batch = random_batch(config, sequences, length);
    auto plain = drawn<float>(config);
    const double loss = plain.loss_and_gradients(batch);
    const Values expected = gradients_of(plain);

    for (const Gradients mode : {Gradients::whole, Gradients::one_unit}) {
      CAPTURE(static_cast<int>(mode));
      Llama<float> model(config, 1, 2, mode);
      for (int round = 0; round < 2; ++round) {  // the second finds what the first left in memory
        draw_weights(model);
        std::vector<std::size_t> order;
        Values seen(expected.size());
        const double same = model.loss_and_gradients(batch, 1, false, [&](std::size_t unit) {
          order.push_back(unit);
          for (std::size_t i = 0; i < seen.size(); ++i) {
            const Parameter& p = model.parameters()[i];
            if (p.unit != unit) continue;
            seen[i] = copy_of(model.gradient(p));
            model.weight(p).setConstant(NAN);  // as if it had been stepped, only worse
            model.gradient(p).setConstant(NAN);
          }
        });
        CHECK(order == std::vector<std::size_t>{3, 2, 1, 0});
        CHECK(same_bits({same}, {loss}));
        check_same_bits(seen, expected);
      }
    }
  }
}

TEST_CASE("initial weights have the documented size") {  // their names are checked by Reference, which looks them up
  const Llama<float> model({.vocabulary = 256, .hidden = 64, .layers = 2, .heads = 2, .intermediate = 172}, 3);
  for (const Parameter& p : model.parameters()) {
    CAPTURE(p.name);
    const bool residual = mentions(p.name, {"o_proj"}) || mentions(p.name, {"down_proj"});
    const double rms = support::norm(copy_of(model.weight(p))) / std::sqrt(static_cast<double>(p.size()));
    if (p.kind == Kind::norm) CHECK((model.weight(p).array() == 1.0f).all());
    if (p.kind != Kind::norm) CHECK(rms == doctest::Approx(residual ? 0.01 : 0.02).epsilon(0.05));
  }
}

TEST_CASE("the presets have the sizes of the papers") {
  const std::map<std::string, double> millions{{"60m", 58},  {"130m", 134}, {"350m", 368},
                                               {"1b", 1339}, {"7b", 6738},  {"13b", 13016}};
  CHECK(llama::presets().size() == 1 + millions.size());
  for (const llama::Preset& preset : llama::presets()) {
    CAPTURE(preset.name);
    if (std::string(preset.name) == "nano") continue;
    const double count = static_cast<double>(llama::parameter_count(preset.config));
    CHECK(count / 1e6 == doctest::Approx(millions.at(preset.name)).epsilon(0.03));
  }
}

TEST_CASE("bad shapes and tokens are refused with value and bound") {
  const auto said = [](Index Config::*member, Index value) {
    Config config = small(false);
    config.*member = value;
    return refusal([&] { Llama<float> model(config, 1); });
  };
  CHECK(mentions(said(&Config::vocabulary, 255), {"vocabulary = 255", "at least 256"}));
  CHECK(mentions(said(&Config::hidden, 0), {"hidden = 0", "at least 2"}));
  CHECK(mentions(said(&Config::layers, 0), {"layers = 0", "at least 1"}));
  CHECK(mentions(said(&Config::heads, 0), {"heads = 0", "at least 1"}));
  CHECK(mentions(said(&Config::heads, -2), {"heads = -2", "at least 1"}));
  CHECK(mentions(said(&Config::heads, 3), {"hidden = 8", "multiple of 2 heads = 6"}));
  CHECK(mentions(said(&Config::heads, 8), {"hidden = 8", "multiple of 2 heads = 16"}));
  CHECK(mentions(said(&Config::intermediate, 0), {"intermediate = 0", "at least 1"}));

  Llama<float> model(small(false), 1);
  Batch batch = random_batch(small(false), 1, 5);
  for (const int token : {256, 1000, -1}) {
    batch.tokens[2] = token;
    CHECK(mentions(refusal([&] { model.loss(batch); }), {std::to_string(token).c_str(), "256"}));
  }
  CHECK(mentions(refusal([&] { model.loss({}); }), {"no tokens"}));
}

TEST_CASE("int8 weights are for models that compute in float") {
  CHECK_THROWS_AS(Llama<double>({}, 1, 1, Gradients::whole, llama::WeightType::int8), std::logic_error);
}
