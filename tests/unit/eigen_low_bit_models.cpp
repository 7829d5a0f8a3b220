// SPDX-License-Identifier: Apache-2.0
// Low-bit storage on EigenBackend: the same bits for any number of threads, and whole models in 8 bits, saved and loaded half-way.
#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <apollo/eigen.hpp>

#include "model.hpp"

namespace {

using apollo::AdamMoments;
using apollo::bfloat16;
using apollo::EigenBackend;
using apollo::Index;
using apollo::Int4;
using apollo::Int8Dynamic;
using apollo::Int8Matrix;
using apollo::Shape;
using apollo::SplitWeights;
using apollo::StochasticWeights;
using support::Layout;
using support::Matrix;

std::vector<float> floats(const Matrix& from) { return std::vector<float>(from.values.begin(), from.values.end()); }
Int8Matrix quantized(Shape shape, Index group, std::uint64_t seed = 7) {
  Int8Matrix matrix(shape.rows, shape.cols, group);
  matrix.quantize(0, shape.rows,
                  floats(support::scaled(support::uniform_matrix(shape.rows, shape.cols, seed), 0.5)).data());
  return matrix;
}

}  // namespace

// --- threads ------------------------------------------------------------------------------------------------------------

namespace {

template <class Member, class Options>
void same_for_any_threads(const char* what, Shape shape, const Options& options) {
  CAPTURE(std::string(what));
  CAPTURE(shape.rows);
  std::string first_state;
  std::vector<std::uint8_t> first_codes;
  std::vector<float> first_values;
  for (const int threads : {1, 2, 3}) {
    Int8Matrix w = quantized(shape, 64);
    Member optimizer(w, options, "tensor", EigenBackend(threads));
    CHECK(optimizer.plan().tiles > 3);
    for (std::uint64_t t = 1; t <= 3; ++t) {
      const auto g = floats(support::uniform_matrix(shape.rows, shape.cols, 9, t));
      REQUIRE(optimizer.step(w, apollo::row_major(g.data(), shape.rows, shape.cols)).stepped);
    }
    const auto dump = support::state_of(optimizer);
    const std::string state(dump.bytes.begin(), dump.bytes.end());
    std::vector<float> values(static_cast<std::size_t>(shape.rows * shape.cols));
    w.dequantize(0, shape.rows, values.data());
    if (threads == 1) first_state = state, first_codes = w.codes(), first_values = values;
    CHECK(model::same(state, first_state));
    CHECK(model::same_bits(w.codes(), first_codes));
    CHECK(model::same_bits(values, first_values));
  }
}

}  // namespace

TEST_CASE("low-bit storage has the same bits for any number of threads") {
  namespace e = apollo::eigen;
  same_for_any_threads<e::AdamW8bit<StochasticWeights>>("AdamW8bit", {501, 300},
                                                        apollo::AdamWOptions{.lr = 0.01, .seed = 3});
  same_for_any_threads<e::AdamW8bit<StochasticWeights>>("AdamW8bit", {30011, 7},
                                                        apollo::AdamWOptions{.lr = 0.01, .seed = 3});
  same_for_any_threads<e::GaLore8bit<StochasticWeights>>("GaLore8bit", {1501, 300},
                                                         apollo::GaLoreOptions{.lr = 0.01, .rank = 4});
  same_for_any_threads<e::GaLore8bit<StochasticWeights>>("GaLore8bit", {300, 1501},
                                                         apollo::GaLoreOptions{.lr = 0.01, .rank = 4});
  same_for_any_threads<e::QApollo<>>("QApollo", {2001, 100}, apollo::ApolloOptions{.lr = 0.01, .rank = 4});
}

// --- whole models -------------------------------------------------------------------------------------------------------

#if APOLLO_HAS_FILES

#include "path.hpp"

namespace {

using support::Path;

/// Matrices in 8 bits, an embedding with 8-bit states too, norms in floats. `Dense` steps the embedding.
template <class Dense = apollo::eigen::AdamW8bit<StochasticWeights>>
struct Net {
  Int8Matrix tall = quantized({300, 40}, 64, 1), wide = quantized({40, 300}, 128, 2),
             embedding = quantized({90, 33}, 32, 3);
  model::Leaf<float> of_tall{"tall", 300, 40}, of_embedding{"embedding", 90, 33};
  model::Leaf<bfloat16> of_wide{"wide", 40, 300};  // gradients may be narrow
  model::Leaf<float> norm{"norm", 1, 40}, head;
  model::Leaf<bfloat16> split{"split", 20, 30};
  apollo::eigen::Optimizer optimizer;

  explicit Net(int threads = 2, Layout of_head = Layout::row_major)
      : head("head", 33, 21, of_head), optimizer(EigenBackend(threads)) {
    const auto low = optimizer.add_group<apollo::QApolloMini<>>({.lr = 0.01, .update_proj_gap = 5, .seed = 4});
    const auto dense = optimizer.add_group<Dense>({.lr = 0.01, .seed = 5});
    const auto plain = optimizer.add_group(apollo::AdamWOptions{.lr = 0.01});
    const auto halves = optimizer.add_group<apollo::AdamW<SplitWeights>>({.lr = 0.01});
    optimizer.add(low, "tall", tall, of_tall.g.view);
    optimizer.add(low, "wide", wide, of_wide.g.view);
    optimizer.add(dense, "embedding", embedding, of_embedding.g.view);
    optimizer.add(dense, "head", head.w.view, head.g.view);
    optimizer.add(plain, "norm", norm.w.view, norm.g.view);
    optimizer.add(halves, "split", split.w.view, split.g.view);
  }
  Net(const Net&) = delete;

  void step() {
    const std::int64_t t = optimizer.tick() + 1;
    for (auto* leaf : {&of_tall, &of_embedding, &norm, &head}) leaf->feed(t);
    of_wide.feed(t), split.feed(t);
    CHECK(optimizer.step().stepped == 6);
  }
  void set_weights(const Net& from) {
    tall = from.tall, wide = from.wide, embedding = from.embedding;  // of the same sizes: memory stays where it is
    optimizer.rebind("tall", tall, of_tall.g.view), optimizer.rebind("wide", wide, of_wide.g.view);
    optimizer.rebind("embedding", embedding, of_embedding.g.view);
    norm.w.set(from.norm.w.get()), head.w.set(from.head.w.get()), split.w.set(from.split.w.get());
  }
  bool same_weights(const Net& other) const {
    bool same = true;
    for (const auto& pair :
         {std::pair(&tall, &other.tall), std::pair(&wide, &other.wide), std::pair(&embedding, &other.embedding)}) {
      same = same && model::same_bits(pair.first->codes(), pair.second->codes());
      for (std::size_t i = 0; i < pair.first->ranges().size(); ++i) {
        const auto &a = pair.first->ranges()[i], &b = pair.second->ranges()[i];
        same = same && std::memcmp(&a, &b, sizeof a) == 0;
      }
    }
    return same && norm.w.same_bits(other.norm.w.memory) && head.w.same_bits(other.head.w.memory) &&
           split.w.same_bits(other.split.w.memory);
  }
};

}  // namespace

TEST_CASE("a model in 8 bits goes on bit by bit from a checkpoint, for any number of threads") {
  const Path path("low_bit.safetensors");
  Net<> straight(2);
  std::vector<std::unique_ptr<Net<>>> resumed;
  for (int t = 1; t <= 12; ++t) {
    straight.step();
    for (const auto& net : resumed) net->step();
    if (t != 1 && t != 5 && t != 8) continue;
    apollo::save(straight.optimizer, path);
    resumed.push_back(std::make_unique<Net<>>(t == 5 ? 3 : 1));
    resumed.back()->step();  // and forgets it
    resumed.back()->set_weights(straight);
    apollo::load(resumed.back()->optimizer, path);
    REQUIRE(model::same(model::snapshot(resumed.back()->optimizer), model::snapshot(straight.optimizer)));
  }
  CHECK(resumed.size() == 3);
  for (const auto& net : resumed) {
    CHECK(net->same_weights(straight));
    CHECK(model::same(model::snapshot(net->optimizer), model::snapshot(straight.optimizer)));
  }
  // In figures: 2 L floats a matrix of rank 1; codes and scales; 10 bytes a split value.
  CHECK(straight.optimizer.state_bytes("tall") == 2 * 300 * 4);
  CHECK(straight.optimizer.state_bytes("embedding") == 2 * (90 * 33 + 12 * 4));
  CHECK(straight.optimizer.state_bytes("split") == 20 * 30 * 10);
}

TEST_CASE("a checkpoint of other storage, of other weights or of another memory order is refused") {
  const Path path("low_bit_other.safetensors");
  Net<> saved;
  saved.step();
  apollo::save(saved.optimizer, path);
  const auto refusal = [&](auto& net) {
    net.step();
    const std::string before = model::snapshot(net.optimizer);
    const std::string message = model::message_of<std::runtime_error>([&] { apollo::load(net.optimizer, path); });
    CHECK(model::same(model::snapshot(net.optimizer), before));
    return message;
  };
  Net<apollo::eigen::AdamW<AdamMoments<Int8Dynamic>, StochasticWeights>> dynamic;
  CHECK(model::mentions(refusal(dynamic), "'embedding'", "int8_linear", "int8_dynamic"));
  Net<apollo::eigen::AdamW<AdamMoments<Int4>, StochasticWeights>> four;
  CHECK(model::mentions(refusal(four), "'embedding'", "int8_linear", "int4", "'embedding.exp_avg'"));
  Net<apollo::eigen::AdamW8bit<>> to_nearest;
  CHECK(model::mentions(refusal(to_nearest), "'embedding'", "weights=stochastic"));
  Net<> columns(1, Layout::column_major);
  const std::string message = refusal(columns);
  CHECK(model::mentions(message, "'head'", "memory=rows", "memory=columns"));
  CHECK_FALSE(model::mentions(message, "'embedding'"));
}

#endif
