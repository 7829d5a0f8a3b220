// SPDX-License-Identifier: Apache-2.0
// Kernels of structured updates, W <- W - s o X: moments of R with the norms of channels, the limiter, and the second read of G.
#pragma once

#include <apollo/cuda/elementwise.hpp>
#include <apollo/cuda/project.hpp>
#include <apollo/policy/limiter.hpp>

namespace apollo::cuda {

/// Whether a step's length multiplies the first moment and not the gradient.
template <class Policies>
inline constexpr bool scales_momentum = Policies::Granularity::of_update&& Policies::Moments::buffers == 1;

/// M, V <- R by tiles of channels, the squared norms of N and R, and from them s of every channel. Of moments in blocks only the
/// norms: LowRankBlocks has left N and R.
template <class Policies>
struct LowRankMoments {
  using Moments = typename Policies::Moments;
  using Granularity = typename Policies::Granularity;
  using Stored = stored_t<Moments, float>;
  static constexpr bool in_blocks = StoredMoments<Moments>::in_blocks;
  static constexpr bool rounds = StoredMoments<Moments>::rounds && !in_blocks;
  static constexpr bool measures = !Granularity::elementwise || Granularity::residual;
  static constexpr int runs = rounds ? RankTile::most / storage_block + 1 : 1;

  static constexpr const char* kernel = "LowRankMoments";
  struct Shared {
    double squares[measures ? 2 * RankTile::most : 1];  ///< of N, then of R
    SumMemory sum;
    RoundingBytes random[runs];
  };
  Tables tables;

  static Index parts(const Plan& plan) { return ceil_divide(plan.kept, RankTile(plan.rank).channels); }

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    if (progress.active == 0) return;
    const Plan& plan = entry.setup.plan;
    const RankTile tile(plan.rank);
    const int rank = tile.rank;
    const Index number = tables.number(context.block()), first = number * tile.channels;
    const int count = static_cast<int>(min_of(plan.kept - first, Index{tile.channels}));
    const Index first_run = first * rank / storage_block;
    if constexpr (rounds)
      context.phase([&](int t) {
        constexpr int blocks = RoundingBytes::blocks;
        static_assert(runs * blocks <= threads);
        const Index run = first_run + t / blocks;
        if (t < runs * blocks && run * storage_block < (first + count) * rank)
          shared.random[t / blocks].draw(progress.c.rounding, run, t % blocks);
      });
    context.phase([&](int t) {
      tile.over(t, count, [&](int, int channel, int bucket) {
        const Index at = (first + channel) * rank + bucket;
        float r = 0, n = 0;
        if constexpr (in_blocks) {
          r = entry.r[at];
          n = entry.n[entry.in_n(first + channel, bucket)];
        } else {
          r = r_to_step(entry, progress, at);
          if constexpr (Policies::factored_gradient) r *= entry.channel_step[first + channel];
          float value[2] = {0, 0};
          for (int b = 0; b < Moments::buffers; ++b)
            if (progress.restarts == 0) value[b] = static_cast<float>(static_cast<const Stored*>(entry.moment[b])[at]);
          n = Moments::update(r, value, progress.c.moments);
          const Index run = at / storage_block;
          std::uint32_t random = 0;
          if constexpr (rounds)
            random = shared.random[run - first_run].bits_of(static_cast<int>(at - run * storage_block));
          for (int b = 0; b < Moments::buffers; ++b)
            static_cast<Stored*>(entry.moment[b])[at] = stored<Stored, rounds>(value[b], random);
          if constexpr (Granularity::elementwise) entry.n[entry.in_n(first + channel, bucket)] = n;
          if constexpr (Granularity::residual) entry.r[at] = r;
        }
        if constexpr (measures) {
          double* squares = shared.squares + channel * rank + bucket;
          squares[0] = static_cast<double>(n) * static_cast<double>(n);
          squares[RankTile::most] = static_cast<double>(r) * static_cast<double>(r);
        }
      });
    });
    if constexpr (measures) measure(context, entry, tile, number, shared);
  }

 private:
  /// s of every channel, and this block's share of the update's norm.
  template <class Context>
  APOLLO_HD static void measure(const Context& context, const Entry& entry, const RankTile& tile, Index number,
                                Shared& shared) {
    const Plan& plan = entry.setup.plan;
    const int rank = tile.rank;
    const Index first = number * tile.channels;
    const int count = static_cast<int>(min_of(plan.kept - first, Index{tile.channels}));
    sum_buckets<2>(context, tile, count, shared.squares);
    if constexpr (Granularity::residual) {
      context.last([&](int t) {
        for (int channel = t; channel < count; channel += threads) {
          entry.n_norms[first + channel] = shared.squares[channel * rank];
          entry.r_norms[first + channel] = shared.squares[RankTile::most + channel * rank];
        }
      });
      return;
    }
    typename Context::template Each<double> sum[3];
    context.phase([&](int t) {
      for (int channel = t; channel < count; channel += threads) {
        const double n = shared.squares[channel * rank], r = shared.squares[RankTile::most + channel * rank];
        const double x = x_norm(entry, first + channel);
        if constexpr (Granularity::per_channel) {
          const double s = Granularity::ratio(n, r);
          entry.channel_scale[first + channel] = s;
          sum[2][t] += s * s * x;
        } else {
          sum[0][t] += n;
          sum[1][t] += r;
          sum[2][t] += x;
        }
      }
    });
    double total[3] = {};
    for (int i = Granularity::per_channel ? 2 : 0; i < 3; ++i) total[i] = block_sum(context, shared.sum, sum[i]);
    context.last([&](int t) {
      if (t == 0)
        for (int i = 0; i < 3; ++i) entry.sums[3 * number + i] = total[i];
    });
  }
};

/// One block a tensor: the length of the update, the limiter, and from them by what each channel's gradient is multiplied.
template <class Policies>
struct Finish {
  using Granularity = typename Policies::Granularity;
  using Limiter = typename Policies::Limiter;
  static constexpr const char* kernel = "Finish";
  struct Shared {
    SumMemory sum;
    double factor;
  };
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    Progress& progress = tables.progress_of(context.block());
    if (progress.active == 0) return;
    double total[3];
    for (int i = 0; i < 3; ++i) {
      typename Context::template Each<double> sum;
      context.phase([&](int t) {
        for (Index block = t; block < entry.blocks; block += threads) sum[t] += entry.sums[3 * block + i];
      });
      total[i] = block_sum(context, shared.sum, sum);
    }
    context.phase([&](int t) {
      if (t == 0) shared.factor = finish(entry, progress, total);
    });
    const double factor = shared.factor;
    if constexpr (Granularity::per_channel)
      context.last([&](int t) {
        for (Index j = t; j < entry.setup.plan.kept; j += threads)
          entry.channel_step[j] = static_cast<float>(entry.channel_scale[j] * factor);
      });
  }

 private:
  APOLLO_HD static double finish(const Entry& entry, Progress& progress, const double* total) {
    const Settings& settings = entry.setup.settings;
    const double gradient = scales_momentum<Policies> ? 1 : progress.gradient_factor;
    const double s = Granularity::per_channel ? 1 : Granularity::ratio(total[0], total[1]);
    const double norm = __builtin_sqrt(s * s * gradient * gradient * total[2]);
    progress.limiter = 1;
    if constexpr (Limiter::active) {
      const auto limited =
          Limiter::limit(norm, progress.record.previous_norm, settings.limiter_gamma, settings.limiter_floor);
      progress.record.previous_norm = limited.previous;
      progress.limiter = limited.divisor;
    }
    progress.update_norm = norm / progress.limiter;
    progress.factor = s * gradient * progress.c.step / progress.limiter;
    return progress.factor;
  }
};

/// W <- change(W) of a part's runs: change(run, in_part, at, left, w, open) of each unit of values, open() reading w. Weights in
/// groups wait until the range of their group is known.
template <class Policies, class W, class Values>
struct ChangeWeights {
  using Weights = StoredWeights<Policies, W>;
  static constexpr int size = Values::size;
  struct Shared {
    RoundingBytes random[Weights::rounds ? runs_at_once : 1];
    std::conditional_t<Weights::grouped, WaitingRuns<1, 2>, WaitingRuns<0, 0>> waiting;
  };

  struct Nothing {
    APOLLO_HD void operator()(int, int) const {}
  };

  /// `prepare(turn, t)`: what a turn's changes read of shared memory, beside what weights are rounded by.
  template <class Context, class Change, class Prepare = Nothing>
  APOLLO_HD static void run(const Context& context, const Entry& entry, const Progress& progress, Index part,
                            Shared& shared, const Change& change, const Prepare& prepare = {}) {
    constexpr bool prepares = Weights::rounds || !std::is_same_v<Prepare, Nothing>;
    const auto close = [&](const Run& run, int in_part, int at, int left, const float* w) {
      const RoundingBits<Weights::rounds ? size : 0> random(shared.random[Weights::rounds ? in_part : 0], at);
      Weights::template close<size>(entry, run, at, left, w, random, shared.waiting, in_part);
    };
    for (int turn = 0; turn < runs_a_part / runs_at_once; ++turn) {
      if constexpr (prepares)
        context.phase([&](int t) {
          if constexpr (Weights::rounds) draw_runs(shared.random, progress.weight_rounding, part, turn, t);
          prepare(turn, t);
        });
      if constexpr (Weights::grouped) {
        context.phase([&](int t) {
          shared.waiting.clear(t);
          over_units<Values, true>(entry, part, turn, t, [&](const Run& run, int in_part, int at, int left) {
            alignas(16) float w[size];
            change(run, in_part, at, left, w, [&] { Weights::template open<size>(entry, run, at, left, w); });
            Weights::template wait<size>(shared.waiting, in_part, at, left, w);
          });
        });
        context.phase([&](int t) { shared.waiting.reduce(t); });
        context.phase([&](int t) {
          over_units<Values, true>(entry, part, turn, t, [&](const Run& run, int in_part, int at, int left) {
            alignas(16) float w[size];
            shared.waiting.get(0, in_part, at, w);
            close(run, in_part, at, left, w);
          });
        });
      } else {
        const auto step = [&](int t) {
          over_units<Values>(entry, part, turn, t, [&](const Run& run, int in_part, int at, int left) {
            float w[size];
            change(run, in_part, at, left, w, [&] { Weights::template open<size>(entry, run, at, left, w); });
            close(run, in_part, at, left, w);
          });
        };
        if constexpr (prepares)
          context.phase(step);
        else
          context.last(step);
      }
    }
  }
};

/// W <- (W before - step_j X) after, X being the gradient or its momentum. Reads W and X once, writes W once.
template <class Policies, class W, class G>
struct Apply {
  static constexpr bool per_channel = Policies::Granularity::per_channel;
  static constexpr bool of_momentum = scales_momentum<Policies>;
  using X = std::conditional_t<of_momentum, stored_t<typename Policies::Moments, float>, G>;
  using Weights = StoredWeights<Policies, W>;
  using Values = std::conditional_t<Weights::grouped || Weights::split, Units<float>, Units<W>>;
  using Change = ChangeWeights<Policies, W, Values>;

  static constexpr const char* kernel = "Apply";
  using Shared = typename Change::Shared;
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    if (progress.active == 0) return;
    const float before = progress.c.decay_before, after = progress.c.decay_after;
    const bool one = entry.along && entry.length >= storage_block;  // a run lies in one channel
    const auto whole = static_cast<float>(progress.factor);
    Change::run(context, entry, progress, tables.number(context.block()), shared,
                [&](const Run& run, int, int at, int left, float* w, const auto& open) {
                  constexpr int size = Values::size;
                  float length = per_channel && one ? entry.channel_step[run.line] : whole;
                  float x[size];
                  const auto* from = static_cast<const X*>(of_momentum ? entry.moment[0] : entry.gradient);
                  read<size>(from + run.value + at, entry.aligned, left, x);
                  open();
                  for (int i = 0; i < size; ++i) {
                    if (per_channel && !one && i < left) length = channel_step_of(entry, run, at + i);
                    w[i] = after * (before * w[i] - length * x[i]);
                  }
                });
  }
};

}  // namespace apollo::cuda
