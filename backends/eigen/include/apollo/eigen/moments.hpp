// SPDX-License-Identifier: Apache-2.0
// Moments of a run: opened from their storage, updated, closed again; and what they add to the norms of their channels.
#pragma once

#include <apollo/eigen/runs.hpp>
#include <apollo/step/state.hpp>

namespace apollo {

template <class T>
struct EigenMoments {
  template <class Moments>
  using StorageOf = MomentStorage<stored_t<Moments, T>, T>;

  /// Calls body(first, second) with the moments of a run, opened to T.
  template <class Moments, class Body>
  static void with_moments(const MomentPointers<stored_t<Moments, T>>& state, const StorageRun& run,
                           const StepCoefficients<T>& c, Body&& body) {
    using Storage = StorageOf<Moments>;
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
        kernels.template moments<Moments, StorageOf<Moments>>(r, n, first, second, run.count, c.moments);
      });
    });
  }

  /// Whether runs of weights that fill vectors, adjacent like their gradients, are stepped in one pass.
  template <class Moments, class Kept, class G>
  static constexpr bool in_one_pass = [] {
    if constexpr (StorageOf<Moments>::in_blocks && takes_root<Moments>)
      return StorageOf<Moments>::Format::block == storage_block && std::is_same_v<typename Kept::Value, T> &&
             simd::readable<G, T>;
    else
      return false;
  }();
  /// That pass; false if the values are not adjacent, and then nothing has happened.
  template <class Moments, class Kept, class G>
  static bool update_block(const Kept& w, const MatrixView<const G>& x,
                           const MomentPointers<stored_t<Moments, T>>& state, const StorageRun& run,
                           const StepCoefficients<T>& c) {
    using Storage = StorageOf<Moments>;
    T* weights = adjacent(w.view, run);
    const G* gradient = adjacent(x, run);
    if (weights == nullptr || gradient == nullptr) return false;
    const simd::Apply<T> apply{c.decay_before, c.decay_after, static_cast<T>(c.step)};
    const auto first = Storage::block_at(state.buffer[0], run, 0), second = Storage::block_at(state.buffer[1], run, 0);
    simd::dispatch([&](auto kernels) {
      kernels.template update_block<Moments, Storage>(weights, gradient, first, second, run.count,
                                                      run.block(storage_block), c, apply);
    });
    return true;
  }

  /// Whether N need not be had where only its norms are wanted.
  template <class Moments>
  static constexpr bool has_norms_alone = StorageOf<Moments>::in_place&& takes_root<Moments>&& std::is_same_v<T, float>;
  /// And whether a channel is worth a call, and eps hides roots of second moments below normal numbers, which estimates leave out.
  static bool norms_are_near(Index rank, const StepCoefficients<T>& c) {
    return rank >= simd::in_one_pass && c.moments.eps >= static_cast<T>(1e-10);
  }
  /// Moments of channel j of R, and its squared norms |N_j|^2 and |R_j|^2. N is made of estimates (error 3e-7) and kept nowhere.
  template <class Moments>
  static void update_norms(const T* r, const MomentPointers<T>& state, Index j, Index rank,
                           const StepCoefficients<T>& c, double& n_norm, double& r_norm) {
    r += j * rank;
    T* first = state.buffer[0] + j * rank;
    T* second = state.buffer[1] + j * rank;
    T n_squares = 0;
    const T r_squares = simd::dispatch([&](auto kernels) {
      return kernels.template moments_norms<Moments>(r, first, second, rank, c.moments, n_squares);
    });
    n_norm = static_cast<double>(n_squares);
    r_norm = static_cast<double>(r_squares);
    if (bits::finite(n_squares) && bits::finite(r_squares)) return;
    n_norm = r_norm = 0;  // too large for a sum of floats
    for (Index k = 0; k < rank; ++k) {
      const auto n = static_cast<double>(Moments::normalise(first[k], __builtin_sqrtf(second[k]), c.moments));
      n_norm += n * n;
      r_norm += static_cast<double>(r[k]) * static_cast<double>(r[k]);
    }
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
