// SPDX-License-Identifier: Apache-2.0
// Kernels that turn moments from the directions before a refresh to those after it: M <- M Q^T, V <- V (Q o Q)^T with
// Q = P_new P_old^T. They are launched in every step, and return where no refresh is due, so that nobody waits for the answer.
#pragma once

#include <apollo/cuda/project.hpp>
#include <apollo/cuda/storage.hpp>

namespace apollo::cuda {

/// P before the refresh, of a dense sketch.
template <class Sketch>
struct DrawOldDense {
  static constexpr const char* kernel = "DrawOldDense";
  struct Shared {
    char none;
  };
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    const Index part = tables.number(context.block());
    if (progress.active == 0 || progress.rotates == 0) return;
    const RandomStream stream = old_projection_stream(entry, progress);
    context.last([&](int t) { DenseDraw<Sketch>::run(entry.setup.plan, stream, part, t, entry.old_directions); });
  }
};

/// Q of dense directions: a warp for each eight of its entries, in double.
template <class Directions = PlainDirections>
struct TurnDense {
  static constexpr const char* kernel = "TurnDense";
  static constexpr int at_once = 8;
  static constexpr Index a_part = at_once * (threads / warp);
  struct Shared {
    double part[at_once][threads / warp][warp + 1];
  };
  Tables tables;

  static Index parts(const Plan& plan) { return ceil_divide(plan.rank * plan.rank, a_part); }

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    if (progress.active == 0 || progress.rotates == 0) return;
    const Plan& plan = entry.setup.plan;
    const Index begin = tables.number(context.block()) * a_part, all = plan.rank * plan.rank;
    context.phase([&](int t) {
      for (int u = 0; u < at_once; ++u) {
        const Index number = begin + t / warp * at_once + u;
        if (number >= all) return;
        const Index k = number / plan.rank, i = number - k * plan.rank;
        double sum = 0;
        for (Index s = t % warp; s < plan.removed; s += warp)
          sum += static_cast<double>(Directions::at(entry, k, s)) *
                 static_cast<double>(entry.old_directions[i * plan.removed + s]);
        shared.part[u][t / warp][t % warp] = sum;
      }
    });
    context.last([&](int t) {
      if (t >= a_part || begin + t >= all) return;
      double sum = 0;
      for (int lane = 0; lane < warp; ++lane) sum += shared.part[t % at_once][t / at_once][lane];
      entry.q[begin + t] = static_cast<float>(sum);
    });
  }
};

/// The tables of a sparse projection before the refresh; one block a tensor.
struct DrawOldSparse {
  static constexpr const char* kernel = "DrawOldSparse";
  struct Shared {
    char none;
  };
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    if (progress.active == 0 || progress.rotates == 0) return;
    const RandomStream stream = old_projection_stream(entry, progress);
    context.last([&](int t) {
      draw_sparse_tables(entry.setup.plan, stream, t, entry.old_map, entry.old_signs, [](const SparseTable&, Index) {});
    });
  }
};

/// Q of sparse signs, a thread for each row: inputs that the new bucket takes, counted by the bucket they were in, with signs.
struct TurnSparse {
  static constexpr const char* kernel = "TurnSparse";
  struct Shared {
    char none;
  };
  Tables tables;

  static Index parts(const Plan& plan) { return ceil_divide(plan.rank, threads); }

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    if (progress.active == 0 || progress.rotates == 0) return;
    const Plan& plan = entry.setup.plan;
    const SparseTable table(plan);
    const Index first = tables.number(context.block()) * threads;
    context.last([&](int t) {
      const Index k = first + t;
      if (k >= plan.rank) return;
      float* row = entry.q + k * plan.rank;
      for (Index i = 0; i < plan.rank; ++i) row[i] = 0;
      for (Index window = 0; window < table.windows; ++window) {
        const Index s = table.input(entry.inputs, window, k);
        if (s < 0 || s >= plan.removed) continue;
        row[table.bucket(entry.old_map, s)] += signed_value(signed_value(1, entry.signs, s), entry.old_signs, s);
      }
    });
  }
};

/// M and V by tiles of channels. Sums are in fp32 and in order, as the reference takes them. Moments in blocks are left in
/// `turned`.
template <class Policies>
struct RotateMoments {
  using Moments = typename Policies::Moments;
  using State = StoredMoments<Moments>;
  using Stored = typename State::Stored;
  static constexpr bool rounds = State::rounds && !State::in_blocks;
  static constexpr int runs = rounds ? RankTile::most / storage_block + 1 : 1;

  static constexpr const char* kernel = "RotateMoments";
  struct Shared {
    float before[RankTile::most];
    RoundingBytes random[runs];
  };
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    if (progress.active == 0 || progress.rotates == 0) return;
    const Plan& plan = entry.setup.plan;
    const RankTile tile(plan.rank);
    const int rank = tile.rank;
    const Index first = tables.number(context.block()) * tile.channels;
    const int count = static_cast<int>(min_of(plan.kept - first, Index{tile.channels}));
    const Index first_run = first * rank / storage_block;
    if constexpr (rounds)
      context.phase([&](int t) {
        constexpr int blocks = RoundingBytes::blocks;
        const Index run = first_run + t / blocks;
        if (t < runs * blocks && run * storage_block < (first + count) * rank)
          shared.random[t / blocks].draw(progress.rotation_rounding(), run, t % blocks);
      });
    for (int b = 0; b < Moments::buffers; ++b) {
      context.phase([&](int t) {
        for (int i = t; i < count * rank; i += threads) shared.before[i] = State::open_one(entry, b, first * rank + i);
      });
      context.phase([&](int t) {
        tile.over(t, count, [&](int, int channel, int bucket) {
          const float* line = shared.before + channel * rank;
          const float* q = entry.q + static_cast<Index>(bucket) * rank;
          float sum = 0;
          for (int i = 0; i < rank; ++i) sum += line[i] * (b == 1 ? q[i] * q[i] : q[i]);
          const Index at = (first + channel) * rank + bucket;
          if constexpr (State::in_blocks) {
            entry.turned[b * plan.moment_size() + at] = sum;
          } else {
            std::uint32_t random = 0;
            const Index run = at / storage_block;
            if constexpr (rounds)
              random = shared.random[run - first_run].bits_of(static_cast<int>(at - run * storage_block));
            static_cast<Stored*>(entry.moment[b])[at] = stored<Stored, rounds>(sum, random);
          }
        });
      });
    }
  }
};

}  // namespace apollo::cuda
