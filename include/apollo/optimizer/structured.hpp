// SPDX-License-Identifier: Apache-2.0
// StructuredOptimizer: policies, listed in any order, become the optimizer of one tensor.
#pragma once

#include <string>
#include <string_view>

#include <apollo/optimizer/options.hpp>
#include <apollo/optimizer/tensor_core.hpp>
#include <apollo/step/reference.hpp>
#include <apollo/tensor/traits.hpp>

namespace apollo {

/// The optimizer of one tensor, fully static: what a microbenchmark times and what a training loop of one's own embeds.
///
/// State: see state_bytes(). Errors: the constructor refuses what make_plan refuses, with value, bound and name; step() is
/// noexcept and reports instead, leaving everything as it was.
template <class PolicyList, class OptionsType, class T, class BackendType>
class TensorOptimizer {
 public:
  using Policies = PolicyList;
  using Options = OptionsType;
  using Scalar = T;
  using Backend = BackendType;

  /// For tensors of this shape; their moments are laid out row-major.
  explicit TensorOptimizer(Shape shape, const Options& options = {}, std::string_view name = "tensor",
                           const Backend& backend = Backend())
      : TensorOptimizer(shape, Order2D::row_major, options, name, backend) {}

  /// For `weight` and others of its shape; moments follow its memory order.
  template <class Tensor>
  explicit TensorOptimizer(const Tensor& weight, const Options& options = {}, std::string_view name = "tensor",
                           const Backend& backend = Backend())
      : TensorOptimizer(constant_view_of(weight).shape(), memory_order(constant_view_of(weight)), options, name,
                        backend) {
    check_scalar<Tensor>();
  }

  /// W <- W - update(G). Shape: as constructed, any layout. Cost: see docs/benchmarks.md.
  template <class Weight, class Gradient>
  TensorReport step(Weight&& weight, const Gradient& gradient) noexcept {
    return step(weight, gradient, workspace_);
  }

  /// The same in somebody else's workspace, on which reserve() was called.
  template <class Weight, class Gradient>
  TensorReport step(Weight&& weight, const Gradient& gradient, Workspace<Backend>& workspace) noexcept {
    check_scalar<Weight>();
    TensorReport report;
    report.name = name_;
    if (!adapter::is_matrix(weight) || !adapter::is_matrix(gradient)) {
      report.reason = Skip::wrong_shape;
      return report;
    }
    const auto w = weight_view_of(weight);
    const auto g = constant_view_of(gradient);
    const Shape shape = core_.plan().shape;
    if (w.shape() != shape || g.shape() != shape)
      report.reason = Skip::wrong_shape;
    else if (!groups_are_fine(w))
      report.reason = Skip::wrong_groups;
    else if (w.data == nullptr || g.data == nullptr)
      report.reason = Skip::null_data;
    else if (overlap(w, g) || overlaps_itself(w))
      report.reason = Skip::overlap;
    if (report.reason != Skip::none) return report;
    report = core_.step(backend_, workspace, w, g, {lr_, gradient_factor_});
    report.name = name_;
    return report;
  }

  /// Adds the gradient of a micro-batch to what the next step() takes beside its own: k - 1 times accumulate() and one step()
  /// are one step of the sum (divide the loss, or set_gradient_scale, for a mean). Where a step takes nothing but R (GaLore,
  /// Flora) the sum is kept as kept x rank numbers, but whole for a step that computes a basis; else it is as large as the
  /// gradient. Allocates at the first micro-batch. A gradient that is not finite makes the step skip the whole batch.
  template <class Gradient>
  TensorReport accumulate(const Gradient& gradient) {
    const auto g = constant_view_of(gradient);
    TensorReport report;
    if (g.shape() != core_.plan().shape)
      report.reason = Skip::wrong_shape;
    else if (g.data == nullptr)
      report.reason = Skip::null_data;
    else
      report = core_.accumulate(backend_, workspace_, g, gradient_factor_);
    report.name = name_;
    return report;
  }
  void discard_accumulated() { core_.discard_accumulated(); }
  /// Bytes that accumulated gradients take now; they are no part of the state.
  Index accumulation_bytes() const { return core_.accumulation_bytes(); }

  void reserve(Workspace<Backend>& workspace) const { core_.reserve(backend_, workspace); }

  double lr() const { return lr_; }
  void set_lr(double lr) {
    Check{name_}.at_least("lr", lr, 0);
    lr_ = lr;
  }
  /// Gradients are multiplied by this: 1 / loss scale.
  void set_gradient_scale(double factor) {
    Check{name_}.above("gradient_scale", factor, 0);
    gradient_factor_ = factor;
  }
  /// t: steps taken. Skipped ones do not count.
  std::int64_t steps() const { return core_.steps(); }
  const Plan& plan() const { return core_.plan(); }

  /// Bytes of moments and stored basis. The record (step count, limiter norm) is counted by record_bytes().
  Index state_bytes() const { return core_.state_bytes(); }
  Index record_bytes() const { return core_.record_bytes(); }
  /// Bytes of scratch memory, which all tensors of a model can share.
  Index workspace_bytes() const { return workspace_.bytes(); }
  /// The same from a shape alone, without an optimizer; usable in constant expressions (workspaces of Reference only).
  static constexpr Index state_bytes(Shape shape, const Options& options = {}) {
    return apollo::state_bytes<Policies, T>(outline<Policies>(shape, options.settings()));
  }
  static constexpr Index record_bytes(const Options& options) {
    return apollo::record_bytes<Policies>(options.settings());
  }
  static constexpr Index workspace_bytes(Shape shape, const Options& options = {}, const Backend& backend = Backend()) {
    return apollo::workspace_bytes<Policies, T>(backend, outline<Policies>(shape, options.settings()),
                                                options.settings());
  }

  /// visitor.array(name, MatrixView) for each array, visitor.scalar(name, value&) for each number.
  template <class Visitor>
  void visit_state(Visitor&& visitor) {
    core_.visit_state(visitor);
  }

  /// FixedProjection: P, rank x removed side.
  template <class Tensor>
    requires(std::is_same_v<typename Policies::Projection, FixedProjection>)
  void set_projection(const Tensor& p) { core_.set_projection(backend_, workspace_, constant_view_of(p), name_); }

 private:
  /// The order of memory was planned, and groups follow rows.
  template <class W>
  bool groups_are_fine([[maybe_unused]] const MatrixView<W>& w) const {
    if constexpr (is_grouped<W>)
      return w.ranges != nullptr && is_group_size(w.group_size) && w.row_stride == w.cols && w.col_stride == 1 &&
             (w.rows == 1 || w.cols == 1 || core_.plan().weight_order == memory_order(w));
    return true;
  }

  TensorOptimizer(Shape shape, Order2D order, const Options& options, std::string_view name, const Backend& backend)
      : name_(name),
        backend_(backend),
        core_(shape, checked_settings<Policies>(options, name), name, tensor_id(name), order),
        lr_(core_.settings().lr) {
    core_.reserve(backend_, workspace_);
  }

  template <class Tensor>
  static constexpr void check_scalar() {
    using View = decltype(view_of(std::declval<Tensor&>()));
    static_assert(
        std::is_same_v<arithmetic_t<typename View::value_type>, T>,
        "apollo: this optimizer computes in another type than its weights need. Name double for double weights "
        "(apollo::AdamW<double>), nothing for float, bfloat16 and float16; see docs/adapters.md.");
  }

  std::string name_;
  Backend backend_;
  TensorCore<Policies, T, Backend> core_;
  Workspace<Backend> workspace_;
  double lr_;
  double gradient_factor_ = 1;
};

/// Settings of `options`; StructuredOptions that nothing in this composition reads are refused.
template <class Policies, class Options>
Settings checked_settings(const Options& options, std::string_view name) {
  if constexpr (std::is_same_v<Options, StructuredOptions>) {
    using P = Policies;
    using Moments = typename P::Moments;
    const StructuredOptions defaults;
    const auto unread = [&](const char* option, bool differs, bool read, const char* reader) {
      if (differs && !read)
        Check{name}.fail(std::string(option) + " is set, but nothing here reads it; " + reader + " would");
    };
    const StructuredOptions& o = options;
    const bool adam = Moments::bias_corrected, projects = P::Projection::projects;
    Settings probe;  // tells which of the two the first moment forgets by
    probe.momentum = 0.25, probe.beta1 = 0.5;
    unread("momentum", o.momentum != defaults.momentum, Moments::first_decay(probe) == 0.25, "MomentumMoments");
    unread("beta1", o.beta1 != defaults.beta1, Moments::first_decay(probe) == 0.5, "AdamMoments");
    unread("beta2", o.beta2 != defaults.beta2, adam, "AdamMoments");
    unread("eps", o.eps != defaults.eps, adam || P::factored || P::factored_gradient, "AdamMoments");
    unread("decay", o.decay != defaults.decay, P::one_pass, "ElementScaling without a projection");
    unread("rank", o.rank != defaults.rank, projects, "a projection");
    unread("update_proj_gap", o.update_proj_gap != defaults.update_proj_gap,
           projects && !std::is_same_v<typename P::Projection, FixedProjection>,
           "a random or singular-vector projection");
    unread("proj_type", o.proj_type != defaults.proj_type, projects, "a projection");
    unread("svd", o.svd != defaults.svd, computes_basis<typename P::Projection>, "SvdProjection");
    unread("similarity_threshold", o.similarity_threshold != defaults.similarity_threshold,
           packs_basis<typename P::Projection>, "Int4SvdProjection");
    unread("on_refresh", o.on_refresh != defaults.on_refresh, projects, "a projection");
    unread("channel_axis", o.channel_axis != defaults.channel_axis,
           !projects && (P::Granularity::per_channel || P::by_block), "ChannelScaling without a projection");
    unread("block", o.block != defaults.block, P::by_block, "BlockAdamMoments");
    unread("decay_rate", o.decay_rate != defaults.decay_rate, P::factored || P::factored_gradient, "AdafactorMoments");
    unread("clip_threshold", o.clip_threshold != defaults.clip_threshold, P::factored, "AdafactorMoments");
    unread("residual", o.residual != defaults.residual, P::Granularity::residual, "ResidualScaling");
    unread("limiter_gamma", o.limiter_gamma != defaults.limiter_gamma, P::Limiter::active, "NormGrowthLimiter");
    unread("limiter_floor", o.limiter_floor != defaults.limiter_floor, P::Limiter::active, "NormGrowthLimiter");
    unread("allow_rank_1", o.allow_rank_1, projects && P::Granularity::per_channel, "ChannelScaling");
  }
  return options.settings();
}

// --- picking policies by role -------------------------------------------------------------------------------------------

namespace role {

template <class Role>
struct Policy {
  template <class T>
  static constexpr bool fits = requires {
    requires std::is_same_v<typename T::role, Role>;
  };
};
struct Scalar {
  template <class T>
  static constexpr bool fits = std::is_same_v<T, float> || std::is_same_v<T, double>;
};
struct Backend {
  template <class T>
  static constexpr bool fits = requires {
    typename T::Tools;
  };
};
struct Options {
  template <class T>
  static constexpr bool fits = requires(const T& options) {
    options.settings();
  };
};

template <class Role, class... Candidates>
struct First;
template <class Role, class Last>
struct First<Role, Last> {
  using type = Last;  // the default closes every list
};
template <class Role, class Candidate, class Next, class... Rest>
struct First<Role, Candidate, Next, Rest...> {
  using type = typename std::conditional_t<Role::template fits<Candidate>, First<Role, Candidate>,
                                           First<Role, Next, Rest...>>::type;
};

template <class T>
inline constexpr bool known = Policy<ProjectionRole>::fits<T> || Policy<GranularityRole>::fits<T> ||
                              Policy<MomentsRole>::fits<T> || Policy<LimiterRole>::fits<T> ||
                              Policy<WeightsRole>::fits<T> || Scalar::fits<T> || Backend::fits<T> || Options::fits<T>;

/// What a list with something unknown in it names: a class of its own, so that the alias that names it stays valid and the
/// error comes once, where the optimizer is used.
template <class Optimizer, class... List>
struct UnknownArgument : Optimizer {
  using Optimizer::Optimizer;
  static_assert((known<List> && ...),
                "apollo: an argument of StructuredOptimizer is no projection, granularity, moments, limiter or weights "
                "policy, no scalar type, backend or option type; see docs/compose.md.");
};

template <class... List>
struct Compose {
  template <class Role, class Default>
  using pick = typename First<Role, List..., Default>::type;

  using Policies = PolicySet<pick<Policy<ProjectionRole>, IdentityProjection>,
                             pick<Policy<GranularityRole>, ElementScaling>, pick<Policy<MomentsRole>, NoMoments>,
                             pick<Policy<LimiterRole>, NoLimiter>, pick<Policy<WeightsRole>, NativeWeights>>;
  using Optimizer =
      TensorOptimizer<Policies, pick<Options, StructuredOptions>, pick<Scalar, float>, pick<Backend, Reference>>;
  using type = std::conditional_t<(known<List> && ...), Optimizer, UnknownArgument<Optimizer, List...>>;
};

}  // namespace role

/// An optimizer from policies in any order; where two play one role the first wins, where none does the default is
/// IdentityProjection, ElementScaling, NoMoments, NoLimiter, NativeWeights, float, Reference. See docs/compose.md.
template <class... List>
using StructuredOptimizer = typename role::Compose<List...>::type;

}  // namespace apollo
