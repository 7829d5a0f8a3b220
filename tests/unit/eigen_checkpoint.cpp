// SPDX-License-Identifier: Apache-2.0
// A checkpoint does not show who saved it: backends, threads and layouts of weights write the same bytes of one state and load each
// other's, and training goes on to the same bits where docs/checkpoints.md promises that.
// not: optimised
#include <doctest/doctest.h>

#include <apollo/eigen.hpp>

#if APOLLO_HAS_FILES

#include <string>
#include <vector>

#include "model.hpp"
#include "path.hpp"

namespace {

using apollo::EigenBackend;
using apollo::Reference;
using support::Layout;
using support::Path;

/// Three tensors, large enough for a second run of 256 values and a second block of few bits.
template <class Member, class BackendType>
struct Run {
  using Backend = BackendType;
  model::Leaf<float> tall, wide, bias;
  apollo::BasicOptimizer<Backend> optimizer;

  Run(const typename Member::Options& options, Layout layout, const Backend& backend)
      : tall("tall", 40, 12, layout), wide("wide", 9, 35, layout), bias("bias", 300, 1, layout), optimizer(backend) {
    const auto group = optimizer.template add_group<Member>(options);
    for (auto* leaf : {&tall, &wide, &bias}) optimizer.add(group, leaf->name, leaf->w.view, leaf->g.view);
  }
  void step() {
    for (auto* leaf : {&tall, &wide, &bias}) leaf->feed(optimizer.tick() + 1);
    optimizer.step();
  }
  template <class Other>
  void set_weights(const Other& from) {
    tall.w.set(from.tall.w.get()), wide.w.set(from.wide.w.get()), bias.w.set(from.bias.w.get());
  }
  /// The largest relative difference of the weights.
  template <class Other>
  double error(const Other& other) const {
    double worst = 0;
    support::raise(worst, support::relative_error(tall.w.get(), other.tall.w.get()));
    support::raise(worst, support::relative_error(wide.w.get(), other.wide.w.get()));
    support::raise(worst, support::relative_error(bias.w.get(), other.bias.w.get()));
    return worst;
  }
};

std::string contents(const std::string& path) {
  const apollo::InputFile file(path);
  std::string bytes(static_cast<std::size_t>(file.size()), '\0');
  file.read(bytes.data(), bytes.size(), 0);
  return bytes;
}

/// What a member's checkpoints can be carried over to.
struct Traits {
  bool ordered = false;     ///< blocks lie as the weight does, and another order of memory is refused
  bool stochastic = false;  ///< rounds at random: another backend may round the other way
  bool by_place = false;    ///< ... by place in the weight's memory: another order of it goes on with other bits
  bool projected = false;   ///< Eigen's sums follow the order of memory
};

template <class Saver, class Loader>
void exchange(Saver& saver, Loader& loader, Layout from, Layout to, bool same_backend, const Traits& traits) {
  const Path path("exchange.safetensors"), again("exchange_again.safetensors");
  for (int t = 0; t < 5; ++t) saver.step();
  apollo::save(saver.optimizer, path);
  const bool turned = (from == Layout::column_major) != (to == Layout::column_major);
  if (turned && traits.ordered) {
    const std::string before = model::snapshot(loader.optimizer);
    const std::string message = model::message_of<std::runtime_error>([&] { apollo::load(loader.optimizer, path); });
    CHECK(model::mentions(message, "'tall'", "memory=rows", "memory=columns"));
    CHECK(model::same(model::snapshot(loader.optimizer), before));
    return;
  }
  loader.step();
  loader.set_weights(saver);
  apollo::load(loader.optimizer, path);
  CHECK(model::same(model::snapshot(loader.optimizer), model::snapshot(saver.optimizer)));
  apollo::save(loader.optimizer, again);
  CHECK(model::same(contents(again), contents(path)));
  for (int t = 0; t < 3; ++t) saver.step(), loader.step();
  constexpr bool reference = std::is_same_v<typename Loader::Backend, Reference>;
  if (same_backend && !(turned && (traits.by_place || (traits.projected && !reference)))) {
    CHECK(loader.error(saver) <= 0);
    CHECK(model::same(model::snapshot(loader.optimizer), model::snapshot(saver.optimizer)));
  } else if (!traits.stochastic) {
    CHECK(loader.error(saver) <= 1e-4);
  } else {
    CHECK(loader.error(saver) <= 0.05);  // three steps of another rounding
  }
}

template <class Member>
void exchange_all(const char* what, const typename Member::Options& options, const Traits& traits) {
  CAPTURE(std::string(what));
  const auto from_each = [&](auto saver_tag, int saver_threads, Layout from, auto loader_tag, int loader_threads,
                             Layout to) {
    using SaverBackend = typename decltype(saver_tag)::type;
    using LoaderBackend = typename decltype(loader_tag)::type;
    const auto make = [](auto tag, int threads) {
      using Backend = typename decltype(tag)::type;
      if constexpr (std::is_same_v<Backend, EigenBackend>)
        return Backend(threads);
      else
        return Backend();
    };
    CAPTURE(saver_threads);
    CAPTURE(loader_threads);
    CAPTURE(static_cast<int>(from));
    CAPTURE(static_cast<int>(to));
    Run<Member, SaverBackend> saver(options, from, make(saver_tag, saver_threads));
    Run<Member, LoaderBackend> loader(options, to, make(loader_tag, loader_threads));
    exchange(saver, loader, from, to, std::is_same_v<SaverBackend, LoaderBackend>, traits);
  };
  const model::Tag<Reference> reference;
  const model::Tag<EigenBackend> eigen;
  constexpr Layout layouts[] = {Layout::row_major, Layout::column_major, Layout::padded_rows};
  for (const Layout from : layouts)
    for (const Layout to : layouts) {
      from_each(reference, 1, from, reference, 1, to);
      from_each(reference, 1, from, eigen, 2, to);
      from_each(eigen, 1, from, eigen, 2, to);
      from_each(eigen, 2, from, reference, 1, to);
    }
}

}  // namespace

TEST_CASE("dense members exchange checkpoints") {
  using namespace apollo;
  const AdamWOptions o{.lr = 0.01, .weight_decay = 0.1};
  exchange_all<AdamW<>>("AdamW", o, {});
  exchange_all<AdamW<AdamMoments<bfloat16>>>("AdamW, bfloat16", o, {.stochastic = true, .by_place = true});
  exchange_all<AdamW8bit<>>("AdamW, 8 bits", o, {.ordered = true, .stochastic = true});
  exchange_all<AdamW<AdamMoments<Int4>>>("AdamW, 4 bits", o, {.ordered = true, .stochastic = true});
  exchange_all<SgdMomentum<>>("SgdMomentum", {.lr = 0.01}, {});
}

TEST_CASE("projected members exchange checkpoints") {
  using namespace apollo;
  const ApolloOptions o{.lr = 0.01, .rank = 3, .update_proj_gap = 3};
  exchange_all<Apollo<>>("Apollo", o, {.projected = true});
  exchange_all<Apollo<AdamMoments<bfloat16>>>("Apollo, bfloat16", o, {.stochastic = true, .projected = true});
  exchange_all<Apollo<AdamMoments<Int8Linear>>>("Apollo, 8 bits", o, {.stochastic = true, .projected = true});
  exchange_all<ApolloMini<>>("ApolloMini", {.lr = 0.01, .scale = 4, .update_proj_gap = 3}, {.projected = true});
  exchange_all<GaLore<>>("GaLore", {.lr = 0.01, .rank = 3, .update_proj_gap = 3}, {.projected = true});
}

#endif
