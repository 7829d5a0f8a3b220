// SPDX-License-Identifier: Apache-2.0
// Kernels of gradients that wait for a step: sums of micro-batches, as R where that is all the step takes of them, else whole.
#pragma once

#include <apollo/cuda/elementwise.hpp>
#include <apollo/cuda/project.hpp>

namespace apollo::cuda {

/// Whether a composition's sums are kept as R. Over singular vectors they are not: the sum of a step that computes a basis is
/// whole, and which step does is known on the device alone, so its memory has to be there anyway.
template <class Policies>
inline constexpr bool sums_projections =
    Policies::takes_projection_only && !computes_basis<typename Policies::Projection>;

/// Adds factor G to a whole sum, which begins at zero. At a step (`folds`) only where a sum waits that lacks this G. Reads G,
/// reads and writes the sum.
template <class G>
struct AddGradient {
  static constexpr const char* kernel = "AddGradient";
  struct Shared {
    char none;
  };
  bool folds = false;
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    const Entry& entry = tables.entry(context.block());
    const Pending pending = tables.progress_of(context.block()).pending;
    if (entry.gradient == nullptr || (folds && pending != Pending::whole)) return;
    const Index part = tables.number(context.block());
    const auto* gradient = static_cast<const G*>(entry.gradient);
    const float factor = gradient_factor(entry);
    context.last([&](int t) {
      constexpr int size = Units<G>::size;
      for (int turn = 0; turn < runs_a_part / runs_at_once; ++turn)
        over_runs(entry, part, turn, t, [&](const Run& run, int lane, int) {
          for (int u = 0; u < Units<G>::count; ++u) {
            const int at = Units<G>::at(lane, u);
            if (at >= run.count) return;
            const int left = min_of(size, run.count - at);
            float* to = entry.sum + run.value + at;
            alignas(16) float sum[size] = {};
            float g[size];
            if (pending != Pending::none) read<size>(to, entry.aligned, left, sum);
            read<size>(gradient + run.value + at, entry.aligned, left, g);
            for (int i = 0; i < size; ++i) sum[i] += factor * g[i];
            write<size>(sum, entry.aligned, left, to);
          }
        });
    });
  }
};

/// Adds R, as it was just projected, to a sum of R, by tiles of channels.
struct AddProjection {
  static constexpr const char* kernel = "AddProjection";
  struct Shared {
    char none;
  };
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    const Entry& entry = tables.entry(context.block());
    const Pending pending = tables.progress_of(context.block()).pending;
    if (entry.gradient == nullptr) return;
    const Plan& plan = entry.setup.plan;
    const RankTile tile(plan.rank);
    const Index first = tables.number(context.block()) * tile.channels;
    const int count = static_cast<int>(min_of(plan.kept - first, Index{tile.channels}));
    context.last([&](int t) {
      tile.over(t, count, [&](int, int channel, int bucket) {
        const Index at = (first + channel) * plan.rank + bucket;
        const float r = projected(entry, at);
        entry.sum[at] = pending == Pending::none ? r : entry.sum[at] + r;
      });
    });
  }
};

/// One block a tensor: notes that a gradient was added, or (`folds`) that the last one was. A sum of R does not show that a
/// gradient was not finite, so that is noted too.
template <class Policies>
struct NoteSum {
  static constexpr const char* kernel = "NoteSum";
  using Shared = SumMemory;
  bool folds = false;
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    Progress& progress = tables.progress_of(context.block());
    if (entry.gradient == nullptr) return;
    const double squared = sums_projections<Policies> ? gradient_square<Policies>(context, tables, shared) : 0;
    context.last([&](int t) {
      if (t != 0) return;
      if (folds)
        progress.pending = progress.pending == Pending::whole ? Pending::folded : progress.pending;
      else if (!sums_projections<Policies>)
        progress.pending = Pending::whole;
      else if (!may_be_stepped<Policies>(entry, squared))
        progress.pending = Pending::spoiled;
      else if (progress.pending != Pending::spoiled)
        progress.pending = Pending::projected;
    });
  }
};

/// One block a tensor: nothing waits any more.
struct DiscardSum {
  static constexpr const char* kernel = "DiscardSum";
  struct Shared {
    char none;
  };
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    Progress& progress = tables.progress_of(context.block());
    context.last([&](int t) {
      if (t == 0) progress.pending = Pending::none;
    });
  }
};

}  // namespace apollo::cuda
