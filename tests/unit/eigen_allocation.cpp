// SPDX-License-Identifier: Apache-2.0
// After the first step nothing is allocated, by whatever route, and no copy of a matrix is ever made.
// not: sanitizers
// not: optimised
#include <doctest/doctest.h>

#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include <apollo/eigen.hpp>

#include "model.hpp"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define APOLLO_TEST_HOOKS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define APOLLO_TEST_HOOKS 0
#endif
#endif
#if !defined(APOLLO_TEST_HOOKS) && defined(__GLIBC__)
#define APOLLO_TEST_HOOKS 1
#elif !defined(APOLLO_TEST_HOOKS)
#define APOLLO_TEST_HOOKS 0
#endif

#if APOLLO_TEST_HOOKS

namespace {
long allocations = 0;  // asked for while `watching`, in any thread
bool watching = false;

void note() {
  if (__atomic_load_n(&watching, __ATOMIC_RELAXED)) __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
}
}  // namespace

// glibc's own functions under the names it keeps for programs that bring others. operator new ends in malloc.
extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* memory, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);

void* malloc(std::size_t size) noexcept {
  note();
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) noexcept {
  note();
  return __libc_calloc(count, size);
}
void* realloc(void* memory, std::size_t size) noexcept {
  note();
  return __libc_realloc(memory, size);
}
void* memalign(std::size_t alignment, std::size_t size) noexcept {
  note();
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  note();
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** memory, std::size_t alignment, std::size_t size) noexcept {
  note();
  *memory = __libc_memalign(alignment, size);
  return *memory == nullptr ? ENOMEM : 0;
}
}

#endif

namespace {

using apollo::EigenBackend;
using apollo::Index;
using model::Leaf;

/// How often anything was allocated while `call` ran.
template <class Call>
long allocations_of(Call&& call) {
#if APOLLO_TEST_HOOKS
  allocations = 0;
  __atomic_store_n(&watching, true, __ATOMIC_SEQ_CST);
  call();
  __atomic_store_n(&watching, false, __ATOMIC_SEQ_CST);
  return allocations;
#else
  call();
  return 0;
#endif
}

template <class T, class Backend, class Visit>
void for_each_optimizer(Visit&& visit) {
  const auto run = [&](const char* what, auto tag, const auto& options) {
    using Member = typename decltype(tag)::type;
    CAPTURE(std::string(what));
    visit(model::Tag<typename model::Rewrap<Member>::template with<T, Backend>>(), options);
  };
  model::for_each_dense<>(run);
  model::for_each_projected<>(6, 3, apollo::ProjType::std, run);
  model::for_each_projected<>(8, 3, apollo::ProjType::reverse_std,
                              run);  // more directions than the subspace needs lanes
}

/// Steps 2 ... 9 of a static optimizer: refreshes at 4 and 7, a skipped step at 5.
template <class T, class Backend>
void static_steps(const Backend& backend, support::Layout layout) {
  for_each_optimizer<T, Backend>([&](auto tag, const auto& options) {
    using Member = typename decltype(tag)::type;
    Leaf<T> leaf("leaf", 150, 24, layout);
    Member optimizer(leaf.w.view, options, "leaf", backend);
    CHECK(optimizer.step(leaf.w.view, leaf.g.view).stepped);
    for (int t = 2; t <= 9; ++t) {
      CAPTURE(t);
      leaf.feed(t);
      if (t == 5) leaf.g.view(3, 3) = support::stored<T>(INFINITY);
      bool stepped = false;
      CHECK(allocations_of([&] { stepped = optimizer.step(leaf.w.view, leaf.g.view).stepped; }) == 0);
      CHECK(stepped == (t != 5));
    }
  });
}

}  // namespace

TEST_CASE("the hooks see every route") {
#if APOLLO_TEST_HOOKS
  const volatile std::size_t size = 64;
  void* volatile memory = nullptr;
  const auto one = [&](auto&& call) { CHECK(allocations_of(call) >= 1); };
  one([&] { memory = std::malloc(size); });
  one([&] { memory = std::realloc(memory, 2 * size); });
  std::free(memory);
  one([&] { memory = std::calloc(size, 2); });
  std::free(memory);
  one([&] { memory = std::aligned_alloc(64, size); });
  std::free(memory);
  one([&] { memory = ::operator new(size); });
  ::operator delete(memory);
  one([&] { memory = ::operator new(size, std::align_val_t(64)); });
  ::operator delete(memory, std::align_val_t(64));
  one([&] {
    void* aligned = nullptr;
    if (::posix_memalign(&aligned, 64, size) == 0) memory = aligned;
  });
  std::free(memory);
  one([&] { memory = Eigen::internal::aligned_malloc(size); });
  Eigen::internal::aligned_free(memory);
  // What a step must not do: Eigen packs the operands of a large product in memory from malloc.
  Eigen::MatrixXf a = Eigen::MatrixXf::Random(300, 300), b = a, c = a;
  one([&] { c.noalias() = a * b; });
  CHECK(allocations_of([] {}) == 0);
#else
  MESSAGE("skipped: allocations are counted with glibc and without sanitizers only; steps run, uncounted");
#endif
}

TEST_CASE("no step after the first allocates: the reference backend") {
  static_steps<float>(apollo::Reference(), support::Layout::row_major);
  static_steps<float>(apollo::Reference(), support::Layout::column_major);
}

TEST_CASE("no step after the first allocates: Eigen's backend") {
  static_steps<float>(EigenBackend(1), support::Layout::row_major);
  static_steps<float>(EigenBackend(1), support::Layout::gaps);
  static_steps<float>(EigenBackend(1), support::Layout::column_major);
}

TEST_CASE("no step after the first allocates: lanes of a caller's pool") {
  // The pool is ours to keep from allocating: this one takes its lanes one after the other.
  const apollo::Executor in_turn{4, nullptr, [](void*, int lanes, void (*task)(void*, int), void* argument) {
                                   for (int lane = lanes; lane-- > 0;) task(argument, lane);
                                 }};
  // Tiles of 64 channels, so that there are several.
  const auto large = [&](auto tag, auto options) {
    using Member = typename decltype(tag)::type;
    Leaf<float> leaf("leaf", 300, 520);
    options.rank = 40, options.update_proj_gap = 2, options.proj_type = apollo::ProjType::right;
    Member optimizer(leaf.w.view, options, "leaf", EigenBackend(in_turn));
    CHECK(optimizer.plan().tiles > 4);
    for (int t = 1; t <= 5; ++t) {
      leaf.feed(t);
      const long count = allocations_of([&] { optimizer.step(leaf.w.view, leaf.g.view); });
      if (t > 1) CHECK(count == 0);
    }
  };
  using OfGaussian = apollo::eigen::Apollo<apollo::RandomProjection<apollo::Gaussian>>;
  large(model::Tag<apollo::eigen::Apollo<>>(), apollo::ApolloOptions{});
  large(model::Tag<OfGaussian>(), apollo::ApolloOptions{.on_refresh = apollo::OnRefresh::rotate});
  large(model::Tag<apollo::eigen::GaLore<>>(), apollo::GaLoreOptions{.on_refresh = apollo::OnRefresh::rotate});
  large(model::Tag<apollo::eigen::GaLore<>>(), apollo::GaLoreOptions{.svd = apollo::SvdMethod::exact});
}

namespace {

/// A model with every optimizer in it.
template <class Backend>
struct Net {
  apollo::BasicOptimizer<Backend> optimizer;
  std::vector<std::unique_ptr<Leaf<float>>> leaves;

  explicit Net(const Backend& backend) : optimizer(backend) {
    for_each_optimizer<float, Backend>([&](auto tag, const auto& options) {
      using Member = typename decltype(tag)::type;
      const auto group = optimizer.template add_group<Member>(options);
      const std::string number = std::to_string(leaves.size());
      for (const auto& [name, rows, cols] : {std::tuple("matrix ", 20, 33), std::tuple("vector ", 1, 12)}) {
        leaves.push_back(std::make_unique<Leaf<float>>(name + number, rows, cols));
        optimizer.add(group, leaves.back()->name, leaves.back()->w.view, leaves.back()->g.view);
      }
    });
    optimizer.schedule(apollo::Cosine{.warmup = 2, .total = 20});
  }
  void feed(int t) {
    for (const auto& leaf : leaves) leaf->feed(t);
  }
};

template <class Backend>
void whole_models(const Backend& backend) {
  Net<Backend> net(backend);
  auto& optimizer = net.optimizer;
  optimizer.step();
  const Index workspace = optimizer.workspace_bytes();
  for (int t = 2; t <= 5; ++t) {
    net.feed(t);
    apollo::StepReport report;
    CHECK(allocations_of([&] { report = optimizer.step(); }) == 0);
    CHECK(report.skipped == 0);
  }
  optimizer.clip_global_norm(1);
  optimizer.gradient_scale(0.5);
  for (int t = 6; t <= 8; ++t) {
    net.feed(t);
    apollo::StepReport report;
    CHECK(allocations_of([&] { report = optimizer.step(); }) == 0);
    CHECK(report.clip_factor < 1);
  }
  optimizer.clip_global_norm(0);
  for (int t = 9; t <= 11; ++t) {
    net.feed(t);
    CHECK(allocations_of([&] {
            for (const auto& leaf : net.leaves) optimizer.step(leaf->name);
            optimizer.end_tick();
          }) == 0);
  }
  auto own = optimizer.make_workspace();
  for (int t = 12; t <= 14; ++t) {
    net.feed(t);
    CHECK(allocations_of([&] {
            optimizer.begin_tick();
            for (const auto& leaf : net.leaves) optimizer.step(leaf->name, own);
            optimizer.end_tick();
          }) == 0);
  }
  // Moving gradients is part of a step, too.
  CHECK(allocations_of([&] {
          for (const auto& leaf : net.leaves) optimizer.rebind(leaf->name, leaf->w.view, apollo::no_gradient);
          optimizer.step();
          for (const auto& leaf : net.leaves) optimizer.step(leaf->name, leaf->w.view, leaf->g.view);
          optimizer.end_tick();
        }) == 0);
  CHECK(optimizer.workspace_bytes() == workspace);
}

}  // namespace

TEST_CASE("a whole model allocates nothing after its first step, clipped, layer by layer or rebound") {
  whole_models(apollo::Reference());
  whole_models(EigenBackend(1));
}

#if defined(_OPENMP)
TEST_CASE("two threads of OpenMP allocate nothing after the first step") {
  Leaf<float> leaf("leaf", 300, 520);
  apollo::eigen::GaLore<> optimizer(leaf.w.view, {.rank = 24, .update_proj_gap = 2}, "leaf", EigenBackend(2));
  optimizer.step(leaf.w.view, leaf.g.view);
  for (int t = 2; t <= 5; ++t) {
    leaf.feed(t);
    CHECK(allocations_of([&] { optimizer.step(leaf.w.view, leaf.g.view); }) == 0);
  }
}
#endif

TEST_CASE("the first step needs no more than was reserved when the tensor was registered") {
  // Not promised, but what makes peak memory a number known beforehand.
  for_each_optimizer<float, apollo::Reference>([](auto tag, const auto& options) {
    using Member = typename decltype(tag)::type;
    Leaf<float> leaf("leaf", 40, 24);
    Member optimizer(leaf.w.view, options);
    const Index before = optimizer.workspace_bytes();
    optimizer.step(leaf.w.view, leaf.g.view);
    CHECK(optimizer.workspace_bytes() == before);
  });
}

TEST_CASE("no workspace holds a copy of a matrix") {
  constexpr Index n = 2048, rank = 16;
  constexpr Index matrix = n * n * 4;
  const auto bytes = [](auto tag, const auto& options, Index side, int lanes) {
    using Member = typename decltype(tag)::type;
    const apollo::Executor pool{lanes, nullptr, [](void*, int, void (*)(void*, int), void*) {}};
    return Member(apollo::Shape{side, side}, options, "tensor", EigenBackend(pool)).workspace_bytes();
  };
  const auto check = [&](auto tag, const auto& options, Index bound) {
    const Index one = bytes(tag, options, n, 1);
    CHECK(one > 0);
    CHECK(one <= bound);
    // Four times the matrix takes twice the workspace, and a lane takes the same of its own whatever the matrix.
    CHECK(bytes(tag, options, 2 * n, 1) <= 2 * one + 4096);
    const Index lane = bytes(tag, options, n, 4) - one;
    CHECK(bytes(tag, options, 2 * n, 4) - bytes(tag, options, 2 * n, 1) <= lane + 4096);
  };
  check(model::Tag<apollo::eigen::AdamW<>>(), apollo::AdamWOptions{}, matrix / 64);
  check(model::Tag<apollo::eigen::Sgd<>>(), apollo::SgdOptions{}, matrix / 64);
  check(model::Tag<model::StructuredAdamW<EigenBackend>>(), apollo::StructuredOptions{}, matrix / 64);
  apollo::ApolloOptions options{.rank = rank};
  check(model::Tag<apollo::eigen::Apollo<>>(), options, matrix / 8);
  using OfGaussian = apollo::eigen::Apollo<apollo::RandomProjection<apollo::Gaussian>>;
  check(model::Tag<OfGaussian>(), options, matrix / 8);
  options.on_refresh = apollo::OnRefresh::rotate;
  check(model::Tag<OfGaussian>(), options, matrix / 8);
  check(model::Tag<apollo::eigen::ApolloMini<>>(), apollo::ApolloMiniOptions{}, matrix / 8);
  apollo::GaLoreOptions galore{.rank = rank};
  check(model::Tag<apollo::eigen::GaLore<>>(), galore, matrix / 4);
  galore.on_refresh = apollo::OnRefresh::rotate;
  check(model::Tag<apollo::eigen::GaLore<>>(), galore, matrix / 4);
  // The reference has no lanes at all. An exact basis needs the Gram matrix of the shorter side, and of that alone.
  const apollo::Apollo<> plain(apollo::Shape{n, n}, {.rank = rank});
  CHECK(plain.workspace_bytes() <= matrix / 16);
  const apollo::GaLore<> plain_galore(apollo::Shape{n, n}, {.rank = rank});
  CHECK(plain_galore.workspace_bytes() <= matrix / 16);
  const apollo::GaLore<> exact(apollo::Shape{n, 64}, {.rank = rank, .svd = apollo::SvdMethod::exact});
  CHECK(exact.workspace_bytes() <= n * 64 * 4);
}
