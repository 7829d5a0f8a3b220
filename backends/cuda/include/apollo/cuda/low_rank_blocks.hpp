// SPDX-License-Identifier: Apache-2.0
// Kernels of R's moments in blocks of codes. Blocks do not end where tiles of channels do, so these go by storage runs of R, eight
// a block; what needs whole channels is left in scratch.
#pragma once

#include <apollo/cuda/elementwise.hpp>
#include <apollo/cuda/project.hpp>

namespace apollo::cuda {

/// Opens, or is given, the moments of a part's runs, and closes them.
template <class Moments>
struct CloseRuns {
  using State = StoredMoments<Moments>;
  using Values = Units<float>;
  static constexpr int size = Values::size;
  struct Shared {
    RoundingBytes random[State::rounds ? runs_at_once : 1];
    typename State::Waiting waiting;
  };

  static Index parts(const Plan& plan) {
    return (plan.moment_size() + runs_at_once * storage_block - 1) / (runs_at_once * storage_block);
  }

  /// fill(run, at, left, state) sets state[b][i] of each unit.
  template <class Context, class Fill>
  APOLLO_HD static void run(const Context& context, const Entry& entry, const RandomStream& stream, Index part,
                            Shared& shared, const Fill& fill) {
    const auto over = [&](int t, auto&& body) {
      const Index begin = (part * runs_at_once + t / warp) * storage_block, all = entry.setup.plan.moment_size();
      if (begin >= all) return;
      const StorageRun run = flat_run(begin, all);
      for (int u = 0; u < Values::count; ++u) {
        const int at = Values::at(t % warp, u);
        if (at < run.count) body(run, at, min_of(size, run.count - at));
      }
    };
    context.phase([&](int t) {
      constexpr int blocks = RoundingBytes::blocks;
      const Index number = part * runs_at_once + t / blocks;
      if (State::rounds && t < runs_at_once * blocks) shared.random[t / blocks].draw(stream, number, t % blocks);
      shared.waiting.clear(t);
      over(t, [&](const StorageRun& run, int at, int left) {
        float state[2][size];
        fill(run, at, left, state);
        for (int b = 0; b < Moments::buffers; ++b)
          State::template wait<size>(shared.waiting, b, t / warp, at, left, state[b]);
      });
    });
    context.phase([&](int t) { shared.waiting.reduce(t); });
    context.last([&](int t) {
      over(t, [&](const StorageRun& run, int at, int left) {
        const RoundingBits<State::rounds ? size : 0> random(shared.random[State::rounds ? t / warp : 0], at);
        for (int b = 0; b < Moments::buffers; ++b) {
          alignas(16) float values[size];
          shared.waiting.get(b, t / warp, at, values);
          State::template close<size>(entry, b, run, at, true, left, values, random, shared.waiting, t / warp);
        }
      });
    });
  }
};

/// M, V <- R. Leaves N in `n`, and in `r` R itself, the sum of its parts.
template <class Policies>
struct LowRankBlocks {
  using Moments = typename Policies::Moments;
  using Runs = CloseRuns<Moments>;
  static constexpr const char* kernel = "LowRankBlocks";
  using Shared = typename Runs::Shared;
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    if (progress.active == 0) return;
    const Plan& plan = entry.setup.plan;
    Runs::run(context, entry, progress.c.rounding, tables.number(context.block()), shared,
              [&](const StorageRun& run, int at, int left, float(*state)[Runs::size]) {
                for (int b = 0; b < Moments::buffers; ++b)
                  Runs::State::template open<Runs::size>(entry, b, run, at, true, left, state[b]);
                for (int i = 0; i < Runs::size; ++i) {
                  if (i >= left) continue;
                  const Index number = run.at + at + i, j = number / plan.rank;
                  float r = r_to_step(entry, progress, number);
                  if constexpr (Policies::factored_gradient) r *= entry.channel_step[j];
                  float value[2] = {0, 0};
                  for (int b = 0; b < Moments::buffers; ++b) value[b] = progress.restarts == 0 ? state[b][i] : 0;
                  entry.n[entry.in_n(j, number - j * plan.rank)] = Moments::update(r, value, progress.c.moments);
                  entry.r[number] = r;
                  for (int b = 0; b < Moments::buffers; ++b) state[b][i] = value[b];
                }
              });
  }
};

/// Moments that RotateMoments has left in `turned`.
template <class Policies>
struct CloseRotated {
  using Moments = typename Policies::Moments;
  using Runs = CloseRuns<Moments>;
  static constexpr const char* kernel = "CloseRotated";
  using Shared = typename Runs::Shared;
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    if (progress.active == 0 || progress.rotates == 0) return;
    Runs::run(context, entry, progress.rotation_rounding(), tables.number(context.block()), shared,
              [&](const StorageRun& run, int at, int left, float(*state)[Runs::size]) {
                for (int b = 0; b < Moments::buffers; ++b)
                  read<Runs::size>(entry.turned + b * run.length + run.at + at, run.length % Runs::size == 0, left,
                                   state[b]);
              });
  }
};

}  // namespace apollo::cuda
