// SPDX-License-Identifier: Apache-2.0
// Kernels of steps that project nothing: look at the gradient, begin a tensor's step, update every element.
#pragma once

#include <apollo/cuda/memory.hpp>

namespace apollo::cuda {

/// Calls body(run, lane, run in the part) for each run of a part that is this thread's turn.
template <class Body>
APOLLO_INLINE void over_runs(const Entry& entry, Index part, int turn, int t, Body&& body) {
  const Index number = (part * (runs_a_part / runs_at_once) + turn) * runs_at_once + t / warp;
  if (number < run_count(entry.lines, entry.length))
    body(run_at(entry.lines, entry.length, number), t % warp, t / warp);
}

/// The sum of the gradient's squares, in double: it is finite exactly if all values are. Reads G once.
template <class G>
struct Inspect {
  static constexpr const char* kernel = "Inspect";
  using Shared = SumMemory;
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    const Index part = tables.number(context.block());
    if (tables.idle(context.block())) return;
    const auto* gradient = static_cast<const G*>(entry.gradient);
    typename Context::template Each<double> sum;
    context.phase([&](int t) {
      for (int turn = 0; turn < runs_a_part / runs_at_once; ++turn)
        over_runs(entry, part, turn, t, [&](const Run& run, int lane, int) {
          for (int u = 0; u < Units<G>::count; ++u) {
            const int at = Units<G>::at(lane, u);
            if (at >= run.count) return;
            float g[Units<G>::size];
            read<Units<G>::size>(gradient + run.value + at, entry.aligned, min_of(Units<G>::size, run.count - at), g);
            for (int i = 0; i < Units<G>::size; ++i) sum[t] += static_cast<double>(g[i]) * static_cast<double>(g[i]);
          }
        });
    });
    const double total = block_sum(context, shared, sum);
    context.last([&](int t) {
      if (t == 0) entry.sums[part] = total;
    });
  }
};

/// base^exponent by squaring: the same bits everywhere.
APOLLO_HD inline double power(double base, std::int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent >>= 1, base *= base)
    if ((exponent & 1) != 0) result *= base;
  return result;
}

/// The squared norm of a tensor's gradient as given, from what the first kernels of a step left.
template <class Policies, class Context>
APOLLO_HD double gradient_square(const Context& context, const Entry& entry, SumMemory& memory) {
  typename Context::template Each<double> part;
  context.phase([&](int t) {
    if (entry.gradient == nullptr) return;
    const double* from = Policies::one_pass ? entry.sums : entry.x_norms;
    const Index count = Policies::one_pass ? entry.blocks : entry.norm_parts * entry.setup.plan.kept;
    for (Index i = t; i < count; i += threads) part[t] += from[i];
  });
  return block_sum(context, memory, part);
}

/// Whether a gradient of this squared norm may be stepped.
template <class Policies>
APOLLO_HD bool may_be_stepped(const Entry& entry, double squared) {
  constexpr double largest = 1e70;  // R of a larger gradient might not be finite, so it is taken for one that is not
  const bool finite = bits::finite(squared) && (!Policies::Projection::projects || squared <= largest);
  return finite || !entry.setup.settings.check_finite;
}
/// Whether there is something to step with: a gradient, or a sum of R.
APOLLO_HD inline bool wants_step(const Entry& entry, const Progress& progress) {
  return entry.gradient != nullptr || progress.pending == Pending::projected || progress.pending == Pending::spoiled;
}
/// Whether a tensor is stepped, its gradient's squared norm being this.
template <class Policies>
APOLLO_HD bool is_stepped(const Entry& entry, const Progress& progress, double squared) {
  const bool ready = !computes_basis<typename Policies::Projection> || progress.record.steps > 0 || progress.fresh != 0;
  return wants_step(entry, progress) && ready && progress.pending != Pending::spoiled &&
         may_be_stepped<Policies>(entry, squared);
}

/// One block a tensor: its share of the global norm, none where it will be skipped or is not finite.
template <class Policies>
struct Measure {
  static constexpr const char* kernel = "Measure";
  using Shared = SumMemory;
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    if (!takes(entry, progress)) return;
    const double squared = gradient_square<Policies>(context, entry, shared);
    context.last([&](int t) {
      if (t != 0) return;
      const double factor = entry.input->gradient_factor;
      const bool counts = bits::finite(squared) && is_stepped<Policies>(entry, progress, squared);
      entry.clock->squares[entry.number] = counts ? factor * factor * squared : 0;
    });
  }
};

/// One block a tensor: whether it is stepped, its step count and its scalars.
template <class Policies>
struct Begin {
  static constexpr const char* kernel = "Begin";
  using Shared = SumMemory;
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    Progress& progress = tables.progress_of(context.block());
    const bool mine = takes(entry, progress);
    const double found = gradient_square<Policies>(context, entry, shared);
    context.last([&](int t) {
      if (t != 0) return;
      progress.active = 0;
      if (!mine || !wants_step(entry, progress)) return;
      const bool looks = entry.setup.settings.check_finite || !Policies::one_pass;
      const double squared = looks ? found : 0;
      progress.carries = progress.pending == Pending::projected ? 1 : 0;
      progress.active = is_stepped<Policies>(entry, progress, squared) ? 1 : 0;
      if (progress.active != 0)
        start(entry, progress, looks && progress.carries == 0 ? squared : not_measured);
      else
        ++progress.skipped;
      progress.pending = Pending::none;
      progress.fresh = 0;
    });
  }

 private:
  APOLLO_HD static void start(const Entry& entry, Progress& progress, double squared) {
    const TensorSetup& setup = entry.setup;
    Record& record = progress.record;
    progress.restarts = progress.rotates = 0;
    if constexpr (Policies::Projection::projects)
      if (record.steps > 0 &&
          (computes_basis<typename Policies::Projection> ? progress.fresh != 0 : setup.refresh_due(record.steps))) {
        progress.restarts = setup.settings.on_refresh == OnRefresh::reset ? 1 : 0;
        progress.rotates = setup.settings.on_refresh == OnRefresh::rotate ? 1 : 0;
        if (progress.restarts != 0) record.restart = record.steps;
      }
    const Clock& model = *entry.clock;
    const StepInput input{entry.input->lr * model.lr_factor, entry.input->gradient_factor * model.clip_factor};
    progress.gradient_factor = input.gradient_factor;
    progress.clip = static_cast<float>(model.clip_factor);
    BetaPowers powers;
    if constexpr (Policies::Moments::bias_corrected) {
      const std::int64_t clock = record.steps + 1 - record.restart;
      powers.first = power(Policies::Moments::first_decay(setup.settings), clock);
      powers.second = power(setup.settings.beta2, clock);
    }
    progress.c = coefficients<Policies, float>(setup.plan, setup.settings, record, setup.id, input, powers);
    progress.weight_rounding = {setup.settings.seed, setup.id, Stream::round_weight,
                                static_cast<std::uint64_t>(record.steps + 1)};
    const double factor = input.gradient_factor < 0 ? -input.gradient_factor : input.gradient_factor;
    progress.gradient_norm = squared < 0 ? not_measured : factor * __builtin_sqrt(squared);
    ++record.steps;
  }
};

/// Moments and apply in one pass, every element its own step. Reads W, G, M and V once, writes W, M and V once.
template <class Policies, class W, class G>
struct Update {
  using Moments = typename Policies::Moments;
  using Stored = stored_t<Moments, float>;
  static constexpr bool rounds_weights = Policies::Weights::stochastic && std::is_same_v<W, bfloat16>;
  static constexpr bool rounds_moments = Moments::buffers > 0 && std::is_same_v<Stored, bfloat16>;
  static constexpr bool draws = rounds_weights || rounds_moments;
  /// With a step for each channel eight values at a time would need more registers than there are.
  using Values = std::conditional_t<Policies::by_block, Units<float>, Units<W>>;

  static constexpr const char* kernel = "Update";
  struct Shared {
    RoundingBytes weights[rounds_weights ? runs_at_once : 1];
    RoundingBytes moments[rounds_moments ? runs_at_once : 1];
  };
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    const Index part = tables.number(context.block());
    if (progress.active == 0) return;
    const StepCoefficients<float> c = progress.c;
    for (int turn = 0; turn < runs_a_part / runs_at_once; ++turn) {
      if constexpr (draws) {
        context.phase([&](int t) { draw(progress, part, turn, t, shared); });
        context.phase([&](int t) { step(entry, c, part, turn, t, shared); });
      } else {
        context.last([&](int t) { step(entry, c, part, turn, t, shared); });
      }
    }
  }

 private:
  APOLLO_HD static void draw(const Progress& progress, Index part, int turn, int t, Shared& shared) {
    constexpr int blocks = RoundingBytes::blocks;
    static_assert(threads == 2 * runs_at_once * blocks);
    const int run = t / blocks % runs_at_once;
    const Index number = (part * (runs_a_part / runs_at_once) + turn) * runs_at_once + run;
    if (t < threads / 2) {
      if constexpr (rounds_weights) shared.weights[run].draw(progress.weight_rounding, number, t % blocks);
    } else {
      if constexpr (rounds_moments) shared.moments[run].draw(progress.c.rounding, number, t % blocks);
    }
  }

  APOLLO_HD static void step(const Entry& entry, const StepCoefficients<float>& c, Index part, int turn, int t,
                             const Shared& shared) {
    constexpr int size = Values::size;
    over_runs(entry, part, turn, t, [&](const Run& run, int lane, int in_part) {
      for (int u = 0; u < Values::count; ++u) {
        const int at = Values::at(lane, u);
        if (at >= run.count) return;
        const int left = min_of(size, run.count - at);
        const Index first = run.value + at;
        auto* weight = static_cast<W*>(entry.weight) + first;
        float w[size], g[size], state[2][size];
        read<size>(weight, entry.aligned, left, w);
        read<size>(static_cast<const G*>(entry.gradient) + first, entry.aligned, left, g);
        for (int b = 0; b < Moments::buffers; ++b)
          read<size>(static_cast<const Stored*>(entry.moment[b]) + first, entry.aligned, left, state[b]);
        const RoundingBits<rounds_weights ? size : 0> weight_bits(shared.weights[rounds_weights ? in_part : 0], at);
        const RoundingBits<rounds_moments ? size : 0> moment_bits(shared.moments[rounds_moments ? in_part : 0], at);
        alignas(16) W new_weight[size];
        alignas(16) Stored new_state[2][size];
        for (int i = 0; i < size; ++i) {
          float value[2] = {0, 0};
          for (int b = 0; b < Moments::buffers; ++b) value[b] = state[b][i];
          const float n = Moments::update(c.gradient_factor * g[i] + c.coupled_decay * w[i], value, c.moments);
          auto step = static_cast<float>(c.step);
          if constexpr (Policies::by_block) step = i < left ? channel_step_of(entry, run, at + i) : 0;
          w[i] = c.decay_after * (c.decay_before * w[i] - step * n);
          new_weight[i] = stored<W, rounds_weights>(w[i], weight_bits.of(i));
          for (int b = 0; b < Moments::buffers; ++b)
            new_state[b][i] = stored<Stored, rounds_moments>(value[b], moment_bits.of(i));
        }
        write<size>(new_weight, entry.aligned, left, weight);
        for (int b = 0; b < Moments::buffers; ++b)
          write<size>(new_state[b], entry.aligned, left, static_cast<Stored*>(entry.moment[b]) + first);
      }
    });
  }
};

}  // namespace apollo::cuda
