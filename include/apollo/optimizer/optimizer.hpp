// SPDX-License-Identifier: Apache-2.0
// Optimizer: a whole model. Groups of options, tensors by name, one clock, schedules, clipping, layer-wise steps.
#pragma once

#include <memory>
#include <vector>

#include <apollo/optimizer/dealer.hpp>
#include <apollo/optimizer/group.hpp>
#include <apollo/optimizer/named.hpp>
#include <apollo/optimizer/parts.hpp>
#include <apollo/optimizer/registry.hpp>
#include <apollo/optimizer/rules.hpp>
#include <apollo/optimizer/schedule.hpp>

namespace apollo {

/// Holds state, not tensors: weights and gradients are views, which must stay valid until rebound.
///
/// Ticks: step() is one tick. Layer-wise, the first step(name) opens a tick, every tensor is stepped or skipped once, and
/// end_tick() closes it. Schedules follow the tick; the bias correction of a tensor follows its own steps.
///
/// Threads: step() uses the backend's, all of them on a large tensor, each on small ones of its own. step(name, workspace) may
/// run concurrently for different names between begin_tick() and end_tick(), one workspace a thread.
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
    return {groups_.add(checked_settings<Policies>(options, {}), Policies::Projection::projects)};
  }

  /// Registers a tensor and allocates its state. The name is its identity: random streams and checkpoints go by it.
  /// In a group with a projection, matrices are projected and vectors (one side of 1) get dense moments of the same kind.
  /// Errors: those of make_plan; shapes that differ; null data; W and G overlapping; a name or an id that is taken.
  template <class Policies, class Weight, class Gradient>
  void add(Group<Policies> group, std::string_view name, Weight&& weight, Gradient&& gradient) {
    adapter::check_lifetime<Weight>();
    adapter::check_lifetime<Gradient>();
    if constexpr (is_tensor_view<std::remove_cvref_t<Weight>>)
      add(group, name, weight, gradient, Unfold::none);
    else
      add_view(group, name, tensor_id(name), weight_view_of(weight), constant_view_of(gradient), true);
  }
  /// The same with an id of the caller's instead of the name's hash: it keys the tensor's random streams.
  template <class Policies, class Weight, class Gradient>
  void add(Group<Policies> group, std::string_view name, TensorId id, Weight&& weight, Gradient&& gradient) {
    adapter::check_lifetime<Weight>();
    adapter::check_lifetime<Gradient>();
    add_view(group, name, id, weight_view_of(weight), constant_view_of(gradient), true);
  }
  template <class Policies, class Weight>
  void add(Group<Policies> group, std::string_view name, Weight&& weight, NoGradient) {
    adapter::check_lifetime<Weight>();
    if constexpr (is_tensor_view<std::remove_cvref_t<Weight>>) {
      add(group, name, weight, no_gradient, Unfold::none);
    } else {
      const auto w = weight_view_of(weight);
      using Value = typename decltype(w)::value_type;
      add_view(group, name, tensor_id(name), w,
               MatrixView<const Value>(nullptr, w.rows, w.cols, w.row_stride, w.col_stride), false);
    }
  }
  /// Tensors of any number of dimensions; a batch of E matrices is registered as name[0] ... name[E - 1].
  template <class Policies, class W, class G>
  void add(Group<Policies> group, std::string_view name, const TensorView<W>& weight, const TensorView<G>& gradient,
           Unfold how = Unfold::none) {
    add_parts(group, name, unfold(weight, how, std::string(name)), unfold(gradient, how, std::string(name)), how, true);
  }
  template <class Policies, class W>
  void add(Group<Policies> group, std::string_view name, const TensorView<W>& weight, NoGradient,
           Unfold how = Unfold::none) {
    const TensorView<const W> none(nullptr, weight.extents);
    add_parts(group, name, unfold(weight, how, std::string(name)), unfold(none, how, std::string(name)), how, false);
  }

  /// Gives a tensor other memory, of the same shape and value types. Errors: as add; an unknown name.
  template <class Weight, class Gradient>
  void rebind(std::string_view name, Weight&& weight, Gradient&& gradient) {
    adapter::check_lifetime<Weight>();
    adapter::check_lifetime<Gradient>();
    if constexpr (is_tensor_view<std::remove_cvref_t<Weight>>)
      rebind(name, weight, gradient, Unfold::none);
    else
      find(name).bind(AnyView::of(weight_view_of(weight)), AnyView::of(constant_view_of(gradient)), true);
  }
  template <class Weight>
  void rebind(std::string_view name, Weight&& weight, NoGradient) {
    adapter::check_lifetime<Weight>();
    if constexpr (is_tensor_view<std::remove_cvref_t<Weight>>)
      rebind(name, weight, no_gradient, Unfold::none);
    else
      find(name).bind(AnyView::of(weight_view_of(weight)), {}, false);
  }
  /// The same of tensors of any number of dimensions, unfolded as they were when they were added.
  template <class W, class G>
  void rebind(std::string_view name, const TensorView<W>& weight, const TensorView<G>& gradient, Unfold how) {
    rebind_parts(name, unfold(weight, how, std::string(name)), unfold(gradient, how, std::string(name)), how, true);
  }
  template <class W>
  void rebind(std::string_view name, const TensorView<W>& weight, NoGradient, Unfold how) {
    const TensorView<const W> none(nullptr, weight.extents);
    rebind_parts(name, unfold(weight, how, std::string(name)), unfold(none, how, std::string(name)), how, false);
  }

  // --- learning rates, scaling, clipping --------------------------------------------------------------------------------

  /// One schedule for all groups: lr = group's lr * factor(tick).
  void schedule(const Schedule& schedule) { schedule_ = schedule; }

  template <class Policies>
  void set_lr(Group<Policies> group, double lr) {
    groups_.set_lr(group.index, lr);
  }
  /// The group's lr as set, before the schedule.
  template <class Policies>
  double lr(Group<Policies> group) const {
    groups_.check(group.index);
    return groups_.lr(group.index);
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
  void clip_global_norm(double norm) { clip_ = checked_clip(norm); }

  /// Tensors added from now on refresh their projections in different steps: after so many steps that, with its id modulo
  /// update_proj_gap, they make a multiple of that gap, and in their first. Computing all bases of a model in one step makes that
  /// step many times as long as the others. Error: tensors were added before.
  void spread_refreshes() {
    if (registry_.size() > 0) rules::spread_after_add(registry_.size());
    spread_ = true;
  }

  // --- steps ------------------------------------------------------------------------------------------------------------

  /// One tick: steps every tensor that has a gradient. Errors, before anything is changed: a tick is open; a group with a
  /// projection holds vectors only.
  StepReport step() {
    if (open_) rules::step_while_open(text(tick_));
    check_restored("step()");
    check_groups();
    StepReport report;
    if (clip_ > 0) {
      for (const auto& parameter : registry_.all())
        if (parameter->pending()) check_clipping(*parameter);
      report.global_norm = __builtin_sqrt(squared_norm());
      report.clip_factor = clip_factor(report.global_norm, clip_);
    }
    ++tick_;
    dealer_.for_each(backend_, workspace_, registry_.size(),
                     [&](std::size_t i, const Backend& backend, const Part& part) {
                       reports_[i] = step_one(registry_[i], backend, part, report.clip_factor);
                     });
    return summarise(report);
  }

  /// Adds every gradient, as bound now, to what the next step takes beside its own: k - 1 times accumulate() and one step()
  /// are one step of the sum, times the gradient scale of each time. Where a step takes nothing but R (GaLore, Flora) the sum
  /// is kept as kept x rank numbers, but whole for a step that computes a basis; else it is as large as the gradient.
  /// A gradient that is not finite makes its tensor skip the whole batch. Memory comes with the first micro-batch.
  /// Errors, before anything is changed: a tick is open; clipping by global norm, where a sum would not be whole.
  AccumulationReport accumulate() {
    if (open_) rules::accumulate_while_open(text(tick_));
    check_restored("accumulate()");
    for (const auto& parameter : registry_.all()) check_clipping(*parameter);
    AccumulationReport report;
    for (std::size_t i = 0; i < registry_.size(); ++i) {
      reports_[i] = accumulate_one(registry_[i], workspace_);
      ++(reports_[i].accumulated == Accumulated::none    ? report.skipped
         : reports_[i].accumulated == Accumulated::whole ? report.whole
                                                         : report.projected);
    }
    report.tensors = reports_;
    return report;
  }
  /// The same for one tensor, from inside the backward pass for example. Opens no tick. Errors also: an unknown name; a tensor
  /// that was stepped in the open tick.
  TensorReport accumulate(std::string_view name) { return accumulate(name, workspace_); }
  TensorReport accumulate(std::string_view name, Workspace<Backend>& workspace) {
    Parameter<Backend>& parameter = find(name);
    if (open_ && parameter.tick == tick_) rules::accumulate_after_step(name, text(tick_));
    check_restored("accumulate()");
    check_clipping(parameter);
    return accumulate_one(parameter, workspace);
  }
  /// Forgets what was accumulated since the last step.
  void discard_accumulated() {
    for (const auto& parameter : registry_.all()) parameter->discard_accumulated();
  }
  /// Whether gradients wait for a step.
  bool accumulating() const {
    for (const auto& parameter : registry_.all())
      if (parameter->pending()) return true;
    return false;
  }

  /// Opens a tick for layer-wise steps; step(name) does so by itself. Call it before concurrent ones.
  void begin_tick() {
    if (open_) rules::begin_while_open(text(tick_));
    check_layer_wise();
    ++tick_;
    open_ = true;
    for (std::size_t i = 0; i < registry_.size(); ++i) {
      reports_[i] = TensorReport{};
      reports_[i].name = registry_[i].name();
      reports_[i].reason = Skip::not_reached;
    }
  }

  /// Steps one tensor, from inside the backward pass for example. Errors, before anything is changed: an unknown name; a
  /// second step in one tick; clipping by global norm.
  TensorReport step(std::string_view name) { return step(name, workspace_); }

  TensorReport step(std::string_view name, Workspace<Backend>& workspace) {
    const std::size_t index = registry_.index_of(name);
    check_turn(index);
    if (!open_) begin_tick();
    return reports_[index] = step_one(registry_[index], backend_, workspace);
  }

  /// Rebinds and steps.
  template <class Weight, class Gradient>
    requires(!std::is_same_v<std::remove_cvref_t<Gradient>, Workspace<BackendType>>)
  TensorReport step(std::string_view name, Weight&& weight, Gradient&& gradient) {
    check_turn(registry_.index_of(name));
    rebind(name, std::forward<Weight>(weight), std::forward<Gradient>(gradient));
    return step(name);
  }

  /// Closes the tick that step(name) opened. Error: a tensor that was not stepped, unless it has no gradient.
  StepReport end_tick() {
    if (!open_) rules::end_without_tick();
    rules::Missing missing;
    for (const auto& parameter : registry_.all())
      if (parameter->tick != tick_ && parameter->wants_step()) missing.add(parameter->name());
    if (missing.any()) missing.refuse(registry_.size(), text(tick_));
    for (std::size_t i = 0; i < registry_.size(); ++i)
      if (registry_[i].tick != tick_) reports_[i] = step_one(registry_[i], backend_, workspace_);
    open_ = false;
    return summarise({});
  }

  // --- what there is ----------------------------------------------------------------------------------------------------

  std::int64_t tick() const { return tick_; }
  bool tick_open() const { return open_; }

  /// Bytes of the model's state: moments and stored bases, and beside them the records. A name or a group asks for a part.
  Index state_bytes() const { return sum(&Parameter<Backend>::state_bytes); }
  Index state_bytes(std::string_view name) const { return find(name).state_bytes(); }
  template <class Policies>
  Index state_bytes(Group<Policies> group) const {
    return sum(&Parameter<Backend>::state_bytes, group.index);
  }
  Index record_bytes() const { return sum(&Parameter<Backend>::record_bytes); }
  Index record_bytes(std::string_view name) const { return find(name).record_bytes(); }
  template <class Policies>
  Index record_bytes(Group<Policies> group) const {
    return sum(&Parameter<Backend>::record_bytes, group.index);
  }
  /// Bytes of accumulated gradients, as long as they are kept.
  Index accumulation_bytes() const { return sum(&Parameter<Backend>::accumulation_bytes); }
  Index accumulation_bytes(std::string_view name) const { return find(name).accumulation_bytes(); }
  /// Bytes of the workspace that all tensors share; of one that this tensor or group would need for itself.
  Index workspace_bytes() const { return workspace_.bytes(); }
  Index workspace_bytes(std::string_view name) const { return find(name).workspace_bytes(backend_); }
  template <class Policies>
  Index workspace_bytes(Group<Policies> group) const {
    groups_.check(group.index);
    return make_workspace(group.index).bytes();
  }
  std::int64_t steps(std::string_view name) const { return find(name).steps(); }

  /// A workspace large enough for every tensor registered so far.
  Workspace<Backend> make_workspace() const { return make_workspace(all_groups); }

  /// For checkpoints: the tensors in order of registration, and the clock.
  const typename Registry<Backend>::List& parameters() const { return registry_.all(); }
  /// From here to restore_tick() the state is replaced; if that ends half-way, neither steps nor save() take it.
  void begin_restore() { restoring_ = true; }
  bool restoring() const { return restoring_; }
  void restore_tick(std::int64_t tick) {
    restoring_ = false;
    tick_ = tick;
    for (const auto& parameter : registry_.all()) parameter->tick = tick;
  }

 private:
  using Part = WorkspacePart<Backend>;

  template <class Policies, class W, class G>
  void add_view(Group<Policies> group, std::string_view name, TensorId id, const MatrixView<W>& w,
                const MatrixView<const G>& g, bool with_gradient) {
    static_assert(std::is_same_v<arithmetic_t<W>, arithmetic_t<G>>,
                  "apollo: weight and gradient must both be double or both be float, bfloat16 or float16.");
    static_assert(!is_grouped<G>, "apollo: a gradient must be of float, bfloat16 or float16, not of 8-bit groups.");
    if constexpr (!is_grouped<G> && std::is_same_v<arithmetic_t<W>, arithmetic_t<G>>)
      add_known(group, name, id, w, g, with_gradient);
  }

  /// The matrices of an unfolded tensor: all of them, or none.
  template <class Policies, class W, class G>
  void add_parts(Group<Policies> group, std::string_view name, const std::vector<MatrixView<W>>& weights,
                 const std::vector<MatrixView<G>>& gradients, Unfold how, bool with_gradient) {
    const std::size_t before = registry_.size();
    parts::add(
        name, weights, gradients, how,
        [&](const std::string& part, const MatrixView<W>& w, const MatrixView<G>& g) {
          add_view(group, part, tensor_id(part), weight_view_of(w), constant_view_of(g), with_gradient);
        },
        [&] { remove_from(before); });
  }
  template <class W, class G>
  void rebind_parts(std::string_view name, const std::vector<MatrixView<W>>& weights,
                    const std::vector<MatrixView<G>>& gradients, Unfold how, bool with_gradient) {
    parts::check_batch(name, weights.size(), gradients.size(), how,
                       [&](const std::string& part) { return registry_.has(part); });
    const auto each = [&](auto&& act) {
      for (std::size_t e = 0; e < weights.size(); ++e)
        act(find(parts::name_of(name, e, how)), AnyView::of(weight_view_of(weights[e])),
            AnyView::of(constant_view_of(gradients[e])));
    };
    each([&](const Parameter<Backend>& p, const AnyView& w, const AnyView& g) { p.check(w, g, with_gradient); });
    each([&](Parameter<Backend>& p, const AnyView& w, const AnyView& g) { p.bind(w, g, with_gradient); });
  }

  /// The same of types that go together.
  template <class Policies, class W, class G>
  void add_known(Group<Policies> group, std::string_view name, TensorId id, const MatrixView<W>& w,
                 const MatrixView<const G>& g, bool with_gradient) {
    using T = arithmetic_t<W>;
    // Vectors have no low-rank form: they get the same moments and storage, densely.
    using Dense = PolicySet<IdentityProjection, ElementScaling, typename Policies::Moments, NoLimiter,
                            typename Policies::Weights>;
    if (open_) rules::add_while_open(name, text(tick_));
    groups_.check(group.index, name);
    const Shape shape{w.rows, w.cols};
    Settings settings = groups_.settings(group.index);
    std::unique_ptr<Parameter<Backend>> parameter;
    const AnyView weight = AnyView::of(w);
    registry_.check_identity(name, id);
    if (spread_) settings.refresh_phase = static_cast<Index>(id) % settings.update_proj_gap;
    if (Policies::Projection::projects && Groups::is_vector(shape)) {
      settings.scale = 1;
      parameter.reset(new TypedParameter<Dense, T, Backend, W, G>(name, group.index, id, settings, weight));
    } else {
      parameter.reset(new TypedParameter<Policies, T, Backend, W, G>(name, group.index, id, settings, weight));
    }
    parameter->bind(weight, AnyView::of(g), with_gradient);
    parameter->tick = tick_;
    dealer_.add(backend_, workspace_, *parameter, registry_.size());
    groups_.count(group.index, shape);
    registry_.add(std::move(parameter));
    reports_.emplace_back();
    summaries_.emplace_back();
  }

  Parameter<Backend>& find(std::string_view name) const { return registry_[registry_.index_of(name)]; }

  void remove_from(std::size_t first) {
    for (std::size_t i = first; i < registry_.size(); ++i) groups_.uncount(registry_[i].group, registry_[i].shape());
    registry_.truncate(first);
    reports_.resize(first);
    summaries_.resize(first);
    dealer_.truncate(first);
  }

  void check_groups() const {
    groups_.check_matrices([&](std::size_t group) {
      for (const auto& parameter : registry_.all())
        if (parameter->group == group) return parameter->name();
      return std::string();
    });
  }

  void check_restored(const char* call) const {
    if (restoring_)
      refuse_now(std::string(call) + " with a state that load() replaced in part; load a whole checkpoint first");
  }

  void check_layer_wise() const {
    check_restored("step()");
    check_groups();
    if (clip_ > 0) rules::layers_while_clipping(clip_);
  }

  /// Whether this tensor may be stepped now, layer-wise.
  void check_turn(std::size_t index) const {
    check_layer_wise();
    if (open_ && registry_[index].tick == tick_) rules::second_step(registry_[index].name(), text(tick_));
  }

  double squared_norm() {
    dealer_.for_each(backend_, workspace_, registry_.size(),
                     [&](std::size_t i, const Backend& backend, const Part& part) {
                       summaries_[i] = {};
                       if (registry_[i].wants_step())
                         summaries_[i] = registry_[i].inspect_gradient(backend, part, gradient_scale_);
                     });
    double sum = 0;
    for (const GradientSummary& summary : summaries_)
      if (summary.finite) sum += summary.squared_norm;  // the others will be skipped
    return sum;
  }

  TensorReport step_one(Parameter<Backend>& parameter, const Backend& backend, const Part& part, double clip = 1) {
    TensorReport report;
    parameter.tick = tick_;
    const StepInput input{groups_.lr(parameter.group) * schedule_.factor(tick_), gradient_scale_};
    if (parameter.wants_step())
      report = parameter.step(backend, part, input, clip);
    else
      report.reason = Skip::no_gradient;
    report.name = parameter.name();
    return report;
  }

  TensorReport accumulate_one(Parameter<Backend>& parameter, Workspace<Backend>& workspace) {
    TensorReport report;
    if (parameter.has_gradient())
      report = parameter.accumulate(backend_, workspace, gradient_scale_);
    else
      report.reason = Skip::no_gradient;
    report.name = parameter.name();
    return report;
  }

  void check_clipping(const Parameter<Backend>& parameter) const {
    if (clip_ > 0 && !parameter.accumulates_whole()) rules::clip_of_projected_sum(parameter.name(), clip_);
  }

  StepReport summarise(StepReport report) const {
    report.tick = tick_;
    for (const TensorReport& tensor : reports_) ++(tensor.stepped ? report.stepped : report.skipped);
    report.tensors = reports_;
    return report;
  }

  static constexpr std::size_t all_groups = ~std::size_t{0};

  Index sum(Index (Parameter<Backend>::*bytes)() const, std::size_t group = all_groups) const {
    if (group != all_groups) groups_.check(group);
    Index total = 0;
    for (const auto& parameter : registry_.all())
      if (group == all_groups || parameter->group == group) total += ((*parameter).*bytes)();
    return total;
  }
  Workspace<Backend> make_workspace(std::size_t group) const {
    Workspace<Backend> workspace;
    for (const auto& parameter : registry_.all())
      if (group == all_groups || parameter->group == group) parameter->reserve(backend_, workspace);
    return workspace;
  }

  Backend backend_;
  Workspace<Backend> workspace_;
  Groups groups_;
  Registry<Backend> registry_;
  Dealer<Backend> dealer_;
  std::vector<TensorReport> reports_;
  std::vector<GradientSummary> summaries_;  ///< of each gradient, for clipping
  Schedule schedule_;
  double gradient_scale_ = 1;
  double clip_ = 0;
  std::int64_t tick_ = 0;
  bool open_ = false;
  bool spread_ = false;
  bool restoring_ = false;
};

/// A whole model on the reference backend; apollo::eigen::Optimizer is the same on Eigen's.
using Optimizer = BasicOptimizer<Reference>;

}  // namespace apollo
