// SPDX-License-Identifier: Apache-2.0
// Kernels of structured updates without a projection: sums of a square of every element by channel, of the gradient and then of
// N, and the scales that they give. structured.hpp has what follows.
#pragma once

#include <apollo/cuda/structured.hpp>

namespace apollo::cuda {

/// x^2, for the norms of the gradient's channels.
template <class G>
struct GradientSquares {
  static constexpr bool steps = false;
  APOLLO_HD static double* sums(const Entry& entry) { return entry.x_norms; }
  APOLLO_HD static Index lines(const Entry& entry) { return entry.lines; }
  APOLLO_HD static Index length(const Entry& entry) { return entry.length; }
  APOLLO_HD static double of(const Entry& entry, const Progress&, Index at) {
    const auto x = static_cast<double>(static_cast<float>(static_cast<const G*>(entry.gradient)[at]));
    return x * x;
  }
};

/// M, V <- R = factor G, and N^2.
template <class Policies, class G>
struct MomentSquares : GradientSquares<G> {
  using Moments = typename Policies::Moments;
  static constexpr bool steps = true;
  APOLLO_HD static double* sums(const Entry& entry) { return entry.n_norms; }
  APOLLO_HD static double of(const Entry& entry, const Progress& progress, Index at) {
    float value[2] = {0, 0};
    for (int b = 0; b < Moments::buffers; ++b) value[b] = static_cast<const float*>(entry.moment[b])[at];
    const float r = progress.c.gradient_factor * static_cast<float>(static_cast<const G*>(entry.gradient)[at]);
    const float n = Moments::update(r, value, progress.c.moments);
    for (int b = 0; b < Moments::buffers; ++b) static_cast<float*>(entry.moment[b])[at] = value[b];
    return static_cast<double>(n) * static_cast<double>(n);
  }
};

/// Sums of squares where a channel lies along memory: a warp for each line, eight a block.
template <class Squares>
struct AlongChannels {
  static constexpr const char* kernel = "AlongChannels";
  static constexpr int channels = threads / warp;
  struct Shared {
    double part[channels][warp];
  };
  Tables tables;

  static Index parts(Index lines) { return ceil_divide(lines, channels); }

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    if (Squares::steps ? progress.active == 0 : tables.idle(context.block())) return;
    const Index lines = Squares::lines(entry), length = Squares::length(entry);
    const Index first = tables.number(context.block()) * channels;
    context.phase([&](int t) {
      const Index line = first + t / warp;
      if (line >= lines) return;
      double sum = 0;
      for (Index at = t % warp; at < length; at += warp) sum += Squares::of(entry, progress, line * length + at);
      shared.part[t / warp][t % warp] = sum;
    });
    context.last([&](int t) {
      if (t >= channels || first + t >= lines) return;
      double sum = 0;
      for (int i = 0; i < warp; ++i) sum += shared.part[t][i];
      Squares::sums(entry)[first + t] = sum;
    });
  }
};

/// The same where channels lie beside each other: a thread for each, and a block for each 256 lines.
template <class Squares>
struct AcrossChannels {
  static constexpr const char* kernel = "AcrossChannels";
  static constexpr Index at_once = 256;
  struct Shared {
    char none;
  };
  Tables tables;

  static Index parts_of_norms(Index lines) { return ceil_divide(lines, at_once); }
  static Index parts(Index lines, Index length) { return ceil_divide(length, threads) * parts_of_norms(lines); }

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    if (Squares::steps ? progress.active == 0 : tables.idle(context.block())) return;
    const Index lines = Squares::lines(entry), length = Squares::length(entry);
    const Index tiles = (length + threads - 1) / threads;
    const Index part = tables.number(context.block()) / tiles;
    const Index channel = (tables.number(context.block()) - part * tiles) * threads;
    const Index begin = part * at_once, end = min_of(begin + at_once, lines);
    context.last([&](int t) {
      const Index j = channel + t;
      if (j >= length) return;
      double sum = 0;
      for (Index line = begin; line < end; ++line) sum += Squares::of(entry, progress, line * length + j);
      Squares::sums(entry)[part * length + j] = sum;
    });
  }
};

/// s of every channel from the norms of X and N; 256 channels a block.
template <class Policies>
struct ChannelScales {
  using Granularity = typename Policies::Granularity;
  static constexpr const char* kernel = "ChannelScales";
  using Shared = SumMemory;
  Tables tables;

  static Index parts(const Plan& plan) { return ceil_divide(plan.kept, threads); }

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    if (progress.active == 0) return;
    const Index kept = entry.setup.plan.kept, number = tables.number(context.block());
    const double factor = progress.gradient_factor * progress.gradient_factor;
    typename Context::template Each<double> sum[3];
    context.phase([&](int t) {
      const Index j = number * threads + t;
      if (j >= kept) return;
      double x = 0, n = 0;
      for (Index part = 0; part < entry.norm_parts; ++part) x += entry.x_norms[part * kept + j];
      const double r = factor * x;
      if constexpr (Policies::Moments::buffers > 0)
        for (Index part = 0; part < entry.norm_parts; ++part) n += entry.n_norms[part * kept + j];
      else
        n = r;
      if constexpr (Granularity::per_channel) {
        const double s = Granularity::ratio(n, r);
        entry.channel_scale[j] = s;
        sum[2][t] = s * s * (scales_momentum<Policies> ? n : x);
      } else {
        sum[0][t] = n;
        sum[1][t] = r;
        sum[2][t] = x;
      }
    });
    double total[3] = {};
    for (int i = Granularity::per_channel ? 2 : 0; i < 3; ++i) total[i] = block_sum(context, shared, sum[i]);
    context.last([&](int t) {
      if (t == 0)
        for (int i = 0; i < 3; ++i) entry.sums[3 * number + i] = total[i];
    });
  }
};

/// One block a tensor: V of each of its blocks of channels, and the steps of their elements. Threads take blocks in turn, or, where
/// these are as large, one after the other together.
template <class Policies>
struct BlockSteps {
  static constexpr const char* kernel = "BlockSteps";
  using Shared = SumMemory;
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    if (progress.active == 0) return;
    const Plan& plan = entry.setup.plan;
    const Settings& settings = entry.setup.settings;
    const double factor = progress.gradient_factor;
    const double share = factor * factor / static_cast<double>(plan.block * plan.removed);
    if (plan.block < threads) {
      context.last([&](int t) {
        for (Index b = t; b < plan.blocks(); b += threads) {
          double sum = 0;
          for (Index i = 0; i < plan.block; ++i) sum += square(entry, b * plan.block + i);
          const double step = block_step(settings, progress.c, share * sum, entry.shared[b]);
          for (Index i = 0; i < plan.block; ++i) entry.channel_step[b * plan.block + i] = static_cast<float>(step);
        }
      });
      return;
    }
    for (Index b = 0; b < plan.blocks(); ++b) {
      typename Context::template Each<double> sum;
      context.phase([&](int t) {
        for (Index i = t; i < plan.block; i += threads) sum[t] += square(entry, b * plan.block + i);
      });
      const double total = block_sum(context, shared, sum);
      context.phase([&](int t) {
        float v = entry.shared[b];
        const double step = block_step(settings, progress.c, share * total, v);
        for (Index i = t; i < plan.block; i += threads)
          entry.channel_step[b * plan.block + i] = static_cast<float>(step);
      });
      context.phase([&](int t) {
        if (t == 0) (void)block_step(settings, progress.c, share * total, entry.shared[b]);
      });
    }
  }

 private:
  APOLLO_HD static double square(const Entry& entry, Index j) {
    double sum = 0;
    for (Index part = 0; part < entry.norm_parts; ++part) sum += entry.x_norms[part * entry.setup.plan.kept + j];
    return sum;
  }
};

}  // namespace apollo::cuda
