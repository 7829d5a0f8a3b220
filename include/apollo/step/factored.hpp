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

/// Turns the sums of squares in scratch, times `share`, into new means in the same place, and into what rows and columns are
/// multiplied by, (row / mean(row))^-1/2 and col^-1/2. The state is left as it was.
template <class Policies, class T, template <class> class Buffer>
void update(const Settings& settings, const State<Policies, T, Buffer>& state, const Scratch<Policies, T>& scratch,
            double share) {
  const Index rows = state.shared[0].size(), columns = state.shared[1].size();
  // Means of R start again with its moments; those of X have nothing to do with directions.
  const std::int64_t restart = Policies::factored ? state.record.restart : 0;
  const auto clock = static_cast<double>(state.record.steps + 1 - restart);
  const double decay = 1 - __builtin_pow(clock, -settings.decay_rate);
  const auto mean_of = [&](T old, double sum, Index count) {
    const double mean = share * sum / static_cast<double>(count) + settings.eps;
    return static_cast<double>(square::stored<T>(decay * static_cast<double>(old) + (1 - decay) * mean));
  };
  double total = 0;
  for (Index j = 0; j < rows; ++j)
    total += scratch.r_norms[j] = mean_of(state.shared[0].data()[j], scratch.r_norms[j], columns);
  const double mean = total / static_cast<double>(rows);
  for (Index j = 0; j < rows; ++j) scratch.channel_step[j] = static_cast<T>(__builtin_sqrt(mean / scratch.r_norms[j]));
  for (Index k = 0; k < columns; ++k) {
    scratch.column_sums[k] = mean_of(state.shared[1].data()[k], scratch.column_sums[k], rows);
    scratch.column_factor[k] = static_cast<T>(1 / __builtin_sqrt(scratch.column_sums[k]));
  }
}

/// Keeps the new means.
template <class Policies, class T, template <class> class Buffer>
void store(State<Policies, T, Buffer>& state, const Scratch<Policies, T>& scratch) {
  const double* means[] = {scratch.r_norms, scratch.column_sums};
  for (int v = 0; v < 2; ++v)
    for (Index i = 0; i < state.shared[v].size(); ++i) state.shared[v].data()[i] = static_cast<T>(means[v][i]);
}

/// Means over channels of R are squares, and turn as V does: by scratch.rotation, every entry squared.
template <class Policies, class T, template <class> class Buffer>
void rotate(Index rank, State<Policies, T, Buffer>& state, const Scratch<Policies, T>& scratch) {
  T* columns = state.shared[1].data();
  for (Index k = 0; k < rank; ++k) {
    scratch.row[k] = 0;
    for (Index i = 0; i < rank; ++i) {
      const T weight = scratch.rotation[k * rank + i];
      scratch.row[k] += weight * weight * columns[i];
    }
  }
  for (Index k = 0; k < rank; ++k) columns[k] = scratch.row[k];
}

}  // namespace factored

}  // namespace apollo
