// SPDX-License-Identifier: Apache-2.0
// What apollo::Optimizer does for a whole model, in apollo::cuda, emulated: clipping, schedules, replays of graphs, steps layer
// by layer, micro-batches, tensors of more dimensions; beside the reference in double precision.
// also: threads
// not: optimised
#include "cuda_model.hpp"

using namespace emulated;
using apollo::Group;
using apollo::Unfold;
using support::mentions;
using support::refusal;

namespace {

struct Member {
  Leaf leaf;
  std::string name;
};

/// A model with a tensor for each kind of step, and a vector in a group with a projection. Calls add(group, leaf, name).
template <class Optimizer, class Add>
void add_members(Optimizer& optimizer, const Add& add) {
  const auto projected = optimizer.template add_group<apollo::Apollo<>>({.lr = 0.05, .rank = 8, .update_proj_gap = 3});
  add(optimizer.template add_group<apollo::AdamW<>>({.lr = 0.01, .weight_decay = 0.1}), Leaf{70, 33}, "adamw");
  add(projected, Leaf{40, 70}, "apollo");
  add(projected, Leaf{50, 1}, "bias");
  add(optimizer.template add_group<apollo::Flora<>>({.lr = 20, .rank = 5, .update_proj_gap = 2}), Leaf{33, 40},
      "flora");
  add(optimizer.template add_group<apollo::Fira<>>(
          {.lr = 0.05, .rank = 4, .update_proj_gap = 2, .svd = apollo::SvdMethod::exact}),
      Leaf{20, 30, Order2D::column_major}, "fira");
  add(optimizer.template add_group<apollo::GaLore<>>(
          {.lr = 0.05, .rank = 3, .update_proj_gap = 2, .svd = apollo::SvdMethod::exact}),
      Leaf{24, 20}, "galore");
  add(optimizer.template add_group<apollo::StructuredAdamW<>>({.lr = 0.02}), Leaf{30, 40}, "structured");
  add(optimizer.template add_group<apollo::ColumnNormalizedSgd<>>({.lr = 0.02}), Leaf{40, 30}, "scale");
  add(optimizer.template add_group<apollo::AdamMini<>>({.lr = 0.02}), Leaf{33, 24}, "mini");
  using apollo::AdafactorMoments;
  using Sparse = apollo::RandomProjection<apollo::SparseSign>;
  add(optimizer.template add_group<apollo::FloraFactored<>>({.lr = 0.05, .rank = 5, .update_proj_gap = 2}),
      Leaf{24, 33}, "flora, factored");
  add(optimizer.template add_group<apollo::StructuredOptimizer<Sparse, AdafactorMoments>>(
          {.lr = 0.05, .eps = 1e-12, .rank = 5, .update_proj_gap = 2}),
      Leaf{33, 20, Order2D::column_major}, "sparse, factored");
  add(optimizer.template add_group<apollo::StructuredOptimizer<AdafactorMoments>>({.lr = 0.05, .eps = 1e-12}),
      Leaf{21, 30}, "factored");
  add(optimizer.template add_group<apollo::GaLore<>>(
          {.lr = 0.05, .rank = 32, .update_proj_gap = 2, .svd = apollo::SvdMethod::exact}),
      Leaf{36, 48}, "galore, multiplied");
}

/// That model on the emulated device.
struct OnDevice {
  EmulatedOptimizer optimizer;
  std::vector<Member> members;
  std::vector<Array<float>> w, g;

  explicit OnDevice(const Emulation& how = {}) : optimizer(Emulator(how)) {
    add_members(optimizer, [&](auto group, const Leaf& leaf, const char* name) {
      const std::size_t i = members.size();
      members.push_back({leaf, name});
      w.emplace_back(optimizer.device(), start(leaf, i), leaf.order);
      g.emplace_back(optimizer.device(), gradient(leaf, i, 0), leaf.order);
      optimizer.add(group, name, w.back().view(), g.back().view());
    });
  }
  void feed(int step, double factor = 1) {
    for (std::size_t i = 0; i < members.size(); ++i)
      g[i].set(support::scaled(support::rounded<float>(gradient(members[i].leaf, i, step)), factor));
  }
  void bind(bool with_gradients) {
    for (std::size_t i = 0; i < members.size(); ++i)
      if (with_gradients)
        optimizer.rebind(members[i].name, w[i].view(), g[i].view());
      else
        optimizer.rebind(members[i].name, w[i].view(), apollo::no_gradient);
  }
  void step_by_layer(int step) {
    feed(step);
    for (std::size_t i = members.size(); i-- > 0;) optimizer.step(members[i].name);
    optimizer.end_tick();
  }
  bool same_weights(const OnDevice& other) const {
    for (std::size_t i = 0; i < members.size(); ++i)
      if (w[i].get().values != other.w[i].get().values) return false;
    return true;
  }
};

/// The same on the host in double precision.
struct OnHost {
  apollo::Optimizer optimizer;
  std::vector<Member> members;
  std::vector<std::unique_ptr<support::Tensor<double>>> w, g;

  OnHost() {
    add_members(optimizer, [&](auto group, const Leaf& leaf, const char* name) {
      const auto layout = leaf.order == Order2D::row_major ? support::Layout::row_major : support::Layout::column_major;
      members.push_back({leaf, name});
      w.push_back(std::make_unique<support::Tensor<double>>(support::rounded<float>(start(leaf, w.size())), layout));
      g.push_back(std::make_unique<support::Tensor<double>>(start(leaf, g.size()), layout));
      optimizer.add(group, name, w.back()->view, g.back()->view);
    });
  }
  void feed(int step, double factor = 1) {
    for (std::size_t i = 0; i < members.size(); ++i)
      g[i]->set(support::scaled(support::rounded<float>(gradient(members[i].leaf, i, step)), factor));
  }
};

/// What steps have changed is the same.
void check_same(const OnDevice& device, const OnHost& host) {
  for (std::size_t i = 0; i < host.members.size(); ++i) {
    CAPTURE(host.members[i].name);
    const Matrix from = support::rounded<float>(start(host.members[i].leaf, i));
    const Matrix expected = support::difference(host.w[i]->get(), from);
    const Matrix change = support::difference(device.w[i].get(), from);
    CHECK(support::norm(support::difference(change, expected)) <= 5e-6 * support::norm(expected));
  }
}

bool near(double value, double expected, double bound) {
  return std::fabs(value - expected) <= bound * std::fabs(expected);
}

}  // namespace

TEST_CASE("every kind of step clips by the global norm as the host does, and a skipped tensor does not count") {
  OnDevice device;
  OnHost host;
  device.optimizer.clip_global_norm(0.7), host.optimizer.clip_global_norm(0.7);
  device.optimizer.gradient_scale(0.5), host.optimizer.gradient_scale(0.5);
  int clipped = 0;
  for (int step = 0; step < 6; ++step) {
    CAPTURE(step);
    device.feed(step), host.feed(step);
    if (step == 4)
      for (const std::size_t bad : {0u, 1u}) {
        device.g[bad].view()(3, 2) = std::nanf("");
        host.g[bad]->view(3, 2) = std::nan("");
      }
    device.optimizer.step();
    const apollo::StepReport expected = host.optimizer.step();
    const auto status = device.optimizer.model_status();
    CHECK(near(status.global_norm, expected.global_norm, 1e-12));
    CHECK(near(status.clip_factor, expected.clip_factor, 1e-12));
    clipped += status.clip_factor < 1 ? 1 : 0;
    for (std::size_t i = 0; i < host.members.size(); ++i) {
      const auto tensor = device.optimizer.status(host.members[i].name);
      CHECK(tensor.steps == host.optimizer.steps(host.members[i].name));
      if (expected.tensors[i].stepped) CHECK(near(tensor.gradient_norm, expected.tensors[i].gradient_norm, 1e-6));
    }
  }
  CHECK(clipped > 1);
  CHECK(clipped < 6);
  check_same(device, host);
  // Switched off it measures nothing.
  device.optimizer.clip_global_norm(0), host.optimizer.clip_global_norm(0);
  device.feed(6), host.feed(6);
  device.optimizer.step(), host.optimizer.step();
  CHECK(device.optimizer.model_status().global_norm == apollo::not_measured);
  CHECK(device.optimizer.model_status().clip_factor == 1);
  check_same(device, host);
}

TEST_CASE("tensors whose gradients are not checked are measured where they are clipped, and only there") {
  EmulatedOptimizer checked, unchecked;
  Array<float> w(checked.device(), Matrix(20, 31, 1.0)), g(checked.device(), gradient({20, 31}, 0, 1));
  Array<float> v(unchecked.device(), Matrix(20, 31, 1.0)), h(unchecked.device(), gradient({20, 31}, 0, 1));
  checked.add(checked.add_group(apollo::AdamWOptions{}), "w", w.view(), g.view());
  unchecked.add(unchecked.add_group(apollo::AdamWOptions{.check_finite = false}), "w", v.view(), h.view());
  for (const double bound : {0.01, 0.0, 0.02}) {
    CAPTURE(bound);
    for (EmulatedOptimizer* optimizer : {&checked, &unchecked}) optimizer->clip_global_norm(bound), optimizer->step();
    const auto status = unchecked.model_status();
    CHECK(status.global_norm == checked.model_status().global_norm);
    CHECK((status.clip_factor < 1) == (bound > 0));
    CHECK(w.get().values == v.get().values);
  }
  CHECK(unchecked.status("w").gradient_norm == apollo::not_measured);
}

TEST_CASE("schedules follow the tick on the device, layer by layer too") {
  for (const apollo::Schedule& schedule : {apollo::Schedule(apollo::Cosine{.warmup = 2, .total = 7, .floor = 0.1}),
                                           apollo::Schedule(apollo::Linear{.warmup = 3, .total = 6})}) {
    OnDevice device;
    OnHost host;
    device.optimizer.schedule(schedule), host.optimizer.schedule(schedule);
    for (int step = 0; step < 7; ++step) {
      host.feed(step);
      if (step % 2 == 0) {
        device.feed(step);
        device.optimizer.step();
      } else {
        device.step_by_layer(step);
      }
      host.optimizer.step();
      CHECK(device.optimizer.tick() == step + 1);
      CHECK(near(device.optimizer.model_status().schedule_factor, schedule.factor(step + 1), 1e-15));
    }
    check_same(device, host);
  }
}

TEST_CASE("replays of a graph are ticks: they follow schedule and clipping, and take new rates") {
  OnDevice device, twin;
  for (OnDevice* one : {&device, &twin}) {
    one->optimizer.schedule(apollo::Cosine{.warmup = 2, .total = 9, .floor = 0.1});
    one->optimizer.clip_global_norm(0.7);
  }
  device.feed(0), twin.feed(0);
  device.optimizer.step(), twin.optimizer.step();
  twin.optimizer.device().begin_capture();
  twin.optimizer.step();
  const Emulator::Graph graph = twin.optimizer.device().end_capture();
  CHECK(twin.optimizer.tick() == 1);  // to capture is not to step
  for (int step = 1; step < 6; ++step) {
    CAPTURE(step);
    device.feed(step), twin.feed(step);
    if (step == 3)
      for (OnDevice* one : {&device, &twin}) {
        one->optimizer.clip_global_norm(0.5);
        one->optimizer.gradient_scale(0.25);
        one->optimizer.schedule(apollo::Linear{.warmup = 0, .total = 20});
      }
    if (step == 5) device.optimizer.clip_global_norm(0), twin.optimizer.clip_global_norm(0);
    device.optimizer.step();
    twin.optimizer.refresh();
    twin.optimizer.device().replay(graph);
    CHECK(device.same_weights(twin));
    CHECK(twin.optimizer.tick() == step + 1);
    CHECK(twin.optimizer.model_status().clip_factor == device.optimizer.model_status().clip_factor);
  }
  // A graph of a tick that is taken layer by layer.
  OnDevice layers, plain;
  layers.optimizer.prepare();
  for (int step = 0; step < 2; ++step) layers.step_by_layer(step), plain.feed(step), plain.optimizer.step();
  layers.optimizer.device().begin_capture();
  layers.step_by_layer(2);
  const Emulator::Graph ticks = layers.optimizer.device().end_capture();
  for (int step = 2; step < 5; ++step) {
    layers.feed(step), plain.feed(step);
    layers.optimizer.refresh(), layers.optimizer.device().replay(ticks);
    plain.optimizer.step();
    CHECK(layers.same_weights(plain));
  }
  CHECK(layers.optimizer.tick() == 5);
}

TEST_CASE(
    "layer by layer a tick leaves the same bits, for any number of workers, and what is wrong with one is refused") {
  OnDevice whole, layers({.workers = 3});
  for (int step = 0; step < 4; ++step) {
    whole.feed(step);
    whole.optimizer.step();
    layers.step_by_layer(step);
    CHECK(whole.same_weights(layers));
  }
  CHECK(layers.optimizer.tick() == 4);
  auto& optimizer = layers.optimizer;
  const auto refused = [&](auto&& act) { return refusal<std::logic_error>(act); };
  CHECK(mentions(refused([&] { optimizer.end_tick(); }), {"end_tick() without a tick"}));
  optimizer.begin_tick();
  CHECK(optimizer.tick_open());
  CHECK(mentions(refused([&] { optimizer.begin_tick(); }), {"begin_tick() while tick 5 is open"}));
  optimizer.step("mini");
  CHECK(mentions(refused([&] { optimizer.step("mini"); }), {"'mini'", "second step in tick 5"}));
  CHECK(mentions(refused([&] { optimizer.step("mini", layers.w[8].view(), layers.g[8].view()); }),
                 {"'mini'", "second step in tick 5"}));
  CHECK(mentions(refused([&] { optimizer.step(); }), {"step() while tick 5 is open layer by layer"}));
  CHECK(mentions(refused([&] { optimizer.save("open.safetensors"); }), {"save() while tick 5 is open"}));
  CHECK(mentions(refused([&] { optimizer.load("open.safetensors"); }), {"load() while tick 5 is open"}));
  CHECK(mentions(refused([&] { optimizer.end_tick(); }),
                 {"12 of 13 tensors", "tick 5", "'adamw'", "...", "no_gradient"}));
  CHECK(mentions(refusal([&] { optimizer.step("nobody"); }), {"no tensor is named 'nobody'", "13 are registered"}));
  CHECK(mentions(refusal([&] {
                   optimizer.add(Group<apollo::AdamW<>::Policies>{1}, "late", layers.w[0].view(), layers.g[0].view());
                 }),
                 {"'late'", "while tick 5 is open"}));
  for (const Member& member : layers.members)
    if (member.name != "adamw" && member.name != "mini") optimizer.step(member.name);
  optimizer.rebind("adamw", layers.w[0].view(), apollo::no_gradient);
  optimizer.end_tick();
  CHECK(optimizer.tick() == 5);
  CHECK(optimizer.status("adamw").steps == 4);
  CHECK(optimizer.status("apollo").steps == 5);
  optimizer.step("adamw", layers.w[0].view(), layers.g[0].view());  // opens the next
  CHECK(optimizer.status("adamw").steps == 5);
  for (std::size_t i = 1; i < layers.members.size(); ++i) optimizer.step(layers.members[i].name);
  optimizer.end_tick();
  optimizer.clip_global_norm(1);
  CHECK(mentions(refused([&] { optimizer.step("adamw"); }), {"layer-wise", "global norm = 1"}));
  CHECK(mentions(refused([&] { optimizer.begin_tick(); }), {"layer-wise", "global norm = 1"}));
  CHECK(mentions(refusal([&] { optimizer.clip_global_norm(-1); }), {"clip_global_norm", "-1"}));
  optimizer.clip_global_norm(HUGE_VAL);
  CHECK(!optimizer.tick_open());
  CHECK(optimizer.tick() == 6);
  // One tensor's kernels are those of its own parts: the others stay where they are, and launches do not depend on them.
  const Matrix before = layers.w[1].get();
  const Index from = optimizer.device().launches();
  optimizer.step("adamw");
  CHECK(optimizer.device().launches() - from == 4);  // the tick, and three
  CHECK(layers.w[1].get().values == before.values);
}

TEST_CASE("micro-batches are one batch, as on the host, each with its own scale") {
  OnDevice device;
  OnHost host;
  const double parts[] = {1.5, -2, 1.5};
  for (int step = 0; step < 5; ++step) {
    CAPTURE(step);
    for (int k = 0; k < 3; ++k) {
      const double scale = k == 1 ? 0.5 : 1;
      device.feed(step, parts[k] / scale), host.feed(step, parts[k] / scale);
      device.optimizer.gradient_scale(scale), host.optimizer.gradient_scale(scale);
      if (k == 2) break;
      CHECK(device.optimizer.accumulating() == (k == 1));
      const apollo::AccumulationReport report = device.optimizer.accumulate();
      CHECK(report.projected == 2);
      CHECK(report.whole == 11);
      CHECK(report.skipped == 0);
      host.optimizer.accumulate();
    }
    device.optimizer.step(), host.optimizer.step();
    CHECK(!device.optimizer.accumulating());
    for (const char* name : {"adamw", "flora"}) CHECK(device.optimizer.status(name).steps == step + 1);
    CHECK(device.optimizer.status("flora").gradient_norm == apollo::not_measured);
    check_same(device, host);
  }
  CHECK(device.optimizer.accumulation_bytes("adamw") == 70 * 33 * 4);
  CHECK(device.optimizer.accumulation_bytes("flora") == 5 * 40 * 4);
  CHECK(device.optimizer.accumulation_bytes() == 4 * (70 * 33 + 40 * 70 + 50 + 5 * 40 + 20 * 30 + 24 * 20 + 30 * 40 +
                                                      40 * 30 + 33 * 24 + 24 * 33 + 5 * 33 + 21 * 30 + 36 * 48));
}

TEST_CASE("two halves have the bits of one gradient; replays, and layer by layer, too") {
  OnDevice whole, micro, layers({.workers = 3}), replayed;
  Emulator::Graph add, step;
  const Emulator device = replayed.optimizer.device();
  for (int t = 0; t < 6; ++t) {
    CAPTURE(t);
    whole.feed(t, 2), micro.feed(t), layers.feed(t), replayed.feed(t);
    whole.optimizer.step();
    micro.optimizer.accumulate(), micro.optimizer.step();
    for (const Member& member : layers.members) layers.optimizer.accumulate(member.name);
    CHECK(!layers.optimizer.tick_open());
    layers.step_by_layer(t);
    if (t < 2) {
      replayed.optimizer.accumulate(), replayed.optimizer.step();
    } else {
      if (t == 2) {
        device.begin_capture();
        replayed.optimizer.accumulate();
        add = device.end_capture();
        device.begin_capture();
        replayed.optimizer.step();
        step = device.end_capture();
      }
      device.replay(add);
      replayed.optimizer.refresh();
      device.replay(step);
    }
    CHECK(micro.same_weights(whole));
    CHECK(layers.same_weights(whole));
    CHECK(replayed.same_weights(whole));
  }
  CHECK(replayed.optimizer.tick() == 6);
  CHECK(replayed.optimizer.accumulate("flora") == apollo::Accumulated::projected);
  device.replay(step);  // the others without
  CHECK(!replayed.optimizer.accumulating());
}

TEST_CASE("clipping and sums have the same bits with a thread for each of a block") {
  const auto weights = [](const Emulation& how) {
    EmulatedOptimizer optimizer{Emulator(how)};
    const Leaf leaf{20, 12};
    std::vector<Array<float>> w, g;
    for (std::size_t i = 0; i < 2; ++i) {
      w.emplace_back(optimizer.device(), start(leaf, i));
      g.emplace_back(optimizer.device(), gradient(leaf, i, 0));
    }
    optimizer.add(optimizer.add_group(apollo::ApolloOptions{.lr = 0.01, .rank = 4}), "a", w[0].view(), g[0].view());
    optimizer.add(optimizer.add_group(apollo::FloraOptions{.lr = 1, .rank = 4}), "f", w[1].view(), g[1].view());
    optimizer.accumulate(), optimizer.step();
    optimizer.clip_global_norm(0.01);
    optimizer.step();
    return std::vector<Matrix>{w[0].get(), w[1].get()};
  };
  const auto one = weights({}), other = weights({.in_step = true});
  for (std::size_t i = 0; i < 2; ++i) CHECK(one[i].values == other[i].values);
}

TEST_CASE("sums of bfloat16 gradients are float") {
  const auto check = [](const auto& options) {
    EmulatedOptimizer optimizer;
    const auto group = optimizer.add_group(options);
    const Leaf leaf{40, 30};
    Array<float> w(optimizer.device(), start(leaf, 0)), v(optimizer.device(), start(leaf, 0));
    Array<bfloat16> g(optimizer.device(), gradient(leaf, 0, 0)), h(optimizer.device(), gradient(leaf, 0, 0));
    EmulatedOptimizer twin{optimizer.device()};
    optimizer.add(group, "w", w.view(), g.view());
    twin.add(twin.add_group(options), "w", v.view(), h.view());
    for (int step = 0; step < 4; ++step) {
      g.set(gradient(leaf, 0, step)), h.set(support::scaled(gradient(leaf, 0, step), 4));
      for (int k = 0; k < 3; ++k) optimizer.accumulate();
      optimizer.step(), twin.step();
      CHECK(w.get().values == v.get().values);
    }
  };
  check(apollo::AdamWOptions{.lr = 0.01});
  check(apollo::ApolloOptions{.lr = 0.01, .rank = 8});
  check(apollo::GaLoreOptions{.lr = 0.01, .rank = 4, .update_proj_gap = 2});
}

TEST_CASE("a micro-batch that is not finite skips the whole batch, once; discarded sums leave no trace") {
  OnDevice device, healthy;
  const auto both = [&](int t) {
    device.feed(t), healthy.feed(t);
    device.optimizer.step(), healthy.optimizer.step();
    CHECK(device.same_weights(healthy));
  };
  both(0);
  for (const std::size_t when : {0u, 1u, 2u}) {  // first, between, last
    for (std::size_t k = 0; k < 3; ++k) {
      device.feed(1);
      if (k == when)
        for (auto& g : device.g) g.view()(7, 0) = k == 0 ? HUGE_VALF : std::nanf("");
      if (k < 2) device.optimizer.accumulate();
    }
    device.optimizer.step();
    CHECK(device.same_weights(healthy));
  }
  for (const Member& member : device.members) CHECK(device.optimizer.status(member.name).skipped == 3);
  both(1);
  device.feed(9);
  device.optimizer.accumulate();
  CHECK(device.optimizer.accumulating());
  device.optimizer.discard_accumulated();
  CHECK(!device.optimizer.accumulating());
  for (int t = 2; t < 5; ++t) both(t);
}

TEST_CASE("a last micro-batch without a gradient takes the earlier ones") {
  OnDevice device, same;
  for (int t = 0; t < 3; ++t) {
    device.feed(t), same.feed(t);
    CHECK(device.optimizer.accumulate().skipped == 0);
    device.bind(false);
    CHECK(device.optimizer.accumulate().skipped == 13);
    if (t == 1) {
      device.optimizer.begin_tick();
      CHECK(mentions(refusal<std::logic_error>([&] { device.optimizer.end_tick(); }), {"13 of 13 tensors"}));
      for (const Member& member : device.members) device.optimizer.step(member.name);
      device.optimizer.end_tick();
    } else {
      device.optimizer.step();
    }
    device.optimizer.step();  // with nothing at all
    device.bind(true);
    same.optimizer.step();
    CHECK(device.same_weights(same));
    CHECK(device.optimizer.status("flora").steps == t + 1);
    CHECK(device.optimizer.status("flora").skipped == 0);
  }
}

TEST_CASE("sums and clipping, and what may not be done while gradients wait") {
  OnDevice device;
  auto& optimizer = device.optimizer;
  const auto refused = [&](auto&& act) { return refusal<std::logic_error>(act); };
  optimizer.prepare();
  optimizer.device().begin_capture();
  CHECK(mentions(refused([&] { optimizer.accumulate(); }), {"'", "captured", "memory", "discard_accumulated()"}));
  (void)optimizer.device().end_capture();
  CHECK(optimizer.accumulate("adamw") == apollo::Accumulated::whole);
  CHECK(optimizer.accumulation_bytes() == optimizer.accumulation_bytes("adamw"));
  CHECK(mentions(refused([&] { optimizer.save("waiting.safetensors"); }), {"save() while accumulated gradients wait"}));
  CHECK(mentions(refused([&] { optimizer.load("waiting.safetensors"); }), {"load() while accumulated gradients wait"}));
  CHECK(mentions(refusal([&] { optimizer.accumulate("nobody"); }), {"no tensor is named 'nobody'"}));
  optimizer.step("adamw");
  CHECK(
      mentions(refused([&] { optimizer.accumulate("adamw"); }), {"'adamw'", "accumulate() after its step in tick 1"}));
  CHECK(mentions(refused([&] { optimizer.accumulate(); }), {"accumulate() while tick 1 is open"}));
  optimizer.accumulate("flora");
  for (std::size_t i = 1; i < device.members.size(); ++i) optimizer.step(device.members[i].name);
  optimizer.end_tick();
  optimizer.accumulate("flora");
  optimizer.clip_global_norm(0.5);
  CHECK(mentions(refused([&] { optimizer.step(); }), {"'flora'", "projected space", "clip_global_norm = 0.5"}));
  CHECK(mentions(refused([&] { optimizer.accumulate("flora"); }), {"'flora'", "projected space"}));
  CHECK(mentions(refused([&] { optimizer.accumulate(); }), {"'flora'", "projected space"}));
  optimizer.discard_accumulated();
  optimizer.step();
  // The norm that is clipped is that of the sums.
  EmulatedOptimizer micro, plain;
  Array<float> w(micro.device(), Matrix(20, 30, 1.0)), g(micro.device(), gradient({20, 30}, 0, 3));
  Array<float> v(plain.device(), Matrix(20, 30, 1.0)), h(plain.device(), support::scaled(gradient({20, 30}, 0, 3), 2));
  micro.add(micro.add_group(apollo::ApolloOptions{.rank = 4}), "w", w.view(), g.view());
  plain.add(plain.add_group(apollo::ApolloOptions{.rank = 4}), "w", v.view(), h.view());
  micro.gradient_scale(0.5), plain.gradient_scale(0.5);
  micro.clip_global_norm(0.01), plain.clip_global_norm(0.01);
  micro.accumulate(), micro.step(), plain.step();
  CHECK(plain.model_status().clip_factor < 0.9);
  CHECK(near(micro.model_status().global_norm, plain.model_status().global_norm, 1e-6));
  CHECK(support::relative_error(w.get(), v.get()) <= 1e-6);
}

TEST_CASE("launches of a clipped step do not grow with the number of tensors") {
  const auto launches = [](std::size_t count) {
    EmulatedOptimizer optimizer;
    const auto group = optimizer.add_group(apollo::AdamWOptions{});
    std::vector<Array<float>> w;
    for (std::size_t i = 0; i < count; ++i) {
      w.emplace_back(optimizer.device(), Matrix(5, 7, 1.0));
      optimizer.add(group, leaf_name(i), w.back().view(), w.back().view());
    }
    optimizer.clip_global_norm(1);
    optimizer.step();
    CHECK(near(optimizer.model_status().global_norm, std::sqrt(35.0 * static_cast<double>(count)), 1e-12));
    return optimizer.device().launches();
  };
  CHECK(launches(300) == launches(1));
}

TEST_CASE("refreshes are spread as the host spreads them") {
  EmulatedOptimizer device;
  apollo::Optimizer host;
  device.spread_refreshes(), host.spread_refreshes();
  const apollo::ApolloOptions options{.lr = 0.05, .rank = 4, .update_proj_gap = 3};
  const auto group = device.add_group(options);
  const auto host_group = host.add_group(options);
  std::vector<Array<float>> w, g;
  std::vector<std::unique_ptr<support::Tensor<double>>> v, h;
  const Leaf leaf{24, 20};
  for (std::size_t i = 0; i < 4; ++i) {
    w.emplace_back(device.device(), start(leaf, i)), g.emplace_back(device.device(), gradient(leaf, i, 0));
    v.push_back(
        std::make_unique<support::Tensor<double>>(support::rounded<float>(start(leaf, i)), support::Layout::row_major));
    h.push_back(std::make_unique<support::Tensor<double>>(start(leaf, i), support::Layout::row_major));
    device.add(group, leaf_name(i), w[i].view(), g[i].view());
    host.add(host_group, leaf_name(i), v[i]->view, h[i]->view);
  }
  for (int step = 0; step < 5; ++step) {
    for (std::size_t i = 0; i < 4; ++i) {
      g[i].set(gradient(leaf, i, step));
      h[i]->set(support::rounded<float>(gradient(leaf, i, step)));
    }
    device.step(), host.step();
  }
  for (std::size_t i = 0; i < 4; ++i) CHECK(support::relative_error(w[i].get(), v[i]->get()) <= 5e-6);
  CHECK(mentions(refusal<std::logic_error>([&] { device.spread_refreshes(); }), {"4 tensors were added"}));
}

TEST_CASE("tensors of more dimensions, bytes of a part, and groups of vectors") {
  EmulatedOptimizer optimizer;
  const auto group = optimizer.add_group(apollo::AdamWOptions{.lr = 0.5});
  const auto projected = optimizer.add_group(apollo::ApolloOptions{.lr = 0.25, .rank = 3});
  CHECK(optimizer.lr(group) == 0.5);
  optimizer.set_lr(group, 0.125);
  CHECK(optimizer.lr(group) == 0.125);
  Array<float> w(optimizer.device(), Matrix(12, 10, 1.0)), g(optimizer.device(), Matrix(12, 10, 1.0));
  const apollo::TensorView<float> weight(w.view().data, {2, 6, 10}), gradient(g.view().data, {2, 6, 10});
  CHECK(mentions(refusal([&] { optimizer.add(group, "t", weight, gradient); }), {"'t'", "Unfold::rest"}));
  optimizer.add(projected, "experts", weight, gradient, Unfold::batch);
  optimizer.step();
  CHECK(optimizer.status("experts[0]").steps == 1);
  CHECK(optimizer.status("experts[1]").steps == 1);
  CHECK(optimizer.state_bytes("experts[0]") == 2 * 3 * 10 * 4);
  CHECK(optimizer.state_bytes(projected) == 2 * optimizer.state_bytes("experts[0]"));
  CHECK(optimizer.state_bytes(group) == 0);
  // A batch of which one is refused adds none of them.
  Array<float> other(optimizer.device(), Matrix(12, 10, 1.0)), taken(optimizer.device(), Matrix(6, 10, 1.0));
  optimizer.add(group, "more[1]", taken.view(), taken.view());
  const apollo::TensorView<float> more(other.view().data, {2, 6, 10});
  CHECK(
      mentions(refusal([&] { optimizer.add(group, "more", more, gradient, Unfold::batch); }), {"'more[1]'", "taken"}));
  CHECK(mentions(refusal([&] { (void)optimizer.status("more[0]"); }), {"'more[0]'"}));
  CHECK(optimizer.state_bytes(group) == optimizer.state_bytes("more[1]"));
  optimizer.step();
  CHECK(optimizer.status("more[1]").steps == 1);
  CHECK(other.get()(0, 0) == 1.0);
  optimizer.rebind("experts", more, gradient, Unfold::batch);
  const Matrix before = w.get();
  optimizer.step();
  CHECK(w.get().values == before.values);
  CHECK(other.get()(11, 9) != 1.0);
  const apollo::TensorView<float> one(other.view().data, {1, 6, 10});
  CHECK(mentions(refusal([&] { optimizer.rebind("experts", one, one, Unfold::batch); }), {"'experts'", "must have 2"}));
  // Vectors have no low-rank form.
  EmulatedOptimizer vectors;
  const auto low_rank = vectors.add_group(apollo::ApolloOptions{.rank = 3});
  Array<float> bias(vectors.device(), Matrix(9, 1, 1.0));
  vectors.add(low_rank, "bias", bias.view(), bias.view());
  CHECK(mentions(refusal([&] { vectors.step(); }), {"low-rank projection", "vectors only", "'bias'"}));
}
