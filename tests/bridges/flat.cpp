// SPDX-License-Identifier: Apache-2.0
// Flat buffers, and the C functions over them: the same steps as tensors that are registered one by one.
#include <apollo/bridge/c.h>
#include <doctest/doctest.h>

#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include <apollo/bridge/flat.hpp>
#include <apollo/eigen.hpp>

namespace {

using apollo::Index;

/// llm.c's GPT-2 on the smallest scale: layers of one kind lie behind each other.
constexpr Index L = 2, V = 20, C = 8;
apollo::flat::Layout gpt2() {
  apollo::flat::Layout layout;
  layout.matrix("wte", V, C)
      .stack("ln1w", L, C, 1)
      .stack("qkvw", L, 3 * C, C)
      .stack("qkvb", L, 3 * C, 1)
      .vector("lnfw", C);
  return layout;
}

float value(std::size_t i, int step) { return std::sin(0.7f * static_cast<float>(i) + static_cast<float>(step)); }

std::vector<float> values(Index size, int step) {
  std::vector<float> result(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = value(i, step);
  return result;
}

/// What destroys itself.
struct Handle {
  apollo_optimizer* pointer = nullptr;
  ~Handle() { apollo_destroy(pointer); }
};

apollo_options options_of(apollo_member member) {
  apollo_options options;
  REQUIRE(apollo_defaults(member, &options) == APOLLO_OK);
  return options;
}

}  // namespace

TEST_CASE("a layout says where tensors lie, and refuses what cannot be") {
  const auto layout = gpt2();
  CHECK(layout.size() == V * C + L * C + L * 3 * C * C + L * 3 * C + C);
  std::vector<std::pair<std::string, Index>> found;
  apollo::flat::for_each(layout, [&](const std::string& name, const apollo::flat::Entry&, Index offset) {
    found.emplace_back(name, offset);
  });
  REQUIRE(found.size() == 8);
  CHECK(found[2] == std::pair<std::string, Index>{"ln1w[1]", V * C + C});
  CHECK(found[4] == std::pair<std::string, Index>{"qkvw[1]", V * C + L * C + 3 * C * C});
  using apollo::flat::Layout;
  CHECK_THROWS_WITH(Layout({{"a", 0, 4, 4}, {"b", 15, 1}}),
                    "apollo: tensor 'b': elements 15 to 16 are also those of 'a'");
  CHECK_THROWS_AS(Layout({{"a", -1, 4, 4}}), std::invalid_argument);
  CHECK_THROWS_AS(Layout({{"a", 0, 0, 4}}), std::invalid_argument);
  CHECK_THROWS_AS(Layout({{"a", 0, Index{1} << 40, Index{1} << 40}}), std::invalid_argument);
}

TEST_CASE("a flat buffer through C++ and through C is stepped as its tensors are") {
  const auto layout = gpt2();
  const apollo::ApolloOptions matrices{.lr = 1e-2, .rank = 3, .update_proj_gap = 2};
  const apollo::AdamWOptions others{.lr = 1e-3};
  auto w1 = values(layout.size(), 0), w2 = w1, w3 = w1, g = w1;

  apollo::eigen::Optimizer one, flat;
  const auto a = one.add_group(matrices), fa = flat.add_group(matrices);
  const auto b = one.add_group(others), fb = flat.add_group(others);
  apollo::flat::for_each(layout, [&](const std::string& name, const apollo::flat::Entry& e, Index offset) {
    const auto w = apollo::row_major(w1.data() + offset, e.rows, e.cols);
    const auto slope = apollo::row_major(g.data() + offset, e.rows, e.cols);
    e.cols > 1 ? one.add(a, name, w, slope) : one.add(b, name, w, slope);
  });
  apollo::flat::add(flat, fa, fb, layout, w2.data(), static_cast<const float*>(g.data()));

  apollo_options c_matrices = options_of(APOLLO_APOLLO), c_others = options_of(APOLLO_ADAMW);
  c_matrices.lr = 1e-2, c_matrices.rank = 3, c_matrices.update_proj_gap = 2, c_others.lr = 1e-3;
  Handle c, resumed;
  REQUIRE(apollo_create(&c_matrices, &c_others, 1, &c.pointer) == APOLLO_OK);
  std::vector<apollo_tensor> tensors;
  for (const auto& e : layout.entries()) tensors.push_back({e.name.c_str(), e.offset, e.rows, e.cols, e.count});
  REQUIRE(apollo_add(c.pointer, tensors.data(), 2, w3.data(), g.data()) == APOLLO_OK);
  REQUIRE(apollo_add(c.pointer, tensors.data() + 2, tensors.size() - 2, w3.data(), g.data()) == APOLLO_OK);

  std::vector<float> moved;
  for (int step = 1; step <= 10; ++step) {
    for (std::size_t i = 0; i < g.size(); ++i) g[i] = value(i, step);
    one.step(), flat.step();
    if (step == 6) {  // another process: elsewhere in memory, from a file
      REQUIRE(apollo_save(c.pointer, "c.safetensors") == APOLLO_OK);
      REQUIRE(apollo_create(&c_matrices, &c_others, 0, &resumed.pointer) == APOLLO_OK);
      REQUIRE(apollo_add(resumed.pointer, tensors.data(), tensors.size(), w3.data(), g.data()) == APOLLO_OK);
      REQUIRE(apollo_load(resumed.pointer, "c.safetensors") == APOLLO_OK);
      moved = w3;
      REQUIRE(apollo_rebind(resumed.pointer, moved.data(), g.data()) == APOLLO_OK);
    }
    std::int64_t skipped = -1;
    REQUIRE(apollo_step(step < 6 ? c.pointer : resumed.pointer, &skipped) == APOLLO_OK);
    CHECK(skipped == 0);
  }
  CHECK(w1 == w2);
  CHECK(w1 == moved);
  CHECK(w1 != values(layout.size(), 0));
  std::int64_t bytes = 0;
  REQUIRE(apollo_state_bytes(resumed.pointer, &bytes) == APOLLO_OK);
  CHECK(bytes == one.state_bytes());
}

TEST_CASE("defaults are those of C++") {
  const apollo_options mini = options_of(APOLLO_APOLLO_MINI), adamw = options_of(APOLLO_ADAMW);
  CHECK(mini.scale == 128);
  CHECK(mini.rank == 0);
  CHECK(mini.update_proj_gap == 200);
  CHECK(adamw.eps == 1e-8);
  CHECK(adamw.weight_decay == 1e-2);
  CHECK(options_of(APOLLO_GALORE).scale == 0.25);
  CHECK(options_of(APOLLO_SGD).beta1 == 0);
}

TEST_CASE("errors are statuses with a text; nothing is thrown and nothing changes") {
  apollo_options matrices = options_of(APOLLO_APOLLO), others = options_of(APOLLO_ADAMW);
  Handle h;
  const auto says = [](apollo_status status, apollo_status expected, const char* part) {
    const std::string text = apollo_error();
    CAPTURE(text);
    CHECK(status == expected);
    CHECK(text.find(part) != std::string::npos);
  };
  matrices.lr = std::numeric_limits<double>::quiet_NaN();
  says(apollo_create(&matrices, &others, 0, &h.pointer), APOLLO_BAD_ARGUMENT, "lr = nan");
  matrices.lr = 1e-2, others.rank = 4;
  says(apollo_create(&matrices, &others, 0, &h.pointer), APOLLO_BAD_ARGUMENT, "rank = 4 is set, but");
  others.rank = 0;
  says(apollo_create(&matrices, nullptr, 0, &h.pointer), APOLLO_BAD_ARGUMENT, "others is a null pointer");
  says(apollo_create(&matrices, &others, -1, &h.pointer), APOLLO_BAD_ARGUMENT, "threads = -1");
  CHECK(h.pointer == nullptr);
  apollo_options none;
  says(apollo_defaults(static_cast<apollo_member>(7), &none), APOLLO_BAD_ARGUMENT, "member = 7");

  matrices.rank = 3;
  REQUIRE(apollo_create(&matrices, &others, 0, &h.pointer) == APOLLO_OK);
  CHECK(std::string(apollo_error()).empty());
  std::vector<float> w(40, 1), g(40, 1);
  const apollo_tensor tensors[] = {{"w", 0, 8, 4, 1}, {"b", 30, 8, 1, 1}};
  says(apollo_add(h.pointer, tensors, 2, w.data(), g.data()), APOLLO_BAD_ARGUMENT, "'b': elements 30 to 38");
  says(apollo_add(h.pointer, tensors, 1, nullptr, g.data()), APOLLO_BAD_ARGUMENT, "weights is a null pointer");
  REQUIRE(apollo_add(h.pointer, tensors, 1, w.data(), g.data()) == APOLLO_OK);
  says(apollo_add(h.pointer, tensors, 1, w.data(), g.data()), APOLLO_BAD_ARGUMENT, "are also those of 'w'");
  says(apollo_load(h.pointer, "absent.safetensors"), APOLLO_BAD_FILE, "absent.safetensors");
  says(apollo_set_lr(h.pointer, 1e-2, -1), APOLLO_BAD_ARGUMENT, "lr = -1");
  REQUIRE(apollo_clip(h.pointer, 1) == APOLLO_OK);
  g[0] = std::numeric_limits<float>::infinity();
  std::int64_t skipped = 0;
  REQUIRE(apollo_step(h.pointer, &skipped) == APOLLO_OK);
  CHECK(skipped == 1);
  CHECK(w == std::vector<float>(40, 1));
}
