// SPDX-License-Identifier: Apache-2.0
// Optimizer: a whole model. Groups of options, tensors by name, one clock, schedules, clipping, layer-wise steps.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include <apollo/optimizer/json.hpp>
#include <apollo/optimizer/named.hpp>
#include <apollo/optimizer/parameter.hpp>
#include <apollo/optimizer/schedule.hpp>
#include <apollo/tensor/tensor_view.hpp>

namespace apollo {

/// In place of a gradient: there is none for this tensor until the next rebind. It is skipped and reported.
struct NoGradient {};
inline constexpr NoGradient no_gradient{};

/// What add_group returns. The policies are part of its type, so that add() knows what to instantiate.
template <class Policies>
struct Group {
  std::size_t index = 0;
};

/// What a tick did. `tensors` lists every tensor in order of registration and stays valid until the next step or add().
struct StepReport {
  std::int64_t tick = 0;
  Index stepped = 0;
  Index skipped = 0;
  double global_norm = not_measured;  ///< of all finite gradients as scaled, before clipping; measured when clipping
  double clip_factor = 1;
  std::span<const TensorReport> tensors;
};

/// Holds state, not tensors: weights and gradients are views, which must stay valid until rebound.
///
/// Ticks: step() is one tick. Layer-wise, the first step(name) opens a tick, every tensor is stepped or skipped once, and
/// end_tick() closes it. Schedules follow the tick; the bias correction of a tensor follows its own steps.
///
/// Threads: step() uses the backend's. step(name, workspace) may run concurrently for different names between begin_tick()
/// and end_tick(), one workspace a thread.
template <class BackendType>
class BasicOptimizer {
 public:
  using Backend = BackendType;

  explicit BasicOptimizer(const Backend& backend = Backend()) : backend_(backend) {}

  // --- groups and tensors -----------------------------------------------------------------------------------------------

  /// A group of tensors that share options. Errors: options out of range.
  template <class Options>
  auto add_group(const Options& options) {
    return add_group<typename MemberOf<Options>::type>(options);
  }
  /// The same for any composition: add_group<Apollo<AdamMoments<bfloat16>>>(options).
  template <class Member>
  Group<typename Member::Policies> add_group(const typename Member::Options& options) {
    using Policies = typename Member::Policies;
    const Settings settings = checked_settings<Policies>(options, {});
    check_settings(settings, {});
    groups_.push_back({settings, settings.lr, Policies::Projection::projects});
    return {groups_.size() - 1};
  }

  /// Registers a tensor and allocates its state. The name is its identity: random streams and checkpoints go by it.
  /// In a group with a projection, matrices are projected and vectors (one side of 1) get dense moments of the same kind.
  /// Errors: those of make_plan; shapes that differ; null data; W and G overlapping; a name or an id that is taken.
  template <class Policies, class Weight, class Gradient>
  void add(Group<Policies> group, std::string_view name, Weight&& weight, const Gradient& gradient) {
    if constexpr (is_tensor_view<std::remove_cvref_t<Weight>>)
      add(group, name, weight, gradient, Unfold::none);
    else
      add_view(group, name, tensor_id(name), weight_view_of(weight), constant_view_of(gradient), true);
  }
  /// The same with an id of the caller's instead of the name's hash: it keys the tensor's random streams.
  template <class Policies, class Weight, class Gradient>
  void add(Group<Policies> group, std::string_view name, TensorId id, Weight&& weight, const Gradient& gradient) {
    add_view(group, name, id, weight_view_of(weight), constant_view_of(gradient), true);
  }
  template <class Policies, class Weight>
  void add(Group<Policies> group, std::string_view name, Weight&& weight, NoGradient) {
    const auto w = weight_view_of(weight);
    using Value = typename decltype(w)::value_type;
    add_view(group, name, tensor_id(name), w,
             MatrixView<const Value>(nullptr, w.rows, w.cols, w.row_stride, w.col_stride), false);
  }
  /// Tensors of any number of dimensions; a batch of E matrices is registered as name[0] ... name[E - 1].
  template <class Policies, class W, class G>
  void add(Group<Policies> group, std::string_view name, const TensorView<W>& weight, const TensorView<G>& gradient,
           Unfold how = Unfold::none) {
    const auto weights = unfold(weight, how, std::string(name));
    const auto gradients = unfold(gradient, how, std::string(name));
    if (weights.size() != gradients.size())
      Check{name}.fail("a gradient of " + text(static_cast<Index>(gradients.size())) + " matrices must have " +
                       text(static_cast<Index>(weights.size())));
    if (how != Unfold::batch) return add(group, name, weights[0], gradients[0]);
    const std::size_t before = parameters_.size();
    for (std::size_t e = 0; e < weights.size(); ++e) {
      const std::string part = std::string(name) + "[" + std::to_string(e) + "]";
#if defined(__cpp_exceptions)
      try {
        add(group, part, weights[e], gradients[e]);
      } catch (...) {
        remove_from(before);
        throw;
      }
#else
      add(group, part, weights[e], gradients[e]);
#endif
    }
    (void)before;
  }

  /// Gives a tensor other memory, of the same shape and value types. Errors: as add; an unknown name.
  template <class Weight, class Gradient>
  void rebind(std::string_view name, Weight&& weight, const Gradient& gradient) {
    find(name).bind(AnyView::of(weight_view_of(weight)), AnyView::of(constant_view_of(gradient)), true);
  }
  template <class Weight>
  void rebind(std::string_view name, Weight&& weight, NoGradient) {
    find(name).bind(AnyView::of(weight_view_of(weight)), {}, false);
  }

  // --- learning rates, scaling, clipping --------------------------------------------------------------------------------

  /// One schedule for all groups: lr = group's lr * factor(tick).
  void schedule(const Schedule& schedule) { schedule_ = schedule; }

  template <class Policies>
  void set_lr(Group<Policies> group, double lr) {
    Check{{}}.at_least("lr", lr, 0);
    check_group(group.index);
    groups_[group.index].lr = lr;
  }
  /// The group's lr as set, before the schedule.
  template <class Policies>
  double lr(Group<Policies> group) const {
    check_group(group.index);
    return groups_[group.index].lr;
  }
  /// The factor that the schedule gives the coming tick (the open one, if one is).
  double schedule_factor() const { return schedule_.factor(open_ ? tick_ : tick_ + 1); }

  /// Gradients are multiplied by this in every step: 1 / loss scale.
  void gradient_scale(double factor) {
    Check{{}}.above("gradient_scale", factor, 0);
    gradient_scale_ = factor;
  }
  /// step() scales all gradients down so that their common norm is at most this; infinity or 0 switches it off.
  /// Costs one more read of all gradients. Source: Pascanu, Mikolov, Bengio, ICML 2013.
  void clip_global_norm(double norm) {
    const bool off = norm == 0 || (!bits::finite(norm) && norm > 0);
    if (!off) Check{{}}.above("clip_global_norm", norm, 0);
    clip_ = off ? 0 : norm;
  }

  // --- steps ------------------------------------------------------------------------------------------------------------

  /// One tick: steps every tensor that has a gradient. Errors, before anything is changed: a tick is open; a group with a
  /// projection holds vectors only.
  StepReport step() {
    if (open_) refuse_now("step() while tick " + text(tick_) + " is open layer by layer; call end_tick() first");
    check_groups();
    StepReport report;
    double factor = gradient_scale_;
    if (clip_ > 0) {
      report.global_norm = gradient_scale_ * __builtin_sqrt(squared_norm());
      if (report.global_norm > clip_) report.clip_factor = clip_ / (report.global_norm + 1e-6);
      factor *= report.clip_factor;
    }
    ++tick_;
    for (std::size_t i = 0; i < parameters_.size(); ++i) reports_[i] = step_one(*parameters_[i], workspace_, factor);
    return summarise(report);
  }

  /// Opens a tick for layer-wise steps; step(name) does so by itself. Call it before concurrent ones.
  void begin_tick() {
    if (open_) refuse_now("begin_tick() while tick " + text(tick_) + " is open; call end_tick() first");
    check_layer_wise();
    ++tick_;
    open_ = true;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      reports_[i] = TensorReport{};
      reports_[i].name = parameters_[i]->name();
      reports_[i].reason = Skip::not_reached;
    }
  }

  /// Steps one tensor, from inside the backward pass for example. Errors, before anything is changed: an unknown name; a
  /// second step in one tick; clipping by global norm.
  TensorReport step(std::string_view name) { return step(name, workspace_); }

  TensorReport step(std::string_view name, Workspace<Backend>& workspace) {
    const std::size_t index = index_of(name);
    check_turn(index);
    if (!open_) begin_tick();
    return reports_[index] = step_one(*parameters_[index], workspace, gradient_scale_);
  }

  /// Rebinds and steps.
  template <class Weight, class Gradient>
    requires(!std::is_same_v<std::remove_cvref_t<Gradient>, Workspace<BackendType>>)
  TensorReport step(std::string_view name, Weight&& weight, const Gradient& gradient) {
    check_turn(index_of(name));
    rebind(name, weight, gradient);
    return step(name);
  }

  /// Closes the tick that step(name) opened. Error: a tensor that was not stepped, unless it has no gradient.
  StepReport end_tick() {
    if (!open_) refuse_now("end_tick() without a tick that step(name) or begin_tick() opened");
    std::string missing;
    Index count = 0;
    for (const auto& parameter : parameters_)
      if (parameter->tick != tick_ && parameter->has_gradient() && ++count <= 5)
        missing += (count > 1 ? ", " : "") + quote(parameter->name());
    if (count > 0)
      refuse_now("end_tick(): " + text(count) + " of " + text(static_cast<Index>(parameters_.size())) +
                 " tensors were not stepped in tick " + text(tick_) + ": " + missing + (count > 5 ? ", ..." : "") +
                 "; step them, or rebind them with no_gradient");
    for (std::size_t i = 0; i < parameters_.size(); ++i)
      if (parameters_[i]->tick != tick_) reports_[i] = step_one(*parameters_[i], workspace_, gradient_scale_);
    open_ = false;
    return summarise({});
  }

  // --- what there is ----------------------------------------------------------------------------------------------------

  std::int64_t tick() const { return tick_; }
  bool tick_open() const { return open_; }
  Index state_bytes() const { return sum(&Parameter<Backend>::state_bytes); }
  Index record_bytes() const { return sum(&Parameter<Backend>::record_bytes); }
  Index workspace_bytes() const { return workspace_.bytes(); }
  Index state_bytes(std::string_view name) const { return parameters_[index_of(name)]->state_bytes(); }
  std::int64_t steps(std::string_view name) const { return parameters_[index_of(name)]->steps(); }

  /// A workspace large enough for every tensor registered so far.
  Workspace<Backend> make_workspace() const {
    Workspace<Backend> workspace;
    for (const auto& parameter : parameters_) parameter->reserve(backend_, workspace);
    return workspace;
  }

  /// For checkpoints: the tensors in order of registration, and the clock.
  const std::vector<std::unique_ptr<Parameter<Backend>>>& parameters() const { return parameters_; }
  void restore_tick(std::int64_t tick) {
    tick_ = tick;
    for (const auto& parameter : parameters_) parameter->tick = tick;
  }

 private:
  struct GroupState {
    Settings settings;
    double lr = 0;
    bool projects = false;
    Index matrices = 0;
    Index vectors = 0;
  };

  template <class Policies, class W, class G>
  void add_view(Group<Policies> group, std::string_view name, TensorId id, const MatrixView<W>& w,
                const MatrixView<const G>& g, bool with_gradient) {
    static_assert(std::is_same_v<arithmetic_t<W>, arithmetic_t<G>>,
                  "apollo: weight and gradient must both be double or both be float, bfloat16 or float16.");
    using T = arithmetic_t<W>;
    // Vectors have no low-rank form: they get the same moments and storage, densely.
    using Dense = PolicySet<IdentityProjection, ElementScaling, typename Policies::Moments, NoLimiter,
                            typename Policies::Weights>;
    if (open_) Check{name}.fail("tensors cannot be added while tick " + text(tick_) + " is open");
    check_group(group.index, name);
    GroupState& state = groups_[group.index];
    const bool vector_shaped = w.rows == 1 || w.cols == 1;
    Settings settings = state.settings;
    std::unique_ptr<Parameter<Backend>> parameter;
    const AnyView weight = AnyView::of(w);
    check_identity(name, id);
    if (state.projects && vector_shaped) {
      settings.scale = 1;
      parameter.reset(new TypedParameter<Dense, T, Backend, W, G>(name, group.index, id, settings, weight));
    } else {
      parameter.reset(new TypedParameter<Policies, T, Backend, W, G>(name, group.index, id, settings, weight));
    }
    parameter->bind(weight, AnyView::of(g), with_gradient);
    parameter->tick = tick_;
    parameter->reserve(backend_, workspace_);
    ++(vector_shaped ? state.vectors : state.matrices);
    insert_name(parameters_.size(), parameter->name());
    parameters_.push_back(std::move(parameter));
    reports_.emplace_back();
  }

  void check_group(std::size_t index, std::string_view tensor = {}) const {
    if (index >= groups_.size())
      Check{tensor}.fail("group " + text(static_cast<Index>(index)) + " of " +
                         text(static_cast<Index>(groups_.size())) + " belongs to another optimizer");
  }

  void check_identity(std::string_view name, TensorId id) const {
    if (name.empty()) refuse("a tensor's name is empty; it is its identity");
    for (std::size_t at = 0; at < name.size();) {
      const std::size_t length = json::utf8_length(name.substr(at));
      if (length == 0)
        refuse("the name of a tensor is not UTF-8 at byte " + text(static_cast<Index>(at)) +
               ", so no checkpoint could hold it");
      at += length;
    }
    for (const auto& other : parameters_) {
      if (other->name() == name) refuse("two tensors are named " + quote(name) + "; a name is an identity");
      if (other->id() == id)
        refuse("tensors " + quote(other->name()) + " and " + quote(name) + " share the id " + std::to_string(id) +
               ", by default a hash of the name; rename one or give it an id");
    }
  }

  /// Names are kept sorted, so that step(name) costs a binary search.
  std::size_t lower_bound(std::string_view name) const {
    std::size_t first = 0, last = by_name_.size();
    while (first < last) {
      const std::size_t middle = first + (last - first) / 2;
      if (parameters_[by_name_[middle]]->name() < name)
        first = middle + 1;
      else
        last = middle;
    }
    return first;
  }
  void insert_name(std::size_t index, std::string_view name) {
    by_name_.insert(by_name_.begin() + static_cast<std::ptrdiff_t>(lower_bound(name)), index);
  }
  std::size_t index_of(std::string_view name) const {
    const std::size_t at = lower_bound(name);
    if (at == by_name_.size() || parameters_[by_name_[at]]->name() != name)
      refuse("no tensor is named " + quote(name) + " (" + text(static_cast<Index>(parameters_.size())) +
             " are registered)");
    return by_name_[at];
  }
  Parameter<Backend>& find(std::string_view name) { return *parameters_[index_of(name)]; }

  void remove_from(std::size_t first) {
    for (std::size_t i = first; i < parameters_.size(); ++i) {
      const Shape shape = parameters_[i]->shape();
      GroupState& group = groups_[parameters_[i]->group];
      --(shape.rows == 1 || shape.cols == 1 ? group.vectors : group.matrices);
    }
    parameters_.resize(first);
    reports_.resize(first);
    by_name_.clear();
    std::vector<std::unique_ptr<Parameter<Backend>>> all;
    all.swap(parameters_);
    for (auto& parameter : all) {
      insert_name(parameters_.size(), parameter->name());
      parameters_.push_back(std::move(parameter));
    }
  }

  void check_groups() const {
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      if (!groups_[g].projects || groups_[g].matrices > 0 || groups_[g].vectors == 0) continue;
      for (const auto& parameter : parameters_)
        if (parameter->group == g)
          refuse("group " + text(static_cast<Index>(g)) + " has a low-rank projection but holds vectors only (" +
                 text(groups_[g].vectors) + ", the first is " + quote(parameter->name()) +
                 "); give them a group of AdamWOptions, or check that its matrices were not flattened");
    }
  }

  void check_layer_wise() const {
    check_groups();
    if (clip_ > 0)
      refuse_now("layer-wise steps cannot clip by global norm = " + text(clip_) +
                 ", which needs every gradient at once; use step(), or clip_global_norm(0)");
  }

  /// Whether this tensor may be stepped now, layer-wise.
  void check_turn(std::size_t index) const {
    check_layer_wise();
    if (open_ && parameters_[index]->tick == tick_)
      refuse_now("tensor " + quote(parameters_[index]->name()) + ": a second step in tick " + text(tick_) +
                 "; call end_tick() first");
  }

  double squared_norm() {
    double sum = 0;
    for (const auto& parameter : parameters_) {
      if (!parameter->has_gradient()) continue;
      const GradientSummary summary = parameter->inspect_gradient(backend_, workspace_);
      if (summary.finite) sum += summary.squared_norm;  // the others will be skipped
    }
    return sum;
  }

  TensorReport step_one(Parameter<Backend>& parameter, Workspace<Backend>& workspace, double factor) {
    TensorReport report;
    parameter.tick = tick_;
    if (parameter.has_gradient())
      report = parameter.step(backend_, workspace, {groups_[parameter.group].lr * schedule_.factor(tick_), factor});
    else
      report.reason = Skip::no_gradient;
    report.name = parameter.name();
    return report;
  }

  StepReport summarise(StepReport report) const {
    report.tick = tick_;
    for (const TensorReport& tensor : reports_) ++(tensor.stepped ? report.stepped : report.skipped);
    report.tensors = reports_;
    return report;
  }

  Index sum(Index (Parameter<Backend>::*bytes)() const) const {
    Index total = 0;
    for (const auto& parameter : parameters_) total += ((*parameter).*bytes)();
    return total;
  }

  Backend backend_;
  Workspace<Backend> workspace_;
  std::vector<GroupState> groups_;
  std::vector<std::unique_ptr<Parameter<Backend>>> parameters_;
  std::vector<std::size_t> by_name_;
  std::vector<TensorReport> reports_;
  Schedule schedule_;
  double gradient_scale_ = 1;
  double clip_ = 0;
  std::int64_t tick_ = 0;
  bool open_ = false;
};

/// A whole model on the reference backend; apollo::eigen::Optimizer is the same on Eigen's.
using Optimizer = BasicOptimizer<Reference>;

}  // namespace apollo
