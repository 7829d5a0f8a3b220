// SPDX-License-Identifier: Apache-2.0
// Projections and lifts of large dense ranks as matrix products: R = factor X P^T, and W <- (after before) W - (after a) C P, by
// whoever multiplies (products.hpp). Here which products those are, and the kernels that write what they read.
#pragma once

#include <apollo/cuda/products.hpp>
#include <apollo/cuda/project.hpp>

namespace apollo::cuda {

/// What a tensor's products are multiplied by. Of floats, on the device.
struct ProductScalars {
  float factor = 0;  ///< of the gradient
  float begin = 0;   ///< of what R was before
  float zero = 0;
  float one = 0;
  float lift = 0;  ///< of C P in the new weight, and of the old weight
  float keep = 0;
};

/// Before R is taken: the factors, and of a bfloat16 gradient P as bfloat16 numbers that add up to it. Where the step is of the
/// other table's gradient R stays; zero times a sum that is not a number would be none, so that sum is cleared.
template <class G>
struct BeginProduct {
  static constexpr const char* kernel = "BeginProduct";
  static constexpr bool splits = std::is_same_v<G, bfloat16>;
  static constexpr int size = 8;  ///< values of a thread: 16 bytes of bfloat16
  struct Shared {
    char none;
  };
  Tables tables;

  static Index parts(const Plan& plan) { return parts_of(plan.rank * plan.removed); }

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    const Entry& entry = tables.entry(context.block());
    const Index part = tables.number(context.block()), all = entry.setup.plan.rank * entry.setup.plan.removed;
    const bool idle = tables.idle(context.block());
    context.last([&](int t) {
      if (part == 0 && t == 0) *entry.scalars = {idle ? 0 : gradient_factor(entry), idle ? 1.0f : 0.0f, 0, 1, 0, 1};
      if (idle && entry.of_sum && entry.sum != nullptr)
        for (Index i = part * threads + t; i < entry.lines * entry.length; i += parts_of(all) * threads)
          entry.sum[i] = 0;
      const Index at = (part * threads + t) * size;
      if (!splits || at >= all) return;
      const int left = static_cast<int>(min_of(all - at, Index{size}));
      float rest[size];
      read<size>(entry.directions + at, true, left, rest);
      for (Index k = 0; k < entry.splits; ++k) {
        alignas(16) bfloat16 piece[size];
        for (int i = 0; i < size; ++i) {
          piece[i] = static_cast<bfloat16>(rest[i]);
          rest[i] -= static_cast<float>(piece[i]);
        }
        write<size>(piece, all % size == 0, left, entry.split_directions + k * all + at);
      }
    });
  }

 private:
  APOLLO_HD static Index parts_of(Index values) { return (values + size * threads - 1) / (size * threads); }
};

/// Before an update is lifted straight into the weight: its factors. A skipped tensor's weight is kept: zero times C, which must
/// then be a number.
struct BeginLift {
  static constexpr const char* kernel = "BeginLift";
  struct Shared {
    char none;
  };
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    const Entry& entry = tables.entry(context.block());
    const Progress& progress = tables.progress_of(context.block());
    const bool active = progress.active != 0;
    context.last([&](int t) {
      if (t == 0) {
        entry.scalars->lift = active ? -progress.c.decay_after * static_cast<float>(progress.c.step) : 0;
        entry.scalars->keep = active ? progress.c.decay_after * progress.c.decay_before : 1;
      }
      if (!active)
        for (Index i = t; i < entry.setup.plan.moment_size(); i += threads) entry.n[i] = 0;
    });
  }
};

/// Number `number` of the products that add up to R, kept x rank: one for floats, else one for each bfloat16 number that a
/// direction's value is split into, the least first.
template <class G>
Product projection(const Entry& entry, int number) {
  const Plan& plan = entry.setup.plan;
  constexpr bool half = BeginProduct<G>::splits;
  const void* directions = entry.directions;
  if (half) directions = entry.split_directions + (entry.splits - 1 - number) * plan.rank * plan.removed;
  return {plan.kept,
          plan.removed,
          plan.rank,
          {entry.gradient, entry.length, !entry.along, half},
          {directions, plan.removed, true, half},
          entry.r,
          &entry.scalars->factor,
          number == 0 ? &entry.scalars->begin : &entry.scalars->one};
}

/// C P in the weight's order of memory: alpha times it, and beta times what is there.
inline Product lift(const Entry& entry, float* to, const float* alpha, const float* beta) {
  const Plan& plan = entry.setup.plan;
  const Factor directions{entry.directions, plan.removed, !entry.along};
  const Factor c{entry.n, entry.along ? plan.rank : plan.kept};
  return {entry.lines, plan.rank, entry.length, entry.along ? c : directions, entry.along ? directions : c,
          to,          alpha,     beta};
}

}  // namespace apollo::cuda
