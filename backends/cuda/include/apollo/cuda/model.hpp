// SPDX-License-Identifier: Apache-2.0
// What an optimizer on a device has: groups of options, tensors by name, the memory that they are bound to, and how far each has
// come.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <apollo/apollo.hpp>
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

/// The tensors of a model on one device. cuda.hpp steps them.
template <class DeviceType>
class Model {
 public:
  using Device = DeviceType;
  using Stream = typename Device::Stream;

  /// Has projections and lifts of dense ranks of product_rank or more computed by the device's library for matrix products, in this
  /// arithmetic. On a GPU it needs <apollo/cuda/blas.hpp>. Where this is not called our kernels compute them, in fp32 and double,
  /// but of singular bases, whose library multiplies too: in fp32. Errors: there are tensors already; those of the library.
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
  /// float or bfloat16; W also of int8_groups, its codes and ranges on the device. The name is its identity: random streams go by
  /// it. Vectors in a group with a projection get dense moments. Errors, before anything is changed: those of make_plan; memory of
  /// the host or of another device; a view with gaps; shapes or orders that differ; a name that is taken; too little memory on the
  /// device.
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
    take_memory(request, weight, gradient);
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
  /// Without a gradient until the next rebind, of the weight's type (float for groups): the tensor is not stepped.
  template <class Policies, class W>
  void add(Group<Policies> group, std::string_view name, const MatrixView<W>& weight, NoGradient, Stream stream = {}) {
    using Gradient = std::conditional_t<is_grouped<W>, float, W>;
    add(group, name, weight,
        MatrixView<const Gradient>(nullptr, weight.rows, weight.cols, weight.row_stride, weight.col_stride), stream);
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
    bind(find(name), weight, gradient, stream);
  }
  template <class W>
  void rebind(std::string_view name, const MatrixView<W>& weight, NoGradient, Stream stream = {}) {
    check_weight(name, weight);
    bind(find(name), weight, MatrixView<const float>(), stream);
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
    for (std::size_t e = 0; e < weights.size(); ++e) bind(find(part(e)), weights[e], gradients[e], stream);
  }

  // --- what their steps read --------------------------------------------------------------------------------------------

  /// Read by the steps enqueued afterwards. Both wait for the stream's copy, so they are not captured: call them between replays
  /// of a graph, with the stream that the steps are on.
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
  /// Tensors added from now on refresh their projections in different steps, as apollo::Optimizer's. Error: tensors were added
  /// before.
  void spread_refreshes() {
    if (!in_order_.empty()) rules::spread_after_add(in_order_.size());
    spread_ = true;
  }

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

  /// Bytes of moments and bases, of the model, a tensor or a group.
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
  /// Bytes of all else that lies on the device.
  Index workspace_bytes() const {
    Index bytes = static_cast<Index>(inputs_.size() * 2 * sizeof(GroupInput)) + clock_.bytes();
    for (const auto& [key, batch] : batches_) bytes += batch->workspace_bytes();
    return products_ == nullptr ? bytes : bytes + products_->bytes();
  }
  const Device& device() const { return device_; }

 protected:
  struct Place {
    Batch<Device>* batch = nullptr;
    std::size_t number = 0;
    std::size_t group = 0;
    Order2D order = Order2D::row_major;
    std::size_t value_bytes[2] = {};
    bool waits = false;     ///< gradients were added to its sum since its last step, as far as the calls say
    std::int64_t turn = 0;  ///< the last tick, of those opened layer by layer, in which it was stepped
  };

  explicit Model(const Device& device) : device_(device), clock_(device_) {}

  bool has_gradient(const Place& place) const { return place.batch->tensor(place.number).entry.gradient != nullptr; }
  const Place& find(std::string_view name) const {
    const auto found = names_.find(std::string(name));
    if (found == names_.end())
      refuse("no tensor is named " + quote(name) + " (" + text(static_cast<Index>(names_.size())) + " are registered)");
    return found->second;
  }
  Place& find(std::string_view name) { return const_cast<Place&>(std::as_const(*this).find(name)); }

  /// The open tick, for an error.
  std::string now(Stream stream) const { return device_.capturing(stream) ? "(being captured)" : text(tick(stream)); }

  Device device_;
  DeviceClock<Device> clock_;
  std::map<const void*, std::unique_ptr<Batch<Device>>> batches_;  ///< by key_of
  std::map<std::string, Place> names_;
  std::vector<const std::pair<const std::string, Place>*> in_order_;  ///< of registration
  bool open_ = false;                                                 ///< a tick, layer by layer
  std::int64_t until_refresh_ = 0;                                    ///< ticks before which no basis can be due

 private:
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
  template <class W, class G>
  static void take_memory(TensorRequest& request, const MatrixView<W>& weight, const MatrixView<G>& gradient) {
    request.weight = weight.data;
    request.gradient = gradient.data;
    if constexpr (is_grouped<W>) {
      request.ranges = weight.ranges;
      while (Index{1} << request.group_bits < weight.group_size) ++request.group_bits;
    }
  }
  template <class W, class G>
  void bind(const Place& place, const MatrixView<W>& weight, const MatrixView<G>& gradient, Stream stream) {
    const bool aligned = reinterpret_cast<std::uintptr_t>(weight.data) % 16 == 0 &&
                         reinterpret_cast<std::uintptr_t>(gradient.data) % 16 == 0;
    until_refresh_ = 0;
    TensorRequest to;
    take_memory(to, weight, gradient);
    place.batch->bind(device_, place.number, to, aligned, stream);
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

  void check_groups() const {
    groups_.check_matrices([&](std::size_t group) {
      for (const auto* entry : in_order_)
        if (entry->second.group == group) return entry->first;
      return std::string();
    });
  }
  template <class Takes>
  Index sum_of_state(Takes&& takes) const {
    Index bytes = 0;
    for (const auto* entry : in_order_)
      if (takes(entry->second)) bytes += entry->second.batch->state_bytes(entry->second.number);
    return bytes;
  }

  /// What is read of gradients, and behind it of sums, which have been scaled.
  void write_input(const Memory<Device>& memory, const GroupInput& input, Stream stream) const {
    const GroupInput both[2] = {input, {input.lr, 1}};
    device_.write(memory.template as<GroupInput>(), both, sizeof both, stream);
  }

  std::shared_ptr<Products<Device>> products_;
  bool asked_for_products_ = false;  ///< by math(), and not by a basis
  Groups groups_;
  std::vector<GroupInput> inputs_;
  std::vector<Memory<Device>> input_memory_;
  double gradient_scale_ = 1;
  std::map<TensorId, std::string> ids_;
  bool spread_ = false;
  bool prepared_ = true;
};

}  // namespace apollo::cuda
