// SPDX-License-Identifier: Apache-2.0
// The steps of a batch: which kernels each kind of composition launches, in which order, and where a tensor's state lies.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <apollo/cuda/accumulation.hpp>
#include <apollo/cuda/basis.hpp>
#include <apollo/cuda/scratch.hpp>

namespace apollo::cuda {

/// The tensors of one composition, one type of weights and one of gradients: Given. A step's kernels read gradients of G, which
/// is that type, or float where they are sums.
template <class Device, class Policies, class W, class Given>
class TypedBatch final : public Batch<Device> {
  using Base = Batch<Device>;
  using Is = Composition<Policies>;
  using typename Base::Stream;
  using typename Base::Table;
  using Moments = typename Policies::Moments;
  using Stored = stored_t<Moments, float>;

  using Projection = typename Policies::Projection;
  using Granularity = typename Policies::Granularity;
  using Directions = DirectionsOf<Policies>;

 public:
  std::size_t add(const Device& device, const TensorRequest& request, Stream stream) override {
    Tensor<Device> tensor;
    tensor.name = request.name;
    Entry& entry = tensor.entry;
    entry.setup = {make_plan<Policies>(request.shape, request.settings, request.name, request.order), request.settings,
                   request.id};
    const Plan& plan = entry.setup.plan;
    entry.input = request.input;
    entry.clock = request.clock;
    entry.number = request.number;
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
    if constexpr (Is::dense_factors && !std::is_same_v<Stored, float>)
      if (!ApplyScaled<Policies, W, Given>::moments_in_order(plan))
        Check{request.name}.fail("shape " + text(request.shape) +
                                 " is a matrix; without a projection apollo::cuda keeps " +
                                 "its factored mean as float");
    if constexpr (Is::multiplies) {
      entry.by_products = this->products() != nullptr && plan.rank >= product_rank;
      if (entry.by_products) {
        if (BeginProduct<Given>::splits) entry.splits = splits_of(this->products()->math());
        const bool aside = Is::lifted && !Is::template lifts_in_place<W>;
        this->products()->reserve(aside ? entry.values() * static_cast<Index>(sizeof(float)) : 0, request.name);
      }
    }

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
      if constexpr (Is::packs)
        entry.packed = {tensor.basis.template as<std::uint8_t>() + ranges_bytes(plan),
                        tensor.basis.template as<GroupRange>()};
      else
        entry.directions = tensor.basis.template as<float>();
    }
    if constexpr (Is::by_block || Is::factors) {
      const Index size = vector_size<Policies>(plan, 0) + vector_size<Policies>(plan, 1);
      tensor.shared = Memory<Device>(device, size * static_cast<Index>(sizeof(float)), request.name, "optimizer state");
      entry.shared = tensor.shared.template as<float>();
    }
    StepScratch<Policies, W, Given>::reserve(device, request.name, tensor, parts);
    if constexpr (Is::by_block || Is::factors) device.clear(entry.shared, tensor.shared.bytes(), stream);
    if constexpr (Is::splits_weights) device.clear(entry.remainder, tensor.remainder.bytes(), stream);
    if constexpr (Is::has_basis) {
      if (basis_ == nullptr) basis_ = std::make_unique<Basis<Device, Is::packs>>(device);
      basis_->reserve(plan, request.settings.svd, request.name);
      device.clear(tensor.basis.template as<void>(), tensor.basis.bytes(), stream);
    }
    if (Moments::buffers > 0) device.clear(entry.moment[0], tensor.moments.bytes(), stream);
    device.wait(stream);  // steps may come on another stream
    this->insert(std::move(tensor), parts);
    return this->size() - 1;
  }

  std::int64_t refresh(const Device& device, Scope scope, Stream stream) override {
    std::int64_t next = never;
    if constexpr (Is::has_basis) {
      fold(device, scope, stream);
      for (std::size_t i = 0; i < this->size(); ++i) {
        if (scope.tensor != Scope::all && scope.tensor != i) continue;
        const Entry& given = this->tensor(i).entry;
        if (given.gradient == nullptr && given.sum == nullptr) continue;  // it takes no steps either
        Progress progress = this->progress(device, i, stream);
        const bool sums = !takes(given, progress);
        const Entry entry = sums ? this->entry_of_sum(i) : given;
        if (entry.gradient == nullptr) continue;
        Record& record = progress.record;
        const TensorSetup& setup = entry.setup;
        std::int64_t left = 1;  // a step may be skipped, and the basis is due again then
        if (progress.fresh == 0 && refresh_due<Projection>(setup, record)) {
          const std::int64_t index = Is::packs ? record.refreshes : setup.refresh_index(record.steps);
          const auto compute = [&]<class G>(G) {
            return basis_->template refresh<G>(entry, record.steps > 0, index, this->progress_on_device(i), stream);
          };
          const auto outcome = sums ? compute(float()) : compute(Given());
          if constexpr (Is::packs)
            if (outcome.computed) {
              note_refresh(setup.settings, outcome.kept, record);
              progress.fresh = 1;
              this->set_progress(device, i, progress, stream);
            }
        } else if (progress.fresh == 0) {
          left = steps_left(setup, record);
        }
        if (left < next) next = left;
      }
    }
    return next;
  }

  bool sums_as_projections() const override { return sums_projections<Policies>; }
  void accumulate(const Device& device, Scope scope, Stream stream) override {
    const Launcher run{*this, device, scope, stream};
    if constexpr (sums_projections<Policies>) {
      look_at<Given>(run);
      run(Pass::by_moment, AddProjection{});
    } else {
      run(Pass::by_run, AddGradient<Given>{});
    }
    run(Pass::by_tensor, NoteSum<Policies>{});
  }
  void discard_accumulated(const Device& device, Stream stream) override {
    this->launch(device, Pass::by_tensor, DiscardSum{}, {}, stream);
  }

  void look(const Device& device, Scope scope, Stream stream) override {
    fold(device, scope, stream);
    for_tables(device, scope, stream, [&]<class G>(G, const Launcher& run) { look_at<G>(run); });
  }
  void measure(const Device& device, Stream stream) override {
    for_tables(device, {}, stream, [&](auto, const Launcher& run) { run(Pass::by_tensor, Measure<Policies>{}); });
  }
  void act(const Device& device, Scope scope, Stream stream) override {
    for_tables(device, scope, stream, [&]<class G>(G, const Launcher& run) {
      run(Pass::by_tensor, Begin<Policies>{});
      if constexpr (Is::projected)
        act_projected<G>(run);
      else if constexpr (Is::by_channel)
        act_by_channel<G>(run);
      else if constexpr (Is::dense_factors)
        act_dense_factors<G>(run);
      else
        run(Pass::by_run, Update<Policies, W, G>{});
    });
  }

  Index state_bytes(std::size_t number) const override {
    return apollo::state_bytes<Policies, float>(this->tensor(number).entry.setup.plan);
  }

  std::unique_ptr<HostState> read_state(const Device& device, std::size_t number, Stream stream) const override {
    const Tensor<Device>& tensor = this->tensor(number);
    auto host = std::make_unique<Host>(tensor);
    const auto read = [&](void* to, const void* from, Index bytes) { device.read(to, from, bytes, stream); };
    over_moments(tensor, host->state, read);
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
    Progress progress;
    progress.record = host.state.record;
    this->set_progress(device, number, progress, stream);
  }

 private:
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

  /// run(pass, kernel) enqueues a kernel for the tensors of a scope.
  struct Launcher {
    const TypedBatch& batch;
    const Device& device;
    Scope scope;
    Stream stream;
    Table table = Table::gradients;

    template <class Body>
    void operator()(Pass pass, const Body& body) const {
      batch.launch(device, pass, body, scope, stream, table);
    }
  };
  /// Calls body(G(), run) for the table of gradients, and for that of sums, if there is one.
  template <class Body>
  void for_tables(const Device& device, Scope scope, Stream stream, const Body& body) const {
    body(Given(), Launcher{*this, device, scope, stream});
    if constexpr (!sums_projections<Policies>)
      if (this->has_table_of_sums()) body(float(), Launcher{*this, device, scope, stream, Table::sums});
  }
  /// Adds the bound gradients to whole sums that wait for this step, once.
  void fold(const Device& device, Scope scope, Stream stream) const {
    if (!this->has_table_of_sums()) return;
    const Launcher run{*this, device, scope, stream};
    run(Pass::by_run, AddGradient<Given>{true, {}});
    run(Pass::by_tensor, NoteSum<Policies>{true, {}});
  }

  // --- the kinds of step; Begin stands between the halves -----------------------------------------------------------------

  template <class G, class Run>
  static void look_at(const Run& run) {
    if constexpr (Is::projected)
      look_projected<G>(run);
    else if constexpr (Is::by_channel)
      look_by_channel<G>(run);
    else if constexpr (Is::dense_factors)
      sum_sides<G>(run);
    else
      run(Pass::by_run, Inspect<G>{});
  }

  template <class G, class Run>
  static void look_by_channel(const Run& run) {
    run(Pass::along_channels, AlongChannels<GradientSquares<G>>{});
    run(Pass::across_channels, AcrossChannels<GradientSquares<G>>{});
  }
  template <class G, class Run>
  static void act_by_channel(const Run& run) {
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

  /// The sums of squares of G's rows and columns.
  template <class G, class Run>
  static void sum_sides(const Run& run) {
    run(Pass::by_line, AlongChannels<SideSquares<G, true>>{});
    run(Pass::by_place, AcrossChannels<SideSquares<G, false>>{});
  }
  template <class G, class Run>
  static void act_dense_factors(const Run& run) {
    run(Pass::by_tensor, Factors<Policies>{});
    if constexpr (Policies::factored) {
      run(Pass::by_run, ScaledNorm<G>{});
      run(Pass::by_tensor, ClipUpdate{});
    }
    run(Pass::by_run, ApplyScaled<Policies, W, G>{});
  }

  template <class G, class Run>
  static void look_projected(const Run& run) {
    if constexpr (Is::draws_signs) {
      run(Pass::by_tensor, DrawSparse{});
      run(Pass::along_channels, ProjectSparseAlong<G>{});
      run(Pass::across_channels, ProjectSparseAcross<G>{});
    } else {
      if constexpr (Is::draws_numbers) run(Pass::by_draw, DrawDense<typename Projection::Sketch>{});
      if constexpr (Policies::factored_gradient)  // R is of what the factors leave of G
        sum_sides<G>(run);
      else
        project_densely<G>(run);
      if constexpr (Is::multiplies) {
        run(Pass::by_product, BeginProduct<G>{});
        run.batch.template multiply_gradients<G>(run);
      }
    }
  }
  template <class G, class Run>
  static void project_densely(const Run& run) {
    run(Pass::along_channels, ProjectDenseAlong<G, ProjectedOn<Policies>>{});
    run(Pass::across_channels, ProjectDenseAcross<G, ProjectedOn<Policies>>{});
  }
  template <class G, class Run>
  static void act_projected(const Run& run) {
    if constexpr (Policies::factored_gradient) {
      run(Pass::by_tensor, Factors<Policies>{});
      project_densely<G>(run);
    }
    if constexpr (Is::turns) {  // where a tensor's are turned at all
      if constexpr (Is::draws_signs) {
        run(Pass::old_draw, DrawOldSparse{});
        run(Pass::by_turn, TurnSparse{});
      } else {
        if constexpr (Is::draws_numbers) run(Pass::old_draw, DrawOldDense<typename Projection::Sketch>{});
        run(Pass::by_turn, TurnDense<Directions>{});
      }
      if constexpr (Policies::factored)
        run(Pass::by_tensor, TurnColumns{});
      else
        run(Pass::by_rotation, RotateMoments<Policies>{});
      if constexpr (Is::moments_in_blocks) run(Pass::by_rotated_run, CloseRotated<Policies>{});
    }
    if constexpr (Policies::factored) {
      run(Pass::by_line, AlongChannels<ProjectedSquares<true>>{});
      run(Pass::by_place, AcrossChannels<ProjectedSquares<false>>{});
      run(Pass::by_tensor, Factors<Policies>{});
      run(Pass::by_moment, ScaleProjected{});
      run(Pass::by_tensor, ClipUpdate{});
    } else {
      if constexpr (Is::moments_in_blocks) run(Pass::by_moment_run, LowRankBlocks<Policies>{});
      if constexpr (!Is::moments_in_blocks || LowRankMoments<Policies>::measures)
        run(Pass::by_moment, LowRankMoments<Policies>{});
    }
    if constexpr (Is::residual) {
      run(Pass::by_residual, ResidualScales<Policies, G>{});
      run(Pass::by_tensor, Finish<Policies>{});
      run(Pass::by_moment, Combine<Policies>{});
    }
    if constexpr (Is::lifted) {
      run(Pass::by_run, ApplyLift<Policies, W, G>{});
      if constexpr (Is::template lifts_in_place<W>) run(Pass::by_lift, BeginLift{});
      if constexpr (Is::multiplies) run.batch.template multiply_back<G>(run);
    } else {
      run(Pass::by_tensor, Finish<Policies>{});
      run(Pass::by_run, Apply<Policies, W, G>{});
    }
  }

  /// Calls body(entry, run) for every tensor whose products are the library's, run being for it alone.
  template <class Body>
  void for_products(const Launcher& run, const Body& body) const {
    for (std::size_t i = 0; i < this->size(); ++i) {
      if (run.scope.tensor != Scope::all && run.scope.tensor != i) continue;
      const Entry entry = run.table == Table::sums ? this->entry_of_sum(i) : this->tensor(i).entry;
      const bool steps = entry.gradient != nullptr || (sums_projections<Policies> && entry.sum != nullptr);
      if (entry.by_products && steps) body(entry, Launcher{*this, run.device, {i}, run.stream, run.table});
    }
  }
  /// R, and right behind it, while the gradient may be in the cache, the norms of its channels.
  template <class G>
  void multiply_gradients(const Launcher& run) const {
    for_products(run, [&](const Entry& entry, const Launcher& one) {
      if (entry.gradient == nullptr) return;
      const int count = BeginProduct<G>::splits ? entry.splits : 1;
      for (int number = 0; number < count; ++number)
        this->products()->multiply(projection<G>(entry, number), run.stream);
      one(Pass::norms_along, AlongChannels<GradientSquares<G>>{});
      one(Pass::norms_across, AcrossChannels<GradientSquares<G>>{});
    });
  }
  /// Updates lifted: into the weights, or through scratch that tensors share.
  template <class G>
  void multiply_back(const Launcher& run) const {
    for_products(run, [&](const Entry& entry, const Launcher& one) {
      const ProductScalars* by = entry.scalars;
      if constexpr (Is::template lifts_in_place<W>) {
        this->products()->multiply(lift(entry, static_cast<float*>(entry.weight), &by->lift, &by->keep), run.stream);
      } else {
        float* const product = this->products()->scratch();
        this->products()->multiply(lift(entry, product, &by->one, &by->zero), run.stream);
        one(Pass::by_run, ApplyLift<Policies, W, G, true>{{}, product});
      }
    });
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
    const Index size = plan.rank * plan.removed;
    return Is::packs ? PackedBasis::bytes(size) : size * static_cast<Index>(sizeof(float));
  }
  /// Of a packed basis, whose codes lie behind its ranges.
  static constexpr Index ranges_bytes(const Plan& plan) {
    return PackedBasis::groups(plan.rank * plan.removed) * static_cast<Index>(sizeof(GroupRange));
  }
  /// Steps until a basis that is not due now is.
  static std::int64_t steps_left(const TensorSetup& setup, const Record& record) {
    if (Is::packs) return record.next_refresh - record.steps;
    const std::int64_t gap = setup.settings.update_proj_gap;
    return gap - (record.steps + setup.settings.refresh_phase) % gap;
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

  std::unique_ptr<std::conditional_t<Is::has_basis, Basis<Device, Is::packs>, int>> basis_;

  Index shared_bytes() const override {
    if constexpr (Is::has_basis) return basis_ == nullptr ? 0 : basis_->bytes();
    return 0;
  }
};

}  // namespace apollo::cuda
