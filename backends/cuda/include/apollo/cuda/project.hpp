// SPDX-License-Identifier: Apache-2.0
// Kernels that take R = X P^T with the squared norms of X's channels in one read of G. Two for each kind of P: along a channel's
// memory, and across it, where channels lie adjacent to each other.
#pragma once

#include <apollo/cuda/directions.hpp>
#include <apollo/cuda/draw.hpp>
#include <apollo/cuda/tiles.hpp>

namespace apollo::cuda {

// --- dense ----------------------------------------------------------------------------------------------------------------

// Sums are in double: a channel's R may be small beside what it is the sum of, and its scale divides by it.

/// Directions that a block takes in one read of its part of G; a larger rank reads G again for each so many.
inline constexpr int ranks_at_once = 4;

/// A warp for each channel, eight a block.
template <class G, class Directions = PlainDirections>
struct ProjectDenseAlong {
  static constexpr const char* kernel = "ProjectDenseAlong";
  static constexpr int channels = threads / warp;
  struct Shared {
    double square[channels][warp];
    double part[channels][ranks_at_once][warp];
  };
  Tables tables;

  static Index parts(const Plan& plan) {
    return ceil_divide(plan.kept, channels) * ceil_divide(plan.rank, ranks_at_once);
  }

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    if (Directions::steps ? tables.progress_of(context.block()).active == 0 : tables.idle(context.block())) return;
    const Plan& plan = entry.setup.plan;
    const Index tiles = (plan.kept + channels - 1) / channels;
    const Index pass = tables.number(context.block()) / tiles;
    const Index first = (tables.number(context.block()) - pass * tiles) * channels;
    const Index rank = pass * ranks_at_once;
    const int ranks = static_cast<int>(min_of(plan.rank - rank, Index{ranks_at_once}));
    const bool aligned = entry.aligned && plan.removed % 8 == 0;
    context.phase([&](int t) {
      constexpr int size = 4;  // eight, 16 bytes of bfloat16, would need more registers than there are
      const Index j = first + t / warp;
      if (j >= plan.kept) return;
      const auto* x = static_cast<const G*>(entry.gradient) + j * plan.removed;
      double sum[ranks_at_once] = {};
      double square = 0;
      for (Index s = t % warp * size; s < plan.removed; s += warp * size) {
        const int left = static_cast<int>(min_of(plan.removed - s, Index{size}));
        float value[size];
        read<size>(x + s, aligned, left, value);
        for (int i = 0; i < size; ++i) square += static_cast<double>(value[i]) * static_cast<double>(value[i]);
        for (int k = 0; k < ranks_at_once; ++k)
          if (k < ranks) {
            float p[size];
            Directions::template read<size>(entry, rank + k, s, aligned, left, p);
            for (int i = 0; i < size; ++i) sum[k] += static_cast<double>(value[i]) * static_cast<double>(p[i]);
          }
      }
      shared.square[t / warp][t % warp] = square;
      for (int k = 0; k < ranks_at_once; ++k) shared.part[t / warp][k][t % warp] = sum[k];
    });
    context.last([&](int t) {
      const Index j = first + t % channels;
      const int k = t / channels;
      if (j >= plan.kept) return;
      if (k < ranks) {
        double sum = 0;
        for (int i = 0; i < warp; ++i) sum += shared.part[t % channels][k][i];
        entry.r[j * plan.rank + rank + k] = gradient_factor(entry) * static_cast<float>(sum);
      }
      if (k == ranks_at_once && pass == 0) {
        double sum = 0;
        for (int i = 0; i < warp; ++i) sum += shared.square[t % channels][i];
        entry.x_norms[j] = sum;
      }
    });
  }
};

/// A thread for each channel, and a block for each 256 of the removed side: so many parts of R.
template <class G, class Directions = PlainDirections>
struct ProjectDenseAcross {
  static constexpr const char* kernel = "ProjectDenseAcross";
  static constexpr Index inputs = 256;
  struct Shared {
    char none;
  };
  Tables tables;

  static Index parts_of_r(const Plan& plan) { return ceil_divide(plan.removed, inputs); }
  static Index parts(const Plan& plan) {
    return ceil_divide(plan.kept, threads) * parts_of_r(plan) * ceil_divide(plan.rank, ranks_at_once);
  }

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    const Entry& entry = tables.entry(context.block());
    if (Directions::steps ? tables.progress_of(context.block()).active == 0 : tables.idle(context.block())) return;
    const Plan& plan = entry.setup.plan;
    const Index tiles = (plan.kept + threads - 1) / threads;
    const Index number = tables.number(context.block());
    const Index rest = number / tiles, channel = (number - rest * tiles) * threads;
    const Index pass = rest / entry.parts, part = rest - pass * entry.parts;
    const Index rank = pass * ranks_at_once;
    const int ranks = static_cast<int>(min_of(plan.rank - rank, Index{ranks_at_once}));
    const Index begin = part * inputs, end = min_of(begin + inputs, plan.removed);
    context.last([&](int t) {
      const Index j = channel + t;
      if (j >= plan.kept) return;
      const auto* x = static_cast<const G*>(entry.gradient) + j;
      double sum[ranks_at_once] = {};
      double square = 0;
      for (Index s = begin; s < end; ++s) {
        const auto value = static_cast<float>(x[s * plan.kept]);
        square += static_cast<double>(value) * static_cast<double>(value);
        for (int k = 0; k < ranks_at_once; ++k)
          if (k < ranks) sum[k] += static_cast<double>(value) * static_cast<double>(Directions::at(entry, rank + k, s));
      }
      float* r = entry.r + part * plan.moment_size() + j * plan.rank + rank;
      for (int k = 0; k < ranks_at_once; ++k)
        if (k < ranks) r[k] = gradient_factor(entry) * static_cast<float>(sum[k]);
      if (pass == 0) entry.x_norms[part * plan.kept + j] = square;
    });
  }
};

// --- sparse signs ---------------------------------------------------------------------------------------------------------

/// A tile of channels a block. A window of each is read to shared memory, from where every bucket takes its input: sums come in
/// the reference's order.
template <class G>
struct ProjectSparseAlong {
  static constexpr const char* kernel = "ProjectSparseAlong";
  struct Shared {
    double square[RankTile::most];
    float x[RankTile::most];
  };
  Tables tables;

  static Index parts(const Plan& plan) { return ceil_divide(plan.kept, RankTile(plan.rank).channels); }

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    if (tables.idle(context.block())) return;
    const Plan& plan = entry.setup.plan;
    const SparseTable table(plan);
    const RankTile tile(plan.rank);
    const int rank = tile.rank;
    const Index first = tables.number(context.block()) * tile.channels;
    const int count = static_cast<int>(min_of(plan.kept - first, Index{tile.channels}));
    const auto* x = static_cast<const G*>(entry.gradient) + first * plan.removed;
    struct Sums {
      float of[RankTile::values];
    };
    typename Context::template Each<Sums> sums;
    for (Index window = 0; window < table.windows; ++window) {
      const Index begin = window * rank;
      context.phase([&](int t) {
        tile.over(t, count, [&](int, int channel, int bucket) {
          const Index s = begin + bucket;
          const float value = s < plan.removed ? static_cast<float>(x[channel * plan.removed + s]) : 0.0f;
          const int at = channel * rank + bucket;
          const double before = window == 0 ? 0 : shared.square[at];
          shared.x[at] = value;
          shared.square[at] = before + static_cast<double>(value) * static_cast<double>(value);
        });
      });
      context.phase([&](int t) {
        tile.over(t, count, [&](int u, int channel, int bucket) {
          const Index s = table.input(entry.inputs, window, bucket);
          if (s >= 0 && s < plan.removed)
            sums[t].of[u] += signed_value(shared.x[channel * rank + (s - begin)], entry.signs, s);
        });
      });
    }
    context.phase([&](int t) {
      tile.over(t, count, [&](int u, int channel, int bucket) {
        entry.r[(first + channel) * rank + bucket] = sums[t].of[u] * gradient_factor(entry);
      });
    });
    sum_buckets<1>(context, tile, count, shared.square);
    context.last([&](int t) {
      for (int channel = t; channel < count; channel += threads)
        entry.x_norms[first + channel] = shared.square[channel * rank];
    });
  }
};

/// A thread for each channel, and a block for each 16 buckets: each reads the lines that go to them, so all lines are read once.
template <class G>
struct ProjectSparseAcross {
  static constexpr const char* kernel = "ProjectSparseAcross";
  static constexpr int buckets = 16;
  struct Shared {
    float sum[buckets][threads + 1];
  };
  Tables tables;

  static Index parts_of_norms(const Plan& plan) { return ceil_divide(plan.rank, buckets); }
  static Index parts(const Plan& plan) { return ceil_divide(plan.kept, threads) * parts_of_norms(plan); }

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    if (tables.idle(context.block())) return;
    const Plan& plan = entry.setup.plan;
    const SparseTable table(plan);
    const Index tiles = (plan.kept + threads - 1) / threads;
    const Index part = tables.number(context.block()) / tiles;
    const Index channel = (tables.number(context.block()) - part * tiles) * threads;
    const Index first = part * buckets;
    const int count = static_cast<int>(min_of(plan.rank - first, Index{buckets}));
    context.phase([&](int t) {
      const Index j = channel + t;
      if (j >= plan.kept) return;
      const auto* x = static_cast<const G*>(entry.gradient) + j;
      double square = 0;
      for (int b = 0; b < count; ++b) {
        float sum = 0;
        for (Index window = 0; window < table.windows; ++window) {
          const Index s = table.input(entry.inputs, window, first + b);
          if (s < 0 || s >= plan.removed) continue;
          const auto value = static_cast<float>(x[s * plan.kept]);
          sum += signed_value(value, entry.signs, s);
          square += static_cast<double>(value) * static_cast<double>(value);
        }
        shared.sum[b][t] = sum * gradient_factor(entry);
      }
      entry.x_norms[part * plan.kept + j] = square;
    });
    context.last([&](int t) {  // adjacent threads write adjacent buckets
      for (int i = t; i < threads * buckets; i += threads) {
        const int b = i % buckets, at = i / buckets;
        if (b < count && channel + at < plan.kept) entry.r[(channel + at) * plan.rank + first + b] = shared.sum[b][at];
      }
    });
  }
};

}  // namespace apollo::cuda
