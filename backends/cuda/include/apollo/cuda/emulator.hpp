// SPDX-License-Identifier: Apache-2.0
// Emulator: a device that is the processor. It runs the bodies of the kernels, so that their logic is tested where there is
// no GPU, also under the sanitizers. A device is a class with allocate, release, copies, launch and refuses; see device.hpp.
#pragma once

#include <condition_variable>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <apollo/base/error.hpp>
#include <apollo/cuda/context.hpp>

namespace apollo::cuda {

/// A block whose threads are turns of a loop. Where nothing else says so, they turn backwards in every second phase: what
/// depends on their order shows.
struct LoopContext {
  Index number = 0;
  mutable bool backwards = false;

  template <class T>
  struct Each {
    T value[threads] = {};
    T& operator[](int t) { return value[t]; }
    const T& operator[](int t) const { return value[t]; }
  };
  Index block() const { return number; }
  template <class Body>
  void phase(Body&& body) const {
    if (backwards)
      for (int t = threads - 1; t >= 0; --t) body(t);
    else
      for (int t = 0; t < threads; ++t) body(t);
    backwards = !backwards;
  }
  template <class Body>
  void last(Body&& body) const {
    phase(body);
  }
};

/// A barrier of a fixed number of threads.
class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    const long turn = turn_;
    if (++waiting_ == count_) {
      waiting_ = 0;
      ++turn_;
      changed_.notify_all();
    } else {
      changed_.wait(lock, [&] { return turn_ != turn; });
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int count_;
  int waiting_ = 0;
  long turn_ = 0;
};

/// One of a block's threads, each a thread of the system: the thread sanitizer sees races within a phase.
struct ThreadContext {
  Index number = 0;
  int thread = 0;
  Barrier* barrier = nullptr;

  template <class T>
  struct Each {
    T value = T();
    T& operator[](int) { return value; }
    const T& operator[](int) const { return value; }
  };
  Index block() const { return number; }
  template <class Body>
  void phase(Body&& body) const {
    body(thread);
    barrier->wait();
  }
  template <class Body>
  void last(Body&& body) const {
    body(thread);
  }
};

/// How the emulator runs: `workers` threads that take blocks in turn, or one block at a time with a thread for each of its
/// own. `bytes` is the memory that it has, and `unwritten` what each byte of it holds at first: NaN and -1, so that what is read
/// before it is written shows; with another byte it shows that nothing is.
struct Emulation {
  int workers = 1;
  bool in_step = false;
  Index bytes = Index{1} << 40;
  unsigned char unwritten = 0xff;
};

class Emulator {
 public:
  struct Stream {};

  explicit Emulator(const Emulation& how = {}) : how_(how), memory_(std::make_shared<Memory>()) {}

  /// Memory whose content is not defined, or null where there is not as much.
  void* allocate(Index bytes) const {
    refuse_captured("an allocation");
    const std::lock_guard<std::mutex> lock(memory_->mutex);
    if (memory_->used + bytes > how_.bytes) return nullptr;
    void* block = ::operator new (static_cast<std::size_t>(bytes), std::align_val_t{256});
    std::memset(block, how_.unwritten, static_cast<std::size_t>(bytes));
    memory_->used += bytes;
    memory_->sizes[block] = bytes;
    return block;
  }
  void release(void* block, Index /*bytes*/) const noexcept {
    if (block == nullptr) return;
    const std::lock_guard<std::mutex> lock(memory_->mutex);
    const auto found = memory_->sizes.find(block);
    memory_->used -= found->second;
    memory_->sizes.erase(found);
    ::operator delete (block, std::align_val_t{256});
  }
  Index used() const { return memory_->used; }

  void clear(void* to, Index bytes, Stream) const {
    refuse_captured("setting memory");
    std::memset(to, 0, static_cast<std::size_t>(bytes));
  }
  void write(void* to, const void* from, Index bytes, Stream) const {
    refuse_captured("a copy");
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }
  void read(void* to, const void* from, Index bytes, Stream) const {
    refuse_captured("a copy");
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }
  void wait(Stream) const { refuse_captured("waiting"); }
  void finish() const noexcept {}  // kernels are done when launch() returns
  /// There is no current device to be another one.
  struct Selected {};
  Selected select() const { return {}; }
  Selected try_select() const noexcept { return {}; }
  std::string name() const { return "emulated device"; }

  /// Why memory cannot be stepped here; empty where it can. It must come from allocate().
  std::string refuses(const void* data, Index bytes) const {
    const std::lock_guard<std::mutex> lock(memory_->mutex);
    auto after = memory_->sizes.upper_bound(const_cast<void*>(data));
    if (after != memory_->sizes.begin()) {
      --after;
      const auto* begin = static_cast<const std::byte*>(after->first);
      const auto* at = static_cast<const std::byte*>(data);
      if (at >= begin && at + bytes <= begin + after->second) return {};
    }
    return "is not memory of the " + name();
  }

  /// Launches in order, as a graph holds them. From begin_capture() to end_capture() they are noted and not run, and copies
  /// are refused.
  using Graph = std::vector<std::function<void(const Emulator&)>>;
  void begin_capture() const { memory_->capturing = true; }
  Graph end_capture() const {
    memory_->capturing = false;
    return std::exchange(memory_->captured, {});
  }
  void replay(const Graph& graph) const {
    for (const auto& kernel : graph) kernel(*this);
  }
  bool capturing(Stream) const { return memory_->capturing; }

  template <class Body>
  void launch(const Body& body, Index blocks, Stream stream) const {
    if (blocks == 0) return;
    {
      const std::lock_guard<std::mutex> lock(memory_->mutex);
      if (memory_->capturing) {
        memory_->captured.push_back([=](const Emulator& device) { device.launch(body, blocks, stream); });
        return;
      }
      memory_->launched.insert(Body::kernel);
      ++memory_->launches;
    }
    if (how_.in_step)
      in_step(body, blocks);
    else
      in_turn(body, blocks);
  }
  /// The work of a library, in order with the kernels.
  void call(std::function<void()> work) const {
    {
      const std::lock_guard<std::mutex> lock(memory_->mutex);
      if (memory_->capturing) {
        memory_->captured.push_back([work = std::move(work)](const Emulator&) { work(); });
        return;
      }
    }
    work();
  }
  /// Names of the kernels launched so far, and how often any was.
  std::set<std::string> launched() const { return memory_->launched; }
  Index launches() const { return memory_->launches; }

 private:
  struct Memory {
    std::mutex mutex;
    std::map<void*, Index> sizes;
    Index used = 0;
    std::set<std::string> launched;
    Index launches = 0;
    bool capturing = false;
    Graph captured;
  };

  void refuse_captured(const char* what) const {
    if (memory_->capturing) raise<std::runtime_error>("apollo: " + name() + ": " + what + " cannot be captured");
  }

  template <class Body>
  std::unique_ptr<typename Body::Shared> shared_memory() const {
    auto shared = std::make_unique<typename Body::Shared>();
    scribble<Body>(*shared);
    return shared;
  }
  template <class Body>
  void scribble(typename Body::Shared& shared) const {
    std::memset(static_cast<void*>(&shared), how_.unwritten, sizeof shared);
  }

  template <class Body>
  void in_turn(const Body& body, Index blocks) const {
    const auto work = [&](int worker) {
      const auto shared = shared_memory<Body>();
      for (Index block = worker; block < blocks; block += how_.workers) {
        scribble<Body>(*shared);
        body(LoopContext{block}, *shared);
      }
    };
    std::vector<std::thread> others;
    for (int worker = 1; worker < how_.workers; ++worker) others.emplace_back(work, worker);
    work(0);
    for (std::thread& other : others) other.join();
  }

  template <class Body>
  void in_step(const Body& body, Index blocks) const {
    Barrier barrier(threads);
    const auto shared = shared_memory<Body>();
    const auto work = [&](int thread) {
      for (Index block = 0; block < blocks; ++block) {
        barrier.wait();
        if (thread == 0) scribble<Body>(*shared);
        barrier.wait();
        body(ThreadContext{block, thread, &barrier}, *shared);
      }
    };
    std::vector<std::thread> all;
    for (int thread = 0; thread < threads; ++thread) all.emplace_back(work, thread);
    for (std::thread& one : all) one.join();
  }

  Emulation how_;
  std::shared_ptr<Memory> memory_;
};

}  // namespace apollo::cuda
