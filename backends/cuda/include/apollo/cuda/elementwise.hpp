// SPDX-License-Identifier: Apache-2.0
// Kernels of steps that project nothing: look at the gradient, begin a tensor's step, update every element.
#pragma once

#include <apollo/cuda/storage.hpp>

namespace apollo::cuda {

/// Calls body(run, lane, run in the part) for each run of a part that is this thread's turn.
template <class Body>
APOLLO_INLINE void over_runs(const Entry& entry, Index part, int turn, int t, Body&& body) {
  const Index number = first_run_of(part, turn) + t / warp;
  if (number < run_count(entry.lines, entry.length))
    body(run_at(entry.lines, entry.length, number), t % warp, t / warp);
}

/// Calls body(run, run in the part, at, left) for each unit of those runs that is this thread's: values [at, at + left). One after
/// the other, where several at once would need more registers than there are.
template <class Values, bool one_by_one = false, class Body>
APOLLO_INLINE void over_units(const Entry& entry, Index part, int turn, int t, Body&& body) {
  over_runs(entry, part, turn, t, [&](const Run& run, int lane, int in_part) {
#if defined(__CUDA_ARCH__)
#pragma unroll(one_by_one ? 1 : Values::count)
#endif
    for (int u = 0; u < Values::count; ++u) {
      const int at = Values::at(lane, u);
      if (at >= run.count) return;
      body(run, in_part, at, min_of(Values::size, run.count - at));
    }
  });
}

/// The sum of the gradient's squares, in double: it is finite exactly if all values are. Reads G once, or not at all where nobody
/// asks: without check_finite and clipping.
template <class G>
struct Inspect {
  static constexpr const char* kernel = "Inspect";
  using Shared = SumMemory;
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    const Index part = tables.number(context.block());
    if (tables.idle(context.block()) || (!entry.setup.settings.check_finite && entry.clock->clip == 0)) return;
    const auto* gradient = static_cast<const G*>(entry.gradient);
    typename Context::template Each<double> sum;
    context.phase([&](int t) {
      for (int turn = 0; turn < runs_a_part / runs_at_once; ++turn)
        over_units<Units<G>>(entry, part, turn, t, [&](const Run& run, int, int at, int left) {
          float g[Units<G>::size];
          read<Units<G>::size>(gradient + run.value + at, entry.aligned, left, g);
          for (int i = 0; i < Units<G>::size; ++i) sum[t] += static_cast<double>(g[i]) * static_cast<double>(g[i]);
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

/// The squared norm of a tensor's gradient as given, from what the first kernels of a step left: zero where they had none here.
template <class Policies, class Context>
APOLLO_HD double gradient_square(const Context& context, const Tables& tables, SumMemory& memory) {
  typename Context::template Each<double> part;
  context.phase([&](int t) {
    if (tables.idle(context.block())) return;
    const Entry& entry = tables.entry(context.block());
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
    const double squared = gradient_square<Policies>(context, tables, shared);
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
    const bool looks = entry.setup.settings.check_finite || !Policies::one_pass;
    const double squared = looks ? gradient_square<Policies>(context, tables, shared) : 0;
    context.last([&](int t) {
      if (t != 0) return;
      progress.active = 0;
      if (!takes(entry, progress) || !wants_step(entry, progress)) return;
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

/// Moments and apply in one pass, every element its own step. Reads W, G, M and V once, writes W, M and V once. What shares a
/// number in blocks waits until that is known.
template <class Policies, class W, class G>
struct Update {
  using Moments = typename Policies::Moments;
  using State = StoredMoments<Moments>;
  using Weights = StoredWeights<Policies, W>;
  static constexpr bool draws = Weights::rounds || State::rounds;
  static constexpr bool waits = Weights::grouped || State::in_blocks;
  static constexpr bool opens_early = waits && (Weights::grouped || Weights::split);
  /// With a step for each channel, or more to open, eight values at a time would need more registers than there are.
  using Values = std::conditional_t<Policies::by_block || waits || Weights::split, Units<float>, Units<W>>;
  static constexpr int size = Values::size;
  static constexpr int waiting = Moments::buffers > 0 ? Moments::buffers : 1;

  static constexpr const char* kernel = "Update";
  struct Shared {
    RoundingBytes weights[Weights::rounds ? runs_at_once : 1];
    RoundingBytes moments[State::rounds ? runs_at_once : 1];
    std::conditional_t<waits, WaitingRuns<1, 2>, WaitingRuns<0, 0>> waiting_weights;
    std::conditional_t<waits, WaitingRuns<waiting, waiting>, WaitingRuns<0, 0>> waiting_moments;
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
      if constexpr (draws) context.phase([&](int t) { draw(progress, part, turn, t, shared); });
      if constexpr (waits)
        in_phases(context, entry, progress.c, part, turn, shared);
      else if constexpr (draws)
        context.phase([&](int t) { step(entry, c, part, turn, t, shared); });
      else
        context.last([&](int t) { step(entry, c, part, turn, t, shared); });
    }
  }

 private:
  struct Unit {
    alignas(16) float w[size];
    alignas(16) float state[2][size];
  };

  APOLLO_HD static void draw(const Progress& progress, Index part, int turn, int t, Shared& shared) {
    constexpr int half = threads / 2;
    static_assert(half == runs_at_once * RoundingBytes::blocks);
    if (t < half) {
      if constexpr (Weights::rounds) draw_runs(shared.weights, progress.weight_rounding, part, turn, t);
    } else {
      if constexpr (State::rounds) draw_runs(shared.moments, progress.c.rounding, part, turn, t - half);
    }
  }

  APOLLO_HD static void step(const Entry& entry, const StepCoefficients<float>& c, Index part, int turn, int t,
                             const Shared& shared) {
    over_units<Values>(entry, part, turn, t, [&](const Run& run, int in_part, int at, int left) {
      Unit unit;
      open_moments(entry, run, at, left, unit);
      update(entry, c, run, at, left, unit);
      close_weights(entry, run, in_part, at, left, unit, shared);
      close_moments(entry, run, in_part, at, left, unit, shared);
    });
  }

  /// Moments, and weights in groups or halves, are opened to where they wait afterwards: all at once would need more registers
  /// than there are.
  template <class Context>
  APOLLO_HD static void in_phases(const Context& context, const Entry& entry, const StepCoefficients<float>& c,
                                  Index part, int turn, Shared& shared) {
    const auto over = [&](int t, auto&& body) { over_units<Values, true>(entry, part, turn, t, body); };
    auto& moments = shared.waiting_moments;
    auto& weights = shared.waiting_weights;
    context.phase([&](int t) {
      weights.clear(t);
      moments.clear(t);
      over(t, [&](const Run& run, int in_part, int at, int left) {
        Unit unit;
        if constexpr (opens_early) {
          Weights::template open<size>(entry, run, at, left, unit.w);
          weights.put(0, in_part, at, unit.w);
        }
        open_moments(entry, run, at, left, unit);
        for (int b = 0; b < Moments::buffers; ++b) moments.put(b, in_part, at, unit.state[b]);
      });
      over(t, [&](const Run& run, int in_part, int at, int left) {
        Unit unit;
        for (int b = 0; b < Moments::buffers; ++b) moments.get(b, in_part, at, unit.state[b]);
        if constexpr (opens_early) weights.get(0, in_part, at, unit.w);
        update(entry, c, run, at, left, unit);
        for (int b = 0; b < Moments::buffers; ++b)
          State::template wait<size>(moments, b, in_part, at, left, unit.state[b]);
        Weights::template wait<size>(weights, in_part, at, left, unit.w);
      });
    });
    context.phase([&](int t) {
      if constexpr (Weights::grouped) weights.reduce(t);
      if constexpr (State::in_blocks) moments.reduce(t);
    });
    context.phase([&](int t) {
      over(t, [&](const Run& run, int in_part, int at, int left) {
        Unit unit;
        weights.get(0, in_part, at, unit.w);
        close_weights(entry, run, in_part, at, left, unit, shared);
      });
      over(t, [&](const Run& run, int in_part, int at, int left) {
        Unit unit;
        for (int b = 0; b < Moments::buffers; ++b) moments.get(b, in_part, at, unit.state[b]);
        close_moments(entry, run, in_part, at, left, unit, shared);
      });
    });
  }

  APOLLO_INLINE static void open_moments(const Entry& entry, const Run& run, int at, int left, Unit& unit) {
    for (int b = 0; b < Moments::buffers; ++b)
      State::template open<size>(entry, b, storage_run(entry, run), at, entry.aligned, left, unit.state[b]);
  }
  /// `unit` holds the moments, and weights that are opened early.
  APOLLO_INLINE static void update(const Entry& entry, const StepCoefficients<float>& c, const Run& run, int at,
                                   int left, Unit& unit) {
    float g[size], step[size];
    for (int i = 0; i < size; ++i) {
      step[i] = static_cast<float>(c.step);
      if constexpr (Policies::by_block) step[i] = i < left ? channel_step_of(entry, run, at + i) : 0;
    }
    if constexpr (!opens_early) Weights::template open<size>(entry, run, at, left, unit.w);
    read<size>(static_cast<const G*>(entry.gradient) + run.value + at, entry.aligned, left, g);
    for (int i = 0; i < size; ++i) {
      float value[2] = {0, 0};
      for (int b = 0; b < Moments::buffers; ++b) value[b] = unit.state[b][i];
      float& w = unit.w[i];
      const float n = Moments::update(c.gradient_factor * g[i] + c.coupled_decay * w, value, c.moments);
      w = c.decay_after * (c.decay_before * w - step[i] * n);
      for (int b = 0; b < Moments::buffers; ++b) unit.state[b][i] = value[b];
    }
  }

  APOLLO_INLINE static void close_weights(const Entry& entry, const Run& run, int in_part, int at, int left,
                                          const Unit& unit, const Shared& shared) {
    const RoundingBits<Weights::rounds ? size : 0> random(shared.weights[Weights::rounds ? in_part : 0], at);
    Weights::template close<size>(entry, run, at, left, unit.w, random, shared.waiting_weights, in_part);
  }
  APOLLO_INLINE static void close_moments(const Entry& entry, const Run& run, int in_part, int at, int left,
                                          const Unit& unit, const Shared& shared) {
    const RoundingBits<State::rounds ? size : 0> random(shared.moments[State::rounds ? in_part : 0], at);
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
    for (int b = 0; b < Moments::buffers; ++b)
      State::template close<size>(entry, b, storage_run(entry, run), at, entry.aligned, left, unit.state[b], random,
                                  shared.waiting_moments, in_part);
  }
};

}  // namespace apollo::cuda
