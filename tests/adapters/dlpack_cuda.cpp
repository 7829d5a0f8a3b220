// SPDX-License-Identifier: Apache-2.0
// DLPack on a device: tensors of apollo::cuda, on the emulated device, and what is refused.
#include <apollo/cuda.hpp>

#include "dlpack.hpp"

using namespace adapters;
namespace dl = apollo::dlpack;

namespace {

/// Memory of the emulated device, exported as a framework exports its own.
struct World {
  static constexpr apollo::Index bytes = 24 * sizeof(float);
  apollo::cuda::EmulatedOptimizer optimizer;
  decltype(optimizer.add_group(apollo::SgdOptions{})) group = optimizer.add_group(apollo::SgdOptions{.lr = 1});
  float* w = filled(optimizer.device(), 3);
  float* g = filled(optimizer.device(), 1);
  Exported weight{w, float32, {4, 6}, {6, 1}, {kDLCUDA, 0}}, gradient{g, float32, {4, 6}, {6, 1}, {kDLCUDAManaged, 0}};

  static float* filled(const apollo::cuda::Emulator& device, float value) {
    const std::vector<float> values(24, value);
    void* memory = device.allocate(bytes);
    device.write(memory, values.data(), bytes, {});
    return static_cast<float*>(memory);
  }
  ~World() {
    optimizer.device().release(w, bytes);
    optimizer.device().release(g, bytes);
  }
  std::string add(apollo::Unfold how = apollo::Unfold::none) {
    return refusal([&] { dl::add(optimizer, group, "layer", weight.tensor, gradient.tensor, how); });
  }
};

}  // namespace

TEST_CASE("tensors on a device are stepped there") {
  World world;
  CHECK(world.add().empty());
  world.optimizer.step();
  CHECK(world.w[23] == 2);
  CHECK(world.optimizer.status("layer").steps == 1);
  dl::rebind(world.optimizer, "layer", world.weight.tensor, world.gradient.tensor);
  world.optimizer.step();
  CHECK(world.w[0] == 1);
  World kernel;
  const Exported w(kernel.w, float32, {4, 3, 2}, {}, {kDLCUDA, 0});
  dl::add(kernel.optimizer, kernel.group, "kernel", w.tensor, apollo::no_gradient, apollo::Unfold::rest);
  kernel.optimizer.step();
  CHECK(kernel.w[0] == 3);
}

TEST_CASE("what is refused") {
  World host;
  host.weight.tensor.device = {kDLCPU, 0};
  CHECK(mentions(host.add(), {"'layer'", "weight lies on the CPU (device_type 1)", "CUDA device"}));
  World pinned;
  pinned.gradient.tensor.device = {kDLCUDAHost, 0};
  CHECK(mentions(pinned.add(), {"'layer'", "gradient lies on pinned memory", "CUDA device"}));
  World half;
  half.gradient.tensor.dtype = float16;
  CHECK(mentions(half.add(), {"'layer'", "gradient of float16", "float32 and bfloat16"}));
  World gaps;
  gaps.weight.tensor.strides = (gaps.weight.strides = {-6, 1}).data();
  CHECK(mentions(gaps.add(), {"'layer'", "gaps"}));
  World batch;
  const Exported w(batch.w, float32, {2, 2, 6}, {}, {kDLCUDA, 0});
  CHECK(
      mentions(refusal([&] { dl::add(batch.optimizer, batch.group, "e", w.tensor, w.tensor, apollo::Unfold::batch); }),
               {"'e'", "one by one"}));
  std::vector<float> own(24);
  World elsewhere;
  elsewhere.weight.tensor.data = own.data();  // the device type is wrong about it
  CHECK(mentions(elsewhere.add(), {"'layer'", "weight", "is not memory of the emulated device"}));
  CHECK(elsewhere.optimizer.state_bytes() == 0);
}
