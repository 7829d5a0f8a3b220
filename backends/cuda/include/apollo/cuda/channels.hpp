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
  static constexpr bool rounds = false;
  APOLLO_HD static double* sums(const Entry& entry) { return entry.x_norms; }
  APOLLO_HD static Index lines(const Entry& entry) { return entry.lines; }
  APOLLO_HD static Index length(const Entry& entry) { return entry.length; }
  APOLLO_HD static double of(const Entry& entry, const Progress&, Index at, std::uint32_t) {
    const auto x = static_cast<double>(static_cast<float>(static_cast<const G*>(entry.gradient)[at]));
    return x * x;
  }
};

/// M, V <- R = factor G, and N^2. `random`: 16 bits, where moments round.
template <class Policies, class G>
struct MomentSquares : GradientSquares<G> {
  using Moments = typename Policies::Moments;
  using Stored = stored_t<Moments, float>;
  static constexpr bool steps = true;
  static constexpr bool rounds = std::is_same_v<Stored, bfloat16>;
  APOLLO_HD static double* sums(const Entry& entry) { return entry.n_norms; }
  APOLLO_HD static double of(const Entry& entry, const Progress& progress, Index at, std::uint32_t random) {
    float value[2] = {0, 0};
    for (int b = 0; b < Moments::buffers; ++b)
      value[b] = static_cast<float>(static_cast<const Stored*>(entry.moment[b])[at]);
    const float r = progress.c.gradient_factor * static_cast<float>(static_cast<const G*>(entry.gradient)[at]);
    const float n = Moments::update(r, value, progress.c.moments);
    for (int b = 0; b < Moments::buffers; ++b)
      static_cast<Stored*>(entry.moment[b])[at] = stored<Stored, rounds>(value[b], random);
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
    LineBytes<Squares::rounds ? channels : 0> random;
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
    const int count = static_cast<int>(min_of(lines - first, Index{channels}));
    typename Context::template Each<double> sum;
    // What rounds goes from storage run to storage run, so that a turn's random bits fit.
    for (Index at = 0; at < length; at += Squares::rounds ? Index{storage_block} : length) {
      if constexpr (Squares::rounds)
        context.phase([&](int t) { shared.random.draw(entry, progress.c.rounding, first, count, at, t); });
      const Index end = Squares::rounds ? min_of(at + storage_block, length) : length;
      context.phase([&](int t) {
        if (t / warp >= count) return;
        const Index line = first + t / warp;
        for (Index in_line = at + t % warp; in_line < end; in_line += warp) {
          std::uint32_t random = 0;
          if constexpr (Squares::rounds) random = shared.random.bits_of(entry, first, line, in_line);
          sum[t] += Squares::of(entry, progress, line * length + in_line, random);
        }
      });
    }
    context.phase([&](int t) { shared.part[t / warp][t % warp] = sum[t]; });
    context.last([&](int t) {
      if (t >= count) return;
      double total = 0;
      for (int i = 0; i < warp; ++i) total += shared.part[t][i];
      Squares::sums(entry)[first + t] = total;
    });
  }
};

/// The same where channels lie beside each other: a thread for each, and a block for each 256 lines.
template <class Squares>
struct AcrossChannels {
  static constexpr const char* kernel = "AcrossChannels";
  static constexpr Index inputs = 256;
  static constexpr int at_once =
      Squares::rounds ? 15 : static_cast<int>(inputs);  ///< with one more run if they are joined
  struct Shared {
    LineBytes<Squares::rounds ? at_once : 0> random;
  };
  Tables tables;

  static Index parts_of_norms(Index lines) { return ceil_divide(lines, inputs); }
  static Index parts(Index lines, Index length) { return ceil_divide(length, threads) * parts_of_norms(lines); }

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    if (Squares::steps ? progress.active == 0 : tables.idle(context.block())) return;
    const Index lines = Squares::lines(entry), length = Squares::length(entry);
    const Index tiles = (length + threads - 1) / threads;
    const Index part = tables.number(context.block()) / tiles;
    const Index channel = (tables.number(context.block()) - part * tiles) * threads;
    const Index begin = part * inputs, end = min_of(begin + inputs, lines);
    typename Context::template Each<double> sum;
    for (Index from = begin; from < end; from += at_once) {
      const int count = static_cast<int>(min_of(end - from, Index{at_once}));
      if constexpr (Squares::rounds)
        context.phase([&](int t) { shared.random.draw(entry, progress.c.rounding, from, count, channel, t); });
      context.phase([&](int t) {
        const Index j = channel + t;
        if (j >= length) return;
        for (Index line = from; line < from + count; ++line) {
          std::uint32_t random = 0;
          if constexpr (Squares::rounds) random = shared.random.bits_of(entry, from, line, j);
          sum[t] += Squares::of(entry, progress, line * length + j, random);
        }
      });
    }
    context.last([&](int t) {
      if (channel + t < length) Squares::sums(entry)[part * length + channel + t] = sum[t];
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
      const double x = x_norm(entry, j), r = factor * x;
      double n = r;
      if constexpr (Policies::Moments::buffers > 0) n = sum_of_parts(entry.n_norms, entry.norm_parts, kept, j);
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
          for (Index i = 0; i < plan.block; ++i) sum += x_norm(entry, b * plan.block + i);
          const double step = block_step(settings, progress.c, share * sum, entry.shared[b]);
          for (Index i = 0; i < plan.block; ++i) entry.channel_step[b * plan.block + i] = static_cast<float>(step);
        }
      });
      return;
    }
    for (Index b = 0; b < plan.blocks(); ++b) {
      typename Context::template Each<double> sum;
      context.phase([&](int t) {
        for (Index i = t; i < plan.block; i += threads) sum[t] += x_norm(entry, b * plan.block + i);
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
};

}  // namespace apollo::cuda
