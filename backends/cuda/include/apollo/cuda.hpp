// SPDX-License-Identifier: Apache-2.0
// apollo::cuda: tensors that lie on a GPU. In a program compiled by nvcc cuda::Optimizer steps them; cuda::EmulatedOptimizer
// runs the same kernels on the processor, for tests, in a program of any compiler. See docs/cuda.md.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <apollo/cuda/device.hpp>
#include <apollo/cuda/emulator.hpp>
#include <apollo/cuda/model.hpp>

namespace apollo::cuda {

/// A whole model on one device. Holds state, tables and scratch there; weights and gradients are the caller's and stay valid
/// until rebound. Not for concurrent use.
///
/// Everything that a step needs lies on the device: step() enqueues kernels on the given stream, a number that depends on the
/// groups and value types but not on the tensors, waits for nothing, and can be captured in a graph. Calls on different streams
/// are ordered by the caller.
///
/// Ticks are those of apollo::Optimizer: step() is one; layer by layer, the first step(name) opens a tick, every tensor is stepped
/// once, and end_tick() closes it. They are counted on the device, so that the replay of a graph is a tick too.
///
/// State: as the member's (docs/members); a record and a table's entry of some hundred bytes beside it, see workspace_bytes().
template <class DeviceType>
class BasicOptimizer : public Model<DeviceType> {
  using Base = Model<DeviceType>;
  using Base::batches_, Base::clock_, Base::device_, Base::in_order_, Base::names_, Base::open_, Base::until_refresh_;
  using Base::find, Base::has_gradient, Base::now;
  using typename Base::Place;

 public:
  using Base::prepare, Base::tick;
  using typename Base::Device;
  using typename Base::Stream;

  /// Errors: those of the device.
  explicit BasicOptimizer(const Device& device = Device()) : Base(device) {}

  // --- learning rates, scaling, clipping --------------------------------------------------------------------------------

  /// These are read by the steps enqueued afterwards. They wait for the stream's copy, so they are not captured: call them
  /// between replays of a graph, with the stream that the steps are on.
  ///
  /// One schedule for all groups: lr = group's lr * factor(tick).
  void schedule(const Schedule& schedule, Stream stream = {}) { clock_.schedule(device_, schedule, stream); }
  /// step() scales all gradients down so that their common norm is at most this; infinity or 0 switches it off. A tensor that is
  /// skipped does not count. Costs no further read, but of tensors without check_finite: every other step looks at its gradient
  /// first. A graph that was captured without clipping stays without; one with it takes another bound, and none.
  void clip_global_norm(double norm, Stream stream = {}) {
    clip_ = checked_clip(norm);
    clock_.clip(device_, clip_, stream);
  }

  // --- steps ------------------------------------------------------------------------------------------------------------

  /// Computes the bases that are due (GaLore, Q-GaLore, Fira) from the gradients that are there. step() does so by itself, except
  /// while a graph is captured: then call it once before each replay, with that step's gradients. Where none can be due it does
  /// nothing, else it waits for the stream.
  void refresh(Stream stream = {}) {
    prepare(stream);
    if (!basis_may_be_due()) return;
    for (const auto& [key, batch] : batches_) refresh(*batch, {}, stream);
  }

  /// Enqueues one tick: steps every tensor that has a gradient. One whose gradient is not finite is skipped, its state untouched;
  /// status() tells. Errors: a tick is open; those of the runtime when kernels cannot be launched.
  void step(Stream stream = {}) {
    if (open_) rules::step_while_open(now(stream));
    for (const auto* entry : in_order_)
      if (entry->second.waits) check_clipping(*entry);
    prepare(stream);
    if (!device_.capturing(stream)) refresh(stream);
    clock_.advance(device_, stream);
    for (const auto& [key, batch] : batches_) batch->look(device_, {}, stream);
    if (clip_ > 0) {
      for (const auto& [key, batch] : batches_) batch->measure(device_, stream);
      clock_.clip_all(device_, stream);
    }
    for (const auto& [key, batch] : batches_) batch->act(device_, {}, stream);
    forget_sums();
  }

  /// Adds every gradient, as bound now, to what the next step takes beside its own, as apollo::Optimizer does: k - 1 times
  /// accumulate() and one step() are one step of the sum, times the gradient scale of each time. Where a step takes nothing but R
  /// of a drawn projection (Flora) the sum is kept as kept x rank floats, else it is as large as the gradient, in float. A gradient
  /// that is not finite makes its tensor skip the whole batch. Memory comes with the first micro-batch and stays, for which
  /// it waits; later ones wait for nothing and can be captured. Errors, before anything is changed: a tick is open; clipping by
  /// global norm, where a sum would not be whole; too little memory.
  AccumulationReport accumulate(Stream stream = {}) {
    if (open_) rules::accumulate_while_open(now(stream));
    for (const auto* entry : in_order_) check_clipping(*entry);
    prepare(stream);
    for (const auto& [key, batch] : batches_) batch->reserve_sums(device_, {}, stream);
    for (const auto& [key, batch] : batches_) batch->accumulate(device_, {}, stream);
    AccumulationReport report;
    for (auto& [name, place] : names_) {
      const Accumulated how = note_sum(place);
      ++(how == Accumulated::none ? report.skipped : how == Accumulated::whole ? report.whole : report.projected);
    }
    return report;
  }
  /// The same for one tensor, from inside the backward pass for example. Opens no tick. Errors also: an unknown name; a tensor
  /// that was stepped in the open tick.
  Accumulated accumulate(std::string_view name, Stream stream = {}) {
    Place& place = find(name);
    if (open_ && place.turn == turn_) rules::accumulate_after_step(name, now(stream));
    check_clipping(*names_.find(std::string(name)));
    prepare(stream);
    place.batch->reserve_sums(device_, {place.number}, stream);
    place.batch->accumulate(device_, {place.number}, stream);
    return note_sum(place);
  }
  /// Forgets what was accumulated since the last step.
  void discard_accumulated(Stream stream = {}) {
    prepare(stream);
    for (const auto& [key, batch] : batches_) batch->discard_accumulated(device_, stream);
    forget_sums();
  }
  /// Whether gradients wait for a step. Waits for the stream.
  bool accumulating(Stream stream = {}) const {
    for (const auto& [key, batch] : batches_)
      if (batch->accumulating(device_, stream)) return true;
    return false;
  }

  /// Opens a tick for layer-wise steps; step(name) does so by itself, on its stream. Errors: a tick is open; clipping by global
  /// norm.
  void begin_tick(Stream stream = {}) {
    if (open_) rules::begin_while_open(now(stream));
    check_layer_wise();
    prepare(stream);
    clock_.advance(device_, stream);
    refreshes_ = !device_.capturing(stream) && basis_may_be_due();
    ++turn_;
    open_ = true;
  }

  /// Enqueues the kernels of one tensor alone, from inside the backward pass for example: behind what computed its gradient, on
  /// the same stream. Errors, before anything is changed: an unknown name; a second step in one tick; clipping by global norm.
  void step(std::string_view name, Stream stream = {}) {
    Place& place = find(name);
    check_turn(name, place, stream);
    if (!open_) begin_tick(stream);
    const Scope scope{place.number};
    if ((refreshes_ || until_refresh_ <= 0) && !device_.capturing(stream)) refresh(*place.batch, scope, stream);
    place.batch->look(device_, scope, stream);
    place.batch->act(device_, scope, stream);
    place.turn = turn_;
    place.waits = false;
  }
  /// Rebinds, for which it waits, and steps.
  template <class W, class G>
  void step(std::string_view name, const MatrixView<W>& weight, const MatrixView<G>& gradient, Stream stream = {}) {
    check_turn(name, find(name), stream);
    this->rebind(name, weight, gradient, stream);
    step(name, stream);
  }

  /// Closes the tick that step(name) opened. Enqueues nothing. Error: a tensor that was not stepped, unless it has no gradient.
  void end_tick(Stream stream = {}) {
    if (!open_) rules::end_without_tick();
    rules::Missing missing;
    for (const auto* entry : in_order_) {
      const Place& place = entry->second;
      if (place.turn != turn_ && (place.waits || has_gradient(place))) missing.add(entry->first);
    }
    if (missing.any()) missing.refuse(in_order_.size(), now(stream));
    open_ = false;
  }

#if APOLLO_HAS_FILES
  // --- checkpoints ------------------------------------------------------------------------------------------------------

  /// Writes the state of every tensor to a file as apollo::save does: an optimizer on the host can load it, and one on a device
  /// what the host saved. Waits for the stream. Peak memory of the host: the state. Errors: an open tick; accumulated gradients;
  /// anything the file system says; the old file, if there was one, is then as it was.
  void save(const std::string& path, Stream stream = {}) {
    if (open_) rules::save_while_open(now(stream));
    if (accumulating(stream)) rules::save_while_accumulating();
    prepare(stream);
    checkpoint::write_file(read_states(stream), tick(stream), path);
  }

  /// Replaces the state of every tensor by that of a file of save() or apollo::save. Everything is read and compared first, all
  /// mismatches are reported in one error, and then nothing has changed. Counts of skipped steps begin anew. Waits for the
  /// stream; a captured graph stays right. Peak memory of the host: the state. Errors also: an open tick; accumulated
  /// gradients.
  void load(const std::string& path, Stream stream = {}) {
    if (open_) rules::load_while_open(now(stream));
    if (accumulating(stream)) rules::load_while_accumulating();
    prepare(stream);
    const auto states = read_states(stream);
    const std::int64_t last = checkpoint::read(states, InputFile(path), [] {});
    std::size_t i = 0;
    for (const auto* entry : in_order_) {
      const Place& place = entry->second;
      place.batch->write_state(device_, place.number, *states[i++], stream);
    }
    clock_.set_tick(device_, last, stream);
    until_refresh_ = 0;
  }
#endif

 private:
  void check_clipping(const std::pair<const std::string, Place>& entry) const {
    if (clip_ > 0 && entry.second.batch->sums_as_projections()) rules::clip_of_projected_sum(entry.first, clip_);
  }
  Accumulated note_sum(Place& place) {
    if (!has_gradient(place)) return Accumulated::none;
    place.waits = true;
    return place.batch->sums_as_projections() ? Accumulated::projected : Accumulated::whole;
  }
  void forget_sums() {
    for (auto& [name, place] : names_) place.waits = false;
  }

  void check_layer_wise() const {
    if (clip_ > 0) rules::layers_while_clipping(clip_);
  }
  /// Whether this tensor may be stepped now, layer-wise.
  void check_turn(std::string_view name, const Place& place, Stream stream) const {
    check_layer_wise();
    if (open_ && place.turn == turn_) rules::second_step(name, now(stream));
  }
  /// Counts a step; whether it may take a new basis. Those that are then looked at say how long there is until the next.
  bool basis_may_be_due() {
    if (--until_refresh_ > 0) return false;
    until_refresh_ = never;
    return true;
  }
  void refresh(Batch<Device>& batch, Scope scope, Stream stream) {
    const std::int64_t left = batch.refresh(device_, scope, stream);
    if (left < until_refresh_) until_refresh_ = left;
  }

  std::vector<std::unique_ptr<HostState>> read_states(Stream stream) const {
    std::vector<std::unique_ptr<HostState>> states;
    for (const auto* place : in_order_)
      states.push_back(place->second.batch->read_state(device_, place->second.number, stream));
    return states;
  }

  double clip_ = 0;
  bool refreshes_ = false;  ///< bases may be due in the open tick
  std::int64_t turn_ = 0;   ///< ticks opened layer by layer
};

template <class Device>
BasicOptimizer(const Device& device) -> BasicOptimizer<Device>;

using EmulatedOptimizer = BasicOptimizer<Emulator>;

#if defined(__CUDACC__)
/// On a CUDA device; see Gpu for the errors of having none.
using Optimizer = BasicOptimizer<Gpu>;
#endif

}  // namespace apollo::cuda
