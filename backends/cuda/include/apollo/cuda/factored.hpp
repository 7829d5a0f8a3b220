// SPDX-License-Identifier: Apache-2.0
// Kernels of second moments in two factors (step/factored.hpp): sums of squares over rows and columns of G or R, the factors that
// they give, N = D_L X D_S, and its clipping.
#pragma once

#include <apollo/cuda/channels.hpp>
#include <apollo/cuda/composition.hpp>
#include <apollo/step/factored.hpp>

namespace apollo::cuda {

/// x^2 by lines of the gradient's memory (`by_line`) and across them: rows are the one, columns the other.
template <class G, bool by_line>
struct SideSquares : GradientSquares<G> {
  APOLLO_HD static double* sums(const Entry& entry) {
    return entry.along == by_line ? entry.x_norms : entry.column_sums;
  }
};

/// R^2 by rows, which puts the parts of R together on the way, and then across them.
template <bool by_line>
struct ProjectedSquares {
  static constexpr bool steps = true;
  static constexpr bool rounds = false;
  APOLLO_HD static double* sums(const Entry& entry) { return by_line ? entry.r_norms : entry.column_sums; }
  APOLLO_HD static Index lines(const Entry& entry) { return entry.setup.plan.kept; }
  APOLLO_HD static Index length(const Entry& entry) { return entry.setup.plan.rank; }
  APOLLO_HD static double of(const Entry& entry, const Progress& progress, Index at, std::uint32_t) {
    if constexpr (by_line) entry.r[at] = r_to_step(entry, progress, at);
    const float r = entry.r[at];
    return static_cast<double>(r) * static_cast<double>(r);
  }
};

/// number^-rate, of a whole number from 1 on and a positive rate, by sums, products and quotients alone: the same bits
/// everywhere. Error: below 1e-14, relative.
APOLLO_HD inline double inverse_power(std::int64_t number, double rate) {
  constexpr double ln2 = 0.69314718055994530942;
  int exponent = 0;
  auto mantissa = static_cast<double>(number);
  for (; mantissa > 1.5; mantissa *= 0.5) ++exponent;
  const double z = (mantissa - 1) / (mantissa + 1), square = z * z;  // ln m = 2 (z + z^3 / 3 + z^5 / 5 + ...)
  double series = 0;
  for (int k = 31; k > 0; k -= 2) series = series * square + 1.0 / k;
  const double power = rate * (exponent + 2 * z * series / ln2);  // of 1 / 2
  if (power > 1020) return 0;
  const int whole = static_cast<int>(power);
  const double rest = (power - whole) * ln2;
  double result = 1;
  for (int k = 20; k > 0; --k) result = 1 - rest / k * result;
  for (int i = 0; i < whole; ++i) result *= 0.5;
  return result;
}

/// One block a tensor: the new means of rows and columns, and by what both are multiplied.
template <class Policies>
struct Factors {
  static constexpr const char* kernel = "Factors";
  using Shared = SumMemory;
  static constexpr bool of_r = Composition<Policies>::of_r;
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    if (progress.active == 0) return;
    const Plan& plan = entry.setup.plan;
    const Settings& settings = entry.setup.settings;
    const Record& record = progress.record;
    // As step/factored.hpp has it, once the step is counted.
    const double decay =
        1 - inverse_power(record.steps - (Policies::factored ? record.restart : 0), settings.decay_rate);
    const double factor = of_r ? 1 : progress.gradient_factor;
    const Index rows = plan.kept, columns = plan_columns(plan);
    const double* row_sums = of_r ? entry.r_norms : entry.x_norms;
    const Index row_parts = of_r ? 1 : entry.norm_parts;
    float* column = entry.shared + rows;
    typename Context::template Each<double> part;
    context.phase([&](int t) {
      for (Index j = t; j < rows; j += threads) {
        const double squares =
            factor * factor * sum_of_parts(row_sums, row_parts, rows, j) / static_cast<double>(columns);
        const double mean = factored::mean_of(settings, decay, entry.shared[j], squares);
        entry.shared[j] = static_cast<float>(mean);
        part[t] += mean;
      }
    });
    const double mean = block_sum(context, shared, part) / static_cast<double>(rows);
    context.last([&](int t) {
      for (Index j = t; j < rows; j += threads)
        entry.channel_step[j] = factored::row_factor<float>(static_cast<double>(entry.shared[j]), mean);
      for (Index k = t; k < columns; k += threads) {
        const double squares = factor * factor * sum_of_parts(entry.column_sums, entry.column_parts, columns, k) /
                               static_cast<double>(rows);
        const double mean_of_column = factored::mean_of(settings, decay, column[k], squares);
        column[k] = static_cast<float>(mean_of_column);
        entry.column_factor[k] = factored::column_factor<float>(mean_of_column);
      }
    });
  }

 private:
  APOLLO_HD static Index plan_columns(const Plan& plan) { return of_r ? plan.rank : plan.removed; }
};

/// One block a tensor: the means of columns of R turned to new directions.
struct TurnColumns {
  static constexpr const char* kernel = "TurnColumns";
  struct Shared {
    char none;
  };
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    if (progress.active == 0 || progress.rotates == 0) return;
    const Index rank = entry.setup.plan.rank;
    float* columns = entry.shared + entry.setup.plan.kept;
    context.phase([&](int t) {
      for (Index k = t; k < rank; k += threads)
        entry.column_factor[k] = factored::turned(entry.q + k * rank, columns, rank);
    });
    context.last([&](int t) {
      for (Index k = t; k < rank; k += threads) columns[k] = entry.column_factor[k];
    });
  }
};

/// N = D_L R D_S by tiles of channels, and each tile's share of its squared norm.
struct ScaleProjected {
  static constexpr const char* kernel = "ScaleProjected";
  using Shared = SumMemory;
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    if (tables.progress_of(context.block()).active == 0) return;
    const Plan& plan = entry.setup.plan;
    const RankTile tile(plan.rank);
    const Index number = tables.number(context.block()), first = number * tile.channels;
    const int count = static_cast<int>(min_of(plan.kept - first, Index{tile.channels}));
    typename Context::template Each<double> part;
    context.phase([&](int t) {
      tile.over(t, count, [&](int, int channel, int bucket) {
        const Index j = first + channel;
        const float n = entry.r[j * plan.rank + bucket] * entry.channel_step[j] * entry.column_factor[bucket];
        entry.n[entry.in_n(j, bucket)] = n;
        part[t] += static_cast<double>(n) * static_cast<double>(n);
      });
    });
    const double total = block_sum(context, shared, part);
    context.last([&](int t) {
      if (t == 0) entry.sums[number] = total;
    });
  }
};

/// N of up to `size` adjacent values of the gradient, where nothing is projected.
template <int size, class G>
APOLLO_INLINE void scale_gradient(const Entry& entry, float factor, const Run& run, int at, int left, float* n) {
  read<size>(static_cast<const G*>(entry.gradient) + run.value + at, entry.aligned, left, n);
  for (int i = 0; i < left; ++i) {
    Index line, in_line;
    place_of(entry, run, at + i, line, in_line);
    const Index j = entry.along ? line : in_line, s = entry.along ? in_line : line;
    n[i] = factor * n[i] * entry.channel_step[j] * entry.column_factor[s];
  }
}

/// Each part's share of the squared norm of N, where nothing is projected. Reads G once.
template <class G>
struct ScaledNorm {
  static constexpr const char* kernel = "ScaledNorm";
  using Shared = SumMemory;
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    constexpr int size = Units<float>::size;
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    const Index part = tables.number(context.block());
    if (progress.active == 0) return;
    typename Context::template Each<double> sum;
    context.phase([&](int t) {
      for (int turn = 0; turn < runs_a_part / runs_at_once; ++turn)
        over_runs(entry, part, turn, t, [&](const Run& run, int lane, int) {
          for (int u = 0; u < Units<float>::count; ++u) {
            const int at = Units<float>::at(lane, u);
            if (at >= run.count) return;
            const int left = min_of(size, run.count - at);
            float n[size];
            scale_gradient<size, G>(entry, progress.c.gradient_factor, run, at, left, n);
            for (int i = 0; i < left; ++i) sum[t] += static_cast<double>(n[i]) * static_cast<double>(n[i]);
          }
        });
    });
    const double total = block_sum(context, shared, sum);
    context.last([&](int t) {
      if (t == 0) entry.sums[part] = total;
    });
  }
};

/// One block a tensor: the step is shortened where N is longer than clip_threshold allows.
struct ClipUpdate {
  static constexpr const char* kernel = "ClipUpdate";
  using Shared = SumMemory;
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    Progress& progress = tables.progress_of(context.block());
    if (progress.active == 0) return;
    typename Context::template Each<double> part;
    context.phase([&](int t) {
      for (Index block = t; block < entry.blocks; block += threads) part[t] += entry.sums[block];
    });
    const double squared = block_sum(context, shared, part);
    context.last([&](int t) {
      if (t == 0) progress.c.step /= factored::excess(entry.setup.settings, squared, entry.setup.plan.moment_size());
    });
  }
};

/// Moments of N, if there are any, and apply, where nothing is projected. Reads W, G and M once, writes W and M once. Moments lie
/// as R does, row by row of X: where that is not the weight's order they are read and written value by value.
template <class Policies, class W, class G>
struct ApplyScaled {
  using Moments = typename Policies::Moments;
  using Stored = stored_t<Moments, float>;
  using Values = Units<float>;
  using Change = ChangeWeights<Policies, W, Values>;
  static constexpr bool rounds_moments = Moments::buffers > 0 && std::is_same_v<Stored, bfloat16>;
  static constexpr int size = Values::size;

  static constexpr const char* kernel = "ApplyScaled";
  struct Shared {
    typename Change::Shared weights;
    RoundingBytes moments[rounds_moments ? runs_at_once : 1];
  };
  Tables tables;

  /// Whether moments lie as the weight does, run by run.
  static bool moments_in_order(const Plan& plan) { return plan.kept == 1 || plan.removed == 1; }

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    const Index part = tables.number(context.block());
    if (progress.active == 0) return;
    const float before = progress.c.decay_before, after = progress.c.decay_after;
    const auto length = static_cast<float>(progress.c.step);
    const auto change = [&](const Run& run, int in_part, int at, int left, float* w, const auto& open) {
      float n[size];
      scale_gradient<size, G>(entry, progress.c.gradient_factor, run, at, left, n);
      if constexpr (Moments::buffers > 0) remember(entry, progress, run, in_part, at, left, shared, n);
      open();
      for (int i = 0; i < size; ++i) w[i] = after * (before * w[i] - length * n[i]);
    };
    if constexpr (rounds_moments)
      Change::run(context, entry, progress, part, shared.weights, change,
                  [&](int turn, int t) { draw_runs(shared.moments, progress.c.rounding, part, turn, t); });
    else
      Change::run(context, entry, progress, part, shared.weights, change);
  }

 private:
  /// N becomes the moment's.
  APOLLO_HD static void remember(const Entry& entry, const Progress& progress, const Run& run, int in_part, int at,
                                 int left, const Shared& shared, float (&n)[size]) {
    const RoundingBits<rounds_moments ? size : 0> random(shared.moments[rounds_moments ? in_part : 0], at);
    const Index removed = entry.setup.plan.removed;
    for (int i = 0; i < left; ++i) {
      Index line, in_line;
      place_of(entry, run, at + i, line, in_line);
      const Index j = entry.along ? line : in_line, s = entry.along ? in_line : line;
      auto& moment = static_cast<Stored*>(entry.moment[0])[j * removed + s];
      float value = static_cast<float>(moment);
      n[i] = Moments::update(n[i], &value, progress.c.moments);
      moment = stored<Stored, rounds_moments>(value, random.of(i));
    }
  }
};

}  // namespace apollo::cuda
