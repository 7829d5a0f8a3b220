// SPDX-License-Identifier: Apache-2.0
// The second moment in two factors (arXiv:1804.04235): means of squares over rows and over columns, of R or of the whole X.
// State and Scratch are those of step/state.hpp and step/workspace.hpp.
#pragma once

#include <apollo/step/coefficients.hpp>
#include <apollo/step/settings.hpp>
#include <apollo/step/state.hpp>
#include <apollo/step/workspace.hpp>

namespace apollo {

namespace factored {

/// A mean of squares after this step's, which is `squares`: 1 - decay of it is new. As it will be kept in T.
template <class T>
APOLLO_HD double mean_of(const Settings& settings, double decay, T old, double squares) {
  const double mean = squares + settings.eps;
  return static_cast<double>(square::stored<T>(decay * static_cast<double>(old) + (1 - decay) * mean));
}
/// By what a row is multiplied: (row / mean(row))^-1/2.
template <class T>
APOLLO_HD T row_factor(double row, double mean) {
  return static_cast<T>(__builtin_sqrt(mean / row));
}
template <class T>
APOLLO_HD T column_factor(double column) {
  return static_cast<T>(1 / __builtin_sqrt(column));
}
/// What N of `count` values has to be divided by to be no longer than allowed.
APOLLO_HD inline double excess(const Settings& settings, double squared_norm, Index count) {
  const double rms = __builtin_sqrt(squared_norm / static_cast<double>(count));
  const double excess = rms / settings.clip_threshold;
  return excess > 1 ? excess : 1;
}
/// A mean over channels of R is of squares, and turns as V does: by a row of Q, every entry squared.
template <class T>
APOLLO_HD T turned(const T* q_row, const T* columns, Index rank) {
  T sum = 0;
  for (Index i = 0; i < rank; ++i) sum += q_row[i] * q_row[i] * columns[i];
  return sum;
}

/// Turns the sums of squares in scratch, times `share`, into new means in the same place, and into what rows and columns are
/// multiplied by. The state is left as it was.
template <class Policies, class T, template <class> class Buffer>
void update(const Settings& settings, const State<Policies, T, Buffer>& state, const Scratch<Policies, T>& scratch,
            double share) {
  const Index rows = state.shared[0].size(), columns = state.shared[1].size();
  // Means of R start again with its moments; those of X have nothing to do with directions.
  const std::int64_t restart = Policies::factored ? state.record.restart : 0;
  const auto clock = static_cast<double>(state.record.steps + 1 - restart);
  const double decay = 1 - __builtin_pow(clock, -settings.decay_rate);
  double total = 0;
  for (Index j = 0; j < rows; ++j)
    total += scratch.r_norms[j] =
        mean_of(settings, decay, state.shared[0].data()[j], share * scratch.r_norms[j] / static_cast<double>(columns));
  const double mean = total / static_cast<double>(rows);
  for (Index j = 0; j < rows; ++j) scratch.channel_step[j] = row_factor<T>(scratch.r_norms[j], mean);
  for (Index k = 0; k < columns; ++k) {
    scratch.column_sums[k] =
        mean_of(settings, decay, state.shared[1].data()[k], share * scratch.column_sums[k] / static_cast<double>(rows));
    scratch.column_factor[k] = column_factor<T>(scratch.column_sums[k]);
  }
}

/// Keeps the new means.
template <class Policies, class T, template <class> class Buffer>
void store(State<Policies, T, Buffer>& state, const Scratch<Policies, T>& scratch) {
  const double* means[] = {scratch.r_norms, scratch.column_sums};
  for (int v = 0; v < 2; ++v)
    for (Index i = 0; i < state.shared[v].size(); ++i) state.shared[v].data()[i] = static_cast<T>(means[v][i]);
}

/// Turns the means over channels by scratch.rotation.
template <class Policies, class T, template <class> class Buffer>
void rotate(Index rank, State<Policies, T, Buffer>& state, const Scratch<Policies, T>& scratch) {
  T* columns = state.shared[1].data();
  for (Index k = 0; k < rank; ++k) scratch.row[k] = turned(scratch.rotation + k * rank, columns, rank);
  for (Index k = 0; k < rank; ++k) columns[k] = scratch.row[k];
}

}  // namespace factored

}  // namespace apollo
