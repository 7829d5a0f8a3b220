// SPDX-License-Identifier: Apache-2.0
// TensorCore: what one tensor needs to be stepped, whoever owns its memory and its name.
#pragma once

#include <string>
#include <string_view>

#include <apollo/step/pipeline.hpp>
#include <apollo/step/state_visitor.hpp>

namespace apollo {

/// State and steps of one tensor whose memory (workspace) and backend belong to somebody else.
template <class PolicyList, class T, class BackendType>
class TensorCore {
 public:
  using Policies = PolicyList;
  using Backend = BackendType;
  using Projection = typename Policies::Projection;
  using Steps = Pipeline<Policies, T, Backend>;

  TensorCore(Shape shape, const Settings& settings, std::string_view name, TensorId id, Order2D weight_order)
      : setup_{make_plan<Policies>(shape, settings, name, weight_order), settings, id}, state_(setup_.plan) {}

  const Plan& plan() const { return setup_.plan; }
  const Settings& settings() const { return setup_.settings; }
  TensorId id() const { return setup_.id; }
  std::int64_t steps() const { return state_.record.steps; }
  Index state_bytes() const { return apollo::state_bytes<Policies, T>(setup_.plan); }
  Index record_bytes() const { return apollo::record_bytes<Policies>(setup_.settings); }

  Index workspace_bytes(const Backend& backend) const {
    return apollo::workspace_bytes<Policies, T>(backend, setup_.plan, setup_.settings);
  }

  void reserve(const Backend& backend, Workspace<Backend>& workspace) const {
    workspace.template reserve<Policies, T>(backend, setup_.plan, setup_.settings);
  }
  void reserve_lanes(const Backend& backend, Workspace<Backend>& workspace) const {
    workspace.template reserve_lanes<Policies, T>(backend, setup_.plan, setup_.settings);
  }

  /// Steps with g, and with what was accumulated; g may have no memory then. `clip` multiplies their sum.
  template <class W, class G>
  TensorReport step(const Backend& backend, const WorkspacePart<Backend>& workspace, const MatrixView<W>& w,
                    const MatrixView<const G>& g, const StepInput& input, double clip = 1) noexcept {
    const StepInput clipped{input.lr, input.gradient_factor * clip};
    if (!sum_.pending()) return Steps::step(backend, workspace, setup_, state_, w, g, clipped);
    TensorReport report;
    const bool whole = sum_.whole();
    if (whole) {
      if (!folded_ && g.data != nullptr) accumulate(backend, workspace, g, input.gradient_factor);
      report = Steps::step(backend, workspace, setup_, state_, w, whole_sum(), {input.lr, clip});
    } else {
      report = Steps::step(backend, workspace, setup_, state_, w, g, clipped, sum_.view(plan()).data);
    }
    report.accumulated = whole ? Accumulated::whole : Accumulated::projected;
    if (report.stepped || report.reason == Skip::not_finite) discard_accumulated();
    return report;
  }

  /// Adds the gradient of a micro-batch, times `factor`, to what the next step takes.
  template <class G>
  TensorReport accumulate(const Backend& backend, const WorkspacePart<Backend>& workspace, const MatrixView<const G>& g,
                          double factor) {
    return Steps::accumulate(backend, workspace, setup_, state_, sum_, g, factor);
  }
  bool pending() const { return sum_.pending(); }
  /// Whether the next step's gradients are summed whole, or would be.
  bool accumulates_whole() const {
    if (sum_.pending()) return sum_.whole();
    return Sum::must_be_whole(computes_basis<Projection> && refresh_due<Projection>(setup_, state_.record));
  }
  Index accumulation_bytes() const { return sum_.bytes(); }
  void discard_accumulated() {
    sum_.finish();
    folded_ = false;
  }

  /// Finiteness and norm of what a step would take, for clipping by the norm of many. A whole sum takes up g here.
  template <class G>
  GradientSummary inspect(const Backend& backend, const WorkspacePart<Backend>& workspace, const MatrixView<const G>& g,
                          double factor) {
    if (sum_.pending() && sum_.whole()) {
      if (!folded_ && g.data != nullptr) accumulate(backend, workspace, g, factor);
      folded_ = true;
      return Steps::inspect(backend, workspace, setup_, whole_sum());
    }
    GradientSummary summary = Steps::inspect(backend, workspace, setup_, g);
    summary.squared_norm *= factor * factor;
    return summary;
  }

  template <class Visitor>
  void visit_state(Visitor&& visitor) {
    state_.visit(setup_.plan, setup_.settings, visitor);
  }

  /// Sets P (rank x removed, row k is direction k) and treats the moments as `on_refresh` says.
  template <class P>
  void set_projection(const Backend& backend, const WorkspacePart<Backend>& workspace, const MatrixView<P>& p,
                      std::string_view name) {
    const Plan& plan = setup_.plan;
    if (p.data == nullptr || p.rows != plan.rank || p.cols != plan.removed)
      Check{name}.fail("a projection of shape " + text(p.shape()) + " must have data and be " +
                       text(Shape{plan.rank, plan.removed}) + ", rank x removed side");
    if (pending()) {
      const std::string tensor = name.empty() ? "" : "tensor " + quote(name) + ": ";
      refuse_now(tensor + "set_projection() while accumulated gradients wait for a step; step or discard them first");
    }
    Carver carver(workspace.data);
    const auto scratch =
        Scratch<Policies, T>::carve(carver, plan, setup_.settings, backend.template scratch_bytes<T, Policies>(plan));
    T* basis = state_.basis.data();
    const bool replaces = state_.record.projection_set != 0;
    if (replaces && settings().on_refresh == OnRefresh::rotate)
      for (Index i = 0; i < plan.rank * plan.removed; ++i) scratch.old_directions[i] = basis[i];
    for (Index s = 0; s < plan.removed; ++s)
      for (Index k = 0; k < plan.rank; ++k) basis[s * plan.rank + k] = static_cast<T>(p(k, s));
    state_.record.projection_set = 1;
    if (!replaces) return;
    if (settings().on_refresh == OnRefresh::reset) Steps::reset_moments(state_);
    if (settings().on_refresh == OnRefresh::rotate)
      Steps::rotate_moments({backend, plan, scratch.backend, workspace.tools}, setup_, state_, scratch, basis);
  }

  std::string fingerprint() const { return apollo::fingerprint<Policies, T>(setup_); }

 private:
  using Sum = Accumulation<Policies, T, Backend::template Buffer>;

  MatrixView<const T> whole_sum() { return plan().orient(sum_.view(plan())); }

  TensorSetup setup_;
  State<Policies, T, Backend::template Buffer> state_;
  Sum sum_;
  bool folded_ = false;  ///< the whole sum holds the last gradient already
};

}  // namespace apollo
