// SPDX-License-Identifier: Apache-2.0
// The pipeline: one step of one tensor, in the one form W <- W - a (lift(C) + s o X). It orders the backend's loops and does
// the arithmetic that is not per element; it knows no optimizer by name.
#pragma once

#include <apollo/step/accumulation.hpp>
#include <apollo/step/coefficients.hpp>
#include <apollo/step/factored.hpp>
#include <apollo/step/report.hpp>
#include <apollo/step/workspace.hpp>

namespace apollo {

template <class Policies, class T, class Backend>
class Pipeline {
  using Projection = typename Policies::Projection;
  using Granularity = typename Policies::Granularity;
  using Moments = typename Policies::Moments;
  using Limiter = typename Policies::Limiter;
  using Weights = typename Policies::Weights;
  using Session = typename Backend::template Session<T, Policies>;
  using TensorState = State<Policies, T, Backend::template Buffer>;
  using Sum = Accumulation<Policies, T, Backend::template Buffer>;

 public:
  /// One step. W and G are of the planned shape, have memory and do not overlap: the callers have seen to it. `carried` is
  /// a sum of R of earlier gradients, or null; beside it G may have no memory.
  /// Reads G once (one-pass optimizers without check_finite), twice, or at a singular-vector refresh once more per product.
  template <class W, class G>
  static TensorReport step(const Backend& backend, const WorkspacePart<Backend>& workspace, const TensorSetup& setup,
                           TensorState& state, const MatrixView<W>& weight, const MatrixView<const G>& gradient,
                           const StepInput& input, const T* carried = nullptr) noexcept {
    TensorReport report;
    in_session(backend, workspace, setup, report, [&](const Session& session, const Scratch<Policies, T>& scratch) {
      const KeptWeights<Weights, W> w{setup.plan.orient(weight), state.remainder.data(), weight_stream(setup, state)};
      const auto x = setup.plan.orient(gradient);
      if constexpr (Projection::projects)
        projected(session, setup, state, scratch, w, x, carried, input, report);
      else
        unprojected(session, setup, state, scratch, w, x, input, report);
      if (report.stepped) ++state.record.steps;
    });
    return report;
  }

  /// Adds factor G to the sum that the next step will take. What is not finite stays in the sum, so that the step is skipped
  /// as it would be with one large batch. Allocates if nothing is pending.
  template <class G>
  static TensorReport accumulate(const Backend& backend, const WorkspacePart<Backend>& workspace,
                                 const TensorSetup& setup, TensorState& state, Sum& sum,
                                 const MatrixView<const G>& gradient, double factor) {
    const Plan& plan = setup.plan;
    TensorReport report;
    if (!has_projection(state, report)) return report;
    in_session(backend, workspace, setup, report, [&](const Session& session, const Scratch<Policies, T>& scratch) {
      const auto x = plan.orient(gradient);
      const bool refreshes = computes_basis<Projection> && refresh_due<Projection>(setup, state.record);
      sum.begin(plan, Sum::must_be_whole(refreshes), memory_order(x));
      report.accumulated = sum.whole() ? Accumulated::whole : Accumulated::projected;
      GradientSummary summary;
      if (sum.whole()) {
        summary = session.add(plan, x, static_cast<T>(factor), sum.view(plan));
      } else if constexpr (Policies::takes_projection_only) {
        unpack_basis(session, setup, state, scratch);
        const auto p = directions(session, setup, state, scratch, setup.refresh_index(state.record.steps));
        session.project(plan, x, p, static_cast<T>(factor), scratch.r, scratch.x_norms);
        summary = session.add(plan, projection(plan, scratch), T(1), sum.view(plan));
      }
      if (!summary.finite) report.reason = Skip::not_finite;
    });
    return report;
  }

  /// Norm and finiteness of a gradient alone.
  template <class G>
  static GradientSummary inspect(const Backend& backend, const WorkspacePart<Backend>& workspace,
                                 const TensorSetup& setup, const MatrixView<const G>& gradient) {
    GradientSummary summary;
    TensorReport report;
    in_session(backend, workspace, setup, report, [&](const Session& session, const Scratch<Policies, T>&) {
      summary = session.inspect(setup.plan, setup.plan.orient(gradient), nullptr);
    });
    return summary;
  }

 private:
  /// Notes what the pass found; false means that the tensor is skipped.
  static bool accept(const TensorSetup& setup, const GradientSummary& summary, const StepInput& input,
                     TensorReport& report) {
    const double factor = input.gradient_factor < 0 ? -input.gradient_factor : input.gradient_factor;
    report.gradient_norm = factor * __builtin_sqrt(summary.squared_norm);
    report.stepped = !setup.settings.check_finite || summary.finite;
    if (!report.stepped) report.reason = Skip::not_finite;
    return report.stepped;
  }

  template <class Kept, class G>
  static void unprojected(const Session& session, const TensorSetup& setup, TensorState& state,
                          const Scratch<Policies, T>& scratch, const Kept& w, const MatrixView<const G>& x,
                          const StepInput& input, TensorReport& report) {
    const Plan& plan = setup.plan;
    const auto c = coefficients<Policies, T>(plan, setup.settings, state.record, setup.id, input);
    report.stepped = true;
    if (setup.settings.check_finite || !Policies::one_pass)
      if (!accept(setup, session.inspect(plan, x, scratch.x_norms), input, report)) return;
    if constexpr (Policies::by_block) {
      block_steps(setup, state, scratch, c, input);
      session.template update<Moments>(plan, w, x, state.moments(), c, scratch.channel_step);
    } else if constexpr (Policies::factored || Policies::factored_gradient) {
      session.gather(plan, x, c.gradient_factor, scratch.r);
      const double divisor = factored_update(session, setup, state, scratch);
      if constexpr (Moments::buffers > 0)
        session.template moments<Moments>(plan, scratch.r, scratch.r, state.moments(), c, nullptr, nullptr);
      for (Index j = 0; j < plan.kept; ++j) scratch.channel_step[j] = static_cast<T>(c.step / divisor);
      const MatrixView<const T> n = row_major(static_cast<const T*>(scratch.r), plan.kept, plan.removed);
      session.apply(plan, w, n, scratch.channel_step, c);
    } else if constexpr (Granularity::elementwise) {
      session.template update<Moments>(plan, w, x, state.moments(), c, nullptr);
    } else {
      if constexpr (Moments::buffers > 0)
        session.template moments_of_gradient<Moments>(plan, x, state.moments(), c, scratch.n_norms);
      else
        for (Index j = 0; j < plan.kept; ++j)
          scratch.n_norms[j] = input.gradient_factor * input.gradient_factor * scratch.x_norms[j];
      structure(setup, state, scratch, c, input, report);
      if constexpr (scales_momentum)
        session.apply(plan, w, state.momentum(plan), scratch.channel_step, c);
      else
        session.apply(plan, w, x, scratch.channel_step, c);
    }
  }

  /// Calls body(session, scratch), if the workspace is large enough.
  template <class Body>
  static void in_session(const Backend& backend, const WorkspacePart<Backend>& workspace, const TensorSetup& setup,
                         TensorReport& report, Body&& body) {
    Carver carver(workspace.data);
    const auto scratch = Scratch<Policies, T>::carve(carver, setup.plan, setup.settings,
                                                     backend.template scratch_bytes<T, Policies>(setup.plan));
    if (carver.used() > workspace.capacity)
      report.reason = Skip::no_workspace;
    else
      body(Session(backend, setup.plan, scratch.backend, workspace.tools), scratch);
  }

  /// Whether there is something to project on.
  static bool has_projection(const TensorState& state, TensorReport& report) {
    const bool missing = std::is_same_v<Projection, FixedProjection> && state.record.projection_set == 0;
    if (missing) report.reason = Skip::no_projection;
    return !missing;
  }

  static MatrixView<const T> projection(const Plan& plan, const Scratch<Policies, T>& scratch) {
    return row_major(static_cast<const T*>(scratch.r), plan.kept, plan.rank);
  }

  /// R of x, which may have no memory, and of what was carried.
  template <class G, class Directions>
  static bool project(const Session& session, const TensorSetup& setup, const Scratch<Policies, T>& scratch,
                      const MatrixView<const G>& x, const Directions& p, const T* carried, const StepInput& input,
                      TensorReport& report) {
    const Plan& plan = setup.plan;
    const auto factor = static_cast<T>(input.gradient_factor);
    if (carried == nullptr)
      return accept(setup, session.project(plan, x, p, factor, scratch.r, scratch.x_norms), input, report);
    const auto r = row_major(scratch.r, plan.kept, plan.rank);
    if (x.data != nullptr)
      session.project(plan, x, p, factor, scratch.r, scratch.x_norms);
    else
      for (Index i = 0; i < r.size(); ++i) scratch.r[i] = 0;
    const bool accepted =
        accept(setup, session.add(plan, row_major(carried, plan.kept, plan.rank), T(1), r), input, report);
    report.gradient_norm = not_measured;  // that of R is another
    return accepted;
  }

  template <class Kept, class G>
  static void projected(const Session& session, const TensorSetup& setup, TensorState& state,
                        const Scratch<Policies, T>& scratch, const Kept& w, const MatrixView<const G>& x,
                        const T* carried, const StepInput& input, TensorReport& report) {
    const Plan& plan = setup.plan;
    const Settings& settings = setup.settings;
    const std::int64_t index =
        packs_basis<Projection> ? state.record.refreshes : setup.refresh_index(state.record.steps);
    const bool due = refresh_due<Projection>(setup, state.record);
    const bool first = state.record.steps == 0;
    if (!has_projection(state, report)) return;
    unpack_basis(session, setup, state, scratch);
    if constexpr (computes_basis<Projection>)
      if (due) {  // a basis of a bad gradient must not replace a good one, so this step looks before it computes
        GradientSummary summary = session.inspect(plan, x, nullptr);
        if (sizeof(T) == 4 && summary.squared_norm > 1e76) summary.finite = false;  // R might overflow later
        if (!accept(setup, summary, input, report)) return;
        report.stepped = false;
        refresh_basis(session, setup, state, scratch, x, first, index);
      }
    const auto p = directions(session, setup, state, scratch, index);
    if constexpr (Policies::factored_gradient) {
      if (!project_scaled(session, setup, state, scratch, x, p, input, report)) return;
    } else {
      if (!project(session, setup, scratch, x, p, carried, input, report)) return;
    }
    if constexpr (!std::is_same_v<Projection, FixedProjection>) {
      report.refreshed = due;
      if (due && !first && carry_moments(session, setup, state, scratch, index))
        project_again(session, setup, scratch, x, p, carried, input);
    }
    const auto c = coefficients<Policies, T>(plan, settings, state.record, setup.id, input);
    if constexpr (Policies::factored) {
      const double clip = factored_update(session, setup, state, scratch);
      session.apply_lift(plan, w, scratch.r, p, static_cast<T>(c.step / clip), c);
      return;
    } else {
      T* n = Granularity::residual ? scratch.n : Granularity::elementwise ? scratch.r : nullptr;
      session.template moments<Moments>(plan, scratch.r, n, state.moments(), c, scratch.n_norms, scratch.r_norms);
    }
    if constexpr (Granularity::residual) {
      restore_residual(session, setup, state, scratch, x, p, c, input, report);
      session.apply_lift(plan, w, scratch.n, p, static_cast<T>(c.step), c, x, scratch.channel_step);
    } else if constexpr (Granularity::elementwise) {
      session.apply_lift(plan, w, scratch.r, p, static_cast<T>(c.step), c);
    } else {
      structure(setup, state, scratch, c, input, report);
      session.apply(plan, w, x, scratch.channel_step, c);
    }
  }

  /// The memory of R has served to turn the moments.
  template <class G, class Directions>
  static void project_again(const Session& session, const TensorSetup& setup, const Scratch<Policies, T>& scratch,
                            const MatrixView<const G>& x, const Directions& p, const T* carried,
                            const StepInput& input) {
    if constexpr (Policies::factored_gradient) {
      project_by_factors(session, setup, scratch, x, input);
    } else {
      TensorReport again;
      project(session, setup, scratch, x, p, carried, input, again);
    }
  }

  static RandomStream weight_stream(const TensorSetup& setup, const TensorState& state) {
    return {setup.settings.seed, setup.id, Stream::round_weight, static_cast<std::uint64_t>(state.record.steps + 1)};
  }

  static RandomStream projection_stream(const TensorSetup& setup, std::int64_t index) {
    return {setup.settings.seed, setup.id, Stream::projection, static_cast<std::uint64_t>(index)};
  }

  template <class G>
  static void refresh_basis(const Session& session, const TensorSetup& setup, TensorState& state,
                            const Scratch<Policies, T>& scratch, const MatrixView<const G>& x, bool first,
                            std::int64_t index) {
    const Plan& plan = setup.plan;
    T* basis = basis_of(state, scratch);
    if (packs_basis<Projection> || setup.settings.on_refresh == OnRefresh::rotate)
      for (Index i = 0; i < plan.removed * plan.rank; ++i) scratch.old_directions[i] = basis[i];
    const RandomStream stream = projection_stream(setup, index);
    if (setup.settings.svd == SvdMethod::exact)
      basis::exact(session, plan, x, stream, basis, scratch.basis);
    else
      basis::subspace(session, plan, x, !first, stream, basis, scratch.basis);
    basis::fix_signs(basis, plan.removed, plan.rank);
    if constexpr (packs_basis<Projection>) {
      session.pack_basis(plan.removed * plan.rank, basis, state.packed());
      unpack_basis(session, setup, state, scratch);  // the steps from here on take what is kept
      const double kept = state.record.refreshes == 0 ? 0 : share_kept(session, setup, scratch);
      note_refresh(setup.settings, kept, state.record);
    }
  }

  /// Where P^T is, in T.
  static T* basis_of(TensorState& state, const Scratch<Policies, T>& scratch) {
    return packs_basis<Projection> ? scratch.directions : state.basis.data();
  }
  static void unpack_basis(const Session& session, const TensorSetup& setup, TensorState& state,
                           const Scratch<Policies, T>& scratch) {
    if constexpr (packs_basis<Projection>)
      session.unpack_basis(setup.plan.removed * setup.plan.rank, state.packed(), scratch.directions);
  }

  /// How much of the old basis the new one kept.
  static double share_kept(const Session& session, const TensorSetup& setup, const Scratch<Policies, T>& scratch) {
    const Plan& plan = setup.plan;
    const auto p_new = row_major(static_cast<const T*>(scratch.directions), plan.removed, plan.rank);
    const auto p_old = row_major(static_cast<const T*>(scratch.old_directions), plan.removed, plan.rank);
    const auto q = row_major(scratch.rotation, plan.rank, plan.rank);
    session.product(p_new.transposed(), p_old, q);
    return basis::squared_norm(q) / static_cast<double>(plan.rank);
  }

  /// P of refresh number `index` in the form the loops take.
  static auto directions(const Session& session, const TensorSetup& setup, TensorState& state,
                         const Scratch<Policies, T>& scratch, std::int64_t index) {
    const Plan& plan = setup.plan;
    if constexpr (Projection::stores_basis) {
      return DenseDirections<T>{basis_of(state, scratch), plan.rank, plan.removed};
    } else if constexpr (Projection::Sketch::dense) {
      session.draw_directions(typename Projection::Sketch{}, projection_stream(setup, index), plan, scratch.directions);
      return DenseDirections<T>{scratch.directions, plan.rank, plan.removed};
    } else {
      return draw_sparse(projection_stream(setup, index), plan.rank, plan.removed, Projection::Sketch::nonzeros,
                         scratch.bucket, scratch.sign);
    }
  }

  /// What OnRefresh says happens to the moments when the directions have changed. Says whether R was overwritten on the way.
  static bool carry_moments(const Session& session, const TensorSetup& setup, TensorState& state,
                            const Scratch<Policies, T>& scratch, std::int64_t index) {
    if (setup.settings.on_refresh == OnRefresh::reset) reset_moments(state);
    if (setup.settings.on_refresh != OnRefresh::rotate) return false;
    const T* current = scratch.directions;
    if constexpr (Projection::stores_basis) {
      current = basis_of(state, scratch);
    } else {
      dense_directions(session, setup, scratch, index - 1, scratch.old_directions);
      if constexpr (!Projection::Sketch::dense) dense_directions(session, setup, scratch, index, scratch.directions);
    }
    rotate_moments(session, setup, state, scratch, current);
    return !MomentStorage<stored_t<Moments, T>, T>::in_place && Moments::buffers > 0;
  }

  template <class S>
  static void dense_directions(const S& session, const TensorSetup& setup, const Scratch<Policies, T>& scratch,
                               std::int64_t index, T* to) {
    const Plan& plan = setup.plan;
    if constexpr (Projection::Sketch::dense) {
      session.draw_directions(typename Projection::Sketch{}, projection_stream(setup, index), plan, to);
    } else {
      const auto p = draw_sparse(projection_stream(setup, index), plan.rank, plan.removed, Projection::Sketch::nonzeros,
                                 scratch.bucket, scratch.sign);
      const T weight = T(1) / static_cast<T>(__builtin_sqrt(static_cast<double>(p.nonzeros)));
      for (Index i = 0; i < plan.removed * plan.rank; ++i) to[i] = 0;
      for (int h = 0; h < p.nonzeros; ++h)
        for (Index s = 0; s < plan.removed; ++s)
          to[s * plan.rank + p.bucket_of(h, s)] = p.sign[h * plan.removed + s] != 0 ? -weight : weight;
    }
  }

 public:
  /// Moments start again from zero, and so does the bias correction.
  static void reset_moments(TensorState& state) {
    for (int b = 0; b < Moments::buffers; ++b) state.moment[b].clear();
    if (!Policies::factored_gradient)  // which is of X, whatever its projection
      for (auto& shared : state.shared)
        for (Index i = 0; i < shared.size(); ++i) shared.data()[i] = 0;
    state.record.restart = state.record.steps;
  }

  /// Turns the moments from scratch.old_directions to `current`.
  static void rotate_moments(const Session& session, const TensorSetup& setup, TensorState& state,
                             const Scratch<Policies, T>& scratch, const T* current) {
    // The update of this step rounds with the same counter; the highest bit keeps the two apart.
    const auto t = static_cast<std::uint64_t>(state.record.steps + 1) | std::uint64_t{1} << 47;
    const RandomStream rounding{setup.settings.seed, setup.id, Stream::round_moments, t};
    basis::rotate<Policies, T>(session, setup.plan, current, scratch.old_directions, scratch.rotation, scratch.row,
                               scratch.r, state.moments(), rounding);
    if constexpr (Policies::factored) factored::rotate(setup.plan.rank, state, scratch);
  }

 private:
  /// Whether the step's length multiplies the first moment, which is N, and not the gradient.
  static constexpr bool scales_momentum = Granularity::of_update && Moments::buffers == 1;

  /// V of every block, and from it one step length a channel.
  static void block_steps(const TensorSetup& setup, TensorState& state, const Scratch<Policies, T>& scratch,
                          const StepCoefficients<T>& c, const StepInput& input) {
    const Plan& plan = setup.plan;
    const double share = input.gradient_factor * input.gradient_factor / static_cast<double>(plan.block * plan.removed);
    for (Index b = 0; b < plan.blocks(); ++b) {
      double sum = 0;
      for (Index j = b * plan.block; j < (b + 1) * plan.block; ++j) sum += scratch.x_norms[j];
      const double step = block_step(setup.settings, c, share * sum, state.shared[0].data()[b]);
      for (Index j = b * plan.block; j < (b + 1) * plan.block; ++j) scratch.channel_step[j] = static_cast<T>(step);
    }
  }

  /// R = D_L X (P D_S)^T. V's factors are written once all of it is known to be finite; false where it is not.
  template <class G>
  static bool project_scaled(const Session& session, const TensorSetup& setup, TensorState& state,
                             const Scratch<Policies, T>& scratch, const MatrixView<const G>& x,
                             const DenseDirections<T>& p, const StepInput& input, TensorReport& report) {
    const Plan& plan = setup.plan;
    const GradientSummary given = session.inspect(plan, x, scratch.r_norms);
    if (!accept(setup, given, input, report)) return false;
    report.stepped = false;
    session.sum_squares(plan, x, nullptr, scratch.column_sums);
    factored::update(setup.settings, state, scratch, input.gradient_factor * input.gradient_factor);
    session.scale_directions(plan, p, scratch.column_factor, scratch.scaled_directions);
    for (Index k = 0; k < plan.rank; ++k) scratch.column_factor[k] = 1;
    GradientSummary summary = project_by_factors(session, setup, scratch, x, input);
    summary.squared_norm = given.squared_norm;
    if (!accept(setup, summary, input, report)) return false;
    factored::store(state, scratch);
    return true;
  }
  /// R alone, from the factors in scratch.
  template <class G>
  static GradientSummary project_by_factors(const Session& session, const TensorSetup& setup,
                                            const Scratch<Policies, T>& scratch, const MatrixView<const G>& x,
                                            const StepInput& input) {
    const Plan& plan = setup.plan;
    const DenseDirections<T> scaled{scratch.scaled_directions, plan.rank, plan.removed};
    const GradientSummary summary =
        session.project(plan, x, scaled, static_cast<T>(input.gradient_factor), scratch.r, nullptr);
    session.multiply_outer(plan, scratch.r, scratch.channel_step, scratch.column_factor);
    return summary;
  }

  /// Both factors of V, then N over R. Returns what N has to be divided by to be no longer than allowed.
  static double factored_update(const Session& session, const TensorSetup& setup, TensorState& state,
                                const Scratch<Policies, T>& scratch) {
    const Plan& plan = setup.plan;
    session.sum_squares(plan, projection(plan, scratch), scratch.r_norms, scratch.column_sums);
    factored::update(setup.settings, state, scratch, 1);
    factored::store(state, scratch);
    const double squared = session.multiply_outer(plan, scratch.r, scratch.channel_step, scratch.column_factor);
    if (Policies::factored_gradient) return 1;  // its mean is not clipped
    return factored::excess(setup.settings, squared, plan.moment_size());
  }

  /// C and s of U = scale lift(N) + s o (X - share lift(R)), the limiter on the second term alone. C is left in scratch.n.
  template <class G, class Directions>
  static void restore_residual(const Session& session, const TensorSetup& setup, TensorState& state,
                               const Scratch<Policies, T>& scratch, const MatrixView<const G>& x, const Directions& p,
                               const StepCoefficients<T>& c, const StepInput& input, TensorReport& report) {
    const Plan& plan = setup.plan;
    const double alpha = setup.settings.scale.value;
    const double share = setup.settings.residual == FiraResidual::paper ? 1 : alpha;
    session.residual_norms(plan, x, p, input.gradient_factor, share, scratch.r, scratch.r_norms, scratch.x_norms);
    double squared = 0;
    for (Index j = 0; j < plan.kept; ++j) {
      const double s = Granularity::ratio(scratch.n_norms[j], scratch.r_norms[j]);
      squared += s * s * scratch.x_norms[j];
      scratch.n_norms[j] = s;  // the norm has served
    }
    limit(setup, state, __builtin_sqrt(squared), report);
    for (Index j = 0; j < plan.kept; ++j)
      scratch.channel_step[j] = static_cast<T>(scratch.n_norms[j] * share / report.limiter);
    session.combine(plan, static_cast<T>(alpha), scratch.n, scratch.channel_step, scratch.r);
    for (Index j = 0; j < plan.kept; ++j)
      scratch.channel_step[j] = static_cast<T>(scratch.n_norms[j] * input.gradient_factor * c.step / report.limiter);
  }

  /// Notes by what an update of this norm is divided, and its norm afterwards.
  static void limit(const TensorSetup& setup, TensorState& state, double norm, TensorReport& report) {
    if constexpr (Limiter::active) {
      const auto limited =
          Limiter::limit(norm, state.record.previous_norm, setup.settings.limiter_gamma, setup.settings.limiter_floor);
      state.record.previous_norm = limited.previous;
      report.limiter = limited.divisor;
    }
    report.update_norm = norm / report.limiter;
  }

  /// From norms to one step length a channel, limiter included: s_j, then |U|^2 = sum of s_j^2 |u_j|^2, where u is the gradient
  /// or, if the update itself is scaled, N.
  static void structure(const TensorSetup& setup, TensorState& state, const Scratch<Policies, T>& scratch,
                        const StepCoefficients<T>& c, const StepInput& input, TensorReport& report) {
    const Plan& plan = setup.plan;
    const double factor = input.gradient_factor, scaled_factor = scales_momentum ? 1 : factor;
    // Without a projection R is the scaled gradient itself.
    const double r_factor = Projection::projects ? 1 : factor * factor;
    const double* r_norms = Projection::projects ? scratch.r_norms : scratch.x_norms;
    const double* scaled_norms = scales_momentum ? scratch.n_norms : scratch.x_norms;
    double tensor_scale = 0;
    if (!Granularity::per_channel) {
      double n_sum = 0, r_sum = 0;
      for (Index j = 0; j < plan.kept; ++j) n_sum += scratch.n_norms[j], r_sum += r_factor * r_norms[j];
      tensor_scale = Granularity::ratio(n_sum, r_sum);
    }
    double squared = 0;
    for (Index j = 0; j < plan.kept; ++j) {
      const double s =
          Granularity::per_channel ? Granularity::ratio(scratch.n_norms[j], r_factor * r_norms[j]) : tensor_scale;
      squared += s * s * (scaled_factor * scaled_factor * scaled_norms[j]);
      scratch.n_norms[j] = s;  // the norm has served
    }
    limit(setup, state, __builtin_sqrt(squared), report);
    for (Index j = 0; j < plan.kept; ++j)
      scratch.channel_step[j] = static_cast<T>(scratch.n_norms[j] * scaled_factor * c.step / report.limiter);
  }
};

}  // namespace apollo
