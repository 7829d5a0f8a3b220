// SPDX-License-Identifier: Apache-2.0
// apollo::cuda: tensors that lie on a GPU. In a program compiled by nvcc cuda::Optimizer steps them; cuda::EmulatedOptimizer
// runs the same kernels on the processor, for tests, in a program of any compiler. See docs/cuda.md.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include <apollo/apollo.hpp>
#include <apollo/cuda/clock.hpp>
#include <apollo/cuda/device.hpp>
#include <apollo/cuda/emulator.hpp>
#include <apollo/cuda/typed_batch.hpp>
#include <apollo/cuda/views.hpp>

namespace apollo::cuda {

/// Its address stands for a type. Not const: linkers may fold constants that are equal.
template <class T>
inline char key_of = 0;

/// How far a tensor has come, read back from the device.
struct TensorStatus {
  std::int64_t steps = 0;
  std::int64_t skipped = 0;             ///< steps that were not taken: the gradient was not finite
  double gradient_norm = not_measured;  ///< of the last step, as scaled
  double update_norm = not_measured;    ///< of the last structured update, limited
  double limiter = 1;
};

/// Where a model stands, read back from the device.
struct ModelStatus {
  std::int64_t tick = 0;
  double schedule_factor = 1;         ///< of that tick
  double global_norm = not_measured;  ///< of the gradients that it stepped, as scaled; measured when clipping
  double clip_factor = 1;             ///< by which it multiplied them
};

/// A whole model on one device. Holds state, tables and scratch there; weights and gradients are the caller's and stay valid
/// until rebound. Not for concurrent use.
///
/// Everything that a step needs lies on the device: step() enqueues kernels on the given stream, a number that depends on the
/// groups and value types but not on the tensors, waits for nothing, and can be captured in a graph. Calls on different streams
/// are ordered by the caller.
///
/// Ticks are those of apollo::Optimizer: step() is one; layer by layer, the first step(name) opens a tick, every tensor is stepped
/// once, and end_tick() closes it. They are counted on the device, so that the replay of a graph is a tick too. State: as the member's (docs/members); a record and a table's entry of some hundred bytes beside it,
/// see workspace_bytes().
template <class DeviceType>
class BasicOptimizer {
 public:
  using Device = DeviceType;
  using Stream = typename Device::Stream;

  /// Errors: those of the device.
  explicit BasicOptimizer(const Device& device = Device()) : device_(device), clock_(device_) {}

  /// Has projections and lifts of dense ranks of product_rank or more computed by the device's library for matrix products, in this
  /// arithmetic. On a GPU it needs <apollo/cuda/blas.hpp>. Where this is not called our kernels compute them, in fp32 and double, but
  /// of singular bases, whose library multiplies too: in fp32. Errors: there are tensors already; those of the library.
  void math(Math math) {
    if (!in_order_.empty()) refuse("the arithmetic of matrix products must be chosen before the first tensor is added");
    products_ = make_products(math);
    asked_for_products_ = true;
  }

  // --- groups and tensors -----------------------------------------------------------------------------------------------

  /// A group of tensors that share options, by the member's option type ...
  template <class Options>
  auto add_group(const Options& options) {
    return add_group<typename MemberOf<Options>::type>(options);
  }
  /// ... or by the member: add_group<apollo::AdamW<AdamMoments<bfloat16>>>(options). Errors: options out of range; memory.
  template <class Member>
  Group<typename Member::Policies> add_group(const typename Member::Options& options) {
    using Policies = typename Member::Policies;
    const Settings settings = checked_settings<Policies>(options, {});
    const GroupInput first{settings.lr, gradient_scale_};
    Memory<Device> input(device_, 2 * sizeof(GroupInput), {}, "a group's input");
    write_input(input, first, {});
    inputs_.reserve(inputs_.size() + 1);
    input_memory_.reserve(input_memory_.size() + 1);
    const std::size_t number = groups_.add(settings, Policies::Projection::projects);
    inputs_.push_back(first);
    input_memory_.push_back(std::move(input));
    return {number};
  }

  /// Registers a tensor and allocates its state. W and G are views of device memory without gaps, row- or column-major,
  /// float or bfloat16. The name is its identity: random streams go by it. Vectors in a group with a projection get dense moments.
  /// Errors, before anything is changed: those of make_plan; memory of the host or of another device; a view with gaps;
  /// shapes or orders that differ; a name that is taken; too little memory on the device.
  template <class Policies, class W, class G>
  void add(Group<Policies> group, std::string_view name, const MatrixView<W>& weight, const MatrixView<G>& gradient,
           Stream stream = {}) {
    using Gradient = std::remove_const_t<G>;
    check_types<W, Gradient>();
    using Dense = PolicySet<IdentityProjection, ElementScaling, typename Policies::Moments, NoLimiter,
                            typename Policies::Weights>;
    if (open_) rules::add_while_open(name, now(stream));
    groups_.check(group.index, name);
    check_name(name);
    const Check check{name};
    if (names_.count(std::string(name)) > 0) check.fail("the name is taken");
    TensorRequest request;
    request.name = name;
    request.id = tensor_id(name);
    request.shape = weight.shape();
    if (const auto other = ids_.find(request.id); other != ids_.end())
      check.fail("its id is also that of tensor " + quote(other->second) + "; rename one of them");
    request.settings = groups_.settings(group.index);
    if (spread_) request.settings.refresh_phase = static_cast<Index>(request.id) % request.settings.update_proj_gap;
    request.input = input_memory_[group.index].template as<GroupInput>();
    request.clock = clock_.get();
    request.number = static_cast<Index>(in_order_.size());
    check_view(device_, check, "weight", weight);
    request.order = memory_order(weight);
    check_gradient<Device, Gradient>(device_, check, weight.shape(), request.order, gradient);
    request.weight = weight.data;
    request.gradient = gradient.data;
    Place place;
    if (Policies::Projection::projects && Groups::is_vector(weight.shape())) {
      request.settings.scale = 1;
      place = insert<Dense, W, Gradient>(request, stream);
    } else {
      place = insert<Policies, W, Gradient>(request, stream);
    }
    place.group = group.index;
    place.order = request.order;
    place.value_bytes[0] = sizeof(W), place.value_bytes[1] = sizeof(Gradient);
    in_order_.reserve(in_order_.size() + 1);
    in_order_.push_back(&*names_.emplace(request.name, place).first);
    ids_.emplace(request.id, request.name);
    groups_.count(group.index, request.shape);
    prepared_ = false;
  }
  /// Without a gradient until the next rebind, of the weight's type: the tensor is not stepped.
  template <class Policies, class W>
  void add(Group<Policies> group, std::string_view name, const MatrixView<W>& weight, NoGradient, Stream stream = {}) {
    add(group, name, weight,
        MatrixView<const W>(nullptr, weight.rows, weight.cols, weight.row_stride, weight.col_stride), stream);
  }

  /// Tensors of any number of dimensions; a batch of E matrices is registered as name[0] ... name[E - 1].
  template <class Policies, class W, class G>
  void add(Group<Policies> group, std::string_view name, const TensorView<W>& weight, const TensorView<G>& gradient,
           Unfold how = Unfold::none, Stream stream = {}) {
    const std::size_t before = in_order_.size();
    const std::string tensor(name);
    parts::add(
        name, unfold(weight, how, tensor), unfold(gradient, how, tensor), how,
        [&](const std::string& part, const MatrixView<W>& w, const MatrixView<G>& g) {
          add(group, part, w, g, stream);
        },
        [&] { remove_from(before); });
  }
  template <class Policies, class W>
  void add(Group<Policies> group, std::string_view name, const TensorView<W>& weight, NoGradient,
           Unfold how = Unfold::none, Stream stream = {}) {
    add(group, name, weight, TensorView<const W>(nullptr, weight.extents), how, stream);
  }

  /// Gives a tensor other memory of the same shape, order and value types. Waits for the stream. Errors: as add.
  template <class W, class G>
  void rebind(std::string_view name, const MatrixView<W>& weight, const MatrixView<G>& gradient, Stream stream = {}) {
    check_rebind<W, std::remove_const_t<G>>(name, weight, gradient);
    bind(find(name), weight.data, gradient.data, stream);
  }
  template <class W>
  void rebind(std::string_view name, const MatrixView<W>& weight, NoGradient, Stream stream = {}) {
    check_weight(name, weight);
    bind(find(name), weight.data, nullptr, stream);
  }
  /// The same of tensors of any number of dimensions, unfolded as they were when they were added.
  template <class W, class G>
  void rebind(std::string_view name, const TensorView<W>& weight, const TensorView<G>& gradient,
              Unfold how = Unfold::none, Stream stream = {}) {
    const std::string tensor(name);
    const auto weights = unfold(weight, how, tensor);
    const auto gradients = unfold(gradient, how, tensor);
    parts::check_batch(name, weights.size(), gradients.size(), how,
                       [&](const std::string& part) { return names_.count(part) > 0; });
    const auto part = [&](std::size_t e) { return parts::name_of(name, e, how); };
    for (std::size_t e = 0; e < weights.size(); ++e)
      check_rebind<W, std::remove_const_t<G>>(part(e), weights[e], gradients[e]);
    for (std::size_t e = 0; e < weights.size(); ++e) bind(find(part(e)), weights[e].data, gradients[e].data, stream);
  }

  // --- learning rates, scaling, clipping --------------------------------------------------------------------------------

  /// These are read by the steps enqueued afterwards. They wait for the stream's copy, so they are not captured: call them
  /// between replays of a graph, with the stream that the steps are on.
  ///
  /// One schedule for all groups: lr = group's lr * factor(tick).
  void schedule(const Schedule& schedule, Stream stream = {}) { clock_.schedule(device_, schedule, stream); }
  template <class Policies>
  void set_lr(Group<Policies> group, double lr, Stream stream = {}) {
    groups_.set_lr(group.index, lr);
    inputs_[group.index].lr = lr;
    write_input(input_memory_[group.index], inputs_[group.index], stream);
  }
  /// The group's lr as set, before the schedule.
  template <class Policies>
  double lr(Group<Policies> group) const {
    groups_.check(group.index);
    return groups_.lr(group.index);
  }
  /// Gradients are multiplied by this in every step: 1 / loss scale.
  void gradient_scale(double factor, Stream stream = {}) {
    Check{{}}.above("gradient_scale", factor, 0);
    gradient_scale_ = factor;
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      inputs_[i].gradient_factor = factor;
      write_input(input_memory_[i], inputs_[i], stream);
    }
  }
  /// step() scales all gradients down so that their common norm is at most this; infinity or 0 switches it off. A tensor that is
  /// skipped does not count. Costs no further read: every step looks at its gradient first. A graph that was captured without
  /// clipping stays without; one with it takes another bound, and none.
  void clip_global_norm(double norm, Stream stream = {}) {
    clip_ = checked_clip(norm);
    clock_.clip(device_, clip_, stream);
  }
  /// Tensors added from now on refresh their projections in different steps, as apollo::Optimizer's. Error: tensors were added
  /// before.
  void spread_refreshes() {
    if (!in_order_.empty()) rules::spread_after_add(in_order_.size());
    spread_ = true;
  }

  // --- steps ------------------------------------------------------------------------------------------------------------

  /// Brings the tables to the device after tensors were added; waits for the stream. step() does so by itself, but not while
  /// a graph is captured. Error: a group with a projection holds vectors only.
  void prepare(Stream stream = {}) {
    if (prepared_) return;
    check_groups();
    clock_.reserve(device_, in_order_.size(), stream);
    for (const auto& [key, batch] : batches_) batch->prepare(device_, stream);
    prepared_ = true;
    until_refresh_ = 0;
  }

  /// Computes the bases that are due (GaLore, Q-GaLore, Fira) from the gradients that are there. step() does so by itself, except while a
  /// graph is captured: then call it once before each replay, with that step's gradients. Where none can be due it does nothing,
  /// else it waits for the stream.
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
    rebind(name, weight, gradient, stream);
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

  // --- what there is ----------------------------------------------------------------------------------------------------

  /// The last tick, the open one if one is. Waits for the stream.
  std::int64_t tick(Stream stream = {}) const { return clock_.read(device_, stream).tick; }
  bool tick_open() const { return open_; }
  /// The same and what it did to all tensors. Waits for the stream.
  ModelStatus model_status(Stream stream = {}) const {
    const Clock clock = clock_.read(device_, stream);
    return {clock.tick, clock.lr_factor, clock.global_norm, clock.clip_factor};
  }
  /// Waits for the stream.
  TensorStatus status(std::string_view name, Stream stream = {}) const {
    const Place& place = find(name);
    const Progress p = place.batch->progress(device_, place.number, stream);
    return {p.record.steps, p.skipped, p.gradient_norm, p.update_norm, p.limiter};
  }
  /// A moment buffer as it is stored, in the order of memory: moment_bytes(name) of them. Waits for the stream. Errors: a
  /// number that the member has no buffer of.
  void read_moment(std::string_view name, int number, void* to, Stream stream = {}) const {
    const Place& place = find(name);
    const auto& tensor = place.batch->tensor(place.number);
    if (number < 0 || number >= tensor.moment_buffers)
      Check{name}.fail("moment buffer " + text(Index{number}) + " must be at least 0 and below " +
                       text(Index{tensor.moment_buffers}));
    device_.read(to, tensor.entry.moment[number], tensor.moment_bytes, stream);
  }
  Index moment_bytes(std::string_view name) const {
    const Place& place = find(name);
    return place.batch->tensor(place.number).moment_bytes;
  }

  /// Bytes of moments and bases, of the model, a tensor or a group; of all else that lies on the device.
  Index state_bytes() const {
    return sum_of_state([](const Place&) { return true; });
  }
  Index state_bytes(std::string_view name) const {
    const Place& place = find(name);
    return place.batch->state_bytes(place.number);
  }
  template <class Policies>
  Index state_bytes(Group<Policies> group) const {
    groups_.check(group.index);
    return sum_of_state([&](const Place& place) { return place.group == group.index; });
  }
  /// Bytes of the sums of micro-batches.
  Index accumulation_bytes() const {
    Index bytes = 0;
    for (const auto& [name, place] : names_) bytes += place.batch->tensor(place.number).sum.bytes();
    return bytes;
  }
  Index accumulation_bytes(std::string_view name) const {
    const Place& place = find(name);
    return place.batch->tensor(place.number).sum.bytes();
  }
  Index workspace_bytes() const {
    Index bytes = static_cast<Index>(inputs_.size() * 2 * sizeof(GroupInput)) + clock_.bytes();
    for (const auto& [key, batch] : batches_) bytes += batch->workspace_bytes();
    return products_ == nullptr ? bytes : bytes + products_->bytes();
  }
  const Device& device() const { return device_; }

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
    const std::int64_t tick = checkpoint::read(states, InputFile(path), [] {});
    std::size_t i = 0;
    for (const auto* entry : in_order_) {
      const Place& place = entry->second;
      place.batch->write_state(device_, place.number, *states[i++], stream);
    }
    clock_.set_tick(device_, tick, stream);
    until_refresh_ = 0;
  }
#endif

 private:
  struct Place {
    Batch<Device>* batch = nullptr;
    std::size_t number = 0;
    std::size_t group = 0;
    Order2D order = Order2D::row_major;
    std::size_t value_bytes[2] = {};
    bool waits = false;     ///< gradients were added to its sum since its last step, as far as the calls say
    std::int64_t turn = 0;  ///< the last tick, of those opened layer by layer, in which it was stepped
  };

  template <class Policies, class W, class G>
  Place insert(const TensorRequest& request, Stream stream) {
    using Typed = TypedBatch<Device, Policies, W, G>;
    const void* key = &key_of<Typed>;
    const auto found = batches_.find(key);
    std::unique_ptr<Batch<Device>> fresh;
    if (found == batches_.end()) {
      fresh = std::make_unique<Typed>();
      if constexpr (Composition<Policies>::has_basis)
        if (products_ == nullptr) products_ = make_products(Math::fp32);
      if (asked_for_products_ || Composition<Policies>::has_basis) fresh->multiply_by(products_);
    }
    Batch<Device>* batch = fresh ? fresh.get() : found->second.get();
    const std::size_t number = batch->add(device_, request, stream);
    if (fresh) batches_.emplace(key, std::move(fresh));
    return {batch, number};
  }

  std::shared_ptr<Products<Device>> make_products(Math math) const {
    using Library = typename ProductsOf<Device>::type;
    static_assert(
        !std::is_same_v<Library, void>,
        "apollo: the arithmetic of matrix products on a GPU needs #include <apollo/cuda/blas.hpp> before it is "
        "chosen, and apollo::cuda_blas to be linked; see docs/cuda.md.");
    if constexpr (!std::is_same_v<Library, void>)
      return std::make_shared<Library>(device_, math);
    else
      return nullptr;
  }

  template <class W>
  void check_weight(std::string_view name, const MatrixView<W>& weight) const {
    const Place& place = find(name);
    const Check check{name};
    const Shape shape = place.batch->tensor(place.number).entry.setup.plan.shape;
    if (sizeof(W) != place.value_bytes[0]) check.fail("it was added with values of other types");
    if (weight.shape() != shape) check.fail("a weight of shape " + text(weight.shape()) + " must be " + text(shape));
    check_view(device_, check, "weight", weight);
    if (memory_order(weight) != place.order) check.fail("the weight's memory is ordered by the other index");
  }
  template <class W, class G>
  void check_rebind(std::string_view name, const MatrixView<W>& weight, const MatrixView<const G>& gradient) const {
    check_types<W, G>();
    const Place& place = find(name);
    const Check check{name};
    if (sizeof(G) != place.value_bytes[1]) check.fail("it was added with values of other types");
    check_weight(name, weight);
    check_gradient<Device, G>(device_, check, weight.shape(), place.order, gradient);
  }
  void bind(const Place& place, void* weight, const void* gradient, Stream stream) {
    const bool aligned =
        reinterpret_cast<std::uintptr_t>(weight) % 16 == 0 && reinterpret_cast<std::uintptr_t>(gradient) % 16 == 0;
    until_refresh_ = 0;
    place.batch->bind(device_, place.number, weight, gradient, aligned, stream);
  }

  /// Takes back the tensors from number `first` on, none of which has been stepped.
  void remove_from(std::size_t first) {
    for (; in_order_.size() > first; in_order_.pop_back()) {
      const auto& [name, place] = *in_order_.back();
      const TensorSetup& setup = place.batch->tensor(place.number).entry.setup;
      groups_.uncount(place.group, setup.plan.shape);
      ids_.erase(setup.id);
      place.batch->remove_last();
      names_.erase(names_.find(name));
    }
  }

  bool has_gradient(const Place& place) const { return place.batch->tensor(place.number).entry.gradient != nullptr; }
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

  void check_groups() const {
    groups_.check_matrices([&](std::size_t group) {
      for (const auto* entry : in_order_)
        if (entry->second.group == group) return entry->first;
      return std::string();
    });
  }
  void check_layer_wise() const {
    if (clip_ > 0) rules::layers_while_clipping(clip_);
  }
  /// Whether this tensor may be stepped now, layer-wise.
  void check_turn(std::string_view name, const Place& place, Stream stream) const {
    check_layer_wise();
    if (open_ && place.turn == turn_) rules::second_step(name, now(stream));
  }
  /// The open tick, for an error.
  std::string now(Stream stream) const { return device_.capturing(stream) ? "(being captured)" : text(tick(stream)); }

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

  template <class Takes>
  Index sum_of_state(Takes&& takes) const {
    Index bytes = 0;
    for (const auto* entry : in_order_)
      if (takes(entry->second)) bytes += entry->second.batch->state_bytes(entry->second.number);
    return bytes;
  }

  std::vector<std::unique_ptr<HostState>> read_states(Stream stream) const {
    std::vector<std::unique_ptr<HostState>> states;
    for (const auto* place : in_order_)
      states.push_back(place->second.batch->read_state(device_, place->second.number, stream));
    return states;
  }

  const Place& find(std::string_view name) const {
    const auto found = names_.find(std::string(name));
    if (found == names_.end())
      refuse("no tensor is named " + quote(name) + " (" + text(static_cast<Index>(names_.size())) + " are registered)");
    return found->second;
  }
  Place& find(std::string_view name) { return const_cast<Place&>(std::as_const(*this).find(name)); }

  /// What is read of gradients, and behind it of sums, which have been scaled.
  void write_input(const Memory<Device>& memory, const GroupInput& input, Stream stream) const {
    const GroupInput both[2] = {input, {input.lr, 1}};
    device_.write(memory.template as<GroupInput>(), both, sizeof both, stream);
  }

  Device device_;
  DeviceClock<Device> clock_;
  std::shared_ptr<Products<Device>> products_;
  bool asked_for_products_ = false;  ///< by math(), and not by a basis
  Groups groups_;
  std::vector<GroupInput> inputs_;
  double gradient_scale_ = 1;
  std::vector<Memory<Device>> input_memory_;
  std::map<const void*, std::unique_ptr<Batch<Device>>> batches_;  ///< by key_of
  std::map<std::string, Place> names_;
  std::vector<const std::pair<const std::string, Place>*> in_order_;  ///< of registration
  std::map<TensorId, std::string> ids_;
  double clip_ = 0;
  bool spread_ = false;
  bool prepared_ = true;
  bool open_ = false;               ///< a tick, layer by layer
  bool refreshes_ = false;          ///< in which bases may be due
  std::int64_t turn_ = 0;           ///< ticks opened so
  std::int64_t until_refresh_ = 0;  ///< ticks before which no basis can be due
};

using EmulatedOptimizer = BasicOptimizer<Emulator>;

#if defined(__CUDACC__)
/// On a CUDA device; see Gpu for the errors of having none.
using Optimizer = BasicOptimizer<Gpu>;
#endif

}  // namespace apollo::cuda
