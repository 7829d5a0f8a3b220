// SPDX-License-Identifier: Apache-2.0
// Thrust's vectors and pools with apollo::cuda, by Thrust's own system for the processor and the emulated device.
#include "../cuda/thrust.hpp"

#include <doctest/doctest.h>
#include <thrust/universal_vector.h>

#include <stdexcept>
#include <string>

#if __has_include(<cuda_bf16.h>)
#include <cuda_bf16.h>
#else
struct __nv_bfloat16 {
  unsigned short bits;
};
#endif

using apollo::Index;
using apollo::cuda::Emulator;

namespace {

/// The emulated device's memory, as Thrust takes it.
class EmulatedMemory final : public thrust::mr::memory_resource<thrust::device_ptr<void>> {
 public:
  explicit EmulatedMemory(const Emulator& device) : device_(device) {}
  pointer do_allocate(std::size_t bytes, std::size_t) override {
    void* block = device_.allocate(static_cast<Index>(bytes));
    if (block == nullptr) throw std::bad_alloc();
    return pointer(block);
  }
  void do_deallocate(pointer block, std::size_t bytes, std::size_t) override {
    device_.release(block.get(), static_cast<Index>(bytes));
  }

 private:
  Emulator device_;
};

template <class T>
using Allocator = thrust::mr::allocator<T, EmulatedMemory>;
template <class T>
using Vector = thrust::device_vector<T, Allocator<T>>;

template <class Call>
std::string refusal(Call&& call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}
bool mentions(const std::string& text, const char* words) { return text.find(words) != std::string::npos; }

struct World {
  apollo::cuda::EmulatedOptimizer optimizer;
  decltype(optimizer.add_group(apollo::SgdOptions{})) group = optimizer.add_group(apollo::SgdOptions{.lr = 1});
  EmulatedMemory memory{optimizer.device()};
  template <class T>
  Vector<T> filled(std::size_t size, float value) {
    return Vector<T>(size, static_cast<T>(value), Allocator<T>(&memory));
  }
};

}  // namespace

TEST_CASE("vectors are stepped where they lie, with state from a pool of Thrust's") {
  const Emulator device;
  EmulatedMemory memory(device);
  CHECK(vectors::worst_error(vectors::stepped(device, memory), vectors::expected()) <= 1e-3);
  CHECK(device.used() == 0);
}

TEST_CASE("what a view is of") {
  World world;
  auto w = world.filled<float>(24, 3);
  const auto g = world.filled<apollo::bfloat16>(24, 1);
  const apollo::MatrixView<float> rows = apollo::cuda::row_major(w, 4, 6);
  CHECK(rows.data == w.data().get());
  CHECK(rows.row_stride == 6);
  CHECK(apollo::cuda::column_major(w.data() + 2, 5, 4).data == w.data().get() + 2);
  CHECK(apollo::cuda::column_major(w, 4, 6).col_stride == 4);
  const apollo::MatrixView<const apollo::bfloat16> column = apollo::cuda::vector(g);
  CHECK(column.rows == 24);
  world.optimizer.add(world.group, "layer", rows, apollo::cuda::row_major(g, 4, 6));
  world.optimizer.step();
  CHECK(w[23] == 2);

  thrust::universal_vector<float> managed(6, 1.0f);
  CHECK(apollo::cuda::row_major(managed, 2, 3).data == thrust::raw_pointer_cast(managed.data()));
  __nv_bfloat16* theirs = nullptr;
  const apollo::MatrixView<apollo::bfloat16> ours = apollo::cuda::row_major(theirs, 2, 3);
  CHECK(ours.data == nullptr);
  const thrust::device_ptr<const __nv_bfloat16> constant(theirs);
  const apollo::MatrixView<const apollo::bfloat16> read_only = apollo::cuda::vector(constant, 6);
  CHECK(read_only.rows == 6);
}

TEST_CASE("a vector that has grown is bound again") {
  World world;
  auto w = world.filled<float>(24, 3), g = world.filled<float>(24, 1);
  world.optimizer.add(world.group, "layer", apollo::cuda::row_major(w, 4, 6), apollo::cuda::row_major(g, 4, 6));
  auto larger = world.filled<float>(24, 7);
  w.swap(larger);
  world.optimizer.rebind("layer", apollo::cuda::row_major(w, 4, 6), apollo::cuda::row_major(g, 4, 6));
  world.optimizer.step();
  CHECK(w[0] == 6);
  CHECK(larger[0] == 3);
}

TEST_CASE("what is refused") {
  World world;
  auto w = world.filled<float>(24, 3);
  const std::string size = refusal([&] { (void)apollo::cuda::row_major(w, 4, 5); });
  CHECK(mentions(size, "24 elements"));
  CHECK(mentions(size, "4 x 5 matrix of 20"));
  CHECK(mentions(refusal([&] { (void)apollo::cuda::column_major(w, 5, 5); }), "5 x 5 matrix of 25"));
  thrust::device_vector<float> elsewhere(24);  // of the host here
  const auto view = apollo::cuda::row_major(elsewhere, 4, 6);
  CHECK(mentions(refusal([&] { world.optimizer.add(world.group, "layer", view, view); }),
                 "tensor 'layer': the weight is not memory of the emulated device"));
}
