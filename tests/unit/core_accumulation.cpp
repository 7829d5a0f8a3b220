// SPDX-License-Identifier: Apache-2.0
// Gradients of micro-batches: k of them are one batch, kept as R where that is all a step takes, whole where it is not; and
// what may not be done while they wait.
// not: optimised
#include <doctest/doctest.h>

#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <string>

#include "family_oracles.hpp"
#include "model.hpp"
#include "sketches.hpp"

namespace {

using apollo::Accumulated;
using apollo::Index;
using apollo::Shape;
using model::Leaf;
using support::Layout;
using support::Matrix;
using support::Tensor;

constexpr int parts = 3;
constexpr Index rank = 4, gap = 3;

/// Part number k of a gradient that three parts add up to; the parts do not resemble each other.
Matrix part(const Matrix& whole, int k) {
  const double weight[parts] = {1.5, -2, 1.5};
  return support::scaled(whole, weight[k]);
}

/// Steps the first optimizer with whole gradients and the second with their parts.
template <class Member, class Options>
void micro_batches(Shape shape, const Options& options, Layout layout) {
  using Policies = typename Member::Policies;
  using Projection = typename Policies::Projection;
  constexpr bool svd = std::is_same_v<Projection, apollo::SvdProjection>;
  // bfloat16 rounds at random, and what falls to the other side was close to it; a limiter keeps its norm in four bytes.
  const bool rounds = std::is_same_v<apollo::stored_t<typename Policies::Moments, double>, apollo::bfloat16>;
  const double bound = rounds ? 1e-2 : Policies::Limiter::active ? 1e-6 : svd ? 1e-8 : 1e-11;
  const Matrix start = support::uniform_matrix(shape.rows, shape.cols, 2);
  Tensor<double> w(start, layout), micro_w(start, layout), g(start, Layout::column_major);
  Member whole(w.view, options, "w"), micro(micro_w.view, options, "w");
  for (int t = 1; t <= 2 * gap + 2; ++t) {
    CAPTURE(t);
    const Matrix gradient = support::uniform_matrix(shape.rows, shape.cols, 3, static_cast<std::uint64_t>(t));
    const bool projected = Policies::takes_projection_only && !(svd && (t - 1) % gap == 0);
    const Index size = projected ? micro.plan().kept * micro.plan().rank : shape.rows * shape.cols;
    for (int k = 0; k + 1 < parts; ++k) {
      g.set(support::scaled(part(gradient, k), 0.5));
      micro.set_gradient_scale(2);  // of each time
      const auto report = micro.accumulate(g.view);
      CHECK(report.reason == apollo::Skip::none);
      CHECK(!report.stepped);
      CHECK(report.accumulated == (projected ? Accumulated::projected : Accumulated::whole));
      CHECK(micro.accumulation_bytes() == size * 8);
    }
    micro.set_gradient_scale(1);
    g.set(part(gradient, parts - 1));
    const auto report = micro.step(micro_w.view, g.view);
    g.set(gradient);
    const auto expected = whole.step(w.view, g.view);
    REQUIRE(report.stepped);
    CHECK(report.refreshed == expected.refreshed);
    CHECK(report.accumulated == (projected ? Accumulated::projected : Accumulated::whole));
    CHECK(expected.accumulated == Accumulated::none);
    if (projected)
      CHECK(report.gradient_norm == apollo::not_measured);
    else
      CHECK(std::fabs(report.gradient_norm - expected.gradient_norm) <= 1e-9 * std::fabs(expected.gradient_norm));
    // A refresh's gradient is not kept beyond its step.
    CHECK(micro.accumulation_bytes() == (projected || !Policies::takes_projection_only ? size * 8 : 0));
    REQUIRE(support::relative_error(micro_w.get(), w.get()) <= bound);
  }
  CHECK(whole.steps() == micro.steps());
  CHECK(whole.accumulation_bytes() == 0);
}

}  // namespace

TEST_CASE("three micro-batches are one batch, for every optimizer, shape and layout") {
  for (const Shape shape : {Shape{13, 7}, Shape{7, 13}})
    for (const Layout layout : {Layout::row_major, Layout::column_major}) {
      CAPTURE(shape.rows);
      const auto run = [&](const char* name, auto tag, const auto& options) {
        CAPTURE(std::string(name));
        using Member = typename model::Rewrap<typename decltype(tag)::type>::template with<double, apollo::Reference>;
        micro_batches<Member>(shape, options, layout);
      };
      model::for_each_dense<>(run);
      model::for_each_projected<>(rank, gap, apollo::ProjType::std, run);
      model::for_each_projected<>(rank, gap, apollo::ProjType::left, run);
    }
}

TEST_CASE("Flora's compressed accumulation is the sum of its micro-batches' projections, under one P") {
  const Shape shape{11, 6};
  support::FloraOracle oracle{.h = {}};
  apollo::Flora<double> flora(shape, {.lr = oracle.h.lr, .rank = rank, .beta1 = oracle.h.beta1, .seed = 4}, "w");
  const apollo::RandomStream stream{4, apollo::tensor_id("w"), apollo::Stream::projection, 0};
  const Matrix p = support::directions<apollo::Gaussian>(stream, rank, shape.cols);
  Matrix expected = support::uniform_matrix(shape.rows, shape.cols, 5);
  Tensor<double> w(expected, Layout::row_major), g(expected, Layout::row_major);
  for (int t = 0; t < 4; ++t) {
    for (int k = 0; k < 3; ++k) {
      g.set(support::uniform_matrix(shape.rows, shape.cols, 6, static_cast<std::uint64_t>(3 * t + k)));
      oracle.accumulate(g.get(), p);
      if (k < 2) flora.accumulate(g.view);
    }
    oracle.step_accumulated(expected, p);
    REQUIRE(flora.step(w.view, g.view).accumulated == Accumulated::projected);
    CHECK(flora.accumulation_bytes() == shape.rows * rank * 8);
    CHECK(support::relative_error(w.get(), expected) <= 1e-12);
  }
}

TEST_CASE("one micro-batch that is not finite skips the whole batch, once") {
  const auto run = [&](const char* name, auto tag, const auto& options) {
    using Member = typename decltype(tag)::type;
    CAPTURE(std::string(name));
    Leaf<float> leaf("leaf", 12, 8), same("leaf", 12, 8);
    Member optimizer(leaf.w.view, options, "leaf"), healthy(same.w.view, options, "leaf");
    const auto both = [&](int t) {
      leaf.feed(t), same.feed(t);
      optimizer.step(leaf.w.view, leaf.g.view), healthy.step(same.w.view, same.g.view);
    };
    both(1);
    leaf.feed(2);
    leaf.g.view(3, 5) = -HUGE_VALF;
    CHECK(optimizer.accumulate(leaf.g.view).reason == apollo::Skip::not_finite);
    leaf.feed(3);
    CHECK(optimizer.accumulate(leaf.g.view).reason == apollo::Skip::not_finite);  // the sum is
    const auto report = optimizer.step(leaf.w.view, leaf.g.view);
    CHECK(report.reason == apollo::Skip::not_finite);
    CHECK(!report.stepped);
    for (int t = 4; t <= 8; ++t) both(t);
    CHECK(model::same_bits(leaf.w.memory, same.w.memory));
    CHECK(bool(support::state_of(optimizer).bytes == support::state_of(healthy).bytes));
  };
  model::for_each_dense<>(run);
  model::for_each_projected<>(rank, gap, apollo::ProjType::std, run);
}

TEST_CASE("what a static optimizer cannot add is reported, and discarded sums leave no trace") {
  apollo::GaLore<apollo::FixedProjection> galore(Shape{6, 4}, {.rank = 2});
  Leaf<float> leaf("leaf", 6, 4), wrong("wrong", 4, 6);
  CHECK(galore.accumulate(leaf.g.view).reason == apollo::Skip::no_projection);
  CHECK(galore.accumulate(wrong.g.view).reason == apollo::Skip::wrong_shape);
  CHECK(galore.accumulate(apollo::row_major(static_cast<const float*>(nullptr), 6, 4)).reason ==
        apollo::Skip::null_data);
  CHECK(galore.accumulation_bytes() == 0);
  Matrix p(2, 4);
  p(0, 0) = p(1, 1) = 1;
  galore.set_projection(Tensor<float>(p, Layout::row_major).view);
  Leaf<float> same("leaf", 6, 4);
  apollo::GaLore<apollo::FixedProjection> plain(Shape{6, 4}, {.rank = 2});
  plain.set_projection(Tensor<float>(p, Layout::row_major).view);
  CHECK(galore.accumulate(leaf.g.view).accumulated == Accumulated::projected);
  galore.discard_accumulated();
  CHECK(galore.step(leaf.w.view, leaf.g.view).accumulated == Accumulated::none);
  plain.step(same.w.view, same.g.view);
  CHECK(model::same_bits(leaf.w.memory, same.w.memory));
}

namespace {

/// A matrix that accumulates as R from its second step on, one that is summed whole, and a vector.
struct Net {
  apollo::Optimizer optimizer;
  apollo::Group<apollo::GaLore<>::Policies> galore;
  apollo::Group<apollo::Apollo<>::Policies> apollo_group;
  Leaf<float> a{"a", 9, 6}, b{"b", 6, 9}, bias{"bias", 1, 9};

  Net() {
    galore = optimizer.add_group(apollo::GaLoreOptions{.lr = 0.01, .rank = 3, .update_proj_gap = gap});
    apollo_group = optimizer.add_group(apollo::ApolloOptions{.lr = 0.01, .rank = 3});
    optimizer.add(galore, "a", a.w.view, a.g.view);
    optimizer.add(apollo_group, "b", b.w.view, b.g.view);
    optimizer.add(galore, "bias", bias.w.view, bias.g.view);
  }
  void feed(int t, double factor = 1) {
    for (Leaf<float>* leaf : {&a, &b, &bias}) leaf->feed(t, factor);
  }
  bool same_weights(const Net& other) const {
    return model::same_bits(a.w.memory, other.a.w.memory) && model::same_bits(b.w.memory, other.b.w.memory) &&
           model::same_bits(bias.w.memory, other.bias.w.memory);
  }
};

}  // namespace

TEST_CASE("a whole model: what is summed how, bytes, clipping, and the same layer by layer") {
  Net whole, micro, layers;
  for (int t = 1; t <= 5; ++t) {
    CAPTURE(t);
    const bool refresh = (t - 1) % gap == 0;
    // Halves and doubles are exact, so that the bits agree wherever the sums are whole.
    whole.feed(t, 2), micro.feed(t), layers.feed(t);
    CHECK(!micro.optimizer.accumulating());
    const auto added = micro.optimizer.accumulate();
    CHECK(micro.optimizer.accumulating());
    CHECK(added.whole == (refresh ? 3 : 2));
    CHECK(added.projected == (refresh ? 0 : 1));
    CHECK(added.skipped == 0);
    CHECK(added.tensors[0].name == "a");
    CHECK(micro.optimizer.accumulation_bytes("a") == (refresh ? 9 * 6 : 9 * 3) * 4);
    CHECK(micro.optimizer.accumulation_bytes() == micro.optimizer.accumulation_bytes("a") + (6 * 9 + 9) * 4);
    const auto report = micro.optimizer.step();
    CHECK(report.stepped == 3);
    CHECK(report.tensors[0].accumulated == (refresh ? Accumulated::whole : Accumulated::projected));
    for (const char* name : {"a", "b", "bias"}) layers.optimizer.accumulate(name);
    CHECK(!layers.optimizer.tick_open());
    CHECK(layers.optimizer.tick() == t - 1);
    for (const char* name : {"bias", "b", "a"}) layers.optimizer.step(name);
    layers.optimizer.end_tick();
    CHECK(layers.optimizer.tick() == t);
    whole.optimizer.step();
    CHECK(layers.same_weights(micro));
    CHECK(model::same_bits(micro.b.w.memory, whole.b.w.memory));
    CHECK(support::relative_error(micro.a.w.get(), whole.a.w.get()) <= 1e-6);
  }
}

TEST_CASE("the norm that is clipped is that of the sums") {
  Net whole, micro;
  for (Net* net : {&whole, &micro}) net->optimizer.gradient_scale(0.5), net->optimizer.clip_global_norm(0.25);
  whole.feed(1, 2), micro.feed(1);
  CHECK(micro.optimizer.accumulate().whole == 3);
  const auto expected = whole.optimizer.step(), report = micro.optimizer.step();
  CHECK(expected.clip_factor < 1);
  CHECK(std::fabs(report.global_norm - expected.global_norm) <= 1e-6 * expected.global_norm);
  CHECK(std::fabs(report.clip_factor - expected.clip_factor) <= 1e-6 * expected.clip_factor);
  CHECK(support::relative_error(micro.b.w.get(), whole.b.w.get()) <= 1e-6);
  CHECK(support::relative_error(micro.a.w.get(), whole.a.w.get()) <= 1e-6);
}

TEST_CASE("a tensor whose last micro-batch has no gradient takes the earlier ones") {
  Net net, same;
  net.feed(1), same.feed(1);
  net.optimizer.step(), same.optimizer.step();
  for (int t = 2; t <= 4; ++t) {
    CAPTURE(t);
    net.feed(t), same.feed(t);
    CHECK(net.optimizer.accumulate().skipped == 0);
    for (const char* name : {"a", "b", "bias"})
      net.optimizer.rebind(name,
                           name[0] == 'a'    ? net.a.w.view
                           : name[1] == '\0' ? net.b.w.view
                                             : net.bias.w.view,
                           apollo::no_gradient);
    CHECK(net.optimizer.accumulate().skipped == 3);
    if (t == 3) {  // layer by layer, what waits has to be stepped as well
      net.optimizer.step("a"), net.optimizer.step("b"), net.optimizer.step("bias");
      CHECK(net.optimizer.end_tick().stepped == 3);
    } else {
      CHECK(net.optimizer.step().stepped == 3);
    }
    same.optimizer.step();
    CHECK(net.same_weights(same));
    net.optimizer.rebind("a", net.a.w.view, net.a.g.view);
    net.optimizer.rebind("b", net.b.w.view, net.b.g.view);
    net.optimizer.rebind("bias", net.bias.w.view, net.bias.g.view);
  }
}

#if defined(__cpp_exceptions)
TEST_CASE("what may not be done while gradients wait is refused, and changes nothing") {
  const auto refused = [](Net& net, auto&& call, auto... parts_of_message) {
    const std::string before = model::snapshot(net.optimizer);
    const Index bytes = net.optimizer.accumulation_bytes();
    const std::string message = model::message_of<std::logic_error>(call);
    CAPTURE(message);
    CHECK(model::mentions(message, parts_of_message...));
    CHECK(model::same(model::snapshot(net.optimizer), before));
    CHECK(net.optimizer.accumulation_bytes() == bytes);
  };
  Net net;
  net.optimizer.step();
  net.optimizer.accumulate("a");
  refused(
      net, [&] { apollo::save(net.optimizer, "waiting.safetensors"); }, "save()", "accumulated");
  CHECK(std::fopen("waiting.safetensors", "rb") == nullptr);
  net.optimizer.discard_accumulated();
  apollo::save(net.optimizer, "waiting.safetensors");
  net.optimizer.accumulate("b");
  refused(
      net, [&] { apollo::load(net.optimizer, "waiting.safetensors"); }, "load()", "accumulated");
  net.optimizer.discard_accumulated();
  apollo::load(net.optimizer, "waiting.safetensors");
  std::remove("waiting.safetensors");

  net.optimizer.clip_global_norm(2.5);
  refused(
      net, [&] { net.optimizer.accumulate(); }, "'a'", "clip_global_norm = 2.5", "projected");
  refused(
      net, [&] { net.optimizer.accumulate("a"); }, "'a'", "clip_global_norm = 2.5");
  net.optimizer.accumulate("b");  // whole
  CHECK(net.optimizer.step().stepped == 3);
  net.optimizer.clip_global_norm(0);
  net.optimizer.accumulate("a");
  net.optimizer.clip_global_norm(2.5);
  refused(
      net, [&] { net.optimizer.step(); }, "'a'", "clip_global_norm = 2.5");
  net.optimizer.clip_global_norm(0);

  net.optimizer.step("b");
  refused(
      net, [&] { net.optimizer.accumulate(); }, "accumulate()", "tick 3", "accumulate(name)");
  refused(
      net, [&] { net.optimizer.accumulate("b"); }, "'b'", "after its step in tick 3");
  refused(
      net, [&] { net.optimizer.step("b"); }, "'b'", "second step in tick 3");
  net.optimizer.rebind("a", net.a.w.view, apollo::no_gradient);
  net.optimizer.step("bias");
  refused(
      net, [&] { net.optimizer.end_tick(); }, "'a'", "not stepped in tick 3");  // it has no gradient, but waits
  net.optimizer.step("a");
  net.optimizer.end_tick();
  CHECK(
      model::mentions(model::message_of<std::invalid_argument>([&] { net.optimizer.accumulate("nobody"); }), "nobody"));

  apollo::GaLore<apollo::FixedProjection> galore(Shape{6, 4}, {.rank = 2}, "fixed");
  const Tensor<float> p(Matrix(2, 4), Layout::row_major);
  galore.set_projection(p.view);
  galore.accumulate(Leaf<float>("g", 6, 4).g.view);
  CHECK(model::mentions(model::message_of<std::logic_error>([&] { galore.set_projection(p.view); }), "'fixed'",
                        "set_projection()", "accumulated"));
}
#endif
