// SPDX-License-Identifier: Apache-2.0
// The steps of a batch: which kernels each kind of composition launches, in which order.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <apollo/cuda/accumulation.hpp>
#include <apollo/cuda/basis.hpp>
#include <apollo/cuda/device_state.hpp>
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
  using TensorState = DeviceState<Device, Policies>;

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

    TensorState::allocate(device, tensor);
    StepScratch<Policies, W, Given>::reserve(device, request.name, tensor, parts);
    if constexpr (Is::has_basis) {
      if (basis_ == nullptr) basis_ = std::make_unique<Basis<Device, Is::packs>>(device);
      basis_->reserve(plan, request.settings.svd, request.name);
    }
    TensorState::clear(device, tensor, stream);
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
    return TensorState::read(device, this->tensor(number), this->progress(device, number, stream).record, stream);
  }
  void write_state(const Device& device, std::size_t number, HostState& state, Stream stream) override {
    TensorState::write(device, this->tensor(number), state, stream);
    Progress progress;
    progress.record = state.record();
    this->set_progress(device, number, progress, stream);
  }

 private:
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

  /// Steps until a basis that is not due now is.
  static std::int64_t steps_left(const TensorSetup& setup, const Record& record) {
    if (Is::packs) return record.next_refresh - record.steps;
    const std::int64_t gap = setup.settings.update_proj_gap;
    return gap - (record.steps + setup.settings.refresh_phase) % gap;
  }
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
