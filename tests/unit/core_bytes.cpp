// SPDX-License-Identifier: Apache-2.0
// Bytes: what an optimizer says it takes is what it asks the allocator for, and what its shape says beforehand.
// not: optimised
#include <doctest/doctest.h>

#include <string>

#include "aligned_memory.hpp"
#include "model.hpp"

namespace {

using aligned_memory::in_use;
using apollo::Index;
using apollo::Shape;
using model::Leaf;

template <class Visit>
void for_each_optimizer(Visit&& visit) {
  model::for_each_dense<>(visit);
  model::for_each_projected<>(6, 3, apollo::ProjType::std, visit);
  model::for_each_projected<>(5, 3, apollo::ProjType::right, visit);
}

}  // namespace

TEST_CASE("state and workspace take the bytes they say, which their shape says before them") {
  for_each_optimizer([](const char* name, auto tag, const auto& options) {
    using Member = typename decltype(tag)::type;
    CAPTURE(std::string(name));
    for (const Shape shape : {Shape{40, 24}, Shape{24, 40}, Shape{17, 17}}) {
      const Index before = in_use();
      Member optimizer(shape, options);
      CHECK(in_use() - before == optimizer.state_bytes() + optimizer.workspace_bytes());
      CHECK(Member::state_bytes(shape, options) == optimizer.state_bytes());
      CHECK(Member::workspace_bytes(shape, options) == optimizer.workspace_bytes());
      CHECK(Member::record_bytes(options) == optimizer.record_bytes());
      Leaf<float> leaf("leaf", shape.rows, shape.cols);
      optimizer.step(leaf.w.view, leaf.g.view);
      optimizer.accumulate(leaf.g.view);
      CHECK(in_use() - before ==
            optimizer.state_bytes() + optimizer.workspace_bytes() + optimizer.accumulation_bytes());
      optimizer.step(leaf.w.view, leaf.g.view);
      CHECK(in_use() - before ==
            optimizer.state_bytes() + optimizer.workspace_bytes() + optimizer.accumulation_bytes());
    }
  });
}

TEST_CASE("bytes of tensors, groups and models add up to what is allocated and to what a checkpoint holds") {
  for_each_optimizer([](const char* name, auto tag, const auto& options) {
    using Member = typename decltype(tag)::type;
    CAPTURE(std::string(name));
    Leaf<float> tall("tall", 40, 24), wide("wide", 24, 40), bias("bias", 1, 24), other("other", 12, 30);
    const Index before = in_use();
    apollo::Optimizer optimizer;
    const auto group = optimizer.add_group<Member>(options);
    const auto others = optimizer.add_group(apollo::AdamWOptions{});
    for (Leaf<float>* leaf : {&tall, &wide, &bias}) optimizer.add(group, leaf->name, leaf->w.view, leaf->g.view);
    optimizer.add(others, "other", other.w.view, other.g.view);
    CHECK(in_use() - before == optimizer.state_bytes() + optimizer.workspace_bytes());

    Index state = 0, record = 0, largest = 0;
    for (const char* tensor : {"tall", "wide", "bias"}) {
      state += optimizer.state_bytes(tensor), record += optimizer.record_bytes(tensor);
      if (optimizer.workspace_bytes(tensor) > largest) largest = optimizer.workspace_bytes(tensor);
    }
    CHECK(optimizer.state_bytes(group) == state);
    CHECK(optimizer.record_bytes(group) == record);
    CHECK(optimizer.workspace_bytes(group) == largest);
    CHECK(optimizer.state_bytes(others) == 12 * 30 * 8);
    CHECK(optimizer.state_bytes() == state + optimizer.state_bytes(others));
    CHECK(optimizer.record_bytes() == record + optimizer.record_bytes(others));
    CHECK(optimizer.workspace_bytes() >= largest);
    CHECK(optimizer.workspace_bytes("tall") == Member::workspace_bytes({40, 24}, options));

    Index held = 0;
    for (const auto& parameter : optimizer.parameters()) {
      model::Sizes sizes;
      parameter->visit_state(sizes);
      held += sizes.arrays;
      CHECK(sizes.arrays == parameter->state_bytes());
      CHECK(sizes.numbers == parameter->record_bytes());
    }
    CHECK(held == optimizer.state_bytes());
  });
}

TEST_CASE("workspaces are constants of a shape and its options") {
  using namespace apollo;
  static_assert(AdamW<>::workspace_bytes({64, 48}) == 0);
  static_assert(Sgd<>::record_bytes(SgdOptions{}) == 8);
  static_assert(Apollo<>::record_bytes(ApolloOptions{}) == 12);
  // R and P^T, three lines of doubles and one of floats a channel.
  static_assert(Apollo<RandomProjection<Gaussian>>::workspace_bytes({64, 48}, {.rank = 16}) ==
                64 * 16 * 4 + 48 * 16 * 4 + 3 * 64 * 8 + 64 * 4);
  static_assert(ApolloMini<>::workspace_bytes({64, 48}) == 64 * 4 + 48 * 4 + 3 * 64 * 8 + 64 * 4);
  CHECK(GaLore<>::workspace_bytes({64, 48}, {.rank = 16}) == GaLore<>(Shape{64, 48}, {.rank = 16}).workspace_bytes());
}
