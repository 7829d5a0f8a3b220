// SPDX-License-Identifier: Apache-2.0
// Moments of a run: opened from their storage, updated, closed again; and what they add to the norms of their channels.
#pragma once

#include <apollo/eigen/runs.hpp>
#include <apollo/step/state.hpp>

namespace apollo {

template <class T>
struct EigenMoments {
  /// Whether loops leave the square root of V in its place, for a storage that would take it again.
  template <class Moments>
  static constexpr bool leaves_roots = MomentStorage<stored_t<Moments, T>, T>::takes_roots;

  /// Calls body(first, second) with the moments of a run, opened to T.
  template <class Moments, class Body>
  static void with_moments(const MomentPointers<stored_t<Moments, T>>& state, const StorageRun& run,
                           const StepCoefficients<T>& c, Body&& body) {
    using Storage = MomentStorage<stored_t<Moments, T>, T>;
    T* opened[2] = {nullptr, nullptr};
    if constexpr (Storage::in_place) {
      for (int b = 0; b < Moments::buffers; ++b) opened[b] = state.buffer[b] + run.value();
      body(opened[0], opened[1]);
    } else {
      T buffer[2][runs::length];
      for (int b = 0; b < Moments::buffers; ++b) {
        opened[b] = buffer[b];
        simd::dispatch(
            [&](auto kernels) { kernels.template open_moments<Storage>(state.buffer[b], run, b, buffer[b]); });
      }
      body(opened[0], opened[1]);
      [[maybe_unused]] std::uint8_t random[Storage::stochastic ? rounding::bytes : 1] = {};
      simd::dispatch([&](auto kernels) {
        if constexpr (Storage::stochastic) kernels.draw_rounding(c.rounding, run.block(storage_block), random);
        for (int b = 0; b < Moments::buffers; ++b)
          kernels.template close_moments<Storage>(buffer[b], state.buffer[b], run, b, random);
      });
    }
  }

  /// Moments of a run. `n` may be `r`.
  template <class Moments>
  static void update(const T* r, T* n, const MomentPointers<stored_t<Moments, T>>& state, const StorageRun& run,
                     const StepCoefficients<T>& c) {
    with_moments<Moments>(state, run, c, [&](T* first, T* second) {
      simd::dispatch([&](auto kernels) {
        kernels.template moments<Moments, leaves_roots<Moments>>(r, n, first, second, run.count, c.moments);
      });
    });
  }

  /// Adds the squares of a run of kept x rank values, number `at` and after, to their channels.
  static void add_by_channel(Index rank, Index at, int count, const T* n, const T* r, double* n_channel,
                             double* r_channel) {
    for (int i = 0; i < count;) {
      const Index j = (at + i) / rank;
      const Index left = (j + 1) * rank - (at + i);
      const int take = left < count - i ? static_cast<int>(left) : count - i;
      if (take == 1) {
        n_channel[j] += static_cast<double>(n[i]) * static_cast<double>(n[i]);
        r_channel[j] += static_cast<double>(r[i]) * static_cast<double>(r[i]);
      } else {
        bool finite = true;
        n_channel[j] += runs::measure(n + i, take, finite);
        r_channel[j] += runs::measure(r + i, take, finite);
      }
      i += take;
    }
  }
};

}  // namespace apollo
