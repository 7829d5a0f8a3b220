// SPDX-License-Identifier: Apache-2.0
// The same bits for any number of threads, with OpenMP, with a pool of the caller's, and for concurrent layer-wise steps.
// also: threads
#include <doctest/doctest.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <apollo/eigen.hpp>

#include "model.hpp"

namespace {

using apollo::EigenBackend;
using apollo::Index;

#if defined(__SANITIZE_THREAD__)
constexpr bool slow = true;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
constexpr bool slow = true;
#else
constexpr bool slow = false;
#endif
#else
constexpr bool slow = false;
#endif

constexpr int steps = slow ? 4 : 50;

/// A pool of real threads, started anew for every task so that lanes meet in every order. Lanes that pass `most` share one.
struct Pool {
  int most = 16;
  std::atomic<int> calls{0};

  static void run(void* context, int lanes, void (*task)(void*, int), void* argument) {
    Pool& pool = *static_cast<Pool*>(context);
    ++pool.calls;
    std::vector<std::thread> threads;
    const int count = lanes < pool.most ? lanes : pool.most;
    for (int t = 1; t < count; ++t)
      threads.emplace_back([=] {
        for (int lane = t; lane < lanes; lane += count) task(argument, lane);
      });
    for (int lane = 0; lane < lanes; lane += count) task(argument, lane);
    for (std::thread& thread : threads) thread.join();
  }
  apollo::Executor executor(int lanes) { return {lanes, this, &Pool::run}; }
};

std::uint64_t hash_of(const void* data, std::size_t bytes, std::uint64_t hash) {
  const auto* at = static_cast<const unsigned char*>(data);
  while (bytes > 0) {
    std::uint64_t word = 0;
    const std::size_t part = bytes < sizeof word ? bytes : sizeof word;
    std::memcpy(&word, at, part);
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
    at += part, bytes -= part;
  }
  return hash;
}

/// Hashes W's memory and each array and number of the state.
struct Hash {
  std::uint64_t value = 14695981039346656037u;
  template <class T>
  void array(std::string_view, const apollo::MatrixView<T>& view) {
    const auto v = view.col_stride == 1 ? view : view.transposed();
    for (Index i = 0; i < v.rows; ++i) {
      if (v.col_stride == 1) value = hash_of(v.at(i, 0), static_cast<std::size_t>(v.cols) * sizeof(T), value);
      for (Index j = 0; v.col_stride != 1 && j < v.cols; ++j) value = hash_of(v.at(i, j), sizeof(T), value);
    }
  }
  template <class T>
  void scalar(std::string_view, const T& number) {
    value = hash_of(&number, sizeof number, value);
  }
};

/// A large random buffer in which every step's gradient is another window.
const std::vector<float>& noise(std::size_t size) {
  static std::vector<float> values;
  for (std::uint64_t i = values.size(); i < size; ++i) values.push_back(static_cast<float>(support::uniform(3, 0, i)));
  return values;
}

/// W and state after so many steps of a tensor of so many rows and columns.
template <class Member>
std::uint64_t run(const typename Member::Options& options, Index rows, Index cols, bool columns,
                  const EigenBackend& backend, int count = steps) {
  const auto size = static_cast<std::size_t>(rows * cols);
  std::vector<float> w(size);
  const std::vector<float>& random = noise(size + 64 * 97);
  std::memcpy(w.data(), random.data(), size * sizeof w[0]);
  const auto view = [&](auto* data) {
    return columns ? apollo::column_major(data, rows, cols) : apollo::row_major(data, rows, cols);
  };
  Member optimizer(view(w.data()), options, "tensor", backend);
  CHECK(optimizer.plan().tiles > 16);  // more than there are lanes
  for (int t = 0; t < count; ++t) {
    const auto report = optimizer.step(view(w.data()), view(random.data() + 97 * (t % 64)));
    CHECK(report.stepped);
  }
  Hash hash;
  optimizer.visit_state(hash);
  return hash_of(w.data(), size * sizeof w[0], hash.value);
}

/// 66 tiles of 64 channels and one of 5, or as wide.
constexpr Index kept = 66 * 64 + 5, removed = 512;

template <class Member>
void same_bits(const char* what, const typename Member::Options& options, bool columns = false, bool wide = false,
               int count = steps) {
  CAPTURE(std::string(what));
  const Index rows = wide ? removed : kept, cols = wide ? kept : removed;
  Pool pool;
  const auto with_pool = [&](int lanes) {
    return run<Member>(options, rows, cols, columns, EigenBackend(pool.executor(lanes)), count);
  };
  const std::uint64_t expected = with_pool(1);
  CHECK(pool.calls == 0);
  CHECK(with_pool(3) == expected);
  CHECK(pool.calls > 0);
  if (slow) return;
  CHECK(with_pool(16) == expected);
#if defined(_OPENMP)
  for (const int threads : {2, 5}) {
    CAPTURE(threads);
    CHECK(run<Member>(options, rows, cols, columns, EigenBackend(threads), count) == expected);
  }
#else
  for (const int lanes : {2, 5}) {
    CAPTURE(lanes);
    CHECK(with_pool(lanes) == expected);
  }
#endif
}

/// Small tensors of three optimizers and a large one; tensor 5 has a NaN in its gradient.
struct MixedNet {
  apollo::eigen::Optimizer optimizer;
  std::vector<std::vector<float>> weights, gradients;
  explicit MixedNet(const EigenBackend& backend, int small = 9) : optimizer(backend) {
    const auto sparse = optimizer.add_group(apollo::ApolloOptions{.rank = 8, .update_proj_gap = 3});
    const auto galore = optimizer.add_group(apollo::GaLoreOptions{.rank = 3, .update_proj_gap = 2});
    const auto full = optimizer.add_group(apollo::AdamWOptions{});
    weights.reserve(100), gradients.reserve(100);
    add(sparse, "large", 700, 400);  // more than Dealer::small_size elements
    for (int i = 0; i < small; ++i) {
      const std::string number = std::to_string(i);
      add(sparse, "sparse" + number, 40 + i, 64);
      add(galore, "galore" + number, 33, 20 + i);
      add(full, "full" + number, 1, 50 + i);
    }
    optimizer.clip_global_norm(1);
  }
  template <class Group>
  void add(Group group, const std::string& name, Index rows, Index cols) {
    const float* from = noise(700 * 400).data();
    weights.emplace_back(from, from + rows * cols);
    gradients.emplace_back(weights.back().rbegin(), weights.back().rend());
    optimizer.add(group, name, apollo::row_major(weights.back().data(), rows, cols),
                  apollo::row_major(gradients.back().data(), rows, cols));
  }
  std::uint64_t after(int count) {
    gradients[5][3] = std::numeric_limits<float>::quiet_NaN();  // skipped, and said so in its own report
    for (int t = 0; t < count; ++t) {
      const apollo::StepReport report = optimizer.step();
      CHECK(report.skipped == 1);
      CHECK(report.tensors[5].reason == apollo::Skip::not_finite);
      CHECK(report.tensors[6].name == "full1");
      CHECK(report.clip_factor < 1);
      gradients[1][0] = static_cast<float>(report.global_norm);
    }
    std::uint64_t hash = 1;
    for (const auto& w : weights) hash = hash_of(w.data(), w.size() * sizeof w[0], hash);
    return hash;
  }
};

}  // namespace

TEST_CASE("AdamW: same bits for 1, 2, 3, 5 and 16 threads") {
  same_bits<apollo::eigen::AdamW<>>("row-major", {});
  // Rounding millions of moments at random takes longer than all else here.
  same_bits<apollo::eigen::AdamW<apollo::AdamMoments<apollo::bfloat16>>>("bfloat16 moments, column-major", {}, true,
                                                                         false, slow ? 2 : 8);
}

TEST_CASE("Apollo: same bits for 1, 2, 3, 5 and 16 threads") {
  apollo::ApolloOptions options{.rank = 8, .update_proj_gap = 20};
  same_bits<apollo::eigen::Apollo<apollo::RandomProjection<apollo::Gaussian>>>("gaussian, wide", options, true, true);
  same_bits<apollo::eigen::Apollo<>>("sparse", options);
  options.rank = 6, options.on_refresh = apollo::OnRefresh::rotate;
  same_bits<apollo::eigen::Apollo<apollo::RandomProjection<apollo::Rademacher>, apollo::AdamMoments<apollo::bfloat16>>>(
      "bfloat16 moments, rotated", options, true);
}

TEST_CASE("ApolloMini: same bits for 1, 2, 3, 5 and 16 threads") {
  same_bits<apollo::eigen::ApolloMini<>>("gaussian", {.update_proj_gap = 20});
}

TEST_CASE("GaLore: same bits for 1, 2, 3, 5 and 16 threads, over refreshes") {
  apollo::GaLoreOptions options{.rank = 4, .update_proj_gap = 20};
  same_bits<apollo::eigen::GaLore<>>("subspace", options, true);
  options.on_refresh = apollo::OnRefresh::rotate;
  same_bits<apollo::eigen::GaLore<>>("subspace, rotated, wide", options, false, true);
}

TEST_CASE("GaLore with exact singular vectors: same bits for 1, 2, 3, 5 and 16 threads") {
  // A Gram matrix of 40 is cheap; tiles are of more channels then.
  const apollo::GaLoreOptions options{.rank = 4, .update_proj_gap = 25, .svd = apollo::SvdMethod::exact};
  using Member = apollo::eigen::GaLore<>;
  const Index rows = 65 * apollo::tile_channels(40) + 5;
  Pool pool;
  const auto with_pool = [&](int lanes) {
    return run<Member>(options, rows, 40, false, EigenBackend(pool.executor(lanes)));
  };
  const std::uint64_t expected = with_pool(1);
  CHECK(with_pool(3) == expected);
  if (!slow) CHECK(with_pool(16) == expected);
}

TEST_CASE("the number of lanes need not be the number of threads") {
  using Member = apollo::eigen::Apollo<>;
  const apollo::ApolloOptions options{.rank = 8};
  Pool few{.most = 2}, many;
  const auto once = [&](Pool& pool, int lanes) {
    std::vector<float> w(noise(kept * removed).begin(), noise(kept * removed).begin() + kept * removed);
    Member optimizer(apollo::Shape{kept, removed}, options, "tensor", EigenBackend(pool.executor(lanes)));
    const float* g = noise(kept * removed).data();
    CHECK(optimizer.step(apollo::row_major(w.data(), kept, removed), apollo::row_major(g, kept, removed)).stepped);
    return hash_of(w.data(), w.size() * sizeof w[0], 1);
  };
  CHECK(once(few, 7) == once(many, 1));
  CHECK(few.calls > 0);
  CHECK(once(few, 1000) == once(many, 16));  // more lanes than tiles
}

TEST_CASE("a model of small and large tensors: same bits for any number of lanes, and one region for all small ones") {
  Pool pool;
  const std::uint64_t expected = MixedNet(EigenBackend(1)).after(7);
  for (const int lanes : {2, 3, 16}) {
    CAPTURE(lanes);
    CHECK(MixedNet(EigenBackend(pool.executor(lanes))).after(7) == expected);
  }
  // More small tensors are no more regions.
  const auto calls = [&](int small) {
    MixedNet net(EigenBackend(pool.executor(2)), small);
    pool.calls = 0;
    net.optimizer.step();
    return pool.calls.load();
  };
  CHECK(calls(9) > 0);
  CHECK(calls(30) == calls(9));
}

TEST_CASE("tensors that are a small part of a lane's share are dealt whole, once the model is large enough") {
  constexpr Index rows = 513, cols = 512, size = rows * cols;  // one row more than Dealer::small_size elements
  constexpr int enough = 32;                                   // sixteen for each of two lanes
  std::vector<float> w(static_cast<std::size_t>((enough + 1) * size)), g(static_cast<std::size_t>(size), 1.0f);
  Pool pool;
  apollo::eigen::Optimizer optimizer{EigenBackend(pool.executor(2))};
  const auto group = optimizer.add_group(apollo::SgdOptions{.lr = 0.5, .check_finite = false});
  const auto add = [&](int number) {
    optimizer.add(group, "w" + std::to_string(number), apollo::row_major(w.data() + number * size, rows, cols),
                  apollo::row_major(g.data(), rows, cols));
  };
  const auto regions = [&] {
    pool.calls = 0;
    CHECK(optimizer.step().skipped == 0);
    return pool.calls.load();
  };
  for (int i = 0; i < enough - 1; ++i) add(i);
  CHECK(regions() >= enough - 1);
  add(enough - 1);
  CHECK(regions() == 1);  // those that were there before as well
  add(enough);
  CHECK(regions() == 1);
  CHECK(w.front() == -1.5f);
  CHECK(w.back() == -0.5f);
}

TEST_CASE("a backend's lanes need memory of their own for small tensors, one part for all of them") {
  const auto bytes = [](int lanes, Index rows, int tensors) {
    std::vector<float> w(static_cast<std::size_t>(2 * rows * 32));
    apollo::eigen::Optimizer optimizer{EigenBackend(lanes)};
    const auto group = optimizer.add_group(apollo::ApolloOptions{.rank = 8});
    for (int i = 0; i < tensors; ++i)
      optimizer.add(group, "w" + std::to_string(i), apollo::row_major(w.data(), rows, 32),
                    apollo::row_major(w.data() + rows * 32, rows, 32));
    return optimizer.workspace_bytes();
  };
  CHECK(bytes(4, 512, 3) == bytes(4, 512, 1));
  CHECK(bytes(4, 512, 1) == 4 * bytes(1, 512, 1));
  CHECK(bytes(4, 32768, 1) < 2 * bytes(1, 32768, 1));  // large: the lanes share it
}

TEST_CASE("concurrent layer-wise steps are the serial ones") {
  constexpr int tensors = 24;
  struct Net {
    apollo::eigen::Optimizer optimizer{EigenBackend(1)};
    std::vector<std::unique_ptr<model::Leaf<float>>> leaves;
    Net() {
      const auto low = optimizer.add_group(apollo::ApolloOptions{.rank = 4, .update_proj_gap = 3});
      const auto galore = optimizer.add_group(apollo::GaLoreOptions{.rank = 3, .update_proj_gap = 2});
      const auto full = optimizer.add_group<apollo::AdamW<apollo::AdamMoments<apollo::bfloat16>>>({});
      for (int i = 0; i < tensors; ++i) {
        leaves.push_back(std::make_unique<model::Leaf<float>>("t" + std::to_string(i), 20 + i, 31 - i));
        auto& leaf = *leaves.back();
        if (i % 3 == 0)
          optimizer.add(low, leaf.name, leaf.w.view, leaf.g.view);
        else if (i % 3 == 1 && i < 20)
          optimizer.add(galore, leaf.name, leaf.w.view, leaf.g.view);
        else
          optimizer.add(full, leaf.name, leaf.w.view, leaf.g.view);
      }
    }
  } serial, concurrent;
  constexpr int workers = 4;
  std::vector<apollo::Workspace<EigenBackend>> workspaces;
  for (int i = 0; i < workers; ++i) workspaces.push_back(concurrent.optimizer.make_workspace());
  for (int t = 1; t <= (slow ? 4 : 12); ++t) {
    for (const auto& net : {&serial, &concurrent})
      for (const auto& leaf : net->leaves) leaf->feed(t);
    const auto expected = serial.optimizer.step();
    concurrent.optimizer.begin_tick();
    std::atomic<int> next{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < workers; ++i)
      threads.emplace_back([&, i] {
        for (int tensor; (tensor = next++) < tensors;)
          concurrent.optimizer.step("t" + std::to_string(tensor), workspaces[static_cast<std::size_t>(i)]);
      });
    for (std::thread& thread : threads) thread.join();
    const auto report = concurrent.optimizer.end_tick();
    CHECK(report.tick == expected.tick);
    CHECK(report.stepped == tensors);
    for (std::size_t i = 0; i < tensors; ++i)
      CHECK(report.tensors[i].gradient_norm == expected.tensors[i].gradient_norm);
  }
  for (std::size_t i = 0; i < tensors; ++i)
    CHECK(model::same_bits(serial.leaves[i]->w.memory, concurrent.leaves[i]->w.memory));
  CHECK(model::same(model::snapshot(serial.optimizer), model::snapshot(concurrent.optimizer)));
}

TEST_CASE("two optimizers step at the same time") {
  const auto work = [](std::uint64_t* result) {
    model::Leaf<float> leaf("leaf", 300, 40);
    apollo::eigen::GaLore<> optimizer(leaf.w.view, {.rank = 4, .update_proj_gap = 2}, "leaf", EigenBackend(1));
    for (int t = 1; t <= 6; ++t) {
      leaf.feed(t);
      optimizer.step(leaf.w.view, leaf.g.view);
    }
    *result = hash_of(leaf.w.memory.data(), leaf.w.memory.size() * sizeof(float), 1);
  };
  std::uint64_t alone = 0, first = 0, second = 0;
  work(&alone);
  std::thread one(work, &first), two(work, &second);
  one.join(), two.join();
  CHECK(first == alone);
  CHECK(second == alone);
}
