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
      for (Index j = 0; j < plan.kept; ++j) {
        double n_sum = 0, r_sum = 0;
        for (Index k = 0; k < plan.rank; ++k) {
          const Index at = j * plan.rank + k;
          const T value = r[at];
          const T n = update_one<Moments>(value, at, state, c);
          if (n_matrix != nullptr) n_matrix[at] = n;
          n_sum += static_cast<double>(n) * static_cast<double>(n);
          r_sum += static_cast<double>(value) * static_cast<double>(value);
        }
        if (n_channel != nullptr) n_channel[j] = n_sum, r_channel[j] = r_sum;
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
      for (Index j = 0; j < plan.kept; ++j) {
        double n_sum = 0;
        for (Index s = 0; s < plan.removed; ++s) {
          const T n =
              update_one<Moments>(c.gradient_factor * static_cast<T>(x(j, s)), state_index(plan, j, s), state, c);
          n_sum += static_cast<double>(n) * static_cast<double>(n);
        }
        n_channel[j] = n_sum;
      }
    }

    // --- apply ----------------------------------------------------------------------------------------------------
    /// W <- (W before - channel_step o X) after.
    template <class Weights, class W, class G>
    void apply(const Plan& plan, const MatrixView<W>& w, const MatrixView<const G>& x, const T* channel_step,
               const StepCoefficients<T>& c) const {
      for (Index j = 0; j < plan.kept; ++j)
        for (Index s = 0; s < plan.removed; ++s) {
          const T value = c.decay_before * static_cast<T>(w(j, s)) - channel_step[j] * static_cast<T>(x(j, s));
          Weights::store(c.decay_after * value, w(j, s));
        }
    }
    /// W <- (W before - step C P) after.
    template <class Weights, class W>
    void apply_lift(const Plan& plan, const MatrixView<W>& w, const T* c_matrix, const DenseDirections<T>& p, T step,
                    const StepCoefficients<T>& c) const {
      for (Index j = 0; j < plan.kept; ++j)
        for (Index s = 0; s < plan.removed; ++s) {
          double sum = 0;
          for (Index k = 0; k < plan.rank; ++k)
            sum += static_cast<double>(c_matrix[j * plan.rank + k]) * static_cast<double>(p.data[s * plan.rank + k]);
          const T value = c.decay_before * static_cast<T>(w(j, s)) - step * static_cast<T>(sum);
          Weights::store(c.decay_after * value, w(j, s));
        }
    }
    template <class Weights, class W>
    void apply_lift(const Plan& plan, const MatrixView<W>& w, const T* c_matrix, const SparseDirections& p, T step,
                    const StepCoefficients<T>& c) const {
      const T weight = step / static_cast<T>(__builtin_sqrt(static_cast<double>(p.nonzeros)));
      for (Index j = 0; j < plan.kept; ++j)
        for (Index s = 0; s < plan.removed; ++s) {
          T sum = 0;
          for (int h = 0; h < p.nonzeros; ++h) {
            const T entry = c_matrix[j * plan.rank + p.bucket_of(h, s)];
            sum += p.sign[h * plan.removed + s] != 0 ? -entry : entry;
          }
          const T value = c.decay_before * static_cast<T>(w(j, s)) - weight * sum;
          Weights::store(c.decay_after * value, w(j, s));
        }
    }

    /// W <- (W before - step C P - channel_step o X) after.
    template <class Weights, class W, class G>
    void apply_lift(const Plan& plan, const MatrixView<W>& w, const T* c_matrix, const DenseDirections<T>& p, T step,
                    const StepCoefficients<T>& c, const MatrixView<const G>& x, const T* channel_step) const {
      for (Index j = 0; j < plan.kept; ++j)
        for (Index s = 0; s < plan.removed; ++s) {
          double sum = 0;
          for (Index k = 0; k < plan.rank; ++k)
            sum += static_cast<double>(c_matrix[j * plan.rank + k]) * static_cast<double>(p.data[s * plan.rank + k]);
          const T update = step * static_cast<T>(sum) + channel_step[j] * static_cast<T>(x(j, s));
          Weights::store(c.decay_after * (c.decay_before * static_cast<T>(w(j, s)) - update), w(j, s));
        }
    }

    /// Moments and apply in one pass, where nothing is projected and every element has its own step; times `channel_step` of
    /// its channel, or, where that is null, c.step.
    template <class Moments, class Weights, class W, class G>
    void update(const Plan& plan, const MatrixView<W>& w, const MatrixView<const G>& x,
                const MomentPointers<stored_t<Moments, T>>& state, const StepCoefficients<T>& c,
                const T* channel_step) const {
      for (Index j = 0; j < plan.kept; ++j)
        for (Index s = 0; s < plan.removed; ++s) {
          const T step = channel_step != nullptr ? channel_step[j] : static_cast<T>(c.step);
          const auto weight = static_cast<T>(w(j, s));
          const T r = c.gradient_factor * static_cast<T>(x(j, s)) + c.coupled_decay * weight;
          const T n = update_one<Moments>(r, state_index(plan, j, s), state, c);
          Weights::store(c.decay_after * (c.decay_before * weight - step * n), w(j, s));
        }
    }

   private:
    static Index state_index(const Plan& plan, Index j, Index s) {
      return plan.state_order == Order2D::row_major ? j * plan.removed + s : s * plan.kept + j;
    }

    template <class Moments>
    static T update_one(T r, Index at, const MomentPointers<stored_t<Moments, T>>& state,
                        const StepCoefficients<T>& c) {
      using Storage = MomentStorage<stored_t<Moments, T>, T>;
      T value[2] = {0, 0};
      for (int b = 0; b < Moments::buffers; ++b) {
        T buffer = 0;
        value[b] = *Storage::open(state.buffer[b] + at, &buffer, 1);
      }
      const T n = Moments::update(r, value, c.moments);
      for (int b = 0; b < Moments::buffers; ++b) {
        T buffer = 0;
        T* slot = Storage::open(state.buffer[b] + at, &buffer, 1);
        *slot = value[b];
        Storage::close(slot, state.buffer[b] + at, 1, c.rounding[b], at);
      }
      return n;
    }
  };
};

}  // namespace apollo
