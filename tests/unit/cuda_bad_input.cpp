// SPDX-License-Identifier: Apache-2.0
// What apollo::cuda refuses, before anything is changed, and with which words.
#include <memory_resource>

#include <apollo/cuda/resource.hpp>

#include "cuda_model.hpp"

using namespace emulated;
using support::mentions;
using support::refusal;

namespace {

struct Bench {
  EmulatedOptimizer optimizer;
  apollo::Group<apollo::AdamW<>::Policies> group = optimizer.add_group(apollo::AdamWOptions{});
  Array<float> w{optimizer.device(), Matrix(6, 8, 1.0)}, g{optimizer.device(), Matrix(6, 8, 1.0)};
  std::vector<float> host = std::vector<float>(48, 1.0f);

  template <class W, class G>
  std::string add(const W& weight, const G& gradient, const char* name = "layer") {
    return refusal([&] { optimizer.add(group, name, weight, gradient); });
  }
};

/// What was asked of a pool and of the device whose memory it is.
struct Ledger {
  std::map<void*, std::size_t> blocks;
  Index used = 0, limit = Index{1} << 40;
  int requests = 0, wrong_sizes = 0, returned_in_use = 0;
  bool waited = false;
};

/// A device on which kernels may still run until it is waited for.
class BusyDevice : public Emulator {
 public:
  explicit BusyDevice(Ledger& ledger) : ledger_(&ledger) {}
  void finish() const noexcept { ledger_->waited = true; }

 private:
  Ledger* ledger_;
};

/// Somebody's pool.
class Pool final : public std::pmr::memory_resource {
 public:
  explicit Pool(Ledger& ledger) : ledger_(ledger) {}

 private:
  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    ++ledger_.requests;
    if (ledger_.used + static_cast<Index>(bytes) > ledger_.limit) throw std::bad_alloc();
    void* block = ::operator new (bytes, std::align_val_t{alignment});
    ledger_.blocks[block] = bytes;
    ledger_.used += static_cast<Index>(bytes);
    return block;
  }
  void do_deallocate(void* block, std::size_t bytes, std::size_t alignment) override {
    if (!ledger_.waited) ++ledger_.returned_in_use;
    ledger_.waited = false;
    const auto found = ledger_.blocks.find(block);
    if (found == ledger_.blocks.end() || found->second != bytes) return void(++ledger_.wrong_sizes);
    ledger_.blocks.erase(found);
    ledger_.used -= static_cast<Index>(bytes);
    ::operator delete (block, std::align_val_t{alignment});
  }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }

  Ledger& ledger_;
};

}  // namespace

TEST_CASE("memory of the host is no device tensor") {
  Bench bench;
  const auto host = apollo::row_major(bench.host.data(), 6, 8);
  CHECK(mentions(bench.add(host, bench.g.view()), {"'layer'", "weight", "is not memory of the emulated device"}));
  CHECK(mentions(bench.add(bench.w.view(), host), {"'layer'", "gradient", "is not memory of the emulated device"}));
  const auto past = apollo::row_major(bench.w.view().data, 7, 8);
  CHECK(mentions(bench.add(past, apollo::no_gradient), {"'layer'", "weight", "emulated device"}));
  CHECK(bench.optimizer.state_bytes() == 0);
  CHECK(bench.add(bench.w.view(), bench.g.view()).empty());
  CHECK(bench.optimizer.state_bytes() == 2 * 48 * 4);
  CHECK(mentions(refusal([&] { bench.optimizer.rebind("layer", host, bench.g.view()); }), {"'layer'", "weight"}));
}

TEST_CASE("shapes, orders, gaps and names") {
  Bench bench;
  float* w = bench.w.view().data;
  float* g = bench.g.view().data;
  CHECK(mentions(bench.add(apollo::strided(w, 3, 4, 8, 1), bench.g.view()), {"'layer'", "weight", "3 x 4", "gaps"}));
  CHECK(mentions(bench.add(bench.w.view(), apollo::row_major(g, 8, 6)), {"'layer'", "8 x 6", "6 x 8"}));
  CHECK(mentions(bench.add(bench.w.view(), apollo::column_major(g, 6, 8)), {"'layer'", "same index"}));
  CHECK(mentions(bench.add(apollo::row_major(w, 0, 8), apollo::row_major(g, 0, 8)), {"'layer'", "empty"}));
  CHECK(mentions(bench.add(apollo::row_major<float>(nullptr, 6, 8), bench.g.view()), {"'layer'", "no data"}));
  auto* const beside = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(w) + 2);
  CHECK(mentions(bench.add(apollo::row_major(beside, 5, 8), apollo::row_major(g, 5, 8)),
                 {"'layer'", "weight", "no multiple of 4"}));
  CHECK(bench.add(bench.w.view(), bench.g.view()).empty());
  CHECK(mentions(bench.add(bench.w.view(), bench.g.view()), {"'layer'", "taken"}));
  CHECK(mentions(refusal([&] { (void)bench.optimizer.status("other"); }), {"'other'"}));
  const auto turned = apollo::column_major(w, 6, 8);
  CHECK(mentions(refusal([&] { bench.optimizer.rebind("layer", turned, turned); }), {"'layer'", "other index"}));
  CHECK(mentions(refusal([&] { bench.optimizer.rebind("layer", apollo::row_major(w, 4, 8), bench.g.view()); }),
                 {"'layer'", "4 x 8", "6 x 8"}));
  Array<bfloat16> half(bench.optimizer.device(), Matrix(6, 8, 1.0));
  CHECK(mentions(refusal([&] { bench.optimizer.rebind("layer", half.view(), bench.g.view()); }),
                 {"'layer'", "other types"}));
  CHECK(mentions(refusal([&] { bench.optimizer.set_lr(bench.group, -1); }), {"lr", "-1"}));
  CHECK(mentions(refusal([&] { bench.optimizer.gradient_scale(std::nan("")); }), {"gradient_scale"}));
}

TEST_CASE("a group that does not fit leaves the optimizer as it was") {
  EmulatedOptimizer optimizer{Emulator({.bytes = 1000})};
  const auto group = optimizer.add_group(apollo::AdamWOptions{.lr = 0.5});
  const Index left = 1000 - optimizer.device().used();
  void* const rest = optimizer.device().allocate(left);
  REQUIRE(rest != nullptr);
  CHECK(mentions(refusal<std::runtime_error>([&] { (void)optimizer.add_group(apollo::AdamWOptions{}); }),
                 {"group", "emulated device"}));
  optimizer.device().release(rest, left);
  const auto second = optimizer.add_group(apollo::AdamWOptions{.lr = 0.25});
  CHECK(second.index == group.index + 1);
  optimizer.gradient_scale(2);
  optimizer.set_lr(second, 0.125);
}

TEST_CASE("a moment buffer that there is not") {
  Bench bench;
  CHECK(bench.add(bench.w.view(), bench.g.view()).empty());
  std::vector<float> values(48);
  bench.optimizer.read_moment("layer", 1, values.data());
  for (const int number : {-1, 2})
    CHECK(mentions(refusal([&] { bench.optimizer.read_moment("layer", number, values.data()); }),
                   {"'layer'", "moment buffer", number < 0 ? "-1" : "2"}));
  const auto plain = bench.optimizer.add_group(apollo::SgdOptions{});
  Array<float> w(bench.optimizer.device(), Matrix(2, 3, 1.0));
  bench.optimizer.add(plain, "plain", w.view(), w.view());
  CHECK(bench.optimizer.moment_bytes("plain") == 0);
  CHECK(mentions(refusal([&] { bench.optimizer.read_moment("plain", 0, values.data()); }), {"'plain'"}));
}

TEST_CASE("too little memory at registration names the tensor and leaves the others as they are") {
  EmulatedOptimizer optimizer{Emulator({.bytes = 20000})};
  const auto group = optimizer.add_group(apollo::AdamWOptions{});
  Array<float> small(optimizer.device(), Matrix(4, 8, 1.0)), large(optimizer.device(), Matrix(40, 50, 1.0));
  optimizer.add(group, "small", small.view(), small.view());
  const Index used = optimizer.device().used(), state = optimizer.state_bytes();
  const std::string text =
      refusal<std::runtime_error>([&] { optimizer.add(group, "large", large.view(), large.view()); });
  CHECK(mentions(text, {"'large'", "16000 bytes", "optimizer state", "emulated device", "nothing was changed"}));
  CHECK(optimizer.device().used() == used);
  CHECK(optimizer.state_bytes() == state);
  optimizer.step();
  CHECK(optimizer.status("small").steps == 1);
  CHECK(mentions(refusal([&] { (void)optimizer.status("large"); }), {"'large'"}));
}

TEST_CASE("memory of a caller's resource is asked for at registration and given back once the device is done") {
  Ledger ledger;
  Pool pool(ledger);
  const BusyDevice busy(ledger);
  const apollo::cuda::ResourceDevice device(busy, pool);
  static_assert(
      std::is_same_v<apollo::cuda::AlgebraOf<std::remove_const_t<decltype(device)>>::type, apollo::cuda::PlainAlgebra>);
  Array<float> w(busy, Matrix(40, 50, 1.0)), g(busy, Matrix(40, 50, 0.5));
  const Index used = busy.used();
  {
    apollo::cuda::BasicOptimizer optimizer(device);
    const auto group = optimizer.add_group(apollo::AdamWOptions{});
    optimizer.add(group, "first", w.view(), g.view());
    optimizer.step();
    CHECK(optimizer.status("first").steps == 1);
    CHECK(ledger.used == optimizer.state_bytes() + optimizer.workspace_bytes());
    CHECK(busy.used() == used);
    const int requests = ledger.requests;
    optimizer.step();
    CHECK(ledger.requests == requests);

    const Index taken = ledger.used;
    ledger.limit = taken + 15000;
    const std::string text = refusal<std::runtime_error>([&] { optimizer.add(group, "second", w.view(), g.view()); });
    CHECK(mentions(text, {"'second'", "16000 bytes", "optimizer state", "nothing was changed"}));
    CHECK(ledger.used == taken);
  }
  CHECK(ledger.blocks.empty());
  CHECK(ledger.wrong_sizes == 0);
  CHECK(ledger.returned_in_use == 0);
}
