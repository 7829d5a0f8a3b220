// SPDX-License-Identifier: Apache-2.0
// A whole model: identity by name, schedules, clipping, one clock for layer-wise steps, and what the reports say.
// also: no-exceptions
// not: optimised
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <typeinfo>
#include <vector>

#include <apollo/apollo.hpp>

#include "model.hpp"

#if !defined(__cpp_exceptions) && APOLLO_HAS_FILES
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#endif

namespace {

using apollo::Index;
using apollo::Skip;
using apollo::TensorReport;
using model::Layout;
using model::Leaf;
using model::Matrix;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

apollo::ApolloOptions low_rank() {
  apollo::ApolloOptions options{.lr = 0.01, .rank = 3, .update_proj_gap = 4};
  options.weight_decay = 0.1, options.seed = 5;
  return options;
}

/// Two groups, matrices and a bias.
struct Net {
  apollo::Optimizer optimizer;
  std::vector<std::unique_ptr<Leaf<float>>> leaves;

  Leaf<float>& leaf(std::string_view name) {
    for (const auto& each : leaves)
      if (each->name == name) return *each;
    REQUIRE_MESSAGE(false, "no such leaf");
    return *leaves.front();
  }
  template <class Policies>
  void add(apollo::Group<Policies> group, const char* name, Index rows, Index cols, Layout layout = Layout::row_major) {
    leaves.push_back(std::make_unique<Leaf<float>>(name, rows, cols, layout));
    optimizer.add(group, name, leaves.back()->w.view, leaves.back()->g.view);
  }
  void feed(std::int64_t step, double factor = 1) {
    for (const auto& each : leaves) each->feed(step, factor);
  }
};

/// `order` says in which order the tensors are registered.
std::unique_ptr<Net> make_net(const std::vector<int>& order = {0, 1, 2, 3, 4}) {
  auto net = std::make_unique<Net>();
  const auto low = net->optimizer.add_group(low_rank());
  const auto full = net->optimizer.add_group(apollo::AdamWOptions{.lr = 0.02});
  for (const int which : order) switch (which) {
      case 0: net->add(low, "tall", 14, 6); break;
      case 1: net->add(low, "wide", 5, 17, Layout::column_major); break;
      case 2: net->add(low, "bias", 9, 1); break;
      case 3: net->add(full, "embedding", 11, 7); break;
      default: net->add(full, "norm", 1, 8); break;
    }
  return net;
}

bool same_weights(const Net& a, const Net& b) {
  for (const auto& x : a.leaves)
    for (const auto& y : b.leaves)
      if (x->name == y->name && !model::same_bits(x->w.memory, y->w.memory)) return false;
  return true;
}

double rms_change(const Matrix& now, const Matrix& before) {
  return support::norm(support::difference(now, before)) / std::sqrt(static_cast<double>(now.values.size()));
}

}  // namespace

TEST_CASE("a tensor's path depends on neither the order of registration nor its neighbours") {
  const auto all = make_net(), reversed = make_net({4, 3, 2, 1, 0}), few = make_net({1, 4}), one = make_net({0, 1});
  for (int t = 1; t <= 11; ++t)
    for (Net* net : {all.get(), reversed.get(), few.get(), one.get()}) {
      net->feed(t);
      CHECK(net->optimizer.step().skipped == 0);
    }
  CHECK(same_weights(*all, *reversed));
  CHECK(same_weights(*all, *few));
  CHECK(same_weights(*all, *one));
  for (const auto& leaf : all->leaves)
    CHECK(model::same(model::state_of(all->optimizer, leaf->name), model::state_of(reversed->optimizer, leaf->name)));
}

TEST_CASE("the name and the seed choose the random projection") {
  const auto run = [](const char* name, std::uint64_t seed) {
    apollo::Optimizer optimizer;
    auto options = low_rank();
    options.seed = seed;
    const auto group = optimizer.add_group(options);
    Leaf<float> data("data", 14, 6);
    optimizer.add(group, name, data.w.view, data.g.view);
    optimizer.step();
    return data.w.memory;
  };
  CHECK(model::same_bits(run("a", 5), run("a", 5)));
  CHECK_FALSE(model::same_bits(run("a", 5), run("b", 5)));
  CHECK_FALSE(model::same_bits(run("a", 5), run("a", 6)));
}

TEST_CASE("refreshes can be spread over steps: every gap steps, each tensor in its own, and all in the first") {
  static constexpr int tensors = 24, gap = 6, steps = 4 * gap;
  const auto refreshes = [](bool spread, auto options) {  // of each tensor, as 0s and 1s
    options.update_proj_gap = gap;
    apollo::Optimizer optimizer;
    if (spread) optimizer.spread_refreshes();
    const auto group = optimizer.add_group(options);
    std::vector<std::unique_ptr<Leaf<float>>> leaves;
    for (int i = 0; i < tensors; ++i) {
      leaves.push_back(std::make_unique<Leaf<float>>("layer" + std::to_string(i), 7, 5));
      optimizer.add(group, leaves.back()->name, leaves.back()->w.view, leaves.back()->g.view);
    }
    std::vector<std::string> happened(tensors);
    for (int t = 1; t <= steps; ++t) {
      for (const auto& leaf : leaves) leaf->feed(t);
      const auto report = optimizer.step();
      CHECK(report.stepped == tensors);
      for (std::size_t i = 0; i < tensors; ++i) happened[i] += report.tensors[i].refreshed ? '1' : '0';
    }
    return happened;
  };
  const std::string together = "100000100000100000100000";
  for (const std::string& each : refreshes(false, apollo::GaLoreOptions{.rank = 2})) CHECK(each == together);
  const auto galore = refreshes(true, apollo::GaLoreOptions{.rank = 2});
  CHECK(refreshes(true, apollo::ApolloOptions{.rank = 2}) == galore);
  std::vector<int> in_step(steps);
  for (std::size_t i = 0; i < tensors; ++i) {
    CAPTURE(i);
    const auto phase = static_cast<std::size_t>(apollo::tensor_id("layer" + std::to_string(i)) % gap);
    for (std::size_t t = 0; t < steps; ++t) {
      CHECK((galore[i][t] == '1') == (t == 0 || (t + phase) % gap == 0));
      in_step[t] += galore[i][t] == '1';
    }
  }
  for (std::size_t t = 1; t < steps; ++t) CHECK(in_step[t] < tensors / 2);

  apollo::Optimizer late;
  Leaf<float> leaf("w", 7, 5);
  late.add(late.add_group(apollo::GaLoreOptions{.rank = 2}), "w", leaf.w.view, leaf.g.view);
#if defined(__cpp_exceptions)
  CHECK(model::mentions(model::message_of<std::logic_error>([&] { late.spread_refreshes(); }), "spread_refreshes()",
                        "1 tensors", "before add()"));
#endif
}

TEST_CASE("an id that is given takes the place of the name's in the random streams") {
  const auto run = [](const char* name, apollo::TensorId id) {
    apollo::Optimizer optimizer;
    Leaf<float> data("data", 14, 6);
    optimizer.add(optimizer.add_group(low_rank()), name, id, data.w.view, data.g.view);
    optimizer.step();
    return data.w.memory;
  };
  CHECK(model::same_bits(run("a", 7), run("b", 7)));
  CHECK_FALSE(model::same_bits(run("a", 7), run("a", 8)));
  apollo::Optimizer by_name;
  Leaf<float> data("data", 14, 6);
  by_name.add(by_name.add_group(low_rank()), "a", data.w.view, data.g.view);
  by_name.step();
  CHECK(model::same_bits(data.w.memory, run("other", apollo::tensor_id("a"))));
}

TEST_CASE("a model steps each tensor as its static optimizer does") {
  const auto net = make_net();
  Leaf<float> tall("tall", 14, 6), embedding("embedding", 11, 7);
  apollo::Apollo<> apollo_optimizer(tall.w.view, low_rank(), "tall");
  apollo::AdamW<> adamw(embedding.w.view, {.lr = 0.02}, "embedding");
  for (int t = 1; t <= 9; ++t) {
    net->feed(t), tall.feed(t), embedding.feed(t);
    net->optimizer.step();
    CHECK(apollo_optimizer.step(tall.w.view, tall.g.view).stepped);
    CHECK(adamw.step(embedding.w.view, embedding.g.view).stepped);
  }
  CHECK(model::same_bits(tall.w.memory, net->leaf("tall").w.memory));
  CHECK(model::same_bits(embedding.w.memory, net->leaf("embedding").w.memory));
  CHECK(net->optimizer.state_bytes("tall") == apollo_optimizer.state_bytes());
  CHECK(net->optimizer.state_bytes("tall") == apollo::Apollo<>::state_bytes({14, 6}, low_rank()));
}

TEST_CASE("rebinding moves a tensor to other memory and layouts without a trace in its path") {
  const auto net = make_net();
  apollo::Optimizer moving;
  const auto group = moving.add_group(low_rank());
  std::unique_ptr<Leaf<float>> now = std::make_unique<Leaf<float>>("tall", 14, 6);
  moving.add(group, "tall", now->w.view, now->g.view);
  for (int t = 1; t <= 9; ++t) {
    net->feed(t);
    net->optimizer.step();
    auto next = std::make_unique<Leaf<float>>("tall", 14, 6, support::all_layouts[t % 6]);
    next->w.set(now->w.get());
    next->feed(t);
    if (t % 2 == 0) {
      moving.rebind("tall", next->w.view, next->g.view);
      moving.step();
    } else {
      CHECK(moving.step("tall", next->w.view, next->g.view).stepped);
      moving.end_tick();
    }
    now = std::move(next);
  }
  CHECK(moving.tick() == 9);
  CHECK(now->w.gaps_untouched());
  CHECK(support::relative_error(now->w.get(), net->leaf("tall").w.get()) <= 0);
}

TEST_CASE("any tensor type registers: vectors, and raw memory") {
  apollo::Optimizer optimizer;
  const auto group = optimizer.add_group(apollo::SgdOptions{.lr = 0.5});
  std::vector<float> w = {1, 2, 3}, g = {2, 2, 2};
  double raw_w[4] = {1, 1, 1, 1}, raw_g[4] = {2, 4, 6, 8};
  optimizer.add(group, "vector", w, g);
  optimizer.add(group, "raw", apollo::row_major(raw_w, 2, 2), apollo::column_major(raw_g, 2, 2));
  optimizer.step();
  CHECK(w == std::vector<float>{0, 1, 2});
  CHECK(raw_w[0] == 0);
  CHECK(raw_w[1] == -2);
  CHECK(raw_w[2] == -1);
  CHECK(raw_w[3] == -3);
}

// --- schedules ----------------------------------------------------------------------------------------------------------

TEST_CASE("schedules have the factors of their definitions") {
  const apollo::Schedule constant(apollo::Constant{.warmup = 4});
  for (int t = 1; t <= 4; ++t) CHECK(constant.factor(t) == t / 4.0);
  CHECK(constant.factor(5) == 1);
  CHECK(constant.factor(1'000'000) == 1);
  CHECK(apollo::Schedule().factor(1) == 1);
  CHECK(apollo::Schedule(apollo::Constant{}).factor(1) == 1);

  const apollo::Schedule cosine(apollo::Cosine{.warmup = 10, .total = 110, .floor = 0.1});
  const apollo::Schedule linear(apollo::Linear{.warmup = 10, .total = 110, .floor = 0.1});
  for (int t = 1; t <= 120; ++t) {
    const double progress = t <= 10 ? 0 : t >= 110 ? 1 : (t - 10) / 100.0;
    const double warm = t < 10 ? t / 10.0 : 1;
    const double pi = std::acos(-1.0);
    CHECK(cosine.factor(t) == doctest::Approx(warm * (0.1 + 0.9 * (1 + std::cos(pi * progress)) / 2)).epsilon(1e-14));
    CHECK(linear.factor(t) == doctest::Approx(warm * (0.1 + 0.9 * (1 - progress))).epsilon(1e-14));
  }
  CHECK(cosine.factor(1) == 0.1);
  CHECK(cosine.factor(10) == 1);
  CHECK(cosine.factor(60) == doctest::Approx(0.55).epsilon(1e-14));
  CHECK(cosine.factor(110) == 0.1);
  CHECK(cosine.factor(111) == 0.1);
  CHECK(linear.factor(60) == doctest::Approx(0.55).epsilon(1e-14));
  CHECK(apollo::Schedule(apollo::Linear{.warmup = 0, .total = 1, .floor = 0}).factor(1) == 0);
}

TEST_CASE("a schedule reaches every group, and set_lr one of them") {
  apollo::Optimizer optimizer;
  const auto first = optimizer.add_group(apollo::SgdOptions{.lr = 0.5});
  const auto second = optimizer.add_group(apollo::SgdOptions{.lr = 0.25});
  const auto third = optimizer.add_group(apollo::ApolloMiniOptions{.lr = 0.125});
  std::vector<double> w1 = {0, 0}, w2 = {0, 0}, g = {1, 1};
  Leaf<double> matrix("matrix", 5, 4);
  optimizer.add(first, "first", w1, g);
  optimizer.add(second, "second", w2, g);
  optimizer.add(third, "third", matrix.w.view, matrix.g.view);
  apollo::ApolloMini<double> twin(matrix.w.view, {.lr = 0.125}, "third");
  Leaf<double> copy("matrix", 5, 4);
  optimizer.schedule(apollo::Linear{.warmup = 2, .total = 6, .floor = 0.5});
  const double factors[] = {0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.5};
  double sum = 0;
  for (const double factor : factors) {
    CHECK(optimizer.schedule_factor() == factor);
    optimizer.step();
    twin.set_lr(0.125 * factor);
    CHECK(twin.step(copy.w.view, copy.g.view).stepped);
    sum += factor;
    CHECK(w1[0] == -0.5 * sum);
    CHECK(w2[1] == -0.25 * sum);
    CHECK(copy.w.memory == matrix.w.memory);
  }
  CHECK(optimizer.lr(first) == 0.5);
  CHECK(optimizer.lr(third) == 0.125);

  optimizer.set_lr(second, 1);
  CHECK(optimizer.lr(second) == 1);
  CHECK(optimizer.lr(first) == 0.5);
  const double before1 = w1[0], before2 = w2[0];
  optimizer.step();
  CHECK(w1[0] == before1 - 0.25);
  CHECK(w2[0] == before2 - 0.5);
  optimizer.schedule(apollo::Constant{});
  optimizer.step();
  CHECK(w2[0] == before2 - 1.5);
}

TEST_CASE("a learning rate of 0 moves nothing but the state") {
  apollo::Optimizer optimizer;
  const auto group = optimizer.add_group(apollo::AdamWOptions{.lr = 0});
  Leaf<float> leaf("leaf", 4, 3);
  const auto before = leaf.w.memory;
  optimizer.add(group, "leaf", leaf.w.view, leaf.g.view);
  const std::string state = model::state_of(optimizer, "leaf");
  CHECK(optimizer.step().stepped == 1);
  CHECK(model::same_bits(leaf.w.memory, before));
  CHECK_FALSE(model::same(model::state_of(optimizer, "leaf"), state));
}

// --- scaling and clipping -----------------------------------------------------------------------------------------------

TEST_CASE("a gradient scale of a power of two undoes a loss scale bit by bit") {
  const auto plain = make_net(), scaled = make_net();
  scaled->optimizer.gradient_scale(1 / 1024.0);
  for (int t = 1; t <= 9; ++t) {
    plain->feed(t), scaled->feed(t, 1024);
    const auto a = plain->optimizer.step();
    const auto b = scaled->optimizer.step();
    for (std::size_t i = 0; i < a.tensors.size(); ++i) {
      CHECK(a.tensors[i].gradient_norm == b.tensors[i].gradient_norm);
      CHECK(a.tensors[i].update_norm == b.tensors[i].update_norm);
    }
  }
  CHECK(same_weights(*plain, *scaled));
}

TEST_CASE("clipping by the global norm scales all gradients by one factor") {
  const auto clipped = make_net();
  for (const double limit : {0.5, 2.0, 100.0}) {
    const auto net = make_net();
    const auto twin = make_net();
    net->optimizer.clip_global_norm(limit);
    net->optimizer.gradient_scale(0.5);
    for (int t = 1; t <= 5; ++t) {
      net->feed(t);
      double squared = 0;
      for (const auto& leaf : net->leaves) squared += 0.25 * support::squared_norm(leaf->g.get());
      const double norm = std::sqrt(squared);
      const double factor = norm > limit ? limit / (norm + 1e-6) : 1;
      const auto report = net->optimizer.step();
      CHECK(report.global_norm == doctest::Approx(norm).epsilon(1e-6));
      CHECK(report.clip_factor == doctest::Approx(factor).epsilon(1e-6));
      if (limit > 50) CHECK(report.clip_factor == 1);
      double after = 0;
      for (const TensorReport& tensor : report.tensors) after += tensor.gradient_norm * tensor.gradient_norm;
      CHECK(std::sqrt(after) == doctest::Approx(norm * factor).epsilon(1e-6));
      CHECK(std::sqrt(after) <= limit * (1 + 1e-6));

      twin->feed(t);
      twin->optimizer.gradient_scale(0.5 * report.clip_factor);
      twin->optimizer.step();
    }
    CHECK(same_weights(*net, *twin));
  }
}

TEST_CASE("clipping leaves non-finite tensors out, and tensors without a gradient") {
  const auto net = make_net();
  net->optimizer.clip_global_norm(1);
  net->leaf("tall").g.view(3, 2) = static_cast<float>(not_a_number);
  net->leaf("norm").g.view(0, 1) = static_cast<float>(infinity);
  net->optimizer.rebind("wide", net->leaf("wide").w.view, apollo::no_gradient);
  const double squared =
      support::squared_norm(net->leaf("bias").g.get()) + support::squared_norm(net->leaf("embedding").g.get());
  const auto tall = net->leaf("tall").w.memory;
  const auto report = net->optimizer.step();
  CHECK(report.global_norm == doctest::Approx(std::sqrt(squared)).epsilon(1e-6));
  CHECK(report.stepped == 2);
  CHECK(report.skipped == 3);
  CHECK(model::same_bits(tall, net->leaf("tall").w.memory));
}

TEST_CASE("0 and infinity switch clipping off") {
  for (const double off : {0.0, infinity}) {
    const auto net = make_net(), twin = make_net();
    net->optimizer.clip_global_norm(1e-3);
    net->optimizer.clip_global_norm(off);
    const auto report = net->optimizer.step();
    CHECK(report.global_norm == apollo::not_measured);
    CHECK(report.clip_factor == 1);
    twin->optimizer.step();
    CHECK(same_weights(*net, *twin));
  }
}

// --- layer by layer -----------------------------------------------------------------------------------------------------

TEST_CASE("layer-wise steps are the same as step(), bit by bit, with one tick for all") {
  const auto whole = make_net(), layers = make_net();
  for (Net* net : {whole.get(), layers.get()})
    net->optimizer.schedule(apollo::Cosine{.warmup = 3, .total = 12, .floor = 0.1});
  const char* backwards[] = {"norm", "embedding", "bias", "wide", "tall"};
  for (int t = 1; t <= 13; ++t) {
    whole->feed(t);
    const auto expected = whole->optimizer.step();
    if (t % 3 == 0) layers->optimizer.begin_tick();
    for (const char* name : backwards) {
      layers->leaf(name).feed(t);
      const double factor = whole->optimizer.tick() == t ? layers->optimizer.schedule_factor() : 0;
      const TensorReport report = layers->optimizer.step(name);
      CHECK(report.stepped);
      CHECK(report.name == name);
      CHECK(layers->optimizer.tick() == t);
      CHECK(layers->optimizer.tick_open());
      CHECK(layers->optimizer.schedule_factor() == factor);
    }
    const auto report = layers->optimizer.end_tick();
    CHECK_FALSE(layers->optimizer.tick_open());
    CHECK(report.tick == t);
    CHECK(report.tick == expected.tick);
    CHECK(report.stepped == 5);
    CHECK(report.skipped == 0);
    REQUIRE(report.tensors.size() == expected.tensors.size());
    for (std::size_t i = 0; i < report.tensors.size(); ++i) {
      CHECK(report.tensors[i].name == expected.tensors[i].name);
      CHECK(report.tensors[i].gradient_norm == expected.tensors[i].gradient_norm);
      CHECK(report.tensors[i].update_norm == expected.tensors[i].update_norm);
      CHECK(report.tensors[i].limiter == expected.tensors[i].limiter);
      CHECK(report.tensors[i].refreshed == expected.tensors[i].refreshed);
    }
  }
  CHECK(same_weights(*whole, *layers));
  CHECK(model::same(model::snapshot(whole->optimizer), model::snapshot(layers->optimizer)));
}

TEST_CASE("a tensor without a gradient need not be stepped before end_tick") {
  const auto net = make_net();
  net->optimizer.rebind("wide", net->leaf("wide").w.view, apollo::no_gradient);
  for (const char* name : {"tall", "bias", "embedding", "norm"}) net->optimizer.step(name);
  const auto report = net->optimizer.end_tick();
  CHECK(report.stepped == 4);
  CHECK(report.skipped == 1);
  CHECK(report.tensors[1].name == "wide");
  CHECK(report.tensors[1].reason == Skip::no_gradient);
  // Stepping it by name is fine, too.
  net->optimizer.begin_tick();
  CHECK(net->optimizer.step("wide").reason == Skip::no_gradient);
  for (const char* name : {"tall", "bias", "embedding", "norm"}) net->optimizer.step(name);
  CHECK(net->optimizer.end_tick().skipped == 1);
  CHECK(net->optimizer.steps("wide") == 0);
  CHECK(net->optimizer.steps("tall") == 2);
}

TEST_CASE("steps in a workspace of one's own have the same bits") {
  const auto net = make_net(), twin = make_net();
  auto workspace = net->optimizer.make_workspace();
  for (int t = 1; t <= 6; ++t) {
    net->feed(t), twin->feed(t);
    for (const char* name : {"tall", "wide", "bias", "embedding", "norm"})
      CHECK(net->optimizer.step(name, workspace).stepped);
    net->optimizer.end_tick();
    twin->optimizer.step();
  }
  CHECK(same_weights(*net, *twin));
}

// --- reports and skips --------------------------------------------------------------------------------------------------

TEST_CASE("reports list every tensor in order of registration") {
  const auto net = make_net({3, 0, 2, 4, 1});
  for (int t = 1; t <= 6; ++t) {
    net->feed(t);
    std::map<std::string, Matrix> before;
    for (const auto& leaf : net->leaves) before[leaf->name] = leaf->w.get();
    const apollo::StepReport report = net->optimizer.step();
    CHECK(report.tick == t);
    CHECK(report.stepped == 5);
    CHECK(report.skipped == 0);
    CHECK(report.global_norm == apollo::not_measured);
    REQUIRE(report.tensors.size() == 5);
    const char* names[] = {"embedding", "tall", "bias", "norm", "wide"};
    for (std::size_t i = 0; i < 5; ++i) {
      const TensorReport& tensor = report.tensors[i];
      CHECK(tensor.name == names[i]);
      CHECK(tensor.stepped);
      CHECK(tensor.reason == Skip::none);
      const Leaf<float>& leaf = net->leaf(names[i]);
      CHECK(tensor.gradient_norm == doctest::Approx(support::norm(leaf.g.get())).epsilon(1e-5));
      const bool matrix = tensor.name == "tall" || tensor.name == "wide";
      CHECK(tensor.refreshed == (matrix && (t - 1) % 4 == 0));
      CHECK(tensor.limiter >= 1);
      if (!matrix) {
        CHECK(tensor.update_norm == apollo::not_measured);
        CHECK(tensor.limiter == 1);
        continue;
      }
      // W after = (1 - lr decay) (W - lr c_t U)
      const double c = std::sqrt(1 - std::pow(0.999, t)) / (1 - std::pow(0.9, t));
      const Matrix step = support::difference(support::scaled(leaf.w.get(), 1 / (1 - 0.01 * 0.1)), before[names[i]]);
      CHECK(tensor.update_norm == doctest::Approx(support::norm(step) / (0.01 * c)).epsilon(1e-4));
    }
  }
}

TEST_CASE("a gradient that is not finite skips its tensor only") {
  for (const double bad : {not_a_number, infinity, -infinity})
    for (const std::string name : {"tall", "wide", "bias", "embedding", "norm"}) {
      CAPTURE(bad);
      CAPTURE(name);
      const auto net = make_net(), twin = make_net();
      for (int t = 1; t <= 6; ++t) {
        net->feed(t), twin->feed(t);
        if (t == 5) {  // a refresh is due
          auto& g = net->leaf(name).g.view;
          g(g.rows - 1, g.cols - 1) = static_cast<float>(bad);
          twin->optimizer.rebind(name, twin->leaf(name).w.view, apollo::no_gradient);
        }
        const auto report = net->optimizer.step();
        twin->optimizer.step();
        if (t != 5) continue;
        twin->optimizer.rebind(name, twin->leaf(name).w.view, twin->leaf(name).g.view);
        CHECK(report.skipped == 1);
        CHECK(report.stepped == 4);
        for (const TensorReport& tensor : report.tensors) {
          CHECK(tensor.stepped == (tensor.name != name));
          CHECK(tensor.reason == (tensor.name == name ? Skip::not_finite : Skip::none));
          if (tensor.name == name) CHECK_FALSE(tensor.refreshed);
        }
        CHECK(net->optimizer.steps(name) == 4);
      }
      CHECK(net->optimizer.tick() == 6);
      CHECK(net->optimizer.steps(name) == 5);
      CHECK(same_weights(*net, *twin));
      CHECK(model::same(model::snapshot(net->optimizer), model::snapshot(twin->optimizer)));
    }
}

TEST_CASE("a tensor registered without a gradient waits for one") {
  apollo::Optimizer optimizer;
  const auto group = optimizer.add_group(apollo::AdamWOptions{});
  Leaf<float> leaf("leaf", 3, 2), twin("leaf", 3, 2);
  optimizer.add(group, "leaf", leaf.w.view, apollo::no_gradient);
  const auto before = leaf.w.memory;
  const auto report = optimizer.step();
  CHECK(report.skipped == 1);
  CHECK(report.tensors[0].reason == Skip::no_gradient);
  CHECK(model::same_bits(before, leaf.w.memory));
  CHECK(optimizer.steps("leaf") == 0);
  CHECK(optimizer.tick() == 1);
  optimizer.rebind("leaf", leaf.w.view, leaf.g.view);
  CHECK(optimizer.step().stepped == 1);
  // Its own first step: the bias correction did not run ahead with the tick.
  apollo::AdamW<> alone(twin.w.view);
  alone.step(twin.w.view, twin.g.view);
  CHECK(model::same_bits(twin.w.memory, leaf.w.memory));
}

TEST_CASE("an optimizer without tensors steps") {
  apollo::Optimizer optimizer;
  optimizer.add_group(apollo::AdamWOptions{});
  const auto report = optimizer.step();
  CHECK(report.tick == 1);
  CHECK(report.tensors.empty());
  CHECK(optimizer.state_bytes() == 0);
}

// --- vectors, types, dimensions -----------------------------------------------------------------------------------------

TEST_CASE("vectors of a low-rank group take dense moments and keep their weight decay") {
  const auto run = [](auto tag, const auto& options, apollo::AdamWOptions dense) {
    using Member = typename decltype(tag)::type;
    apollo::Optimizer optimizer;
    const auto group = optimizer.template add_group<Member>(options);
    Leaf<float> matrix("matrix", 12, 7), bias("bias", 9, 1), row("row", 1, 5), bias_twin("bias", 9, 1),
        row_twin("row", 1, 5);
    optimizer.add(group, "matrix", matrix.w.view, matrix.g.view);
    optimizer.add(group, "bias", bias.w.view, bias.g.view);
    optimizer.add(group, "row", row.w.view, row.g.view);
    apollo::AdamW<> bias_alone(bias_twin.w.view, dense, "bias"), row_alone(row_twin.w.view, dense, "row");
    const Matrix before = bias.w.get();
    for (int t = 1; t <= 8; ++t) {
      bias.feed(t), row.feed(t), matrix.feed(t), bias_twin.feed(t), row_twin.feed(t);
      optimizer.step();
      bias_alone.step(bias_twin.w.view, bias_twin.g.view);
      row_alone.step(row_twin.w.view, row_twin.g.view);
    }
    CHECK(support::relative_error(bias.w.get(), bias_twin.w.get()) <= 1e-6);
    CHECK(support::relative_error(row.w.get(), row_twin.w.get()) <= 1e-6);
    CHECK(optimizer.state_bytes("bias") == 2 * 9 * 4);
    CHECK(optimizer.state_bytes("row") == 2 * 5 * 4);
    // The decay alone: without gradients in the direction of W, W shrinks by (1 - lr decay) a step.
    bias.g.set(Matrix(9, 1)), row.g.set(Matrix(1, 5));
    Leaf<float> still("still", 6, 1);
    still.g.set(Matrix(6, 1));
    optimizer.add(group, "still", still.w.view, still.g.view);
    const Matrix start = still.w.get();
    optimizer.step();
    CHECK(support::relative_error(still.w.get(), support::scaled(start, 1 - 0.01 * 0.1)) <= 1e-6);
  };
  const apollo::AdamWOptions dense{.lr = 0.01, .eps = 1e-6, .weight_decay = 0.1, .order = apollo::Order::huggingface};
  auto options = low_rank();
  options.scale = 4;  // of structured updates only
  run(model::Tag<apollo::Apollo<>>(), options, dense);
  apollo::ApolloMiniOptions mini{.lr = 0.01};
  mini.weight_decay = 0.1;
  run(model::Tag<apollo::ApolloMini<>>(), mini, dense);
  apollo::GaLoreOptions galore{.lr = 0.01, .rank = 3};
  galore.weight_decay = 0.1;
  run(model::Tag<apollo::GaLore<>>(), galore, dense);
  auto torch = dense;
  torch.order = apollo::Order::torch;
  options.order = apollo::Order::torch;
  run(model::Tag<apollo::Apollo<>>(), options, torch);
}

TEST_CASE("float, double, bfloat16 and float16 tensors share an optimizer") {
  apollo::Optimizer optimizer;
  const auto group = optimizer.add_group(low_rank());
  const auto narrow = optimizer.add_group<apollo::Apollo<apollo::AdamMoments<apollo::bfloat16>>>(low_rank());
  Leaf<float> f("f", 12, 7), mixed_g("mixed", 12, 7);
  Leaf<double> d("d", 12, 7);
  Leaf<apollo::bfloat16> b("b", 12, 7), mixed_w("mixed", 12, 7);
  Leaf<apollo::float16> h("h", 12, 7);
  Leaf<float> n("n", 12, 7);
  optimizer.add(group, "f", f.w.view, f.g.view);
  optimizer.add(group, "d", d.w.view, d.g.view);
  optimizer.add(group, "b", b.w.view, b.g.view);
  optimizer.add(group, "h", h.w.view, h.g.view);
  optimizer.add(group, "mixed", mixed_w.w.view, mixed_g.g.view);  // bfloat16 weights, float gradients
  optimizer.add(narrow, "n", n.w.view, n.g.view);

  const auto alone = [](auto& leaf, auto optimizer_of_one) {
    auto twin = std::make_unique<std::remove_reference_t<decltype(leaf)>>(leaf.name, 12, 7);
    for (int t = 1; t <= 6; ++t) {
      twin->feed(t);
      CHECK(optimizer_of_one.step(twin->w.view, twin->g.view).stepped);
    }
    return twin;
  };
  for (int t = 1; t <= 6; ++t) {
    f.feed(t), d.feed(t), b.feed(t), h.feed(t), mixed_g.feed(t), n.feed(t);
    CHECK(optimizer.step().stepped == 6);
  }
  const apollo::Shape shape{12, 7};
  CHECK(model::same_bits(f.w.memory, alone(f, apollo::Apollo<>(shape, low_rank(), "f"))->w.memory));
  CHECK(model::same_bits(d.w.memory, alone(d, apollo::Apollo<double>(shape, low_rank(), "d"))->w.memory));
  CHECK(model::same_bits(b.w.memory, alone(b, apollo::Apollo<>(shape, low_rank(), "b"))->w.memory));
  CHECK(model::same_bits(h.w.memory, alone(h, apollo::Apollo<>(shape, low_rank(), "h"))->w.memory));
  CHECK(model::same_bits(
      n.w.memory, alone(n, apollo::Apollo<apollo::AdamMoments<apollo::bfloat16>>(shape, low_rank(), "n"))->w.memory));
  const Leaf<apollo::bfloat16> start("mixed", 12, 7);
  CHECK(rms_change(mixed_w.w.get(), start.w.get()) > 1e-3);
  // Moments are of float (of double for double weights), or of bfloat16.
  const Index values = 2 * 3 * 12;
  CHECK(optimizer.state_bytes("f") == 4 * values);
  CHECK(optimizer.state_bytes("d") == 8 * values);
  CHECK(optimizer.state_bytes("b") == 4 * values);
  CHECK(optimizer.state_bytes("n") == 2 * values);
  CHECK(optimizer.state_bytes() == (4 + 8 + 4 + 4 + 4 + 2) * values);
  CHECK(optimizer.record_bytes() == 6 * 12);
}

TEST_CASE("a batch is as many matrices, each with a name of its own") {
  constexpr Index experts = 3, m = 8, n = 5;
  Leaf<float> w("stack", experts * m, n), g("stack gradients", experts * m, n);
  apollo::Optimizer batch, separate;
  const auto batch_group = batch.add_group(low_rank());
  const auto group = separate.add_group(low_rank());
  batch.add(batch_group, "experts", apollo::TensorView<float>(w.w.memory.data(), {experts, m, n}),
            apollo::TensorView<float>(g.g.memory.data(), {experts, m, n}), apollo::Unfold::batch);
  Leaf<float> copy("stack", experts * m, n);
  for (Index e = 0; e < experts; ++e) {
    const std::string name = "experts[" + std::to_string(e) + "]";
    separate.add(group, name, copy.w.view.middle_rows(e * m, m), g.g.view.middle_rows(e * m, m));
    CHECK(batch.steps(name) == 0);
  }
  for (int t = 1; t <= 6; ++t) {
    g.feed(t);
    CHECK(batch.step().stepped == 3);
    separate.step();
  }
  CHECK(model::same_bits(w.w.memory, copy.w.memory));
  CHECK(model::same(model::snapshot(batch), model::snapshot(separate)));
}

TEST_CASE("a batch is rebound as a whole, with a gradient or without") {
  constexpr Index experts = 3, m = 4, n = 5;
  const std::vector<Index> extents = {experts, m, n};
  std::vector<float> w(experts * m * n, 1.0f), other = w, g(w.size(), 0.5f);
  const auto tensor = [&](std::vector<float>& memory) { return apollo::TensorView<float>(memory.data(), extents); };
  apollo::Optimizer optimizer;
  const auto group = optimizer.add_group(apollo::SgdOptions{.lr = 1});
  optimizer.add(group, "experts", tensor(w), apollo::no_gradient, apollo::Unfold::batch);
  CHECK(optimizer.step().skipped == 3);
  optimizer.rebind("experts", tensor(other), tensor(g), apollo::Unfold::batch);
  CHECK(optimizer.step().stepped == 3);
  CHECK(w == std::vector<float>(w.size(), 1.0f));
  CHECK(other == std::vector<float>(w.size(), 0.5f));
  optimizer.rebind("experts", tensor(w), apollo::no_gradient, apollo::Unfold::batch);
  CHECK(optimizer.step().skipped == 3);
  // One matrix needs no statement.
  optimizer.add(group, "plain", apollo::TensorView<float>(w.data(), {m, n}), apollo::no_gradient);
  optimizer.rebind("plain", apollo::TensorView<float>(w.data(), {m, n}), apollo::TensorView<float>(g.data(), {m, n}));
  CHECK(optimizer.step().stepped == 1);
  CHECK(w[m * n - 1] == 0.5f);
  CHECK(w[m * n] == 1.0f);
#if defined(__cpp_exceptions)
  const auto refused = [&](std::vector<Index> weight, std::vector<Index> gradient) {
    return model::message_of<std::invalid_argument>([&] {
      optimizer.rebind("experts", apollo::TensorView<float>(other.data(), weight),
                       apollo::TensorView<float>(g.data(), gradient), apollo::Unfold::batch);
    });
  };
  CHECK(model::mentions(refused({2, m, n}, {2, m, n}), "'experts'", "2 matrices", "3, as registered"));
  CHECK(model::mentions(refused({4, m, n}, {4, m, n}), "'experts[3]'"));
  CHECK(model::mentions(refused(extents, {2, m, n}), "'experts'", "2 matrices", "3"));
  // Only the last weight overlaps its gradient, and the first ones are not bound either.
  std::vector<float> both(5 * m * n);
  const std::string message = model::message_of<std::invalid_argument>([&] {
    optimizer.rebind("experts", apollo::TensorView<float>(both.data(), extents),
                     apollo::TensorView<float>(both.data() + 4 * m * n, extents, {-m * n, n, 1}),
                     apollo::Unfold::batch);
  });
  CHECK(model::mentions(message, "'experts[2]'", "overlap"));
  CHECK(optimizer.step().skipped == 3);
#endif
}

TEST_CASE("a kernel unfolds to its first dimension by the rest, a strided one too") {
  constexpr Index out = 6, in = 3, k = 2;
  const std::vector<Index> extents = {out, in, k, k};
  Leaf<float> w("kernel", out, in * k * k), g("kernel gradient", out, in * k * k);
  Leaf<float> copy("kernel", out, in * k * k);
  apollo::Optimizer rest, matrix;
  const auto rest_group = rest.add_group(low_rank());
  const auto matrix_group = matrix.add_group(low_rank());
  rest.add(rest_group, "kernel", apollo::TensorView<float>(w.w.memory.data(), extents),
           apollo::TensorView<float>(g.g.memory.data(), extents), apollo::Unfold::rest);
  matrix.add(matrix_group, "kernel", copy.w.view, g.g.view);
  for (int t = 1; t <= 6; ++t) {
    g.feed(t);
    CHECK(rest.step().stepped == 1);
    matrix.step();
  }
  CHECK(model::same_bits(w.w.memory, copy.w.memory));
  CHECK(model::same(model::snapshot(rest), model::snapshot(matrix)));

  // Of one and two dimensions nothing need be stated.
  apollo::Optimizer plain;
  const auto plain_group = plain.add_group(apollo::SgdOptions{.lr = 1});
  std::vector<float> v = {1, 2, 3, 4, 5, 6}, dv = {1, 1, 1, 1, 1, 1}, u = v;
  plain.add(plain_group, "v", apollo::TensorView<float>(v.data(), {6}), apollo::TensorView<float>(dv.data(), {6}));
  plain.add(plain_group, "u", apollo::TensorView<float>(u.data(), {2, 3}, {1, 2}),
            apollo::TensorView<float>(dv.data(), {2, 3}));
  plain.step();
  CHECK(v == std::vector<float>{0, 1, 2, 3, 4, 5});
  CHECK(u == v);
}

TEST_CASE("byte counts are those of the table, and the workspace is one for all") {
  apollo::Optimizer optimizer;
  const auto adamw = optimizer.add_group(apollo::AdamWOptions{});
  const auto sgd = optimizer.add_group(apollo::SgdOptions{});
  const auto momentum = optimizer.add_group(apollo::SgdMomentumOptions{});
  const auto rank_4 = optimizer.add_group(apollo::ApolloOptions{.rank = 4});
  const auto mini = optimizer.add_group(apollo::ApolloMiniOptions{});
  const auto galore = optimizer.add_group(apollo::GaLoreOptions{.rank = 4, .on_refresh = apollo::OnRefresh::reset});
  Leaf<float> leaf("leaf", 20, 12);
  const auto add = [&](auto group, const char* name) {
    const Index state = optimizer.state_bytes(), record = optimizer.record_bytes();
    optimizer.add(group, name, leaf.w.view, leaf.g.view);
    CHECK(optimizer.state_bytes() - state == optimizer.state_bytes(name));
    return std::pair<Index, Index>(optimizer.state_bytes() - state, optimizer.record_bytes() - record);
  };
  using Bytes = std::pair<Index, Index>;
  CHECK(add(adamw, "adamw") == Bytes(4 * 2 * 20 * 12, 8));
  CHECK(add(sgd, "sgd") == Bytes(0, 8));
  CHECK(add(momentum, "momentum") == Bytes(4 * 20 * 12, 8));
  CHECK(add(rank_4, "apollo") == Bytes(4 * 2 * 4 * 20, 12));
  CHECK(add(mini, "mini") == Bytes(4 * 2 * 20, 12));
  const Index before = optimizer.workspace_bytes();
  CHECK(add(galore, "galore") == Bytes(4 * (2 * 4 * 20 + 4 * 12), 16));
  const Index largest = optimizer.workspace_bytes();
  CHECK(largest >= before);
  CHECK(add(galore, "galore again") == Bytes(4 * (2 * 4 * 20 + 4 * 12), 16));
  CHECK(optimizer.workspace_bytes() == largest);
  CHECK(optimizer.make_workspace().bytes() == largest);
}

#if defined(__cpp_exceptions)

TEST_CASE("a group with a projection that holds vectors only is refused at its first step") {
  apollo::Optimizer optimizer;
  const auto group = optimizer.add_group(low_rank());
  std::vector<float> w(6, 1), g(6, 1);
  optimizer.add(group, "flattened", w, g);
  const std::string before = model::snapshot(optimizer);
  const auto refused = [&](auto&& call) {
    const std::string message = model::message_of<std::invalid_argument>(call);
    CHECK(model::mentions(message, "apollo: ", "'flattened'", "vectors only", "AdamWOptions"));
    CHECK(model::same(model::snapshot(optimizer), before));
    CHECK(w == std::vector<float>(6, 1));
  };
  refused([&] { optimizer.step(); });
  refused([&] { optimizer.step("flattened"); });
  refused([&] { optimizer.begin_tick(); });
  // One matrix makes it a group that means what it says.
  Leaf<float> matrix("matrix", 6, 5);
  optimizer.add(group, "matrix", matrix.w.view, matrix.g.view);
  CHECK(optimizer.step().stepped == 2);
}

TEST_CASE("a batch that is refused halfway leaves nothing behind") {
  const auto net = make_net(), twin = make_net();
  const auto low = net->optimizer.add_group(low_rank());
  twin->optimizer.add_group(low_rank());
  Leaf<float> taken("taken", 8, 5), stack("stack", 24, 5);
  Leaf<float> taken_twin("taken", 8, 5);
  net->optimizer.add(low, "experts[1]", taken.w.view, taken.g.view);
  twin->optimizer.add(low, "experts[1]", taken_twin.w.view, taken_twin.g.view);
  const std::string before = model::snapshot(net->optimizer);
  const std::string message = model::message_of<std::invalid_argument>([&] {
    net->optimizer.add(low, "experts", apollo::TensorView<float>(stack.w.memory.data(), {3, 8, 5}),
                       apollo::TensorView<float>(stack.g.memory.data(), {3, 8, 5}), apollo::Unfold::batch);
  });
  CHECK(model::mentions(message, "'experts[1]'"));
  CHECK(model::same(model::snapshot(net->optimizer), before));
  for (int t = 1; t <= 3; ++t)
    for (Net* each : {net.get(), twin.get()}) {
      each->feed(t);
      each->optimizer.step();
    }
  CHECK(same_weights(*net, *twin));
  CHECK(model::same_bits(taken.w.memory, taken_twin.w.memory));
  CHECK(model::same(model::snapshot(net->optimizer), model::snapshot(twin->optimizer)));
}

#elif APOLLO_HAS_FILES

TEST_CASE("without exceptions a handler receives the text, and returning from it ends the program") {
  const auto child = [](auto&& call, int& status) {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    const pid_t process = ::fork();
    REQUIRE(process >= 0);
    static int out = -1;
    if (process == 0) {
      out = ends[1];
      apollo::set_error_handler([](const char* message) {
        const auto written = ::write(out, message, std::strlen(message));
        (void)written;
      });
      ::signal(SIGABRT, SIG_DFL);  // not the test runner's
      call();
      ::_exit(0);
    }
    ::close(ends[1]);
    std::string message;
    char buffer[512];
    for (ssize_t got; (got = ::read(ends[0], buffer, sizeof buffer)) > 0;)
      message.append(buffer, static_cast<std::size_t>(got));
    ::close(ends[0]);
    ::waitpid(process, &status, 0);
    return message;
  };
  int status = 0;
  const std::string message = child([] { apollo::Apollo<> refused({12, 8}, {.rank = 9}, "layers.0"); }, status);
  CHECK(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGABRT);
  CHECK(model::mentions(message, "apollo: ", "'layers.0'", "rank = 9", "8"));
  CHECK(child([] {}, status).empty());
  CHECK(WEXITSTATUS(status) == 0);
}

#endif
