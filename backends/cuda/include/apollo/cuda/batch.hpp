// SPDX-License-Identifier: Apache-2.0
// Batches: all tensors of one composition and of the same value types, stepped by the same few launches however many they are.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <apollo/cuda/basis.hpp>
#include <apollo/cuda/channels.hpp>
#include <apollo/cuda/lift.hpp>
#include <apollo/cuda/residual.hpp>
#include <apollo/cuda/rotate.hpp>
#include <apollo/step/plan.hpp>
#include <apollo/step/state_visitor.hpp>

namespace apollo::cuda {

/// What is asked of a batch with a new tensor: checked by whoever asks.
struct TensorRequest {
  std::string name;
  TensorId id = 0;
  Shape shape;
  Order2D order = Order2D::row_major;
  Settings settings;
  const GroupInput* input = nullptr;
  void* weight = nullptr;
  const void* gradient = nullptr;
};

/// A tensor as the host knows it.
template <class Device>
struct Tensor {
  std::string name;
  Entry entry;
  Index moment_bytes = 0;  ///< of each buffer
  int moment_buffers = 0;
  Memory<Device> moments;
  Memory<Device> basis;
  Memory<Device> shared;
  Memory<Device> scratch;
};

/// Steps until a refresh where there is none to come.
inline constexpr std::int64_t never = std::int64_t{1} << 62;

/// A tensor's state on the host, as checkpoints see it.
class HostState {
 public:
  virtual ~HostState() = default;
  virtual const std::string& name() const = 0;
  virtual std::string fingerprint() const = 0;
  virtual void visit_state(StateVisitor& visitor) = 0;
  virtual const Record& record() const = 0;
};

/// The tables of one batch.
template <class Device>
class Batch {
 public:
  using Stream = typename Device::Stream;
  virtual ~Batch() = default;

  /// Allocates the tensor's state. Errors: those of make_plan; too little memory. Returns its number.
  virtual std::size_t add(const Device& device, const TensorRequest& request, Stream stream) = 0;
  /// Computes what bases the coming step needs, and returns after how many steps there may be some to compute again; waits for
  /// the stream, unless nothing here has a basis.
  virtual std::int64_t refresh(const Device& device, Stream stream) = 0;
  /// Enqueues one step of every tensor that has a gradient.
  virtual void step(const Device& device, Stream stream) = 0;
  virtual Index state_bytes() const = 0;
  /// A tensor's state copied to the host, and back; both wait for the stream. The batch has been prepared.
  virtual std::unique_ptr<HostState> read_state(const Device& device, std::size_t number, Stream stream) const = 0;
  virtual void write_state(const Device& device, std::size_t number, HostState& state, Stream stream) = 0;

  /// Brings the tables to the device; waits for it.
  void prepare(const Device& device, Stream stream) {
    if (!changed_) return;
    std::vector<Progress> progress(tensors_.size());
    if (on_device_ > 0)
      device.read(progress.data(), progress_.template as<Progress>(), bytes_of<Progress>(on_device_), stream);
    Memory<Device> tables(device, bytes_of<Entry>(tensors_.size()), {}, "tables");
    Memory<Device> kept(device, bytes_of<Progress>(tensors_.size()), {}, "records");
    Memory<Device> parts(device, bytes_of<Part>(part_count()), {}, "tables");
    std::vector<Entry> entries;
    for (const auto& tensor : tensors_) entries.push_back(tensor.entry);
    device.write(tables.template as<Entry>(), entries.data(), tables.bytes(), stream);
    device.write(kept.template as<Progress>(), progress.data(), kept.bytes(), stream);
    Part* to = parts.template as<Part>();
    for (const auto& pass : passes_) {
      if (!pass.empty()) device.write(to, pass.data(), bytes_of<Part>(pass.size()), stream);
      to += pass.size();
    }
    entries_ = std::move(tables), progress_ = std::move(kept), parts_ = std::move(parts);
    on_device_ = tensors_.size();
    changed_ = false;
  }

  /// Binds a tensor to other memory of the same kind.
  void bind(const Device& device, std::size_t number, void* weight, const void* gradient, bool aligned, Stream stream) {
    Entry& entry = tensors_[number].entry;
    entry.weight = weight;
    entry.gradient = gradient;
    entry.aligned = aligned && runs_are_aligned(entry.length, entry.lines);
    if (number < on_device_) device.write(entries_.template as<Entry>() + number, &entry, bytes_of<Entry>(1), stream);
  }

  const Tensor<Device>& tensor(std::size_t number) const { return tensors_[number]; }
  std::size_t size() const { return tensors_.size(); }
  Progress progress(const Device& device, std::size_t number, Stream stream) const {
    Progress progress;
    if (number < on_device_)
      device.read(&progress, progress_.template as<Progress>() + number, bytes_of<Progress>(1), stream);
    return progress;
  }
  Progress* progress_on_device(std::size_t number) const { return progress_.template as<Progress>() + number; }
  void set_progress(const Device& device, std::size_t number, const Progress& progress, Stream stream) {
    device.write(progress_.template as<Progress>() + number, &progress, bytes_of<Progress>(1), stream);
  }
  /// Bytes beside the state: tables, records, scratch.
  Index workspace_bytes() const {
    Index bytes = entries_.bytes() + progress_.bytes() + parts_.bytes();
    for (const auto& tensor : tensors_) bytes += tensor.scratch.bytes();
    return bytes + shared_bytes();
  }

 protected:
  /// Of scratch that tensors share.
  virtual Index shared_bytes() const = 0;

  /// The loops that a step may have, in the order in which their parts lie.
  enum Pass {
    by_tensor,
    by_run,
    by_draw,
    along_channels,
    across_channels,
    by_moment,
    old_draw,
    by_turn,
    by_rotation,
    by_residual,
    passes
  };

  void insert(Tensor<Device>&& tensor, const Index (&parts)[passes]) {
    const auto number = static_cast<std::int32_t>(tensors_.size());
    tensors_.push_back(std::move(tensor));
    for (int pass = 0; pass < passes; ++pass)
      for (Index i = 0; i < parts[pass]; ++i) passes_[pass].push_back({number, static_cast<std::int32_t>(i)});
    changed_ = true;
  }

  template <class Body>
  void launch(const Device& device, Pass pass, Body body, Stream stream) const {
    const Part* parts = parts_.template as<Part>();
    for (int before = 0; before < pass; ++before) parts += passes_[before].size();
    body.tables = {entries_.template as<Entry>(), progress_.template as<Progress>(), parts};
    device.launch(body, static_cast<Index>(passes_[pass].size()), stream);
  }

  /// Whether every run begins at 16 bytes, if the tensor does: whatever its values are.
  static bool runs_are_aligned(Index length, Index lines) {
    return length < storage_block || lines == 1 || length % 8 == 0;
  }
  static constexpr Index up_to_16(Index bytes) { return (bytes + 15) / 16 * 16; }
  template <class T>
  static constexpr Index bytes_of(std::size_t count) {
    return static_cast<Index>(count * sizeof(T));
  }

 private:
  std::size_t part_count() const {
    std::size_t count = 0;
    for (const auto& pass : passes_) count += pass.size();
    return count;
  }

  std::vector<Tensor<Device>> tensors_;
  std::vector<Part> passes_[passes];
  Memory<Device> entries_, progress_, parts_;
  std::size_t on_device_ = 0;
  bool changed_ = false;
};

/// The tensors of one composition, one type of weights and one of gradients.
template <class Device, class Policies, class W, class G>
class TypedBatch final : public Batch<Device> {
  using Base = Batch<Device>;
  using typename Base::Stream;
  using Moments = typename Policies::Moments;
  using Stored = stored_t<Moments, float>;

  using Projection = typename Policies::Projection;
  using Granularity = typename Policies::Granularity;

  /// s o X with a scale of R = X P^T: APOLLO and its like.
  static constexpr bool structured =
      Projection::projects && !Granularity::elementwise && !Granularity::of_update && Moments::shared == Shared::none;
  /// lift(C): Flora, GaLore and, with the residual, Fira.
  static constexpr bool lifted =
      Projection::projects && Granularity::elementwise && Moments::shared == Shared::none && Moments::buffers > 0;
  static constexpr bool residual = Granularity::residual;
  static constexpr bool projected = structured || lifted;
  /// s o X with a scale of G itself, or of its momentum: structured AdamW and SCALE.
  static constexpr bool unprojected =
      !Projection::projects && !Granularity::elementwise && Moments::shared == Shared::none;
  /// Every element its own step, times one of its channel's block: Adam-mini.
  static constexpr bool by_block = Policies::by_block;
  static constexpr bool by_channel = unprojected || by_block;
  static constexpr bool draws_matrix = is_drawn_as_matrix<Projection, Projection::projects>();
  static constexpr bool draws_signs = [] {
    if constexpr (Projection::random)
      return std::is_same_v<typename Projection::Sketch, SparseSign>;
    else
      return false;
  }();
  static constexpr bool draws_numbers = [] {
    if constexpr (draws_matrix)
      return std::is_same_v<typename Projection::Sketch, Gaussian> ||
             std::is_same_v<typename Projection::Sketch, Rademacher>;
    else
      return false;
  }();

  static_assert(Policies::one_pass || projected || by_channel,
                "apollo: apollo::cuda does not step this composition; see docs/cuda.md.");
  static_assert(!unprojected || Moments::buffers == 0 || std::is_same_v<Stored, float>,
                "apollo: apollo::cuda keeps moments of structured updates without a projection as float; see "
                "docs/cuda.md.");
  static constexpr bool has_basis = std::is_same_v<Projection, SvdProjection>;
  static_assert(
      !projected || draws_signs || draws_numbers || has_basis,
      "apollo: apollo::cuda projects by SparseSign, Gaussian, Rademacher and SvdProjection; see docs/cuda.md.");
  static_assert(std::is_same_v<Stored, float> || std::is_same_v<Stored, bfloat16>,
                "apollo: apollo::cuda keeps moments as float or apollo::bfloat16; see docs/cuda.md.");
  static_assert(!Policies::Weights::keeps_remainder, "apollo: apollo::cuda has no SplitWeights; see docs/cuda.md.");

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
    const bool rows = request.order == Order2D::row_major;
    entry.lines = rows ? request.shape.rows : request.shape.cols;
    entry.length = rows ? request.shape.cols : request.shape.rows;
    entry.along = plan.order_of_x() == Order2D::row_major;
    entry.aligned = is_aligned(request.weight, request.gradient) && Base::runs_are_aligned(entry.length, entry.lines);

    if constexpr (projected) check_projection(plan, request);

    Index parts[Base::passes] = {};
    parts[Base::by_tensor] = 1;
    parts[Base::by_run] = (run_count(entry.lines, entry.length) + runs_a_part - 1) / runs_a_part;

    const Index one = plan.moment_size() * static_cast<Index>(sizeof(Stored));
    tensor.moment_bytes = Moments::buffers > 0 ? one : 0;
    tensor.moment_buffers = Moments::buffers;
    tensor.moments = Memory<Device>(device, Moments::buffers * Base::up_to_16(one), request.name, "optimizer state");
    for (int b = 0; b < Moments::buffers; ++b)
      entry.moment[b] = tensor.moments.template as<std::byte>() + b * Base::up_to_16(one);
    if constexpr (has_basis) {
      tensor.basis = Memory<Device>(device, basis_bytes(plan), request.name, "optimizer state");
      entry.directions = tensor.basis.template as<float>();
    }
    if constexpr (by_block) {
      tensor.shared =
          Memory<Device>(device, plan.blocks() * static_cast<Index>(sizeof(float)), request.name, "optimizer state");
      entry.shared = tensor.shared.template as<float>();
    }
    reserve(device, request.name, tensor, parts);
    if constexpr (by_block) device.clear(entry.shared, tensor.shared.bytes(), stream);
    if constexpr (has_basis) {
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
    if constexpr (has_basis)
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
    const auto run = [&](typename Base::Pass pass, auto body) { this->launch(device, pass, body, stream); };
    if constexpr (projected) {
      if constexpr (draws_signs) {
        run(Base::by_tensor, DrawSparse{});
        run(Base::along_channels, ProjectSparseAlong<G>{});
        run(Base::across_channels, ProjectSparseAcross<G>{});
      } else {
        if constexpr (draws_numbers) run(Base::by_draw, DrawDense<typename Projection::Sketch>{});
        run(Base::along_channels, ProjectDenseAlong<G>{});
        run(Base::across_channels, ProjectDenseAcross<G>{});
      }
      run(Base::by_tensor, Begin<Policies>{});
      if constexpr (Moments::buffers > 0) {  // where a tensor's are turned at all
        if constexpr (draws_signs) {
          run(Base::old_draw, DrawOldSparse{});
          run(Base::by_turn, TurnSparse{});
        } else {
          if constexpr (draws_numbers) run(Base::old_draw, DrawOldDense<typename Projection::Sketch>{});
          run(Base::by_turn, TurnDense{});
        }
        run(Base::by_rotation, RotateMoments<Policies>{});
      }
      run(Base::by_moment, LowRankMoments<Policies>{});
      if constexpr (residual) {
        run(Base::by_residual, ResidualScales<Policies, G>{});
        run(Base::by_tensor, Finish<Policies>{});
        run(Base::by_moment, Combine<Policies>{});
      }
      if constexpr (lifted) {
        run(Base::by_run, ApplyLift<Policies, W, G>{});
      } else {
        run(Base::by_tensor, Finish<Policies>{});
        run(Base::by_run, Apply<Policies, W, G>{});
      }
    } else if constexpr (by_channel) {
      run(Base::along_channels, AlongChannels<GradientSquares<G>>{});
      run(Base::across_channels, AcrossChannels<GradientSquares<G>>{});
      run(Base::by_tensor, Begin<Policies>{});
      if constexpr (by_block) {
        run(Base::by_tensor, BlockSteps<Policies>{});
        run(Base::by_run, Update<Policies, W, G>{});
      } else {
        if constexpr (Moments::buffers > 0) {
          run(Base::along_channels, AlongChannels<MomentSquares<Policies, G>>{});
          run(Base::across_channels, AcrossChannels<MomentSquares<Policies, G>>{});
        }
        run(Base::by_moment, ChannelScales<Policies>{});
        run(Base::by_tensor, Finish<Policies>{});
        run(Base::by_run, Apply<Policies, W, G>{});
      }
    } else {
      run(Base::by_run, Inspect<G>{});
      run(Base::by_tensor, Begin<Policies>{});
      run(Base::by_run, Update<Policies, W, G>{});
    }
  }

  Index state_bytes() const override {
    Index bytes = 0;
    for (std::size_t i = 0; i < this->size(); ++i)
      bytes += this->tensor(i).moment_bytes * Moments::buffers + this->tensor(i).basis.bytes() +
               this->tensor(i).shared.bytes();
    return bytes;
  }

  std::unique_ptr<HostState> read_state(const Device& device, std::size_t number, Stream stream) const override {
    const Tensor<Device>& tensor = this->tensor(number);
    auto host = std::make_unique<Host>(tensor);
    for (int b = 0; b < Moments::buffers; ++b)
      device.read(host->state.moment[b].data(), tensor.entry.moment[b], tensor.moment_bytes, stream);
    if constexpr (has_basis) {
      std::vector<float> lines(basis_size(tensor));
      device.read(lines.data(), tensor.entry.directions, tensor.basis.bytes(), stream);
      turn(tensor, lines.data(), host->state.basis.data(), false);
    }
    if constexpr (by_block)
      device.read(host->state.shared[0].data(), tensor.entry.shared, tensor.shared.bytes(), stream);
    host->state.record = this->progress(device, number, stream).record;
    return host;
  }
  void write_state(const Device& device, std::size_t number, HostState& state, Stream stream) override {
    const Tensor<Device>& tensor = this->tensor(number);
    auto& host = static_cast<Host&>(state);
    for (int b = 0; b < Moments::buffers; ++b)
      device.write(tensor.entry.moment[b], host.state.moment[b].data(), tensor.moment_bytes, stream);
    if constexpr (has_basis) {
      std::vector<float> lines(basis_size(tensor));
      turn(tensor, lines.data(), host.state.basis.data(), true);
      device.write(tensor.entry.directions, lines.data(), tensor.basis.bytes(), stream);
    }
    if constexpr (by_block)
      device.write(tensor.entry.shared, host.state.shared[0].data(), tensor.shared.bytes(), stream);
    Progress progress;
    progress.record = host.state.record;
    this->set_progress(device, number, progress, stream);
  }

 private:
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

  std::unique_ptr<std::conditional_t<has_basis, Basis<Device>, int>> basis_;

  Index shared_bytes() const override {
    if constexpr (has_basis) return basis_ == nullptr ? 0 : basis_->bytes();
    return 0;
  }

  static bool rotates(const Entry& entry) {
    return Moments::buffers > 0 && entry.setup.settings.on_refresh == OnRefresh::rotate;
  }

  /// The scratch of a step, and into how many parts its passes are cut.
  static void reserve(const Device& device, std::string_view name, Tensor<Device>& tensor,
                      Index (&parts)[Base::passes]) {
    Entry& entry = tensor.entry;
    const Plan& plan = entry.setup.plan;
    entry.blocks = parts[Base::by_run];
    if constexpr (projected) {
      const auto pass = entry.along ? Base::along_channels : Base::across_channels;
      if constexpr (draws_signs) {
        parts[pass] = entry.along ? ProjectSparseAlong<G>::parts(plan) : ProjectSparseAcross<G>::parts(plan);
        if (!entry.along) entry.norm_parts = ProjectSparseAcross<G>::parts_of_norms(plan);
      } else {
        if constexpr (draws_numbers)
          parts[Base::by_draw] = ceil_divide(plan.rank * plan.removed, DenseDraw<typename Projection::Sketch>::a_part);
        parts[pass] = entry.along ? ProjectDenseAlong<G>::parts(plan) : ProjectDenseAcross<G>::parts(plan);
        if (!entry.along) entry.parts = entry.norm_parts = ProjectDenseAcross<G>::parts_of_r(plan);
      }
      parts[Base::by_moment] = LowRankMoments<Policies>::parts(plan);
      if (rotates(entry)) {
        parts[Base::old_draw] = draws_signs ? 1 : parts[Base::by_draw];
        parts[Base::by_turn] = draws_signs ? TurnSparse::parts(plan) : TurnDense::parts(plan);
        parts[Base::by_rotation] = parts[Base::by_moment];
      }
      if (residual) parts[Base::by_residual] = ResidualScales<Policies, G>::parts(plan);
      entry.blocks = residual ? 3 * parts[Base::by_residual] : lifted ? 0 : 3 * parts[Base::by_moment];
    }
    if constexpr (by_channel) {
      using Squares = GradientSquares<G>;
      parts[entry.along ? Base::along_channels : Base::across_channels] =
          entry.along ? AlongChannels<Squares>::parts(plan) : AcrossChannels<Squares>::parts(plan);
      if (!entry.along) entry.norm_parts = AcrossChannels<Squares>::parts_of_norms(plan);
      if constexpr (unprojected) parts[Base::by_moment] = ChannelScales<Policies>::parts(plan);
      entry.blocks = 3 * parts[Base::by_moment];
    }
    Index bytes = 0;
    carve(tensor, nullptr, bytes);
    tensor.scratch = Memory<Device>(device, bytes, name, "scratch");
    carve(tensor, tensor.scratch.template as<std::byte>(), bytes = 0);
    if constexpr (structured || unprojected) entry.blocks = parts[Base::by_moment];
    if constexpr (residual) entry.blocks = parts[Base::by_residual];
  }

  /// Gives every array of the scratch its place from `begin` on, or counts their bytes where that is null.
  static void carve(Tensor<Device>& tensor, std::byte* begin, Index& bytes) {
    Entry& entry = tensor.entry;
    const Plan& plan = entry.setup.plan;
    const auto take = [&]<class T>(T*& array, Index count) {
      if (begin != nullptr && count > 0) array = reinterpret_cast<T*>(begin + bytes);
      bytes += Base::up_to_16(count * static_cast<Index>(sizeof(T)));
    };
    take(entry.sums, entry.blocks);
    if constexpr (projected) {
      if constexpr (draws_signs) {
        const SparseTable table(plan);
        take(entry.map, table.size());
        take(entry.inputs, table.size());
        take(entry.signs, ceil_divide(plan.removed, 32));
        take(entry.old_map, rotates(entry) ? table.size() : 0);
        take(entry.old_signs, rotates(entry) ? ceil_divide(plan.removed, 32) : 0);
      } else {
        if constexpr (!has_basis) take(entry.directions, plan.rank * plan.removed);
        take(entry.old_directions, rotates(entry) ? plan.rank * plan.removed : 0);
      }
      take(entry.q, rotates(entry) ? plan.rank * plan.rank : 0);
      take(entry.r, entry.parts * plan.moment_size());
      take(entry.n, lifted ? plan.moment_size() : 0);
    }
    if constexpr (projected || by_channel) {
      take(entry.x_norms, entry.norm_parts * plan.kept);
      if (unprojected && Moments::buffers > 0) take(entry.n_norms, entry.norm_parts * plan.kept);
      if (residual) {
        take(entry.n_norms, plan.kept);
        take(entry.r_norms, plan.kept);
      }
      if (Granularity::per_channel) take(entry.channel_scale, plan.kept);
      if (Granularity::per_channel || by_block) take(entry.channel_step, plan.kept);
    }
  }
};

}  // namespace apollo::cuda
