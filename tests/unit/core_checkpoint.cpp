// SPDX-License-Identifier: Apache-2.0
// Checkpoints: training goes on bit by bit from any step, files that do not fit are refused with all that is wrong, and what
// is saved is the exact state and nothing else.
// not: optimised
#include <doctest/doctest.h>

#include <apollo/apollo.hpp>

#if APOLLO_HAS_FILES

#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <typeinfo>
#include <vector>

#include "model.hpp"
#include "path.hpp"

namespace {

using apollo::Index;
using model::Layout;
using model::Leaf;
using model::Matrix;
using support::Path;

std::string contents(const std::string& path) {
  const apollo::InputFile file(path);
  std::string bytes(static_cast<std::size_t>(file.size()), '\0');
  file.read(bytes.data(), bytes.size(), 0);
  return bytes;
}

/// Plain writing: no need to survive a crash.
void put(const std::string& path, const std::string& bytes) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  REQUIRE(file != nullptr);
  REQUIRE(std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size());
  REQUIRE(std::fclose(file) == 0);
}

apollo::safetensors::Header header_of(const std::string& bytes) {
  return apollo::safetensors::parse(bytes, bytes.size(), "test");
}

/// Three tensors in one group. One of them now and then has no usable gradient, so that steps differ from ticks.
template <class Member>
struct Run {
  apollo::Optimizer optimizer;
  Leaf<float> tall, wide, bias;

  explicit Run(const typename Member::Options& options, Layout layout = Layout::row_major, bool spread = false)
      : tall("tall", 13, 6, layout), wide("wide", 5, 9, layout), bias("bias", 7, 1, layout) {
    if (spread) optimizer.spread_refreshes();
    const auto group = optimizer.add_group<Member>(options);
    optimizer.add(group, "tall", tall.w.view, tall.g.view);
    optimizer.add(group, "wide", wide.w.view, wide.g.view);
    optimizer.add(group, "bias", bias.w.view, bias.g.view);
    optimizer.schedule(apollo::Cosine{.warmup = 10, .total = 130, .floor = 0.1});
  }
  Run(const Run&) = delete;

  void step() {
    const std::int64_t t = optimizer.tick() + 1;
    tall.feed(t), wide.feed(t, t % 17 == 5 ? 0 : 1), bias.feed(t);
    if (t % 11 == 3) tall.g.view(2, 3) = std::numeric_limits<float>::infinity();
    optimizer.step();
  }
  std::vector<float> weights() const {
    std::vector<float> all = tall.w.memory;
    all.insert(all.end(), wide.w.memory.begin(), wide.w.memory.end());
    all.insert(all.end(), bias.w.memory.begin(), bias.w.memory.end());
    return all;
  }
  void set_weights(const Run& from) {
    tall.w.set(from.tall.w.get()), wide.w.set(from.wide.w.get()), bias.w.set(from.bias.w.get());
  }
};

/// Calls visit(what, tag, options) for the optimizers that a checkpoint must serve.
template <class Visit>
void for_each_member(Visit&& visit) {
  model::for_each_dense<>(visit);
  model::for_each_projected<>(3, 7, apollo::ProjType::std, visit);
}

}  // namespace

TEST_CASE("training goes on bit by bit from each of a hundred steps") {
  constexpr std::int64_t last = 120;
  const Path path("resume.safetensors");
  std::string member;
  CAPTURE(member);
  for_each_member([&](const char* what, auto tag, const auto& options) {
    using Member = typename decltype(tag)::type;
    member = what;
    // 100 of the steps 1 ... 119, the same in every run of the test.
    std::vector<char> stops(last, 1);
    stops[0] = 0;
    for (std::uint64_t i = 0, left = 19; left > 0; ++i) {
      char& stop = stops[1 + support::mix(Leaf<float>::key(what) + i) % (last - 1)];
      left -= stop != 0 ? 1 : 0;
      stop = 0;
    }
    Run<Member> straight(options);
    std::vector<std::unique_ptr<Run<Member>>> resumed;
    for (std::int64_t t = 1; t <= last; ++t) {
      straight.step();
      for (const auto& each : resumed) each->step();
      if (t == last || stops[static_cast<std::size_t>(t)] == 0) continue;
      apollo::save(straight.optimizer, path);
      auto fresh = std::make_unique<Run<Member>>(options);
      fresh->set_weights(straight);
      apollo::load(fresh->optimizer, path);
      REQUIRE(model::same(model::snapshot(fresh->optimizer), model::snapshot(straight.optimizer)));
      resumed.push_back(std::move(fresh));
    }
    CHECK(resumed.size() == 100);
    CHECK(straight.optimizer.steps("tall") == last - 11);
    for (const auto& each : resumed) {
      CHECK(model::same_bits(each->weights(), straight.weights()));
      CHECK(model::same(model::snapshot(each->optimizer), model::snapshot(straight.optimizer)));
    }
  });
}

TEST_CASE("bytes in memory are those of the file, and are refused as it is") {
  const Path path("bytes.safetensors");
  Run<apollo::Apollo<>> run({.rank = 3}), fresh({.rank = 3}), other({.rank = 4});
  for (int t = 1; t <= 5; ++t) run.step();
  apollo::save(run.optimizer, path);
  const std::vector<std::byte> bytes = apollo::save_bytes(run.optimizer);
  const std::string file = contents(path);
  REQUIRE(bytes.size() == file.size());
  CHECK(std::memcmp(bytes.data(), file.data(), file.size()) == 0);
  apollo::load_bytes(fresh.optimizer, bytes, "memory");
  CHECK(fresh.optimizer.tick() == 5);
  CHECK(model::same(model::snapshot(fresh.optimizer), model::snapshot(run.optimizer)));
  CHECK_THROWS_WITH_AS(apollo::load_bytes(other.optimizer, bytes, "memory"), doctest::Contains("cannot load 'memory'"),
                       std::runtime_error);
  CHECK_THROWS_AS(apollo::load_bytes(fresh.optimizer, std::span(bytes).first(bytes.size() - 1), "memory"),
                  std::runtime_error);
  CHECK_THROWS_AS(apollo::load_bytes(fresh.optimizer, {}, "memory"), std::runtime_error);
}

TEST_CASE("a fixed projection and its moments go through a file") {
  // Optimizer has no door for FixedProjection's matrix, so its state is written from a static optimizer.
  using Fixed = apollo::Apollo<apollo::FixedProjection>;
  Leaf<float> leaf("leaf", 9, 6), p("p", 3, 6);
  Fixed optimizer({9, 6}, {.rank = 3, .on_refresh = apollo::OnRefresh::reset}, "leaf");
  optimizer.set_projection(p.w.view);
  for (int t = 1; t <= 3; ++t) leaf.feed(t), optimizer.step(leaf.w.view, leaf.g.view);
  const support::StateDump dump = support::state_of(optimizer);
  CHECK(dump.arrays.count("exp_avg") == 1);
  CHECK(dump.arrays.count("exp_avg_sq") == 1);
  CHECK(dump.arrays.at("basis").shape() == apollo::Shape{6, 3});
  CHECK(dump.scalars.at("projection_set") == 1);
  CHECK(dump.scalars.at("step") == 3);
  CHECK(dump.array_bytes == optimizer.state_bytes());
}

TEST_CASE("the file holds the exact state, the record and a header: no random projection") {
  const Path path("size.safetensors");
  std::string member;
  CAPTURE(member);
  for_each_member([&](const char* what, auto tag, const auto& options) {
    using Member = typename decltype(tag)::type;
    member = what;
    Run<Member> run(options);
    for (int t = 0; t < 3; ++t) run.step();
    apollo::save(run.optimizer, path);
    const std::string bytes = contents(path);
    const auto header = header_of(bytes);
    CHECK(static_cast<Index>(bytes.size() - header.data_offset) ==
          run.optimizer.state_bytes() + run.optimizer.record_bytes());
    Index of_types = 0;
    for (const char* name : {"tall", "wide", "bias"}) of_types += run.optimizer.state_bytes(name);
    CHECK(run.optimizer.state_bytes() == of_types);
    CHECK(run.optimizer.state_bytes("tall") == Member::state_bytes({13, 6}, options));
    CHECK(run.optimizer.state_bytes("wide") == Member::state_bytes({5, 9}, options));
  });
  // The arithmetic once in figures: APOLLO keeps 2 r L values and 12 bytes a matrix, whatever S is.
  using Member = apollo::Apollo<>;
  Leaf<float> matrix("matrix", 300, 40);
  apollo::Optimizer optimizer;
  optimizer.add(optimizer.add_group(apollo::ApolloOptions{.rank = 4}), "matrix", matrix.w.view, matrix.g.view);
  optimizer.step();
  apollo::save(optimizer, path);
  const std::string bytes = contents(path);
  CHECK(bytes.size() - header_of(bytes).data_offset == 2 * 4 * 300 * 4 + 12);
  CHECK(Member::state_bytes({300, 40}, {.rank = 4}) == 2 * 4 * 300 * 4);
}

TEST_CASE("keys, types and shapes are those that are documented") {
  const Path path("keys.safetensors");
  apollo::Optimizer optimizer;
  Leaf<float> a("a", 6, 4), b("b", 6, 4, Layout::column_major), c("c", 6, 4), d("d", 4, 6), e("e", 6, 4);
  Leaf<double> f("f", 6, 4);
  optimizer.add(optimizer.add_group(apollo::AdamWOptions{}), "a", a.w.view, a.g.view);
  optimizer.add(optimizer.add_group(apollo::SgdMomentumOptions{}), "b", b.w.view, b.g.view);
  optimizer.add(optimizer.add_group(apollo::SgdOptions{}), "c", c.w.view, c.g.view);
  optimizer.add(optimizer.add_group(apollo::GaLoreOptions{.rank = 3, .on_refresh = apollo::OnRefresh::reset}), "d",
                d.w.view, d.g.view);
  const auto narrow = optimizer.add_group<apollo::Apollo<apollo::AdamMoments<apollo::bfloat16>>>({.rank = 2});
  optimizer.add(narrow, "e", e.w.view, e.g.view);
  optimizer.add(optimizer.add_group(apollo::AdamWOptions{}), "f", f.w.view, f.g.view);
  optimizer.step();
  apollo::save(optimizer, path);
  const std::string bytes = contents(path);
  const auto header = header_of(bytes);
  using apollo::safetensors::Type;
  const auto has = [&](const char* name, Type type, std::vector<Index> shape) {
    CAPTURE(std::string(name));
    const auto* tensor = header.find(name);
    REQUIRE(tensor != nullptr);
    CHECK(tensor->type == type);
    CHECK(tensor->shape == shape);
  };
  has("a.exp_avg", Type::F32, {6, 4});
  has("a.exp_avg_sq", Type::F32, {6, 4});
  has("a.step", Type::I64, {});
  has("b.momentum_buffer", Type::F32, {6, 4});
  has("b.step", Type::I64, {});
  has("c.step", Type::I64, {});
  has("d.exp_avg", Type::F32, {6, 3});  // rows are removed: kept x rank
  has("d.basis", Type::F32, {4, 3});
  has("d.restart", Type::I64, {});
  has("e.exp_avg", Type::BF16, {6, 2});
  has("e.exp_avg_sq", Type::BF16, {6, 2});
  has("e.previous_norm", Type::F32, {});
  has("f.exp_avg_sq", Type::F64, {6, 4});
  CHECK(header.tensors.size() == 3 + 2 + 1 + 5 + 4 + 3);
  CHECK(*header.find_metadata("format") == "apollo-optimizer");
  CHECK(*header.find_metadata("version") == "1");
  CHECK(*header.find_metadata("tick") == "1");
  // Moments lie in the file in the order of rows, whatever the weight's layout.
  const auto* momentum = header.find("b.momentum_buffer");
  for (Index i = 0; i < 6; ++i)
    for (Index j = 0; j < 4; ++j) {
      float value = 0;
      std::memcpy(&value, bytes.data() + header.data_offset + momentum->begin + 4 * (4 * i + j), 4);
      CHECK(value == b.g.view(i, j));
    }
}

TEST_CASE_TEMPLATE("rows of an array in any order are copied into a buffer and back", T, std::uint8_t, std::uint16_t,
                   float, double) {
  constexpr Index all_rows = 150, first = 7, count = 141, cols = 133;  // squares of every size, and edges
  const auto value = [](Index i, Index j) { return static_cast<T>((i * cols + j) % 251 + i / 50); };
  for (const bool by_columns : {true, false}) {
    CAPTURE(by_columns);
    const Index down = by_columns ? 1 : 2, across = by_columns ? all_rows + 3 : 2 * all_rows + 1;
    std::vector<T> array(static_cast<std::size_t>(cols * across), T(99)), copy(static_cast<std::size_t>(count * cols));
    const auto view = apollo::strided(array.data(), all_rows, cols, down, across);
    for (Index i = 0; i < all_rows; ++i)
      for (Index j = 0; j < cols; ++j) view(i, j) = value(i, j);
    const std::vector<T> before = array;
    const apollo::AnyView any{array.data(), "", all_rows, cols, down, across};
    const auto bytes = reinterpret_cast<std::byte*>(copy.data());
    apollo::checkpoint::copy_rows<sizeof(T)>(any, first, count, bytes, false);
    Index wrong = 0;
    for (Index i = 0; i < count; ++i)
      for (Index j = 0; j < cols; ++j)
        wrong += copy[static_cast<std::size_t>(i * cols + j)] == value(first + i, j) ? 0 : 1;
    CHECK(wrong == 0);
    for (Index i = first; i < first + count; ++i)
      for (Index j = 0; j < cols; ++j) view(i, j) = T(0);
    apollo::checkpoint::copy_rows<sizeof(T)>(any, first, count, bytes, true);
    CHECK(array == before);  // what lies beside the rows too
  }
}

TEST_CASE("what row-major weights saved, column-major ones load") {
  const Path path("layout.safetensors"), again("layout_again.safetensors");
  std::string member;
  CAPTURE(member);
  for_each_member([&](const char* what, auto tag, const auto& options) {
    using Member = typename decltype(tag)::type;
    member = what;
    Run<Member> rows(options);
    for (int t = 1; t <= 9; ++t) rows.step();
    apollo::save(rows.optimizer, path);
    for (const Layout layout : {Layout::column_major, Layout::gaps, Layout::padded_columns}) {
      Run<Member> other(options, layout);
      other.set_weights(rows);
      apollo::load(other.optimizer, path);
      CHECK(model::same(model::snapshot(other.optimizer), model::snapshot(rows.optimizer)));
      apollo::save(other.optimizer, again);
      CHECK(model::same(contents(again), contents(path)));
    }
  });
  // Where nothing is rounded at random, the same steps follow.
  Run<apollo::AdamW<>> rows({.lr = 0.01}), columns({.lr = 0.01}, Layout::column_major);
  for (int t = 1; t <= 5; ++t) rows.step();
  apollo::save(rows.optimizer, path);
  columns.set_weights(rows);
  apollo::load(columns.optimizer, path);
  for (int t = 1; t <= 5; ++t) rows.step(), columns.step();
  CHECK(support::relative_error(columns.tall.w.get(), rows.tall.w.get()) <= 0);
  CHECK(support::relative_error(columns.wide.w.get(), rows.wide.w.get()) <= 0);
}

TEST_CASE("a checkpoint of nothing, and of a model that has not stepped") {
  const Path path("empty.safetensors");
  apollo::Optimizer empty, other;
  empty.step();
  apollo::save(empty, path);
  apollo::load(other, path);
  CHECK(other.tick() == 1);

  Run<apollo::Apollo<>> fresh({.rank = 3}), loaded({.rank = 3});
  loaded.step();
  apollo::save(fresh.optimizer, path);
  apollo::load(loaded.optimizer, path);
  CHECK(model::same(model::snapshot(loaded.optimizer), model::snapshot(fresh.optimizer)));
  CHECK(loaded.optimizer.tick() == 0);
  CHECK(loaded.optimizer.steps("tall") == 0);
}

TEST_CASE("names of any characters go through a file") {
  const Path path("names.safetensors");
  const std::vector<std::string> names = {"plain",
                                          "dots.and.step",
                                          "dots",
                                          "a/b\\c",
                                          "quote\"and'quote",
                                          "line\nfeed\ttab\rreturn",
                                          "\x01\x1f control",
                                          "\xd0\x90\xd0\xbf\xd0\xbe\xd0\xbb\xd0\xbb\xd0\xbe\xd0\xbd",
                                          "\xe9\x98\xbf\xe6\xb3\xa2\xe7\xbd\x97",
                                          "\xf0\x9f\x9a\x80",
                                          "{}[],:",
                                          "__metadata__",
                                          "fingerprint:plain",
                                          " ",
                                          std::string("zero\0inside", 11),
                                          std::string(3000, 'x')};
  const auto make = [&](apollo::Optimizer& optimizer, std::vector<std::unique_ptr<Leaf<float>>>& leaves) {
    const auto group = optimizer.add_group(apollo::AdamWOptions{});
    for (const std::string& name : names) {
      leaves.push_back(std::make_unique<Leaf<float>>(name, 3, 2));
      optimizer.add(group, name, leaves.back()->w.view, leaves.back()->g.view);
    }
  };
  apollo::Optimizer saved, loaded;
  std::vector<std::unique_ptr<Leaf<float>>> saved_leaves, loaded_leaves;
  make(saved, saved_leaves), make(loaded, loaded_leaves);
  saved.step();
  apollo::save(saved, path);
  apollo::load(loaded, path);
  CHECK(model::same(model::snapshot(loaded), model::snapshot(saved)));
}

TEST_CASE("a thousand tensors in another order") {
  const Path path("order.safetensors");
  const auto run = [](apollo::Optimizer& optimizer, std::vector<std::unique_ptr<Leaf<float>>>& leaves, bool backwards) {
    const auto group = optimizer.add_group(apollo::SgdMomentumOptions{});
    for (int i = 0; i < 1000; ++i) {
      const std::string name = "t" + std::to_string(backwards ? 999 - i : i);
      leaves.push_back(std::make_unique<Leaf<float>>(name, 1, 2));
      optimizer.add(group, name, leaves.back()->w.view, leaves.back()->g.view);
    }
  };
  apollo::Optimizer saved, loaded;
  std::vector<std::unique_ptr<Leaf<float>>> saved_leaves, loaded_leaves;
  run(saved, saved_leaves, false), run(loaded, loaded_leaves, true);
  saved.step();
  apollo::save(saved, path);
  apollo::load(loaded, path);
  for (int i = 0; i < 1000; i += 37) {
    const std::string name = "t" + std::to_string(i);
    CHECK(model::same(model::state_of(saved, name), model::state_of(loaded, name)));
  }
}

// --- refusals -----------------------------------------------------------------------------------------------------------

namespace {

/// Two steps of a group of each kind, and its file.
struct Saved {
  Path path{"saved.safetensors"};
  Run<apollo::Apollo<>> run{options()};
  std::string bytes;

  static apollo::ApolloOptions options() {
    apollo::ApolloOptions o{.rank = 3, .update_proj_gap = 7};
    o.on_refresh = apollo::OnRefresh::reset, o.seed = 4;
    return o;
  }
  Saved() {
    run.step(), run.step();
    apollo::save(run.optimizer, path);
    bytes = contents(path);
  }
};

/// The message of a load that is refused; everything is as it was.
template <class Backend>
std::string refusal(apollo::BasicOptimizer<Backend>& optimizer, const std::string& path) {
  const std::string before = model::snapshot(optimizer);
  const std::string message = model::message_of<std::runtime_error>([&] { apollo::load(optimizer, path); });
  CHECK(model::same(model::snapshot(optimizer), before));
  CHECK(message.rfind("apollo: ", 0) == 0);
  CHECK(model::mentions(message, path));
  return message;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++found;
  return found;
}

}  // namespace

TEST_CASE("a file cut short anywhere is refused and changes nothing") {
  Saved saved;
  Run<apollo::Apollo<>> victim(Saved::options());
  victim.step();
  const Path path("cut.safetensors");
  CHECK(saved.bytes.size() > 2000);
  for (std::size_t length = 0; length < saved.bytes.size(); ++length) {
    CAPTURE(length);
    put(path, saved.bytes.substr(0, length));
    refusal(victim.optimizer, path);
  }
  put(path, saved.bytes + '\0');
  refusal(victim.optimizer, path);
  put(path, saved.bytes);
  apollo::load(victim.optimizer, path);
  CHECK(model::same(model::snapshot(victim.optimizer), model::snapshot(saved.run.optimizer)));
}

TEST_CASE("a header with any byte changed is refused, or says the same") {
  Saved saved;
  Run<apollo::Apollo<>> victim(Saved::options());
  victim.step();
  const std::string before = model::snapshot(victim.optimizer), after = model::snapshot(saved.run.optimizer);
  const Path path("changed.safetensors");
  const auto data = static_cast<std::size_t>(header_of(saved.bytes).data_offset);
  int accepted = 0;
  for (std::size_t at = 0; at < data; ++at)
    for (const char flip : {'\x01', '\x20', '\x80'}) {
      std::string bytes = saved.bytes;
      bytes[at] = static_cast<char>(bytes[at] ^ flip);
      put(path, bytes);
      CAPTURE(at);
      const std::string message = model::message_of<std::runtime_error>([&] { apollo::load(victim.optimizer, path); });
      if (message == "nothing was thrown") {
        // Blanks for one another, and the digits of the tick.
        ++accepted;
        CHECK(victim.optimizer.steps("tall") == 2);
        Run<apollo::Apollo<>> again(Saved::options());
        again.step();
        put(path, saved.bytes);
        apollo::load(victim.optimizer, path);
        CHECK(model::same(model::snapshot(victim.optimizer), after));
        apollo::save(again.optimizer, path);
        apollo::load(victim.optimizer, path);
      }
      REQUIRE(model::same(model::snapshot(victim.optimizer), before));
    }
  CHECK(accepted < 20);
}

TEST_CASE("files that are no checkpoints are refused") {
  Saved saved;
  auto& optimizer = saved.run.optimizer;
  const Path path("foreign.safetensors");
  namespace st = apollo::safetensors;
  const auto foreign = [&](const st::Metadata& metadata) {
    put(path, st::serialize({{"weight", st::Type::F32, {2}, 0, 0}}, metadata) + std::string(8, '\0'));
    return refusal(optimizer, path);
  };
  CHECK(model::mentions(foreign({}), "format", "apollo-optimizer"));
  CHECK(model::mentions(foreign({{"format", "pt"}}), "format 'pt'", "apollo-optimizer"));
  CHECK(model::mentions(foreign({{"format", "apollo-optimizer"}}), "version", "'1'"));
  CHECK(model::mentions(foreign({{"format", "apollo-optimizer"}, {"version", "2"}}), "version", "'2'", "'1'"));
  const auto tick = [&](const char* text) {
    return foreign({{"format", "apollo-optimizer"}, {"version", "1"}, {"tick", text}});
  };
  for (const char* bad : {"", "-1", "1.5", "x", " 1", "99999999999999999999"})
    CHECK(model::mentions(tick(bad), "tick", bad, "whole number"));
  CHECK(model::mentions(tick("1"), "'tall'", "'wide'", "'bias'", "'weight'"));
  put(path, "not a safetensors file at all, but a text that is long enough");
  refusal(optimizer, path);
  put(path, "");
  CHECK(model::mentions(refusal(optimizer, path), "0 bytes"));
  CHECK(model::mentions(refusal(optimizer, "no/such/file"), "No such file"));
  CHECK(model::mentions(refusal(optimizer, "."), "not a regular file"));
}

TEST_CASE("whatever differs is named: shape, type, rank, seed, projection, gap, kind") {
  Saved saved;
  using apollo::ApolloOptions;
  const auto with = [](auto change) {
    ApolloOptions o = Saved::options();
    change(o);
    return o;
  };
  const auto mismatch = [&](auto tag, const auto& options) {
    using Member = typename decltype(tag)::type;
    Run<Member> other(options);
    other.step();
    return refusal(other.optimizer, saved.path);
  };
  const model::Tag<apollo::Apollo<>> same_kind;
  CHECK(model::mentions(mismatch(same_kind, with([](auto& o) { o.rank = 2; })), "'tall'", "'wide'", "rank=3", "rank=2",
                        "[13, 3]", "[13, 2]"));
  CHECK(
      model::mentions(mismatch(same_kind, with([](auto& o) { o.seed = 5; })), "'tall'", "'wide'", "seed=4", "seed=5"));
  CHECK(model::mentions(mismatch(same_kind, with([](auto& o) { o.update_proj_gap = 8; })), "'tall'", "gap=7", "gap=8"));
  CHECK(model::mentions(mismatch(same_kind, with([](auto& o) { o.proj_type = apollo::ProjType::right; })), "'wide'",
                        "kept=cols", "kept=rows"));
  CHECK(model::mentions(mismatch(same_kind, with([](auto& o) { o.on_refresh = apollo::OnRefresh::keep; })),
                        "'tall.restart'"));
  CHECK(model::mentions(
      mismatch(model::Tag<apollo::Apollo<apollo::RandomProjection<apollo::Rademacher>>>(), Saved::options()), "'tall'",
      "sparse_sign", "rademacher"));
  CHECK(model::mentions(
      mismatch(model::Tag<apollo::Apollo<apollo::RandomProjection<apollo::Gaussian>>>(), Saved::options()), "'tall'",
      "gaussian", "sparse_sign"));
  CHECK(model::mentions(mismatch(model::Tag<apollo::Apollo<apollo::AdamMoments<apollo::bfloat16>>>(), Saved::options()),
                        "'tall'", "'bias'", "float32", "bfloat16", "F32", "BF16"));
  CHECK(model::mentions(mismatch(model::Tag<apollo::AdamW<>>(), apollo::AdamWOptions{}), "'tall'", "sparse_sign",
                        "identity", "[13, 6]", "'tall.previous_norm'"));
  CHECK(model::mentions(mismatch(model::Tag<apollo::GaLore<>>(), apollo::GaLoreOptions{.rank = 3}), "'tall'", "svd",
                        "'tall.basis'"));
  CHECK(model::mentions(mismatch(model::Tag<apollo::Sgd<>>(), apollo::SgdOptions{}), "'tall.exp_avg'", "momen", "adam",
                        "none"));

  Run<apollo::Apollo<>> spread(Saved::options(), Layout::row_major, true);
  spread.step();
  CHECK(model::mentions(refusal(spread.optimizer, saved.path), "'tall'", "refresh_phase="));

  // What may change between runs: everything that the numbers' meaning does not depend on.
  Run<apollo::Apollo<>> other(with([](auto& o) {
    o.lr = 0.5, o.beta1 = 0.5, o.beta2 = 0.5, o.eps = 1e-3, o.weight_decay = 0.1, o.scale = 4, o.limiter_gamma = 2;
  }));
  apollo::load(other.optimizer, saved.path);
  CHECK(other.optimizer.tick() == 2);
  CHECK(other.optimizer.steps("wide") == 2);
}

TEST_CASE("another shape, another value type, and names that only one side has") {
  const Path path("shapes.safetensors");
  const auto add = [](apollo::Optimizer& optimizer, auto& leaf) {
    const auto group = optimizer.add_group(apollo::AdamWOptions{});
    optimizer.add(group, leaf.name, leaf.w.view, leaf.g.view);
  };
  Leaf<float> a("a", 4, 3), b("b", 4, 3), a_turned("a", 3, 4), c("c", 4, 3), d("d", 2, 2);
  Leaf<double> b_double("b", 4, 3);
  apollo::Optimizer saved;
  add(saved, a), add(saved, b);
  saved.step();
  apollo::save(saved, path);

  apollo::Optimizer other_shape;
  add(other_shape, a_turned), add(other_shape, b);
  CHECK(model::mentions(refusal(other_shape, path), "'a'", "4x3", "3x4", "[4, 3]", "[3, 4]"));
  apollo::Optimizer other_type;
  add(other_type, a), add(other_type, b_double);
  CHECK(model::mentions(refusal(other_type, path), "'b'", "float32", "float64", "F32", "F64"));

  apollo::Optimizer one_more;
  add(one_more, a), add(one_more, b), add(one_more, c);
  CHECK(model::mentions(refusal(one_more, path), "'c'", "not in the file"));
  apollo::Optimizer one_less;
  add(one_less, a);
  CHECK(model::mentions(refusal(one_less, path), "'b.exp_avg'", "in the file only"));
  // As many on both sides, but others.
  apollo::Optimizer renamed;
  add(renamed, a), add(renamed, c);
  const std::string both = refusal(renamed, path);
  CHECK(model::mentions(both, "'c'", "not in the file"));
  CHECK(model::mentions(both, "'b.exp_avg'", "in the file only"));
  // One is missing, one is extra and one has another type: all three at once, in one message.
  apollo::Optimizer everything;
  add(everything, b_double), add(everything, c), add(everything, d);
  const std::string all = refusal(everything, path);
  CHECK(model::mentions(all, "'b'", "float64", "'c'", "'d'", "'a.exp_avg'", "mismatches:"));
}

TEST_CASE("a hundred mismatches are counted, and the first of them listed") {
  const Path path("many.safetensors");
  apollo::Optimizer saved, other;
  std::vector<std::unique_ptr<Leaf<float>>> leaves;
  const auto narrow = saved.add_group(apollo::SgdMomentumOptions{});
  const auto wide = other.add_group(apollo::SgdMomentumOptions{});
  for (int i = 0; i < 60; ++i) {
    const std::string name = "t" + std::to_string(i);
    leaves.push_back(std::make_unique<Leaf<float>>(name, 2, 3));
    saved.add(narrow, name, leaves.back()->w.view, leaves.back()->g.view);
    leaves.push_back(std::make_unique<Leaf<float>>(name, 3, 2));
    other.add(wide, name, leaves.back()->w.view, leaves.back()->g.view);
  }
  apollo::save(saved, path);
  const std::string message = refusal(other, path);
  CHECK(model::mentions(message, "120 mismatches", "'t0'", "and 70 more"));
  CHECK(count(message, "\n") == 51);  // a headline, fifty of them, and that there are more
}

TEST_CASE("numbers that cannot be are refused") {
  Saved saved;
  const Path path("numbers.safetensors");
  const auto header = header_of(saved.bytes);
  Run<apollo::Apollo<>> victim(Saved::options());
  const auto with = [&](const char* name, const auto& value) {
    const auto* tensor = header.find(name);
    REQUIRE(tensor != nullptr);
    REQUIRE(tensor->end - tensor->begin == sizeof value);
    std::string bytes = saved.bytes;
    std::memcpy(bytes.data() + header.data_offset + tensor->begin, &value, sizeof value);
    put(path, bytes);
    return refusal(victim.optimizer, path);
  };
  CHECK(model::mentions(with("tall.step", std::int64_t{-1}), "'tall.step'", "-1", "at least 0"));
  CHECK(model::mentions(with("bias.step", std::numeric_limits<std::int64_t>::min()), "'bias.step'", "at least 0"));
  CHECK(model::mentions(with("wide.restart", std::int64_t{-5}), "'wide.restart'", "-5"));
  CHECK(model::mentions(with("tall.previous_norm", std::numeric_limits<float>::quiet_NaN()), "'tall.previous_norm'",
                        "nan", "finite"));
  CHECK(model::mentions(with("tall.previous_norm", std::numeric_limits<float>::infinity()), "'tall.previous_norm'",
                        "inf", "finite"));
  CHECK(model::mentions(with("wide.previous_norm", -2.0f), "'wide.previous_norm'", "-2"));
  // The clock of the bias correction cannot have started after the last step, or be so late that it wraps.
  CHECK(model::mentions(with("wide.restart", std::int64_t{3}), "'wide.restart'"));
  CHECK(model::mentions(with("tall.step", std::numeric_limits<std::int64_t>::max()), "'tall.step'"));
  // Both of two at once.
  std::string bytes = saved.bytes;
  const std::int64_t negative = -1;
  for (const char* name : {"tall.step", "bias.step"})
    std::memcpy(bytes.data() + header.data_offset + header.find(name)->begin, &negative, sizeof negative);
  put(path, bytes);
  CHECK(model::mentions(refusal(victim.optimizer, path), "mismatches:", "'tall.step'", "'bias.step'"));
}

TEST_CASE("a save that fails leaves what was there") {
  Saved saved;
  const Path occupied("occupied.safetensors");
  put(occupied, "something else");
  const std::string before = model::snapshot(saved.run.optimizer);
  const auto refused = [&](const std::string& path) {
    const std::string message = model::message_of<std::runtime_error>([&] { apollo::save(saved.run.optimizer, path); });
    CHECK(model::mentions(message, "apollo: ", path));
    CHECK(model::same(model::snapshot(saved.run.optimizer), before));
    CHECK(contents(occupied) == "something else");
  };
  refused(occupied.path + "/state");  // the folder is a file
  refused(".");
  refused("no/such/folder/state");
  refused("");
  // And a good one replaces the file.
  apollo::save(saved.run.optimizer, occupied);
  CHECK(model::same(contents(occupied), saved.bytes));
}

TEST_CASE("saving and loading wait for the end of a tick") {
  Saved saved;
  auto& optimizer = saved.run.optimizer;
  optimizer.step("tall");
  const std::string before = model::snapshot(optimizer);
  const auto message = [](auto&& call) { return model::message_of<std::logic_error>(call); };
  CHECK(model::mentions(message([&] { apollo::save(optimizer, saved.path); }), "save()", "tick 3", "end_tick()"));
  CHECK(model::mentions(message([&] { apollo::load(optimizer, saved.path); }), "load()", "tick 3", "end_tick()"));
  CHECK(model::same(model::snapshot(optimizer), before));
  CHECK(model::same(contents(saved.path), saved.bytes));
  optimizer.step("wide"), optimizer.step("bias");
  optimizer.end_tick();
  apollo::load(optimizer, saved.path);
  CHECK(optimizer.tick() == 2);
}

#endif
