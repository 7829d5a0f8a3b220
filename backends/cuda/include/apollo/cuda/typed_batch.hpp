// SPDX-License-Identifier: Apache-2.0
// The steps of a batch: which kernels each kind of composition launches, in which order, and where a tensor's state lies.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <apollo/cuda/basis.hpp>
#include <apollo/cuda/scratch.hpp>

namespace apollo::cuda {

/// The tensors of one composition, one type of weights and one of gradients.
template <class Device, class Policies, class W, class G>
class TypedBatch final : public Batch<Device> {
  using Base = Batch<Device>;
  using Is = Composition<Policies>;
  using typename Base::Stream;
  using Moments = typename Policies::Moments;
  using Stored = stored_t<Moments, float>;

  using Projection = typename Policies::Projection;
  using Granularity = typename Policies::Granularity;

 public:
  std::size_t add(const Device& device, const TensorRequest& request, Stream stream) override {
    Tensor<Device> tensor;
    tensor.name = request.name;
    Entry& entry = tensor.entry;
    entry.setup = {make_plan<Policies>(request.shape, request.settings, request.name, request.order), request.settings,
                   request.id};
    const Plan& plan = entry.setup.plan;
    entry.input = request.input;
    entry.weight = request.weight;
    entry.gradient = request.gradient;
    entry.ranges = request.ranges;
    entry.group_bits = request.group_bits;
    const bool rows = request.order == Order2D::row_major;
    entry.lines = rows ? request.shape.rows : request.shape.cols;
    entry.length = rows ? request.shape.cols : request.shape.rows;
    entry.along = plan.order_of_x() == Order2D::row_major;
    entry.aligned = is_aligned(request.weight, request.gradient) && Base::runs_are_aligned(entry.length, entry.lines);

    if constexpr (Is::projected) check_projection(plan, request);

    PartCounts parts;
    parts[Pass::by_tensor] = 1;
    parts[Pass::by_run] = (run_count(entry.lines, entry.length) + runs_a_part - 1) / runs_a_part;

    const Index one = Is::moments_in_blocks ? up_to_16(moment_bytes(plan)) + scale_bytes(plan) : moment_bytes(plan);
    tensor.moment_bytes = Moments::buffers > 0 ? one : 0;
    tensor.moment_buffers = Moments::buffers;
    tensor.moments = Memory<Device>(device, Moments::buffers * up_to_16(one), request.name, "optimizer state");
    for (int b = 0; b < Moments::buffers; ++b) {
      entry.moment[b] = tensor.moments.template as<std::byte>() + b * up_to_16(one);
      entry.scales[b] =
          reinterpret_cast<float*>(static_cast<std::byte*>(entry.moment[b]) + up_to_16(moment_bytes(plan)));
    }
    if constexpr (Is::splits_weights) {
      tensor.remainder = Memory<Device>(device, 2 * entry.values(), request.name, "optimizer state");
      entry.remainder = tensor.remainder.template as<std::uint16_t>();
    }
    if constexpr (Is::has_basis) {
      tensor.basis = Memory<Device>(device, basis_bytes(plan), request.name, "optimizer state");
      entry.directions = tensor.basis.template as<float>();
    }
    if constexpr (Is::by_block) {
      tensor.shared =
          Memory<Device>(device, plan.blocks() * static_cast<Index>(sizeof(float)), request.name, "optimizer state");
      entry.shared = tensor.shared.template as<float>();
    }
    StepScratch<Policies, G>::reserve(device, request.name, tensor, parts);
    if constexpr (Is::by_block) device.clear(entry.shared, tensor.shared.bytes(), stream);
    if constexpr (Is::splits_weights) device.clear(entry.remainder, tensor.remainder.bytes(), stream);
    if constexpr (Is::has_basis) {
      if (basis_ == nullptr) basis_ = std::make_unique<Basis<Device>>(device);
      basis_->reserve(plan, request.settings.svd, request.name);
      device.clear(entry.directions, tensor.basis.bytes(), stream);
    }
    if (Moments::buffers > 0) device.clear(entry.moment[0], tensor.moments.bytes(), stream);
    device.wait(stream);  // steps may come on another stream
    this->insert(std::move(tensor), parts);
    return this->size() - 1;
  }

  std::int64_t refresh(const Device& device, Stream stream) override {
    std::int64_t next = never;
    if constexpr (Is::has_basis)
      for (std::size_t i = 0; i < this->size(); ++i) {
        const Entry& entry = this->tensor(i).entry;
        if (entry.gradient == nullptr) continue;  // it takes no steps either
        const Progress progress = this->progress(device, i, stream);
        const TensorSetup& setup = entry.setup;
        const std::int64_t steps = progress.record.steps, gap = setup.settings.update_proj_gap;
        std::int64_t left = gap - (steps + setup.settings.refresh_phase) % gap;
        if (setup.refresh_due(steps)) {
          left = 1;  // it may be skipped, and is due again then
          if (progress.fresh == 0)
            basis_->template refresh<G>(entry, steps > 0, setup.refresh_index(steps), this->progress_on_device(i),
                                        stream);
        }
        if (left < next) next = left;
      }
    return next;
  }

  void step(const Device& device, Stream stream) override {
    const auto run = [&](Pass pass, auto body) { this->launch(device, pass, body, stream); };
    if constexpr (Is::projected)
      step_projected(run);
    else if constexpr (Is::by_channel)
      step_by_channel(run);
    else
      step_elementwise(run);
  }

  Index state_bytes() const override {
    Index bytes = 0;
    for (std::size_t i = 0; i < this->size(); ++i)
      bytes += apollo::state_bytes<Policies, float>(this->tensor(i).entry.setup.plan);
    return bytes;
  }

  std::unique_ptr<HostState> read_state(const Device& device, std::size_t number, Stream stream) const override {
    const Tensor<Device>& tensor = this->tensor(number);
    auto host = std::make_unique<Host>(tensor);
    const auto read = [&](void* to, const void* from, Index bytes) { device.read(to, from, bytes, stream); };
    over_moments(tensor, host->state, read);
    if constexpr (Is::splits_weights)
      device.read(host->state.remainder.data(), tensor.entry.remainder, tensor.remainder.bytes(), stream);
    if constexpr (Is::has_basis) {
      std::vector<float> lines(basis_size(tensor));
      device.read(lines.data(), tensor.entry.directions, tensor.basis.bytes(), stream);
      turn(tensor, lines.data(), host->state.basis.data(), false);
    }
    if constexpr (Is::by_block)
      device.read(host->state.shared[0].data(), tensor.entry.shared, tensor.shared.bytes(), stream);
    host->state.record = this->progress(device, number, stream).record;
    return host;
  }
  void write_state(const Device& device, std::size_t number, HostState& state, Stream stream) override {
    const Tensor<Device>& tensor = this->tensor(number);
    auto& host = static_cast<Host&>(state);
    over_moments(tensor, host.state,
                 [&](const void* from, void* to, Index bytes) { device.write(to, from, bytes, stream); });
    if constexpr (Is::splits_weights)
      device.write(tensor.entry.remainder, host.state.remainder.data(), tensor.remainder.bytes(), stream);
    if constexpr (Is::has_basis) {
      std::vector<float> lines(basis_size(tensor));
      turn(tensor, lines.data(), host.state.basis.data(), true);
      device.write(tensor.entry.directions, lines.data(), tensor.basis.bytes(), stream);
    }
    if constexpr (Is::by_block)
      device.write(tensor.entry.shared, host.state.shared[0].data(), tensor.shared.bytes(), stream);
    Progress progress;
    progress.record = host.state.record;
    this->set_progress(device, number, progress, stream);
  }

 private:
  // --- the kinds of step: run(pass, kernel) enqueues one kernel for all tensors -------------------------------------------

  template <class Run>
  static void step_elementwise(const Run& run) {
    run(Pass::by_run, Inspect<G>{});
    run(Pass::by_tensor, Begin<Policies>{});
    run(Pass::by_run, Update<Policies, W, G>{});
  }

  template <class Run>
  static void step_by_channel(const Run& run) {
    run(Pass::along_channels, AlongChannels<GradientSquares<G>>{});
    run(Pass::across_channels, AcrossChannels<GradientSquares<G>>{});
    run(Pass::by_tensor, Begin<Policies>{});
    if constexpr (Is::by_block) {
      run(Pass::by_tensor, BlockSteps<Policies>{});
      run(Pass::by_run, Update<Policies, W, G>{});
    } else {
      if constexpr (Moments::buffers > 0) {
        run(Pass::along_channels, AlongChannels<MomentSquares<Policies, G>>{});
        run(Pass::across_channels, AcrossChannels<MomentSquares<Policies, G>>{});
      }
      run(Pass::by_moment, ChannelScales<Policies>{});
      run(Pass::by_tensor, Finish<Policies>{});
      run(Pass::by_run, Apply<Policies, W, G>{});
    }
  }

  template <class Run>
  static void step_projected(const Run& run) {
    if constexpr (Is::draws_signs) {
      run(Pass::by_tensor, DrawSparse{});
      run(Pass::along_channels, ProjectSparseAlong<G>{});
      run(Pass::across_channels, ProjectSparseAcross<G>{});
    } else {
      if constexpr (Is::draws_numbers) run(Pass::by_draw, DrawDense<typename Projection::Sketch>{});
      run(Pass::along_channels, ProjectDenseAlong<G>{});
      run(Pass::across_channels, ProjectDenseAcross<G>{});
    }
    run(Pass::by_tensor, Begin<Policies>{});
    if constexpr (Moments::buffers > 0) {  // where a tensor's are turned at all
      if constexpr (Is::draws_signs) {
        run(Pass::old_draw, DrawOldSparse{});
        run(Pass::by_turn, TurnSparse{});
      } else {
        if constexpr (Is::draws_numbers) run(Pass::old_draw, DrawOldDense<typename Projection::Sketch>{});
        run(Pass::by_turn, TurnDense{});
      }
      run(Pass::by_rotation, RotateMoments<Policies>{});
      if constexpr (Is::moments_in_blocks) run(Pass::by_rotated_run, CloseRotated<Policies>{});
    }
    if constexpr (Is::moments_in_blocks) run(Pass::by_moment_run, LowRankBlocks<Policies>{});
    if constexpr (!Is::moments_in_blocks || LowRankMoments<Policies>::measures)
      run(Pass::by_moment, LowRankMoments<Policies>{});
    if constexpr (Is::residual) {
      run(Pass::by_residual, ResidualScales<Policies, G>{});
      run(Pass::by_tensor, Finish<Policies>{});
      run(Pass::by_moment, Combine<Policies>{});
    }
    if constexpr (Is::lifted) {
      run(Pass::by_run, ApplyLift<Policies, W, G>{});
    } else {
      run(Pass::by_tensor, Finish<Policies>{});
      run(Pass::by_run, Apply<Policies, W, G>{});
    }
  }

  // --- state ------------------------------------------------------------------------------------------------------------

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
    return plan.rank * plan.removed * static_cast<Index>(sizeof(float));
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

  static bool is_aligned(const void* weight, const void* gradient) {
    return reinterpret_cast<std::uintptr_t>(weight) % 16 == 0 && reinterpret_cast<std::uintptr_t>(gradient) % 16 == 0;
  }

  /// Bounds of the kernels, beside those of the plan.
  static void check_projection(const Plan& plan, const TensorRequest& request) {
    const Check check{request.name};
    if (plan.rank > RankTile::most)
      check.fail("rank = " + text(plan.rank) + " must be at most " + text(Index{RankTile::most}) + " on a GPU");
    if (plan.removed >= Index{1} << 31)
      check.fail("the removed side, " + text(plan.removed) + ", must be below " + text(Index{1} << 31) + " on a GPU");
  }

  std::unique_ptr<std::conditional_t<Is::has_basis, Basis<Device>, int>> basis_;

  Index shared_bytes() const override {
    if constexpr (Is::has_basis) return basis_ == nullptr ? 0 : basis_->bytes();
    return 0;
  }
};

}  // namespace apollo::cuda
