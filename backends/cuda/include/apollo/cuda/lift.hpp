// SPDX-License-Identifier: Apache-2.0
// The kernel of updates that are lifted back from the projected space, W <- W - a (lift(C) + s o X).
#pragma once

#include <apollo/cuda/structured.hpp>

namespace apollo::cuda {

/// (C P) of up to `size` adjacent values of the weight's memory; `multiplied`: it was before.
template <class Policies, int size, bool multiplied>
struct Lift {
  static constexpr bool dense =
      !Policies::Projection::random || is_drawn_as_matrix<typename Policies::Projection, true>();
  using Directions = DirectionsOf<Policies>;
  const Entry& entry;
  const float* product = nullptr;

  APOLLO_HD void operator()(const Run& run, int at, int left, float* sum) const {
    const Plan& plan = entry.setup.plan;
    if constexpr (multiplied) return read<size>(product + run.value + at, entry.aligned, left, sum);
    if constexpr (dense) {
      if (entry.length >= storage_block) {  // then they lie in one line
        const bool aligned = entry.length % size == 0;
        for (int i = 0; i < size; ++i) sum[i] = 0;
        for (Index k = 0; k < plan.rank; ++k) {
          float values[size], factor;
          if (entry.along) {
            factor = entry.n[run.line * plan.rank + k];
            Directions::template read<size>(entry, k, run.at + at, aligned, left, values);
          } else {
            factor = Directions::at(entry, k, run.line);
            read<size>(entry.n + k * entry.length + run.at + at, aligned, left, values);
          }
          for (int i = 0; i < size; ++i) sum[i] += factor * values[i];
        }
        return;
      }
    }
    for (int i = 0; i < size; ++i) sum[i] = i < left ? single(run, at + i) : 0;
  }

 private:
  APOLLO_HD float single(const Run& run, int at) const {
    const Plan& plan = entry.setup.plan;
    Index line, in_line;
    place_of(entry, run, at, line, in_line);
    const Index j = entry.along ? line : in_line, s = entry.along ? in_line : line;
    if constexpr (dense) {
      float sum = 0;
      for (Index k = 0; k < plan.rank; ++k) sum += entry.n[entry.in_n(j, k)] * Directions::at(entry, k, s);
      return sum;
    } else {
      return signed_value(entry.n[entry.in_n(j, SparseTable(plan).bucket(entry.map, s))], entry.signs, s);
    }
  }
};

/// W <- (W before - a (lift(C) + s o X)) after, without s where there is no residual. Reads W (and G) once, writes W once, and
/// reads C or P once for each line of memory. `multiplied`: of one tensor whose C P is in `product`; else of all others.
template <class Policies, class W, class G, bool multiplied = false>
struct ApplyLift {
  static constexpr bool residual = Policies::Granularity::residual;
  using Values = Units<float>;  // of bfloat16 as well: eight at a time would need more registers than there are
  using Change = ChangeWeights<Policies, W, Values>;

  static constexpr const char* kernel = "ApplyLift";
  using Shared = typename Change::Shared;
  Tables tables;
  const float* product = nullptr;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    if (progress.active == 0 || entry.by_products != multiplied) return;
    const float before = progress.c.decay_before, after = progress.c.decay_after;
    const auto length = static_cast<float>(progress.c.step);
    Change::run(context, entry, progress, tables.number(context.block()), shared,
                [&](const Run& run, int, int at, int left, float* w, const auto& open) {
                  constexpr int size = Values::size;
                  float lifted[size];
                  Lift<Policies, size, multiplied>{entry, product}(run, at, left, lifted);
                  for (int i = 0; i < size; ++i) lifted[i] *= length;
                  if constexpr (residual) {
                    float g[size];
                    read<size>(static_cast<const G*>(entry.gradient) + run.value + at, entry.aligned, left, g);
                    for (int i = 0; i < left; ++i) lifted[i] += channel_step_of(entry, run, at + i) * g[i];
                  }
                  open();
                  for (int i = 0; i < size; ++i) w[i] = after * (before * w[i] - lifted[i]);
                });
  }
};

}  // namespace apollo::cuda
