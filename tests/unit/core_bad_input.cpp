// SPDX-License-Identifier: Apache-2.0
// Bad input: every kind is refused with value, bound and name in the message, and then nothing at all has changed.
// not: optimised
#include <doctest/doctest.h>

#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <typeinfo>
#include <vector>

#include <apollo/apollo.hpp>

#include "model.hpp"

namespace {

using apollo::Index;
using apollo::Skip;
using model::Leaf;
using model::Matrix;

constexpr double inf = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

using ApolloGroup = apollo::Group<apollo::Apollo<>::Policies>;
using MiniGroup = apollo::Group<apollo::ApolloMini<>::Policies>;
using GaLoreGroup = apollo::Group<apollo::GaLore<>::Policies>;
using AdamWGroup = apollo::Group<apollo::AdamW<>::Policies>;

/// A model two steps into its training.
struct World {
  apollo::Optimizer optimizer;
  AdamWGroup dense = optimizer.add_group(apollo::AdamWOptions{.lr = 0.01});
  ApolloGroup low = optimizer.add_group(apollo::ApolloOptions{.lr = 0.01, .rank = 3, .update_proj_gap = 2});
  GaLoreGroup galore = optimizer.add_group(apollo::GaLoreOptions{.lr = 0.01, .rank = 3, .update_proj_gap = 2});
  Leaf<float> matrix{"matrix", 12, 8}, square{"square", 7, 7}, embedding{"embedding", 6, 5}, bias{"bias", 5, 1};
  Leaf<float> other{"other", 12, 8};                 // registered nowhere
  Leaf<double> other_double{"other double", 12, 8};  // nor this

  World() {
    optimizer.add(low, "matrix", matrix.w.view, matrix.g.view);
    optimizer.add(galore, "square", square.w.view, square.g.view);
    optimizer.add(dense, "embedding", embedding.w.view, embedding.g.view);
    optimizer.add(dense, "bias", bias.w.view, bias.g.view);
    optimizer.schedule(apollo::Linear{.warmup = 1, .total = 9, .floor = 0.5});
    step();
    step();
  }
  World(const World&) = delete;

  void feed() {
    const auto t = optimizer.tick() + 1;
    matrix.feed(t), square.feed(t), embedding.feed(t), bias.feed(t);
  }
  void step() {
    feed();
    optimizer.step();
  }
  /// Weights, gradients, state and clock.
  std::string everything() const {
    std::string all = model::snapshot(optimizer);
    const auto append = [&](const auto& memory) {
      all.append(reinterpret_cast<const char*>(memory.data()), memory.size() * sizeof memory[0]);
    };
    for (const Leaf<float>* leaf : {&matrix, &square, &embedding, &bias, &other})
      append(leaf->w.memory), append(leaf->g.memory);
    append(other_double.w.memory);
    return all + std::to_string(optimizer.lr(dense)) + std::to_string(optimizer.lr(low));
  }
};

/// One way to go wrong, and what the message must say.
struct Case {
  const char* what;
  std::function<void(World&)> call;
  std::vector<std::string> says;
};

/// Refused with an `Error`; nothing has changed, in what can be seen and in what the next steps do.
template <class Error>
void check(const std::vector<Case>& cases, const std::function<void(World&)>& prepare = {},
           const std::function<void(World&)>& finish = {}) {
  for (const Case& each : cases) {
    const std::string what = each.what;
    CAPTURE(what);
    World world, twin;
    if (prepare) prepare(world), prepare(twin);
    const std::string before = world.everything();
    const std::string message = model::message_of<Error>([&] { each.call(world); });
    CAPTURE(message);
    CHECK(message.rfind("apollo: ", 0) == 0);
    for (const std::string& part : each.says) {
      CAPTURE(part);
      CHECK(model::mentions(message, part));
    }
    CHECK(model::same(world.everything(), before));
    for (World* either : {&world, &twin}) {
      if (finish) finish(*either);
      either->step();
      either->step();
    }
    CHECK(model::same(world.everything(), twin.everything()));
  }
}

template <class Options>
Case refused_option(const char* what, Options options, std::vector<std::string> says) {
  return {what, [options](World& w) { w.optimizer.add_group(options); }, std::move(says)};
}

}  // namespace

TEST_CASE("the world that the cases below start from does step") {
  World world;
  CHECK(world.optimizer.tick() == 2);
  const std::string before = world.everything();
  CHECK(model::same(before, World().everything()));
  world.step();
  CHECK_FALSE(model::same(before, world.everything()));
}

// --- options ------------------------------------------------------------------------------------------------------------

TEST_CASE("options out of range are refused by name, value and bound") {
  using namespace apollo;
  std::vector<Case> cases;
  const auto number = [](double value) { return value != value ? std::string("nan") : text(value); };
  const auto add = [&](const char* what, auto make, std::initializer_list<double> values, const char* name,
                       std::vector<std::string> bound) {
    for (const double value : values) {
      std::vector<std::string> says = bound;
      says.push_back(name);
      says.push_back(number(value));
      cases.push_back(refused_option(what, make(value), says));
    }
  };
  const auto below_0 = {-1.0, -1e-30, not_a_number, inf, -inf};
  const auto no_fraction = {-0.1, 1.0, 1.5, not_a_number, inf, -inf};
  const auto not_positive = {0.0, -1.0, not_a_number, inf, -inf};
  const std::vector<std::string> at_least_0 = {"at least 0"}, fraction = {"at least 0", "below 1"},
                                 positive = {"greater than 0"};

  add(
      "AdamW", [](double x) { return AdamWOptions{.lr = x}; }, below_0, "lr", at_least_0);
  add(
      "Sgd", [](double x) { return SgdOptions{.lr = x}; }, below_0, "lr", at_least_0);
  add(
      "SgdMomentum", [](double x) { return SgdMomentumOptions{.lr = x}; }, below_0, "lr", at_least_0);
  add(
      "Apollo", [](double x) { return ApolloOptions{.lr = x}; }, below_0, "lr", at_least_0);
  add(
      "Mini", [](double x) { return ApolloMiniOptions{.lr = x}; }, below_0, "lr", at_least_0);
  add(
      "GaLore", [](double x) { return GaLoreOptions{.lr = x}; }, below_0, "lr", at_least_0);

  add(
      "AdamW", [](double x) { return AdamWOptions{.beta1 = x}; }, no_fraction, "beta1", fraction);
  add(
      "AdamW", [](double x) { return AdamWOptions{.beta2 = x}; }, no_fraction, "beta2", fraction);
  add(
      "Apollo", [](double x) { return ApolloOptions{.beta1 = x}; }, no_fraction, "beta1", fraction);
  add(
      "Mini", [](double x) { return ApolloMiniOptions{.beta2 = x}; }, no_fraction, "beta2", fraction);
  add(
      "GaLore", [](double x) { return GaLoreOptions{.beta2 = x}; }, no_fraction, "beta2", fraction);
  add(
      "SgdMomentum", [](double x) { return SgdMomentumOptions{.momentum = x}; }, no_fraction, "momentum", fraction);

  const auto no_eps = {0.0, -1e-8, 1e-40, not_a_number, inf, -inf};
  add("AdamW", [](double x) { return AdamWOptions{.eps = x}; }, no_eps, "eps", {"at least 1e-30"});
  add("Apollo", [](double x) { return ApolloOptions{.eps = x}; }, no_eps, "eps", {"at least 1e-30"});
  add("Mini", [](double x) { return ApolloMiniOptions{.eps = x}; }, no_eps, "eps", {"at least 1e-30"});
  add("GaLore", [](double x) { return GaLoreOptions{.eps = x}; }, no_eps, "eps", {"at least 1e-30"});

  add(
      "AdamW", [](double x) { return AdamWOptions{.weight_decay = x}; }, below_0, "weight_decay", at_least_0);
  add(
      "Sgd", [](double x) { return SgdOptions{.weight_decay = x}; }, below_0, "weight_decay", at_least_0);
  add(
      "Apollo", [](double x) { return ApolloOptions{.weight_decay = x}; }, below_0, "weight_decay", at_least_0);
  add(
      "GaLore", [](double x) { return GaLoreOptions{.weight_decay = x}; }, below_0, "weight_decay", at_least_0);

  add(
      "Apollo", [](double x) { return ApolloOptions{.scale = x}; }, not_positive, "scale", positive);
  add(
      "Mini", [](double x) { return ApolloMiniOptions{.scale = x}; }, not_positive, "scale", positive);
  add(
      "GaLore", [](double x) { return GaLoreOptions{.scale = x}; }, not_positive, "scale", positive);

  const auto no_gap = {0.0, -7.0};
  const auto gap = [](double x) { return static_cast<Index>(x); };
  add("Apollo", [&](double x) { return ApolloOptions{.update_proj_gap = gap(x)}; }, no_gap, "update_proj_gap",
      {"at least 1"});
  add("Mini", [&](double x) { return ApolloMiniOptions{.update_proj_gap = gap(x)}; }, no_gap, "update_proj_gap",
      {"at least 1"});
  add("GaLore", [&](double x) { return GaLoreOptions{.update_proj_gap = gap(x)}; }, no_gap, "update_proj_gap",
      {"at least 1"});

  const auto no_growth = {0.99, 0.0, -1.0, not_a_number, inf};
  add("Apollo", [](double x) { return ApolloOptions{.limiter_gamma = x}; }, no_growth, "limiter_gamma", {"at least 1"});
  add("Mini", [](double x) { return ApolloMiniOptions{.limiter_gamma = x}; }, no_growth, "limiter_gamma",
      {"at least 1"});
  const auto no_floor = {-0.01, 1.01, not_a_number, inf};
  add("Apollo", [](double x) { return ApolloOptions{.limiter_floor = x}; }, no_floor, "limiter_floor",
      {"between 0 and 1"});
  add("Mini", [](double x) { return ApolloMiniOptions{.limiter_floor = x}; }, no_floor, "limiter_floor",
      {"between 0 and 1"});
  check<std::invalid_argument>(cases);
}

TEST_CASE("the bounds themselves are allowed") {
  using namespace apollo;
  World world;
  Optimizer& o = world.optimizer;
  o.add_group(AdamWOptions{.lr = 0, .beta1 = 0, .beta2 = 0, .eps = 1e-30, .weight_decay = 0});
  o.add_group(SgdMomentumOptions{.momentum = 0});
  const auto low = o.add_group(ApolloOptions{.rank = 8, .update_proj_gap = 1, .limiter_gamma = 1, .limiter_floor = 0});
  o.add(low, "rank of the side", world.other.w.view, world.other.g.view);
  const auto two = o.add_group(ApolloOptions{.rank = 2, .limiter_floor = 1});
  o.add(two, "rank 2", world.other.w.view, world.other.g.view);
  const auto one = o.add_group(ApolloOptions{.rank = 1, .allow_rank_1 = true});
  o.add(one, "rank 1", world.other.w.view, world.other.g.view);
  const auto longer = o.add_group(ApolloOptions{.rank = 12, .proj_type = ProjType::reverse_std});
  o.add(longer, "rank of the longer side", world.other.w.view, world.other.g.view);
  const auto full = o.add_group(GaLoreOptions{.rank = 8, .proj_type = ProjType::left});
  o.add(full, "rank of the shorter side", world.other.w.view, world.other.g.view);
  const auto automatic_scale = o.add_group(ApolloOptions{.rank = 3, .scale = automatic});
  o.add(automatic_scale, "automatic", world.other.w.view, world.other.g.view);
  CHECK(o.step().skipped == 0);
}

TEST_CASE("static optimizers refuse the same options with the tensor's name") {
  using namespace apollo;
  const auto message = [](auto&& call) { return model::message_of<std::invalid_argument>(call); };
  CHECK(model::mentions(message([] {
                          AdamW<>({4, 3}, {.lr = -1}, "embedding");
                        }),
                        "'embedding'", "lr = -1", "at least 0"));
  CHECK(model::mentions(message([] {
                          Apollo<>({12, 8}, {.rank = 9}, "wq");
                        }),
                        "'wq'", "rank = 9", "at most 8", "12 x 8"));
  CHECK(model::mentions(message([] { ApolloMini<>({12, 1}, {}, "bias"); }), "'bias'", "12 x 1", "vector", "AdamW"));
  CHECK(model::mentions(message([] { GaLore<>({1, 9}, {.rank = 1}, "row"); }), "'row'", "1 x 9", "vector"));
  CHECK(model::mentions(message([] { Sgd<>({0, 9}, {}, "none"); }), "'none'", "0 x 9", "at least 1"));
  std::vector<float> w(6);
  CHECK(model::mentions(message([&] { SgdMomentum<>(w, {.momentum = 2}, "v"); }), "'v'", "momentum = 2", "below 1"));
  AdamW<> fine({4, 3}, {.lr = 0.5}, "w");
  CHECK(model::mentions(message([&] { fine.set_lr(-2); }), "'w'", "lr = -2", "at least 0"));
  CHECK(model::mentions(message([&] { fine.set_lr(not_a_number); }), "'w'", "nan"));
  CHECK(model::mentions(message([&] { fine.set_gradient_scale(0); }), "'w'", "gradient_scale = 0", "greater than 0"));
  CHECK(fine.lr() == 0.5);
}

TEST_CASE("an option that nothing reads is refused") {
  using namespace apollo;
  using Plain = StructuredOptimizer<>;
  using Channels = StructuredOptimizer<AdamMoments<>, ChannelScaling>;
  using Random = StructuredOptimizer<RandomProjection<>, ChannelScaling, AdamMoments<>>;
  using Limited = StructuredOptimizer<AdamMoments<>, TensorScaling, NormGrowthLimiter>;
  const auto of = [](auto tag, const char* what, const StructuredOptions& options) {
    using Member = typename decltype(tag)::type;
    return Case{what, [options](World& w) { w.optimizer.add_group<Member>(options); }, {what, "nothing here reads it"}};
  };
  const model::Tag<Plain> plain;
  const model::Tag<Channels> channels;
  const model::Tag<Random> random;
  check<std::invalid_argument>({
      of(plain, "momentum", {.momentum = 0.5}),
      of(plain, "beta1", {.beta1 = 0.5}),
      of(plain, "beta2", {.beta2 = 0.5}),
      of(plain, "eps", {.eps = 0.5}),
      of(plain, "rank", {.rank = 4}),
      of(plain, "update_proj_gap", {.update_proj_gap = 4}),
      of(plain, "proj_type", {.proj_type = ProjType::left}),
      of(random, "svd", {.rank = 4, .svd = SvdMethod::exact}),
      of(plain, "on_refresh", {.on_refresh = OnRefresh::reset}),
      of(plain, "channel_axis", {.channel_axis = ChannelAxis::rows}),
      of(random, "channel_axis", {.rank = 4, .channel_axis = ChannelAxis::rows}),
      of(plain, "limiter_gamma", {.limiter_gamma = 2}),
      of(plain, "limiter_floor", {.limiter_floor = 0.25}),
      of(plain, "allow_rank_1", {.allow_rank_1 = true}),
      of(channels, "decay", {.decay = Decay::coupled}),
      of(channels, "momentum", {.momentum = 0.5}),
      of(model::Tag<Limited>(), "channel_axis", {.channel_axis = ChannelAxis::cols}),
      of(model::Tag<StructuredOptimizer<FixedProjection, AdamMoments<>>>(), "update_proj_gap",
         {.rank = 4, .update_proj_gap = 3}),
  });
  CHECK(model::mentions(model::message_of<std::invalid_argument>([] {
                          Plain({4, 3}, {.rank = 2}, "mine");
                        }),
                        "'mine'", "rank", "nothing here reads it"));
  // And those that are read are not.
  Plain({4, 3}, {.decay = Decay::coupled});
  Channels({4, 3}, {.beta1 = 0.5, .channel_axis = ChannelAxis::cols});
  Random({4, 3}, {.rank = 2, .update_proj_gap = 3, .proj_type = ProjType::left, .on_refresh = OnRefresh::rotate});
  Limited({4, 3}, {.limiter_gamma = 2, .limiter_floor = 0});
}

// --- registering --------------------------------------------------------------------------------------------------------

TEST_CASE("ranks that a shape does not have are refused") {
  using namespace apollo;
  const auto of = [](const char* what, auto options, std::vector<std::string> says) {
    says.push_back("'given'");
    return Case{what,
                [options](World& w) {
                  const auto group = w.optimizer.add_group(options);
                  w.optimizer.add(group, "given", w.other.w.view, w.other.g.view);
                },
                std::move(says)};
  };
  check<std::invalid_argument>({
      of("rank 0", ApolloOptions{.rank = 0}, {"rank = 0", "at least 1"}),
      of("rank -3", GaLoreOptions{.rank = -3}, {"rank = -3", "at least 1"}),
      of("rank above the side", ApolloOptions{.rank = 9}, {"rank = 9", "at most 8", "12 x 8"}),
      of("the default rank", ApolloOptions{}, {"rank = 256", "at most 8"}),
      of("rank above the side", GaLoreOptions{.rank = 9}, {"rank = 9", "at most 8"}),
      of("rank above the longer side", ApolloOptions{.rank = 13, .proj_type = ProjType::reverse_std},
         {"rank = 13", "at most 12"}),
      of("rank above the side, left", ApolloOptions{.rank = 13, .proj_type = ProjType::left}, {"at most 12"}),
      of("rank above the side, right", ApolloOptions{.rank = 9, .proj_type = ProjType::right}, {"at most 8"}),
      of("more singular vectors than there are", GaLoreOptions{.rank = 9, .proj_type = ProjType::left},
         {"rank = 9", "at most 8"}),
      of("rank 1 with channels", ApolloOptions{.rank = 1}, {"rank = 1", "at least 2", "allow_rank_1"}),
      of("automatic at rank 2", ApolloOptions{.rank = 2, .scale = automatic}, {"rank = 2", "at least 3", "automatic"}),
  });
}

TEST_CASE("tensors that cannot be registered are refused") {
  using apollo::row_major;
  using apollo::strided;
  const auto both = [](World& w) { return w.other.w.memory.data(); };
  check<std::invalid_argument>({
      {"gradient of another shape",
       [](World& w) { w.optimizer.add(w.low, "n", w.other.w.view, w.other.g.view.transposed()); },
       {"'n'", "gradient", "8 x 12", "12 x 8"}},
      {"gradient shorter by a row",
       [](World& w) { w.optimizer.add(w.dense, "n", w.other.w.view, w.other.g.view.middle_rows(0, 11)); },
       {"'n'", "gradient", "11 x 8", "12 x 8"}},
      {"weight without data",
       [](World& w) { w.optimizer.add(w.dense, "n", row_major(static_cast<float*>(nullptr), 12, 8), w.other.g.view); },
       {"'n'", "weight", "null"}},
      {"gradient without data",
       [](World& w) {
         w.optimizer.add(w.low, "n", w.other.w.view, row_major(static_cast<const float*>(nullptr), 12, 8));
       },
       {"'n'", "gradient", "null"}},
      {"W is G", [](World& w) { w.optimizer.add(w.low, "n", w.other.w.view, w.other.w.view); }, {"'n'", "overlap"}},
      {"W and G share a row",
       [&](World& w) { w.optimizer.add(w.dense, "n", row_major(both(w), 6, 8), row_major(both(w) + 40, 6, 8)); },
       {"'n'", "overlap"}},
      {"W and G share an element in different layouts",
       [&](World& w) { w.optimizer.add(w.dense, "n", row_major(both(w), 3, 3), strided(both(w) + 8, 3, 3, 1, 3)); },
       {"'n'", "overlap"}},
      {"W overlaps itself",
       [&](World& w) { w.optimizer.add(w.dense, "n", strided(both(w), 4, 4, 0, 1), w.other.g.view.middle_rows(0, 4)); },
       {"'n'"}},
      {"W overlaps itself in a Hankel matrix",
       [&](World& w) {
         w.optimizer.add(w.dense, "n", strided(both(w), 4, 4, 1, 1), row_major(w.other.g.memory.data(), 4, 4));
       },
       {"'n'", "overlap"}},
      {"no rows",
       [&](World& w) { w.optimizer.add(w.dense, "n", row_major(both(w), 0, 5), row_major(both(w), 0, 5)); },
       {"'n'", "0 x 5", "at least 1"}},
      {"no columns",
       [&](World& w) { w.optimizer.add(w.low, "n", row_major(both(w), 5, 0), row_major(both(w), 5, 0)); },
       {"'n'", "5 x 0", "at least 1"}},
      {"nothing",
       [&](World& w) { w.optimizer.add(w.galore, "n", row_major(both(w), 0, 0), row_major(both(w), 0, 0)); },
       {"'n'", "0 x 0", "at least 1"}},
      {"an empty vector",
       [](World& w) {
         std::vector<float> none;
         w.optimizer.add(w.dense, "n", none, none);
       },
       {"'n'", "0 x 1", "at least 1"}},
      {"a negative extent",
       [&](World& w) { w.optimizer.add(w.dense, "n", row_major(both(w), -2, 5), row_major(both(w), -2, 5)); },
       {"'n'", "-2 x 5", "at least 1"}},
      {"no gradient, but no weight either",
       [](World& w) {
         w.optimizer.add(w.dense, "n", row_major(static_cast<float*>(nullptr), 12, 8), apollo::no_gradient);
       },
       {"'n'", "weight", "null"}},
      {"a name twice",
       [](World& w) { w.optimizer.add(w.dense, "matrix", w.other.w.view, w.other.g.view); },
       {"'matrix'", "two tensors"}},
      {"a name twice, in the same group",
       [](World& w) { w.optimizer.add(w.low, "matrix", w.other.w.view, w.other.g.view); },
       {"'matrix'", "two tensors"}},
      {"an empty name",
       [](World& w) { w.optimizer.add(w.low, "", w.other.w.view, w.other.g.view); },
       {"name", "empty"}},
      {"a name that is not UTF-8",
       [](World& w) { w.optimizer.add(w.low, "a\xff", w.other.w.view, w.other.g.view); },
       {"UTF-8", "byte 1"}},
      {"the learning rate of a group of another optimizer",
       [](World& w) { w.optimizer.set_lr(ApolloGroup{17}, 1e-3); },
       {"group 17", "another optimizer"}},
      {"a group of another optimizer",
       [](World& w) { w.optimizer.add(ApolloGroup{17}, "n", w.other.w.view, w.other.g.view); },
       {"'n'", "group"}},
  });
}

TEST_CASE("two names with one id are refused") {
  // Found by search: 32-bit FNV-1a hashes both to 0x74ccb076.
  constexpr const char *first = "layers.139.w56", *second = "layers.2090.w10";
  static_assert(apollo::tensor_id("layers.139.w56") == 0x74ccb076u);
  static_assert(apollo::tensor_id("layers.2090.w10") == 0x74ccb076u);
  Leaf<float> taken(first, 6, 5), taken_too(first, 6, 5);
  int turn = 0;
  check<std::invalid_argument>({{"one id",
                                 [&](World& w) { w.optimizer.add(w.dense, second, w.other.w.view, w.other.g.view); },
                                 {"'layers.139.w56'", "'layers.2090.w10'", std::to_string(0x74ccb076u)}}},
                               [&](World& w) {
                                 Leaf<float>& leaf = turn++ == 0 ? taken : taken_too;
                                 w.optimizer.add(w.low, first, leaf.w.view, leaf.g.view);
                               });
  check<std::invalid_argument>(
      {{"an id that is given and taken",
        [](World& w) { w.optimizer.add(w.dense, "n", apollo::tensor_id("matrix"), w.other.w.view, w.other.g.view); },
        {"'matrix'", "'n'", std::to_string(apollo::tensor_id("matrix"))}}});
}

TEST_CASE("tensors of more dimensions must say how they unfold") {
  using apollo::TensorView;
  using apollo::Unfold;
  const auto of = [](const char* what, std::vector<Index> w_extents, std::vector<Index> g_extents, Unfold how,
                     std::vector<std::string> says) {
    says.push_back("'n");  // a batch says which: 'n[0]'
    return Case{what,
                [=](World& w) {
                  w.optimizer.add(w.low, "n", TensorView<float>(w.other.w.memory.data(), w_extents),
                                  TensorView<float>(w.other.g.memory.data(), g_extents), how);
                },
                says};
  };
  check<std::invalid_argument>({
      of("three dimensions", {2, 6, 8}, {2, 6, 8}, Unfold::none, {"3 dimensions", "more than 2", "Unfold::"}),
      of("four dimensions", {3, 4, 2, 4}, {3, 4, 2, 4}, Unfold::none, {"4 dimensions", "more than 2", "Unfold::"}),
      of("no dimension", {}, {}, Unfold::none, {"0 dimensions", "at least 1"}),
      of("a batch of a matrix", {12, 8}, {12, 8}, Unfold::batch, {"2 dimensions", "3"}),
      of("a batch of four dimensions", {2, 3, 2, 8}, {2, 3, 2, 8}, Unfold::batch, {"4 dimensions", "3"}),
      of("another number of gradients", {2, 6, 8}, {3, 4, 8}, Unfold::batch, {"3", "2"}),
      of("gradients of another shape", {2, 6, 8}, {2, 8, 6}, Unfold::batch, {"'n[0]'", "8 x 6"}),
      of("another unfolded shape", {12, 2, 4}, {6, 4, 4}, Unfold::rest, {"6 x 16", "12 x 8"}),
  });
  check<std::invalid_argument>({{"dimensions that do not collapse",
                                 [](World& w) {
                                   w.optimizer.add(w.low, "n",
                                                   TensorView<float>(w.other.w.memory.data(), {3, 2, 4}, {32, 12, 1}),
                                                   TensorView<float>(w.other.g.memory.data(), {3, 2, 4}), Unfold::rest);
                                 },
                                 {"'n'", "collapse"}},
                                {"strides of another number of dimensions",
                                 [](World& w) {
                                   TensorView<float>(w.other.w.memory.data(), {3, 2, 4}, {8, 4});
                                 },
                                 {"3", "2", "strides"}},
                                {"blocks that do not add up",
                                 [](World& w) {
                                   apollo::split_rows(w.other.w.view, {4, 4, 3}, "qkv");
                                 },
                                 {"'qkv'", "11", "12"}},
                                {"an empty block",
                                 [](World& w) {
                                   apollo::split_rows(w.other.w.view, {12, 0}, "qkv");
                                 },
                                 {"'qkv'", "0", "at least 1"}},
                                {"a container of another size",
                                 [](World& w) { apollo::row_major(w.other.w.memory, 12, 9); },
                                 {"96", "12 x 9", "108"}}});
}

TEST_CASE("an automatic scale exists for random structured updates only") {
  using namespace apollo;
  using Plain = StructuredOptimizer<AdamMoments<>>;
  const auto message = model::message_of<std::invalid_argument>([] { Plain({4, 3}, {.scale = automatic}, "w"); });
  CHECK(model::mentions(message, "'w'", "scale = automatic"));
  const auto svd = model::message_of<std::invalid_argument>([] {
    model::SvdChannels<>({4, 3}, {.rank = 2, .scale = automatic}, "w");
  });
  CHECK(model::mentions(svd, "'w'", "scale = automatic", "random"));
}

// --- rebinding ----------------------------------------------------------------------------------------------------------

TEST_CASE("rebinding refuses other shapes, other types and unknown names") {
  using apollo::row_major;
  check<std::invalid_argument>({
      {"weight of another shape",
       [](World& w) { w.optimizer.rebind("matrix", w.other.w.view.transposed(), w.other.g.view); },
       {"'matrix'", "weight", "8 x 12", "12 x 8"}},
      {"gradient of another shape",
       [](World& w) { w.optimizer.rebind("matrix", w.other.w.view, w.other.g.view.transposed()); },
       {"'matrix'", "gradient", "8 x 12", "12 x 8"}},
      {"weight of another type",
       [](World& w) { w.optimizer.rebind("matrix", w.other_double.w.view, w.other.g.view); },
       {"'matrix'", "weight", "float64", "float32"}},
      {"gradient of another type",
       [](World& w) { w.optimizer.rebind("matrix", w.other.w.view, w.other_double.g.view); },
       {"'matrix'", "gradient", "float64", "float32"}},
      {"weight of another type, without a gradient",
       [](World& w) { w.optimizer.rebind("matrix", w.other_double.w.view, apollo::no_gradient); },
       {"'matrix'", "weight", "float64", "float32"}},
      {"weight of another type of the same size",
       [](World& w) {
         w.optimizer.rebind("matrix", row_major(reinterpret_cast<apollo::float16*>(w.other.w.memory.data()), 12, 8),
                            w.other.g.view);
       },
       {"'matrix'", "weight", "float16", "float32"}},
      {"weight without data",
       [](World& w) { w.optimizer.rebind("matrix", row_major(static_cast<float*>(nullptr), 12, 8), w.other.g.view); },
       {"'matrix'", "weight", "null"}},
      {"gradient without data",
       [](World& w) { w.optimizer.rebind("matrix", w.other.w.view, row_major(static_cast<float*>(nullptr), 12, 8)); },
       {"'matrix'", "gradient", "null"}},
      {"W is G",
       [](World& w) { w.optimizer.rebind("matrix", w.other.g.view, w.other.g.view); },
       {"'matrix'", "overlap"}},
      {"W overlaps itself",
       [](World& w) {
         w.optimizer.rebind("matrix", apollo::strided(w.other.w.memory.data(), 12, 8, 4, 1), w.other.g.view);
       },
       {"'matrix'", "overlap"}},
      {"an unknown name",
       [](World& w) { w.optimizer.rebind("matrx", w.other.w.view, w.other.g.view); },
       {"'matrx'", "4"}},
      {"an unknown name, without a gradient",
       [](World& w) { w.optimizer.rebind("", w.other.w.view, apollo::no_gradient); },
       {"''"}},
      {"a step that rebinds to another shape",
       [](World& w) { w.optimizer.step("matrix", w.other.w.view, w.other.g.view.transposed()); },
       {"'matrix'", "gradient", "8 x 12", "12 x 8"}},
  });
}

// --- steps --------------------------------------------------------------------------------------------------------------

TEST_CASE("unknown names are refused") {
  check<std::invalid_argument>({
      {"step", [](World& w) { w.optimizer.step("unknown"); }, {"'unknown'", "4"}},
      {"step with tensors", [](World& w) { w.optimizer.step("x", w.other.w.view, w.other.g.view); }, {"'x'"}},
      {"a prefix", [](World& w) { w.optimizer.step("matri"); }, {"'matri'"}},
      {"an extension", [](World& w) { w.optimizer.steps("matrix "); }, {"'matrix '"}},
      {"after the last", [](World& w) { w.optimizer.state_bytes("zzz"); }, {"'zzz'"}},
  });
}

TEST_CASE("numbers that steer a model are checked") {
  using apollo::Cosine;
  using apollo::Linear;
  std::vector<Case> cases = {
      {"lr", [](World& w) { w.optimizer.set_lr(w.low, -1); }, {"lr = -1", "at least 0"}},
      {"lr", [](World& w) { w.optimizer.set_lr(w.low, not_a_number); }, {"lr = ", "nan", "at least 0"}},
      {"lr", [](World& w) { w.optimizer.set_lr(w.dense, inf); }, {"lr = inf", "finite"}},
      {"scale", [](World& w) { w.optimizer.gradient_scale(0); }, {"gradient_scale = 0", "greater than 0"}},
      {"scale", [](World& w) { w.optimizer.gradient_scale(-1); }, {"gradient_scale = -1", "greater than 0"}},
      {"scale", [](World& w) { w.optimizer.gradient_scale(inf); }, {"gradient_scale = inf", "finite"}},
      {"scale", [](World& w) { w.optimizer.gradient_scale(not_a_number); }, {"gradient_scale", "nan"}},
      {"clip", [](World& w) { w.optimizer.clip_global_norm(-1); }, {"clip_global_norm = -1", "greater than 0"}},
      {"clip", [](World& w) { w.optimizer.clip_global_norm(not_a_number); }, {"clip_global_norm", "nan"}},
      {"clip", [](World& w) { w.optimizer.clip_global_norm(-inf); }, {"clip_global_norm = -inf"}},
      {"warmup", [](World& w) { w.optimizer.schedule(apollo::Constant{.warmup = -1}); }, {"warmup = -1", "at least 0"}},
      {"warmup", [](World& w) { w.optimizer.schedule(Cosine{.warmup = -2, .total = 9}); }, {"warmup = -2"}},
      {"total", [](World& w) { w.optimizer.schedule(Cosine{.warmup = 5, .total = 5}); }, {"total = 5", "warmup = 5"}},
      {"total", [](World& w) { w.optimizer.schedule(Linear{.warmup = 5, .total = 2}); }, {"total = 2", "warmup = 5"}},
      {"total", [](World& w) { w.optimizer.schedule(Linear{}); }, {"total = 0", "warmup = 0"}},
  };
  for (const double bad : {-0.1, 1.1, inf, not_a_number}) {
    cases.push_back({"floor",
                     [bad](World& w) { w.optimizer.schedule(Cosine{.total = 9, .floor = bad}); },
                     {"floor = ", "between 0 and 1"}});
    cases.push_back({"floor",
                     [bad](World& w) { w.optimizer.schedule(Linear{.total = 9, .floor = bad}); },
                     {"floor = ", "between 0 and 1"}});
  }
  check<std::invalid_argument>(cases);
}

TEST_CASE("layer-wise steps out of turn are refused") {
  check<std::logic_error>({{"end_tick without a tick", [](World& w) { w.optimizer.end_tick(); }, {"end_tick()"}}});

  const auto open = [](World& w) {
    w.feed();
    w.optimizer.step("matrix");
    w.optimizer.step("bias");
  };
  const auto close = [](World& w) {
    w.optimizer.step("square");
    w.optimizer.step("embedding");
    CHECK(w.optimizer.end_tick().stepped == 4);
  };
  check<std::logic_error>(
      {
        {"a second step", [](World& w) { w.optimizer.step("matrix"); }, {"'matrix'", "second step", "tick 3"}},
            {"a second step with tensors",
             [](World& w) { w.optimizer.step("bias", w.bias.w.view, w.bias.g.view); },
             {"'bias'", "second step", "tick 3"}},
            {"a second step with other tensors",
             [](World& w) { w.optimizer.step("matrix", w.other.w.view, w.other.g.view); },
             {"'matrix'", "second step", "tick 3"}},
            {"a second step without a gradient",
             [](World& w) { w.optimizer.step("matrix", w.other.w.view, apollo::no_gradient); },
             {"'matrix'", "second step", "tick 3"}},
            {"tensors are missing",
             [](World& w) { w.optimizer.end_tick(); },
             {"2 of 4", "tick 3", "'square'", "'embedding'", "no_gradient"}},
            {"step() meanwhile", [](World& w) { w.optimizer.step(); }, {"tick 3", "end_tick()"}},
            {"begin_tick() meanwhile", [](World& w) { w.optimizer.begin_tick(); }, {"tick 3", "end_tick()"}},
#if APOLLO_HAS_FILES
            {"saving meanwhile",
             [](World& w) { apollo::save(w.optimizer, "bad_input.safetensors"); },
             {"save()", "tick 3", "end_tick()"}},
            {"loading meanwhile",
             [](World& w) { apollo::load(w.optimizer, "bad_input.safetensors"); },
             {"load()", "tick 3", "end_tick()"}},
#endif
      },
      open, close);
  check<std::invalid_argument>(
      {
          {"registering meanwhile",
           [](World& w) { w.optimizer.add(w.dense, "late", w.other.w.view, w.other.g.view); },
           {"'late'", "tick 3", "open"}},
          {"an unknown name meanwhile", [](World& w) { w.optimizer.step("lost"); }, {"'lost'"}},
      },
      open, close);
}

TEST_CASE("many missing tensors are counted, and some named") {
  apollo::Optimizer optimizer;
  const auto group = optimizer.add_group(apollo::SgdOptions{});
  std::vector<std::unique_ptr<Leaf<float>>> leaves;
  for (int i = 0; i < 40; ++i) {
    leaves.push_back(std::make_unique<Leaf<float>>("t" + std::to_string(i), 2, 1));
    optimizer.add(group, leaves.back()->name, leaves.back()->w.view, leaves.back()->g.view);
  }
  optimizer.step("t7");
  const std::string message = model::message_of<std::logic_error>([&] { optimizer.end_tick(); });
  CHECK(model::mentions(message, "39 of 40", "'t0'", "..."));
  CHECK_FALSE(model::mentions(message, "'t7'"));
  CHECK(message.size() < 400);
}

TEST_CASE("clipping by the global norm refuses layer-wise steps") {
  const auto clip = [](World& w) { w.optimizer.clip_global_norm(2.5); };
  check<std::logic_error>(
      {
          {"step", [](World& w) { w.optimizer.step("matrix"); }, {"2.5", "step()"}},
          {"step with tensors",
           [](World& w) { w.optimizer.step("matrix", w.matrix.w.view, w.matrix.g.view); },
           {"2.5", "step()"}},
          {"step with other tensors",
           [](World& w) { w.optimizer.step("matrix", w.other.w.view, w.other.g.view); },
           {"2.5", "step()"}},
          {"begin_tick", [](World& w) { w.optimizer.begin_tick(); }, {"2.5", "step()"}},
      },
      clip);
  // Clipping that is asked for while a tick is open must not be passed over in silence either.
  check<std::logic_error>(
      {{"set meanwhile",
        [](World& w) {
          w.optimizer.clip_global_norm(2.5);
          w.optimizer.step("square");
        },
        {"2.5"}}},
      [](World& w) { w.feed(), w.optimizer.step("matrix"); },
      [](World& w) {
        w.optimizer.clip_global_norm(0);
        for (const char* name : {"square", "embedding", "bias"}) w.optimizer.step(name);
        w.optimizer.end_tick();
      });
}

// --- static steps -------------------------------------------------------------------------------------------------------

namespace {

template <class Optimizer>
std::string state_of(Optimizer& optimizer) {
  const support::StateDump dump = support::state_of(optimizer);
  return std::string(reinterpret_cast<const char*>(dump.bytes.data()), dump.bytes.size());
}

template <class Optimizer>
void static_steps(Optimizer optimizer, Optimizer twin) {
  using apollo::row_major;
  using apollo::strided;
  Leaf<float> leaf("leaf", 9, 6), twin_leaf("leaf", 9, 6), other("other", 9, 6);
  const auto w = leaf.w.view;
  const auto g = leaf.g.view;
  static_assert(noexcept(optimizer.step(w, g)));
  const auto go_on = [&](std::int64_t t) {
    leaf.feed(t), twin_leaf.feed(t);
    CHECK(optimizer.step(w, g).stepped);
    CHECK(twin.step(twin_leaf.w.view, twin_leaf.g.view).stepped);
  };
  go_on(1);
  float* memory = leaf.w.memory.data();
  float* const nothing = nullptr;
  Leaf<float> poisoned("poisoned", 9, 6);
  const auto refused = [&](const apollo::MatrixView<float>& weight, const apollo::MatrixView<float>& gradient,
                           Skip reason) {
    const auto weights = leaf.w.memory, gradients = leaf.g.memory, others = other.w.memory;
    const std::string before = state_of(optimizer);
    const std::int64_t steps = optimizer.steps();
    const apollo::TensorReport report = optimizer.step(weight, gradient);
    CHECK(report.reason == reason);
    CHECK_FALSE(report.stepped);
    CHECK_FALSE(report.refreshed);
    CHECK(report.name == "leaf");
    CHECK(std::string(apollo::describe(report.reason)).size() > 10);
    CHECK(optimizer.steps() == steps);
    CHECK(model::same(state_of(optimizer), before));
    CHECK(model::same_bits(leaf.w.memory, weights));
    CHECK(model::same_bits(leaf.g.memory, gradients));
    CHECK(model::same_bits(other.w.memory, others));
  };
  for (std::int64_t t = 2; t <= 6; ++t) {
    refused(w, g.transposed(), Skip::wrong_shape);
    refused(w.transposed(), g, Skip::wrong_shape);
    refused(w.transposed(), g.transposed(), Skip::wrong_shape);
    refused(w.middle_rows(0, 8), g.middle_rows(0, 8), Skip::wrong_shape);
    refused(row_major(memory, 0, 0), row_major(memory, 0, 0), Skip::wrong_shape);
    refused(row_major(nothing, 9, 6), g, Skip::null_data);
    refused(w, row_major(nothing, 9, 6), Skip::null_data);
    refused(w, w, Skip::overlap);
    refused(w, row_major(memory + 53, 9, 6), Skip::overlap);
    refused(strided(memory, 9, 6, 0, 1), g, Skip::overlap);
    refused(strided(memory, 9, 6, 3, 1), g, Skip::overlap);
    for (const double bad : {inf, -inf, not_a_number}) {
      poisoned.feed(t);
      poisoned.g.view(8, 5) = static_cast<float>(bad);
      refused(w, poisoned.g.view, Skip::not_finite);
      poisoned.feed(t);
      poisoned.g.view(0, 0) = static_cast<float>(bad);
      refused(w, poisoned.g.view, Skip::not_finite);
    }
    go_on(t);
  }
  CHECK(model::same_bits(leaf.w.memory, twin_leaf.w.memory));
  CHECK(model::same(state_of(optimizer), state_of(twin)));
}

}  // namespace

TEST_CASE("a static step reports bad input and changes nothing") {
  const auto run = [](const char* what, auto tag, const auto& options) {
    using Member = typename decltype(tag)::type;
    CAPTURE(std::string(what));
    static_steps(Member({9, 6}, options, "leaf"), Member({9, 6}, options, "leaf"));
  };
  model::for_each_dense<>(run);
  model::for_each_projected<>(3, 2, apollo::ProjType::std, run);
}

TEST_CASE("a projection that overflows is not finite either, also where the gradient is") {
  const auto run = [](const char* what, auto tag, const auto& options) {
    using Member = typename decltype(tag)::type;
    CAPTURE(std::string(what));
    Leaf<float> leaf("leaf", 40, 30);
    Member optimizer({40, 30}, options, "leaf");
    for (int t = 1; t <= 4; ++t) {
      leaf.feed(t);
      CHECK(optimizer.step(leaf.w.view, leaf.g.view).stepped);
    }
    leaf.g.set(Matrix(40, 30, 3e38));
    const auto weights = leaf.w.memory;
    const std::string before = state_of(optimizer);
    const auto report = optimizer.step(leaf.w.view, leaf.g.view);
    if (report.stepped) return;  // no row of P made it overflow
    CHECK(report.reason == Skip::not_finite);
    CHECK(optimizer.steps() == 4);
    CHECK(model::same_bits(leaf.w.memory, weights));
    CHECK(model::same(state_of(optimizer), before));
  };
  model::for_each_projected<>(3, 2, apollo::ProjType::std, run);  // a refresh is due
  model::for_each_projected<>(3, 3, apollo::ProjType::std, run);  // and is not
}

TEST_CASE("a fixed projection waits until it is set, and must fit") {
  using Fixed = apollo::Apollo<apollo::FixedProjection>;
  Leaf<float> leaf("leaf", 9, 6);
  Fixed optimizer({9, 6}, {.rank = 3}, "leaf");
  const auto weights = leaf.w.memory;
  const std::string before = state_of(optimizer);
  CHECK(optimizer.step(leaf.w.view, leaf.g.view).reason == Skip::no_projection);
  CHECK(optimizer.steps() == 0);
  CHECK(model::same_bits(leaf.w.memory, weights));
  Leaf<float> p("p", 6, 3);
  const auto refused = [&](auto&& view) {
    const std::string message = model::message_of<std::invalid_argument>([&] { optimizer.set_projection(view); });
    CHECK(model::mentions(message, "'leaf'", "3 x 6"));
    CHECK(model::same(state_of(optimizer), before));
  };
  refused(p.w.view);
  refused(p.w.view.middle_rows(0, 3));
  refused(apollo::row_major(static_cast<float*>(nullptr), 3, 6));
  optimizer.set_projection(p.w.view.transposed());
  CHECK(optimizer.step(leaf.w.view, leaf.g.view).stepped);
}
