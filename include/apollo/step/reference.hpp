// SPDX-License-Identifier: Apache-2.0
// The reference backend: every loop in its plainest form, sums in double, one thread, no dependency. It says what the others
// must compute, and is what somebody gets who brings no backend.
#pragma once

#include <apollo/step/coefficients.hpp>
#include <apollo/step/linear_algebra.hpp>
#include <apollo/step/memory.hpp>
#include <apollo/step/report.hpp>
#include <apollo/step/residual.hpp>

namespace apollo {

class Reference {
 public:
  template <class T>
  using Buffer = HostBuffer<T>;

  /// How many tensors it steps at a time, each on one lane.
  int lanes() const { return 1; }
  Reference lane() const { return {}; }
  /// Calls body(index, lane) for every index below count.
  template <class Body>
  void deal(Index count, Body&& body) const {
    for (Index index = 0; index < count; ++index) body(index, 0);
  }

  /// Objects a backend wants to keep beside the workspace's memory. None here.
  struct Tools {
    Index bytes() const { return 0; }
  };
  template <class T, class Policies>
  void prepare(Tools&, const Plan&, const Settings&) const {}
  template <class T, class Policies>
  constexpr Index tools_bytes(const Plan&, const Settings&) const {
    return 0;
  }

  /// Memory of one step beyond what the pipeline itself needs. None here.
  template <class T, class Policies>
  constexpr Index scratch_bytes(const Plan&) const {
    return 0;
  }

  /// One step's access to the backend: the scratch and tools it may use.
  template <class T, class Policies>
  class Session {
   public:
    Session(const Reference&, const Plan&, std::byte*, Tools&) {}

    // --- linear algebra -------------------------------------------------------------------------------------------
    template <class A, class B, class C>
    void product(const MatrixView<A>& a, const MatrixView<B>& b, const MatrixView<C>& c) const {
      plain::product(a, b, c);
    }
    /// c -= a b
    template <class A, class B, class C>
    void subtract_product(const MatrixView<A>& a, const MatrixView<B>& b, const MatrixView<C>& c) const {
      for (Index i = 0; i < c.rows; ++i)
        for (Index j = 0; j < c.cols; ++j) {
          double sum = 0;
          for (Index k = 0; k < a.cols; ++k) sum += static_cast<double>(a(i, k)) * static_cast<double>(b(k, j));
          c(i, j) = static_cast<C>(c(i, j) - sum);
        }
    }
    void symmetric_eigen(Index n, double* a, double* values, double* vectors) const {
      plain::symmetric_eigen(n, a, values, vectors);
    }
    void pack_basis(Index size, const T* values, const PackedBasis& packed) const {
      for (Index number = 0; number < PackedBasis::groups(size); ++number) packed.pack(number, size, values);
    }
    void unpack_basis(Index size, const PackedBasis& packed, T* values) const {
      for (Index number = 0; number < PackedBasis::groups(size); ++number) packed.unpack(number, size, values);
    }

    // --- project --------------------------------------------------------------------------------------------------
    /// P^T of a dense random projection.
    template <class Sketch>
    void draw_directions(Sketch sketch, const RandomStream& stream, const Plan& plan, T* directions) const {
      draw(sketch, stream, plan.rank, plan.removed, 0, plan.removed, directions);
    }

    /// Row s of P^T times factor s.
    void scale_directions(const Plan& plan, const DenseDirections<T>& p, const T* factor, T* to) const {
      for (Index s = 0; s < plan.removed; ++s)
        for (Index k = 0; k < plan.rank; ++k) to[s * plan.rank + k] = factor[s] * p.data[s * plan.rank + k];
    }

    /// Finiteness and squared norms of X, whole and per channel (`channel` may be null).
    template <class G>
    GradientSummary inspect(const Plan& plan, const MatrixView<const G>& x, double* channel) const {
      GradientSummary summary;
      for (Index j = 0; j < plan.kept; ++j) {
        double sum = 0;
        for (Index s = 0; s < plan.removed; ++s) {
          const auto value = static_cast<T>(x(j, s));
          summary.finite = summary.finite && bits::finite(value);
          sum += static_cast<double>(value) * static_cast<double>(value);
        }
        if (channel != nullptr) channel[j] = sum;
        summary.squared_norm += sum;
      }
      return summary;
    }

    /// sum += factor X, for X or R. The summary is of the sum.
    template <class V>
    GradientSummary add(const Plan&, const MatrixView<const V>& x, T factor, const MatrixView<T>& sum) const {
      GradientSummary summary;
      for (Index j = 0; j < x.rows; ++j)
        for (Index s = 0; s < x.cols; ++s) {
          T& value = sum(j, s);
          value += factor * static_cast<T>(x(j, s));
          summary.finite = summary.finite && bits::finite(value);
          summary.squared_norm += static_cast<double>(value) * static_cast<double>(value);
        }
      return summary;
    }

    /// R = factor X P^T with the squared channel norms of X, in one read of X. `finite` covers R too.
    template <class G>
    GradientSummary project(const Plan& plan, const MatrixView<const G>& x, const DenseDirections<T>& p, T factor, T* r,
                            double* channel) const {
      GradientSummary summary = inspect(plan, x, channel);
      for (Index j = 0; j < plan.kept; ++j)
        for (Index k = 0; k < plan.rank; ++k) {
          double sum = 0;
          for (Index s = 0; s < plan.removed; ++s)
            sum += static_cast<double>(static_cast<T>(x(j, s))) * static_cast<double>(p.data[s * plan.rank + k]);
          r[j * plan.rank + k] = factor * static_cast<T>(sum);
          summary.finite = summary.finite && bits::finite(r[j * plan.rank + k]);
        }
      return summary;
    }
    template <class G>
    GradientSummary project(const Plan& plan, const MatrixView<const G>& x, const SparseDirections& p, T factor, T* r,
                            double* channel) const {
      GradientSummary summary = inspect(plan, x, channel);
      const T weight = factor / static_cast<T>(__builtin_sqrt(static_cast<double>(p.nonzeros)));
      for (Index j = 0; j < plan.kept; ++j) {
        T* row = r + j * plan.rank;
        for (Index k = 0; k < plan.rank; ++k) row[k] = 0;
        for (int h = 0; h < p.nonzeros; ++h)
          for (Index s = 0; s < plan.removed; ++s) {
            const auto value = static_cast<T>(x(j, s));
            T& bucket = row[p.bucket_of(h, s)];
            bucket += p.sign[h * plan.removed + s] != 0 ? -value : value;
          }
        for (Index k = 0; k < plan.rank; ++k) {
          row[k] *= weight;
          summary.finite = summary.finite && bits::finite(row[k]);
        }
      }
      return summary;
    }

    // --- moments --------------------------------------------------------------------------------------------------
    /// M, V <- R. N is written to `n`, which may be r, and the squared channel norms of N and R are; either may be null.
    template <class Moments>
    void moments(const Plan& plan, const T* r, T* n_matrix, const MomentPointers<stored_t<Moments, T>>& state,
                 const StepCoefficients<T>& c, double* n_channel, double* r_channel) const {
      if (n_channel != nullptr)
        for (Index j = 0; j < plan.kept; ++j) n_channel[j] = r_channel[j] = 0;
      const Index size = plan.moment_size();
      for (Index at = 0; at < size; at += storage_block) {
        const StorageRun run = flat_run(at, size);
        T n[storage_block];
        for (int i = 0; i < run.count; ++i) n[i] = r[at + i];
        update_run<Moments>(run, n, state, c);
        for (int i = 0; i < run.count; ++i) {
          if (n_channel != nullptr) {
            const Index j = (at + i) / plan.rank;
            n_channel[j] += static_cast<double>(n[i]) * static_cast<double>(n[i]);
            r_channel[j] += static_cast<double>(r[at + i]) * static_cast<double>(r[at + i]);
          }
          if (n_matrix != nullptr) n_matrix[at + i] = n[i];
        }
      }
    }
    /// R = factor X, where nothing is projected.
    template <class G>
    void gather(const Plan& plan, const MatrixView<const G>& x, T factor, T* r) const {
      for (Index j = 0; j < plan.kept; ++j)
        for (Index s = 0; s < plan.removed; ++s) r[j * plan.removed + s] = factor * static_cast<T>(x(j, s));
    }
    /// Sums of squares of X or R, for every channel (`channel` may be null) and for every column.
    template <class V>
    void sum_squares(const Plan&, const MatrixView<const V>& values, double* channel, double* column) const {
      for (Index k = 0; k < values.cols; ++k) column[k] = 0;
      for (Index j = 0; j < values.rows; ++j) {
        double sum = 0;
        for (Index k = 0; k < values.cols; ++k) {
          const auto value = static_cast<double>(static_cast<T>(values(j, k)));
          sum += value * value;
          column[k] += value * value;
        }
        if (channel != nullptr) channel[j] = sum;
      }
    }
    /// R_jk <- channel_j direction_k R_jk. Returns the sum of its squares.
    double multiply_outer(const Plan& plan, T* r, const T* channel, const T* direction) const {
      double sum = 0;
      for (Index j = 0; j < plan.kept; ++j)
        for (Index k = 0; k < plan.rank; ++k) {
          T& value = r[j * plan.rank + k];
          value = value * channel[j] * direction[k];  // in this order zeros stay zeros
          sum += static_cast<double>(value) * static_cast<double>(value);
        }
      return sum;
    }

    // --- what a projection leaves ---------------------------------------------------------------------------------
    /// norms_j, which holds |x_j|^2, becomes |factor x_j - share lift(R)_j|^2, for an orthonormal P. By Pythagoras, unless
    /// so little is left that the difference would be rounding: then by summing it.
    template <class G>
    void residual_norms(const Plan& plan, const MatrixView<const G>& x, const DenseDirections<T>& p, double factor,
                        double share, const T* r, const double* r_channel, double* norms) const {
      for (Index j = 0; j < plan.kept; ++j)
        norms[j] = residual::norm(plan, x, p, factor, share, r, r_channel[j], norms[j], j);
    }
    /// N_jk <- alpha N_jk - channel_j R_jk.
    void combine(const Plan& plan, T alpha, T* n, const T* channel, const T* r) const {
      for (Index j = 0; j < plan.kept; ++j)
        for (Index at = j * plan.rank; at < (j + 1) * plan.rank; ++at) n[at] = alpha * n[at] - channel[j] * r[at];
    }
    /// The same where nothing is projected: R = factor X is read in place, N is only measured.
    template <class Moments, class G>
    void moments_of_gradient(const Plan& plan, const MatrixView<const G>& x,
                             const MomentPointers<stored_t<Moments, T>>& state, const StepCoefficients<T>& c,
                             double* n_channel) const {
      for (Index j = 0; j < plan.kept; ++j) n_channel[j] = 0;
      over_runs(plan, plan.state_order, [&](const StorageRun& run) {
        T n[storage_block];
        over_values(run, [&](Index j, Index s, int i) { n[i] = c.gradient_factor * static_cast<T>(x(j, s)); });
        update_run<Moments>(run, n, state, c);
        over_values(
            run, [&](Index j, Index, int i) { n_channel[j] += static_cast<double>(n[i]) * static_cast<double>(n[i]); });
      });
    }

    // --- apply ----------------------------------------------------------------------------------------------------
    /// W <- (W before - channel_step o X) after.
    template <class Kept, class G>
    void apply(const Plan& plan, const Kept& w, const MatrixView<const G>& x, const T* channel_step,
               const StepCoefficients<T>& c) const {
      change(plan, w, [&](Index j, Index s, T weight) {
        const T value = c.decay_before * weight - channel_step[j] * static_cast<T>(x(j, s));
        return c.decay_after * value;
      });
    }
    /// W <- (W before - step C P) after.
    template <class Kept>
    void apply_lift(const Plan& plan, const Kept& w, const T* c_matrix, const DenseDirections<T>& p, T step,
                    const StepCoefficients<T>& c) const {
      change(plan, w, [&](Index j, Index s, T weight) {
        const T value = c.decay_before * weight - step * lifted(plan, c_matrix, p, j, s);
        return c.decay_after * value;
      });
    }
    template <class Kept>
    void apply_lift(const Plan& plan, const Kept& w, const T* c_matrix, const SparseDirections& p, T step,
                    const StepCoefficients<T>& c) const {
      const T scaled_step = step / static_cast<T>(__builtin_sqrt(static_cast<double>(p.nonzeros)));
      change(plan, w, [&](Index j, Index s, T weight) {
        T sum = 0;
        for (int h = 0; h < p.nonzeros; ++h) {
          const T entry = c_matrix[j * plan.rank + p.bucket_of(h, s)];
          sum += p.sign[h * plan.removed + s] != 0 ? -entry : entry;
        }
        const T value = c.decay_before * weight - scaled_step * sum;
        return c.decay_after * value;
      });
    }

    /// W <- (W before - step C P - channel_step o X) after.
    template <class Kept, class G>
    void apply_lift(const Plan& plan, const Kept& w, const T* c_matrix, const DenseDirections<T>& p, T step,
                    const StepCoefficients<T>& c, const MatrixView<const G>& x, const T* channel_step) const {
      change(plan, w, [&](Index j, Index s, T weight) {
        const T update = step * lifted(plan, c_matrix, p, j, s) + channel_step[j] * static_cast<T>(x(j, s));
        return c.decay_after * (c.decay_before * weight - update);
      });
    }

    /// Moments and apply in one pass, where nothing is projected and every element has its own step; times `channel_step` of
    /// its channel, or, where that is null, c.step.
    template <class Moments, class Kept, class G>
    void update(const Plan& plan, const Kept& w, const MatrixView<const G>& x,
                const MomentPointers<stored_t<Moments, T>>& state, const StepCoefficients<T>& c,
                const T* channel_step) const {
      over_runs(plan, plan.state_order, [&](const StorageRun& run) {
        T weight[storage_block] = {}, n[storage_block];
        weights::open(w, run, weight);
        over_values(run, [&](Index j, Index s, int i) {
          n[i] = c.gradient_factor * static_cast<T>(x(j, s)) + c.coupled_decay * weight[i];
        });
        update_run<Moments>(run, n, state, c);
        over_values(run, [&](Index j, Index, int i) {
          const T step = channel_step != nullptr ? channel_step[j] : static_cast<T>(c.step);
          weight[i] = c.decay_after * (c.decay_before * weight[i] - step * n[i]);
        });
        weights::close(w, run, static_cast<const T*>(weight));
      });
    }

   private:
    /// Calls body(run) for all runs of a matrix in memory of this order.
    template <class Body>
    static void over_runs(const Plan& plan, Order2D order, Body&& body) {
      for_storage_runs(order, plan.kept, plan.removed, 0, plan.kept, 0, plan.removed, body);
    }
    /// Calls body(j, s, i) for the values of a run, the i-th at (j, s).
    template <class Body>
    static void over_values(const StorageRun& run, Body&& body) {
      run.parts([&](Index j, Index s, int count, int offset) {
        const bool rows = run.order == Order2D::row_major;
        for (int i = 0; i < count; ++i) body(rows ? j : j + i, rows ? s + i : s, offset + i);
      });
    }

    /// Every weight becomes new_value(j, s, weight).
    template <class Kept, class Change>
    static void change(const Plan& plan, const Kept& w, Change&& new_value) {
      over_runs(plan, plan.order_of_x(), [&](const StorageRun& run) {
        T values[storage_block] = {};
        weights::open(w, run, values);
        over_values(run, [&](Index j, Index s, int i) { values[i] = new_value(j, s, values[i]); });
        weights::close(w, run, static_cast<const T*>(values));
      });
    }

    /// (C P)_js
    static T lifted(const Plan& plan, const T* c_matrix, const DenseDirections<T>& p, Index j, Index s) {
      double sum = 0;
      for (Index k = 0; k < plan.rank; ++k)
        sum += static_cast<double>(c_matrix[j * plan.rank + k]) * static_cast<double>(p.data[s * plan.rank + k]);
      return static_cast<T>(sum);
    }

    /// Moments of a run of R, which becomes N.
    template <class Moments>
    static void update_run(const StorageRun& run, T* values, const MomentPointers<stored_t<Moments, T>>& state,
                           const StepCoefficients<T>& c) {
      using Storage = MomentStorage<stored_t<Moments, T>, T>;
      T buffer[2][storage_block];
      T* opened[2] = {};
      for (int b = 0; b < Moments::buffers; ++b) opened[b] = Storage::open(state.buffer[b], run, b, buffer[b]);
      for (int i = 0; i < run.count; ++i) {
        T value[2] = {0, 0};
        for (int b = 0; b < Moments::buffers; ++b) value[b] = opened[b][i];
        values[i] = Moments::update(values[i], value, c.moments);
        for (int b = 0; b < Moments::buffers; ++b) opened[b][i] = value[b];
      }
      [[maybe_unused]] std::uint8_t random[Storage::stochastic ? rounding::bytes : 1] = {};
      if constexpr (Storage::stochastic) rounding::draw(c.rounding, run.block(storage_block), random);
      for (int b = 0; b < Moments::buffers; ++b) close_moments<Storage>(opened[b], state.buffer[b], run, b, random);
    }
  };
};

}  // namespace apollo
