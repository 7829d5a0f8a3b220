// SPDX-License-Identifier: Apache-2.0
// apollo::cuda: tensors that lie on a GPU. In a program compiled by nvcc cuda::Optimizer steps them; cuda::EmulatedOptimizer
// runs the same kernels on the processor, for tests, in a program of any compiler. See docs/cuda.md.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include <apollo/apollo.hpp>
#include <apollo/cuda/device.hpp>
#include <apollo/cuda/emulator.hpp>
#include <apollo/cuda/typed_batch.hpp>

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

/// A whole model on one device. Holds state, tables and scratch there; weights and gradients are the caller's and stay valid
/// until rebound. Not for concurrent use.
///
/// Everything that a step needs lies on the device: step() enqueues kernels on the given stream, a number that depends on the
/// groups and value types but not on the tensors, waits for nothing, and can be captured in a graph. Calls on different streams
/// are ordered by the caller. State: as the member's (docs/members); a record and a table's entry of some hundred bytes beside it,
/// see workspace_bytes().
template <class DeviceType>
class BasicOptimizer {
 public:
  using Device = DeviceType;
  using Stream = typename Device::Stream;

  /// Errors: those of the device.
  explicit BasicOptimizer(const Device& device = Device()) : device_(device) {}

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
    Memory<Device> input(device_, sizeof(GroupInput), {}, "a group's input");
    device_.write(input.template as<GroupInput>(), &first, sizeof(GroupInput), {});
    inputs_.reserve(inputs_.size() + 1);
    input_memory_.reserve(input_memory_.size() + 1);
    const std::size_t number = groups_.add(settings, Policies::Projection::projects);
    inputs_.push_back(first);
    input_memory_.push_back(std::move(input));
    return {number};
  }

  /// Registers a tensor and allocates its state. W and G are views of device memory without gaps, row- or column-major,
  /// float or bfloat16; W also of int8_groups, its codes and ranges on the device. The name is its identity: random streams go by it. Vectors in a group with a projection get dense moments.
  /// Errors, before anything is changed: those of make_plan; memory of the host or of another device; a view with gaps;
  /// shapes or orders that differ; a name that is taken; too little memory on the device.
  template <class Policies, class W, class G>
  void add(Group<Policies> group, std::string_view name, const MatrixView<W>& weight, const MatrixView<G>& gradient,
           Stream stream = {}) {
    using Gradient = std::remove_const_t<G>;
    check_types<W, Gradient>();
    using Dense = PolicySet<IdentityProjection, ElementScaling, typename Policies::Moments, NoLimiter,
                            typename Policies::Weights>;
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
    request.input = input_memory_[group.index].template as<GroupInput>();
    check_view(check, "weight", weight);
    request.order = memory_order(weight);
    check_gradient<W, Gradient>(check, weight.shape(), request.order, gradient);
    take_memory(request, weight, gradient);
    Place place;
    if (Policies::Projection::projects && Groups::is_vector(weight.shape())) {
      request.settings.scale = 1;
      place = insert<Dense, W, Gradient>(request, stream);
    } else {
      place = insert<Policies, W, Gradient>(request, stream);
    }
    place.order = request.order;
    place.value_bytes[0] = sizeof(W), place.value_bytes[1] = sizeof(Gradient);
    in_order_.reserve(in_order_.size() + 1);
    in_order_.push_back(&*names_.emplace(request.name, place).first);
    ids_.emplace(request.id, request.name);
    prepared_ = false;
  }
  /// Without a gradient until the next rebind, of the weight's type (float for groups): the tensor is not stepped.
  template <class Policies, class W>
  void add(Group<Policies> group, std::string_view name, const MatrixView<W>& weight, NoGradient, Stream stream = {}) {
    add(group, name, weight,
        MatrixView<const std::conditional_t<is_grouped<W>, float, W>>(nullptr, weight.rows, weight.cols,
                                                                      weight.row_stride, weight.col_stride),
        stream);
  }

  /// Gives a tensor other memory of the same shape, order and value types. Waits for the stream. Errors: as add.
  template <class W, class G>
  void rebind(std::string_view name, const MatrixView<W>& weight, const MatrixView<G>& gradient, Stream stream = {}) {
    using Gradient = std::remove_const_t<G>;
    check_types<W, Gradient>();
    const Place& place = find(name);
    const Check check{name};
    const Shape shape = place.batch->tensor(place.number).entry.setup.plan.shape;
    if (sizeof(W) != place.value_bytes[0] || sizeof(Gradient) != place.value_bytes[1])
      check.fail("it was added with values of other types");
    if (weight.shape() != shape) check.fail("a weight of shape " + text(weight.shape()) + " must be " + text(shape));
    check_view(check, "weight", weight);
    if (memory_order(weight) != place.order) check.fail("the weight's memory is ordered by the other index");
    check_gradient<W, Gradient>(check, shape, place.order, gradient);
    const bool aligned = reinterpret_cast<std::uintptr_t>(weight.data) % 16 == 0 &&
                         reinterpret_cast<std::uintptr_t>(gradient.data) % 16 == 0;
    until_refresh_ = 0;
    TensorRequest to;
    take_memory(to, weight, gradient);
    place.batch->bind(device_, place.number, to, aligned, stream);
  }

  // --- steps ------------------------------------------------------------------------------------------------------------

  /// Brings the tables to the device after tensors were added; waits for the stream. step() does so by itself, but not while
  /// a graph is captured.
  void prepare(Stream stream = {}) {
    if (prepared_) return;
    for (const auto& [key, batch] : batches_) batch->prepare(device_, stream);
    prepared_ = true;
    until_refresh_ = 0;
  }

  /// Computes the bases that are due (GaLore, Fira) from the gradients that are there. step() does so by itself, except while a
  /// graph is captured: then call it once before each replay, with that step's gradients. Where none can be due it does nothing,
  /// else it waits for the stream.
  void refresh(Stream stream = {}) {
    prepare(stream);
    if (--until_refresh_ > 0) return;
    until_refresh_ = never;
    for (const auto& [key, batch] : batches_) {
      const std::int64_t left = batch->refresh(device_, stream);
      if (left < until_refresh_) until_refresh_ = left;
    }
  }

  /// Enqueues one step of all tensors. A tensor whose gradient is not finite is skipped, its state untouched; status() tells.
  /// Errors: those of the runtime when kernels cannot be launched.
  void step(Stream stream = {}) {
    prepare(stream);
    if (!device_.capturing(stream)) refresh(stream);
    for (const auto& [key, batch] : batches_) batch->step(device_, stream);
  }

  /// Learning rates and the factor of gradients (1 / loss scale) are read by the steps enqueued after this. Waits for the
  /// stream's copy, so it is not captured: call it between replays of a graph, with the stream that the steps are on.
  template <class Policies>
  void set_lr(Group<Policies> group, double lr, Stream stream = {}) {
    groups_.set_lr(group.index, lr);
    inputs_[group.index].lr = lr;
    write_input(group.index, stream);
  }
  void gradient_scale(double factor, Stream stream = {}) {
    Check{{}}.above("gradient_scale", factor, 0);
    gradient_scale_ = factor;
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      inputs_[i].gradient_factor = factor;
      write_input(i, stream);
    }
  }

  // --- what there is ----------------------------------------------------------------------------------------------------

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

  /// Bytes of moments; of all else that lies on the device.
  Index state_bytes() const {
    Index bytes = 0;
    for (const auto& [key, batch] : batches_) bytes += batch->state_bytes();
    return bytes;
  }
  Index workspace_bytes() const {
    Index bytes = static_cast<Index>(inputs_.size() * sizeof(GroupInput));
    for (const auto& [key, batch] : batches_) bytes += batch->workspace_bytes();
    return bytes;
  }
  const Device& device() const { return device_; }

#if APOLLO_HAS_FILES
  // --- checkpoints ------------------------------------------------------------------------------------------------------

  /// Writes the state of every tensor to a file as apollo::save does: an optimizer on the host can load it, and one on a device
  /// what the host saved. Its tick is that of the file loaded before, and the steps since, taken or skipped, of whichever tensor
  /// has had most. Waits for the stream. Peak memory of the host: the state. Errors: anything the file system says; the old
  /// file, if there was one, is then as it was.
  void save(const std::string& path, Stream stream = {}) {
    prepare(stream);
    std::int64_t most = 0;
    for (const auto* entry : in_order_) {
      const Place& place = entry->second;
      const Progress p = place.batch->progress(device_, place.number, stream);
      if (p.record.steps + p.skipped > most) most = p.record.steps + p.skipped;
    }
    checkpoint::write_file(read_states(stream), loaded_tick_ + most, path);
  }

  /// Replaces the state of every tensor by that of a file of save() or apollo::save. Everything is read and compared first, all
  /// mismatches are reported in one error, and then nothing has changed. Counts of skipped steps begin anew. Waits for the
  /// stream; a captured graph stays right. Peak memory of the host: the state.
  void load(const std::string& path, Stream stream = {}) {
    prepare(stream);
    const auto states = read_states(stream);
    const std::int64_t tick = checkpoint::read(states, InputFile(path), [] {});
    std::int64_t most = 0;
    std::size_t i = 0;
    for (const auto* entry : in_order_) {
      const Place& place = entry->second;
      if (states[i]->record().steps > most) most = states[i]->record().steps;
      place.batch->write_state(device_, place.number, *states[i++], stream);
    }
    loaded_tick_ = tick - most;
    until_refresh_ = 0;
  }
#endif

 private:
  struct Place {
    Batch<Device>* batch = nullptr;
    std::size_t number = 0;
    Order2D order = Order2D::row_major;
    std::size_t value_bytes[2] = {};
  };

  template <class Policies, class W, class G>
  Place insert(const TensorRequest& request, Stream stream) {
    using Typed = TypedBatch<Device, Policies, W, G>;
    const void* key = &key_of<Typed>;
    const auto found = batches_.find(key);
    std::unique_ptr<Batch<Device>> fresh;
    if (found == batches_.end()) fresh = std::make_unique<Typed>();
    Batch<Device>* batch = fresh ? fresh.get() : found->second.get();
    const std::size_t number = batch->add(device_, request, stream);
    if (fresh) batches_.emplace(key, std::move(fresh));
    return {batch, number};
  }

  template <class W, class Gradient>
  static void check_types() {
    static_assert(
        std::is_same_v<W, float> || std::is_same_v<W, bfloat16> || is_grouped<W>,
        "apollo: apollo::cuda steps weights of float, apollo::bfloat16 or apollo::int8_groups; see docs/cuda.md.");
    static_assert(std::is_same_v<Gradient, float> || std::is_same_v<Gradient, bfloat16>,
                  "apollo: apollo::cuda takes gradients of float or apollo::bfloat16; see docs/cuda.md.");
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

  template <class T>
  void check_view(const Check& check, const char* what, const MatrixView<T>& view) const {
    if (view.rows < 1 || view.cols < 1) return;  // make_plan tells
    if (view.data == nullptr) check.fail(std::string("the ") + what + " has no data");
    const bool rows = memory_order(view) == Order2D::row_major;
    const Index lines = rows ? view.rows : view.cols, length = rows ? view.cols : view.rows;
    if ((length > 1 && (rows ? view.col_stride : view.row_stride) != 1) ||
        (lines > 1 && (rows ? view.row_stride : view.col_stride) != length))
      check.fail(std::string("the ") + what + " of shape " + text(view.shape()) + " and strides " +
                 text(view.row_stride) + ", " + text(view.col_stride) +
                 " has gaps; apollo::cuda steps row- or column-major matrices without");
    const std::string refused = device_.refuses(view.data, view.size() * static_cast<Index>(sizeof(T)));
    if (!refused.empty()) check.fail(std::string("the ") + what + " " + refused);
    if constexpr (is_grouped<T>) check_groups(check, view);
  }
  void check_groups(const Check& check, const MatrixView<int8_groups>& view) const {
    if (!is_group_size(view.group_size))
      check.fail("group_size = " + text(view.group_size) + " must be 32, 64, 128 or 256");
    if (view.row_stride != view.cols || view.col_stride != 1)
      check.fail("a weight in 8-bit groups must be row-major, its rows adjacent");
    if (view.ranges == nullptr) check.fail("the weight has no ranges of its groups");
    const Index groups = BlockedLines::of(view.rows, view.cols).count(view.group_size);
    const std::string refused = device_.refuses(view.ranges, groups * static_cast<Index>(sizeof(GroupRange)));
    if (!refused.empty()) check.fail("the array of the weight's ranges " + refused);
  }
  template <class W, class G>
  void check_gradient(const Check& check, Shape shape, Order2D order, const MatrixView<const G>& gradient) const {
    if (gradient.data == nullptr) return;
    if (!(gradient.shape() == shape))
      check.fail("a gradient of shape " + text(gradient.shape()) + " must be " + text(shape));
    check_view(check, "gradient", gradient);
    if (memory_order(gradient) != order) check.fail("weight and gradient must be ordered by the same index in memory");
  }

  std::vector<std::unique_ptr<HostState>> read_states(Stream stream) const {
    std::vector<std::unique_ptr<HostState>> states;
    for (const auto* place : in_order_)
      states.push_back(place->second.batch->read_state(device_, place->second.number, stream));
    return states;
  }

  const Place& find(std::string_view name) const {
    const auto found = names_.find(std::string(name));
    if (found == names_.end()) refuse("there is no tensor " + quote(name));
    return found->second;
  }

  void write_input(std::size_t group, Stream stream) {
    device_.write(input_memory_[group].template as<GroupInput>(), &inputs_[group], sizeof(GroupInput), stream);
  }

  Device device_;
  Groups groups_;
  std::vector<GroupInput> inputs_;
  double gradient_scale_ = 1;
  std::vector<Memory<Device>> input_memory_;
  std::map<const void*, std::unique_ptr<Batch<Device>>> batches_;  ///< by key_of
  std::map<std::string, Place> names_;
  std::vector<const std::pair<const std::string, Place>*> in_order_;  ///< of registration
  std::map<TensorId, std::string> ids_;
  std::int64_t loaded_tick_ = 0;  ///< of the checkpoint that was loaded last, less the steps that its tensors had taken
  bool prepared_ = true;
  std::int64_t until_refresh_ = 0;  ///< calls of refresh() before which no basis can be due
};

using EmulatedOptimizer = BasicOptimizer<Emulator>;

#if defined(__CUDACC__)
/// On a CUDA device; see Gpu for the errors of having none.
using Optimizer = BasicOptimizer<Gpu>;
#endif

}  // namespace apollo::cuda
