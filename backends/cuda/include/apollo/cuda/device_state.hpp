// SPDX-License-Identifier: Apache-2.0
// A tensor's state on the device: which arrays it has there, and how they are copied to the host's and back.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <apollo/cuda/batch.hpp>
#include <apollo/cuda/composition.hpp>
#include <apollo/step/memory.hpp>
#include <apollo/step/state.hpp>

namespace apollo::cuda {

template <class Device, class Policies>
class DeviceState {
  using Is = Composition<Policies>;
  using Moments = typename Policies::Moments;
  using Stored = stored_t<Moments, float>;
  using Stream = typename Device::Stream;

 public:
  /// Errors: too little memory.
  static void allocate(const Device& device, Tensor<Device>& tensor) {
    Entry& entry = tensor.entry;
    const Plan& plan = entry.setup.plan;
    const Index one = Is::moments_in_blocks ? up_to_16(moment_bytes(plan)) + scale_bytes(plan) : moment_bytes(plan);
    tensor.moment_bytes = Moments::buffers > 0 ? one : 0;
    tensor.moment_buffers = Moments::buffers;
    tensor.moments = Memory<Device>(device, Moments::buffers * up_to_16(one), tensor.name, "optimizer state");
    for (int b = 0; b < Moments::buffers; ++b) {
      entry.moment[b] = tensor.moments.template as<std::byte>() + b * up_to_16(one);
      entry.scales[b] =
          reinterpret_cast<float*>(static_cast<std::byte*>(entry.moment[b]) + up_to_16(moment_bytes(plan)));
    }
    if constexpr (Is::splits_weights) {
      tensor.remainder = Memory<Device>(device, 2 * entry.values(), tensor.name, "optimizer state");
      entry.remainder = tensor.remainder.template as<std::uint16_t>();
    }
    if constexpr (Is::has_basis) {
      tensor.basis = Memory<Device>(device, basis_bytes(plan), tensor.name, "optimizer state");
      if constexpr (Is::packs)
        entry.packed = {tensor.basis.template as<std::uint8_t>() + ranges_bytes(plan),
                        tensor.basis.template as<GroupRange>()};
      else
        entry.directions = tensor.basis.template as<float>();
    }
    if constexpr (Is::by_block || Is::factors) {
      const Index size = vector_size<Policies>(plan, 0) + vector_size<Policies>(plan, 1);
      tensor.shared = Memory<Device>(device, size * static_cast<Index>(sizeof(float)), tensor.name, "optimizer state");
      entry.shared = tensor.shared.template as<float>();
    }
  }
  static void clear(const Device& device, const Tensor<Device>& tensor, Stream stream) {
    for (const Memory<Device>* memory : {&tensor.moments, &tensor.remainder, &tensor.basis, &tensor.shared})
      if (memory->bytes() > 0) device.clear(memory->template as<void>(), memory->bytes(), stream);
  }

  struct Host final : HostState {
    TensorSetup setup;
    std::string tensor;
    State<Policies, float, HostBuffer> state;  ///< its arrays lie as those on the device do

    explicit Host(const Tensor<Device>& from) : setup(from.entry.setup), tensor(from.name), state(setup.plan) {}
    const std::string& name() const override { return tensor; }
    std::string fingerprint() const override { return apollo::fingerprint<Policies, float>(setup); }
    void visit_state(StateVisitor& visitor) override { state.visit(setup.plan, setup.settings, VisitState{visitor}); }
    const Record& record() const override { return state.record; }
  };

  /// Waits for the stream, as write() does.
  static std::unique_ptr<Host> read(const Device& device, const Tensor<Device>& tensor, const Record& record,
                                    Stream stream) {
    auto host = std::make_unique<Host>(tensor);
    const auto copy = [&](void* to, const void* from, Index bytes) { device.read(to, from, bytes, stream); };
    over_moments(tensor, host->state, copy);
    if constexpr (Is::splits_weights)
      device.read(host->state.remainder.data(), tensor.entry.remainder, tensor.remainder.bytes(), stream);
    if constexpr (Is::has_basis) {
      if constexpr (Is::packs) {
        device.read(host->state.packed_ranges.data(), tensor.entry.packed.ranges, host->state.packed_ranges.bytes(),
                    stream);
        device.read(host->state.packed_codes.data(), tensor.entry.packed.codes, host->state.packed_codes.bytes(),
                    stream);
      } else {
        std::vector<float> lines(basis_size(tensor));
        device.read(lines.data(), tensor.entry.directions, tensor.basis.bytes(), stream);
        turn(tensor, lines.data(), host->state.basis.data(), false);
      }
    }
    over_shared(tensor, host->state,
                [&](float* there, float* here, Index bytes) { device.read(here, there, bytes, stream); });
    host->state.record = record;
    return host;
  }
  static void write(const Device& device, const Tensor<Device>& tensor, HostState& state, Stream stream) {
    auto& host = static_cast<Host&>(state);
    over_moments(tensor, host.state,
                 [&](const void* from, void* to, Index bytes) { device.write(to, from, bytes, stream); });
    if constexpr (Is::splits_weights)
      device.write(tensor.entry.remainder, host.state.remainder.data(), tensor.remainder.bytes(), stream);
    if constexpr (Is::has_basis) {
      if constexpr (Is::packs) {
        device.write(tensor.entry.packed.ranges, host.state.packed_ranges.data(), host.state.packed_ranges.bytes(),
                     stream);
        device.write(tensor.entry.packed.codes, host.state.packed_codes.data(), host.state.packed_codes.bytes(),
                     stream);
      } else {
        std::vector<float> lines(basis_size(tensor));
        turn(tensor, lines.data(), host.state.basis.data(), true);
        device.write(tensor.entry.directions, lines.data(), tensor.basis.bytes(), stream);
      }
    }
    over_shared(tensor, host.state,
                [&](float* there, float* here, Index bytes) { device.write(there, here, bytes, stream); });
  }

 private:
  /// Of one buffer, in blocks those of its codes ...
  static Index moment_bytes(const Plan& plan) {
    const BlockedLines lines = moment_lines<Policies>(plan);
    if constexpr (Is::moments_in_blocks) return lines.lines * code_bytes<Stored>(lines.length);
    return plan.moment_size() * static_cast<Index>(sizeof(Stored));
  }
  /// ... and of their scales.
  static Index scale_bytes(const Plan& plan) {
    return MomentArray<Stored, HostBuffer>::bytes(moment_lines<Policies>(plan)) - moment_bytes(plan);
  }
  /// Calls copy(host, device, bytes) for every array of the moments.
  template <class HostMoments, class Copy>
  static void over_moments(const Tensor<Device>& tensor, HostMoments& state, const Copy& copy) {
    const Plan& plan = tensor.entry.setup.plan;
    for (int b = 0; b < Moments::buffers; ++b)
      if constexpr (Is::moments_in_blocks) {
        const BlockPointer host = state.moment[b].pointer();
        copy(host.codes, tensor.entry.moment[b], moment_bytes(plan));
        copy(host.scales, tensor.entry.scales[b], scale_bytes(plan));
      } else {
        copy(state.moment[b].pointer(), tensor.entry.moment[b], moment_bytes(plan));
      }
  }

  static constexpr Index basis_bytes(const Plan& plan) {
    const Index size = plan.rank * plan.removed;
    return Is::packs ? PackedBasis::bytes(size) : size * static_cast<Index>(sizeof(float));
  }
  /// Of a packed basis, whose codes lie behind its ranges.
  static constexpr Index ranges_bytes(const Plan& plan) {
    return PackedBasis::groups(plan.rank * plan.removed) * static_cast<Index>(sizeof(GroupRange));
  }
  static std::size_t basis_size(const Tensor<Device>& tensor) {
    return static_cast<std::size_t>(tensor.entry.setup.plan.rank * tensor.entry.setup.plan.removed);
  }
  /// P is rank x removed on the device, P^T in a state.
  static void turn(const Tensor<Device>& tensor, float* lines, float* state, bool to_lines) {
    const Plan& plan = tensor.entry.setup.plan;
    for (Index k = 0; k < plan.rank; ++k)
      for (Index s = 0; s < plan.removed; ++s) {
        float& line = lines[k * plan.removed + s];
        float& kept = state[s * plan.rank + k];
        to_lines ? line = kept : kept = line;
      }
  }

  /// Calls body(on the device, on the host, bytes) for the vectors of what elements share.
  template <class HostArrays, class Body>
  static void over_shared(const Tensor<Device>& tensor, HostArrays& state, Body&& body) {
    float* there = tensor.entry.shared;
    for (int v = 0; v < 2; ++v) {
      const Index size = vector_size<Policies>(tensor.entry.setup.plan, v);
      if (size == 0) continue;
      body(there, state.shared[v].data(), size * static_cast<Index>(sizeof(float)));
      there += size;
    }
  }
};

}  // namespace apollo::cuda
