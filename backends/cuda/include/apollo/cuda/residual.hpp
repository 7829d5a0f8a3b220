// SPDX-License-Identifier: Apache-2.0
// Kernels of what an orthonormal projection leaves of the gradient, which Fira scales by channel: its norms, and C of
// lift(C) + s o X = alpha lift(N) + s o (X - share lift(R)).
#pragma once

#include <apollo/cuda/structured.hpp>

namespace apollo::cuda {

/// s of 256 channels a block, and the squared norm of s o (X - share lift(R)) over the gradient's factor. By Pythagoras, unless so
/// little is left that the difference would be rounding (see step/residual.hpp): then a block's threads sum that channel.
template <class Policies, class G>
struct ResidualScales {
  using Granularity = typename Policies::Granularity;
  static constexpr const char* kernel = "ResidualScales";
  struct Shared {
    SumMemory sum;
    double left[threads];
    std::int32_t summed[threads];
  };
  Tables tables;

  static Index parts(const Plan& plan) { return ceil_divide(plan.kept, threads); }

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    if (progress.active == 0) return;
    const Plan& plan = entry.setup.plan;
    const Index number = tables.number(context.block()), first = number * threads;
    const int count = static_cast<int>(min_of(plan.kept - first, Index{threads}));
    context.phase([&](int t) {
      if (t >= count) return;
      const double factor = progress.gradient_factor, share = share_of(entry.setup.settings);
      const double whole = factor * factor * x_norm(entry, first + t);
      const double left = whole - (2 * share - share * share) * entry.r_norms[first + t];
      shared.left[t] = left;
      shared.summed[t] = left >= 1e-3 * whole ? 0 : 1;
    });
    for (int channel = 0; channel < count; ++channel) {
      if (shared.summed[channel] == 0) continue;
      typename Context::template Each<double> part;
      context.phase([&](int t) { part[t] = squares(entry, progress.gradient_factor, first + channel, t); });
      const double sum = block_sum(context, shared.sum, part);
      context.phase([&](int t) {
        if (t == 0) shared.left[channel] = sum;
      });
    }
    typename Context::template Each<double> update;
    context.phase([&](int t) {
      if (t >= count) return;
      const double factor = progress.gradient_factor;
      const double s = Granularity::ratio(entry.n_norms[first + t], entry.r_norms[first + t]);
      entry.channel_scale[first + t] = s;
      update[t] = s * s * shared.left[t] / (factor * factor);
    });
    const double total = block_sum(context, shared.sum, update);
    context.last([&](int t) {
      if (t < 3) entry.sums[3 * number + t] = t == 2 ? total : 0;
    });
  }

  APOLLO_HD static double share_of(const Settings& settings) {
    return settings.residual == FiraResidual::paper ? 1 : settings.scale.value;
  }

 private:
  APOLLO_HD static double squares(const Entry& entry, double factor, Index j, int t) {
    const Plan& plan = entry.setup.plan;
    const auto* x = static_cast<const G*>(entry.gradient) + (entry.along ? j * plan.removed : j);
    const Index stride = entry.along ? 1 : plan.kept;
    const int rank = static_cast<int>(plan.rank);
    const double share = share_of(entry.setup.settings);
    double sum = 0;
    for (Index s = t; s < plan.removed; s += threads) {
      double lifted = 0;
      const float* r = entry.r + j * plan.rank;
      const float* p = entry.directions + s;
      for (int k = 0; k < rank; ++k, p += plan.removed) lifted += static_cast<double>(r[k]) * static_cast<double>(*p);
      const double gap = factor * static_cast<double>(static_cast<float>(x[s * stride])) - share * lifted;
      sum += gap * gap;
    }
    return sum;
  }
};

/// N_jk <- alpha N_jk - (share s_j / limiter) R_jk, by tiles of channels.
template <class Policies>
struct Combine {
  static constexpr const char* kernel = "Combine";
  struct Shared {
    char none;
  };
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    if (progress.active == 0) return;
    const Plan& plan = entry.setup.plan;
    const Settings& settings = entry.setup.settings;
    const RankTile tile(plan.rank);
    const Index first = tables.number(context.block()) * tile.channels;
    const int count = static_cast<int>(min_of(plan.kept - first, Index{tile.channels}));
    const auto alpha = static_cast<float>(settings.scale.value);
    const double share = settings.residual == FiraResidual::paper ? 1 : settings.scale.value;
    context.last([&](int t) {
      tile.over(t, count, [&](int, int channel, int bucket) {
        const Index j = first + channel, at = entry.in_n(j, bucket);
        const auto s = static_cast<float>(entry.channel_scale[j] * share / progress.limiter);
        entry.n[at] = alpha * entry.n[at] - s * entry.r[j * plan.rank + bucket];
      });
    });
  }
};

}  // namespace apollo::cuda
