// SPDX-License-Identifier: Apache-2.0
// The scalars of one step of one tensor, computed in double and handed to the loops in arithmetic type.
#pragma once

#include <apollo/step/plan.hpp>
#include <apollo/step/state.hpp>

namespace apollo {

/// What the caller of a step decides each time.
struct StepInput {
  double lr = 0;               ///< eta, schedule included
  double gradient_factor = 1;  ///< multiplies the gradient: loss scale and clipping
};

/// By what all gradients of a model are multiplied so that their common norm is at most `most`. Source: Pascanu, Mikolov,
/// Bengio, ICML 2013.
APOLLO_HD constexpr double clip_factor(double global_norm, double most) {
  return global_norm > most ? most / (global_norm + 1e-6) : 1;
}
/// A bound of that norm, 0 where it is switched off: by 0 or infinity. Error: any other that is not above 0.
inline double checked_clip(double norm) {
  const bool off = norm == 0 || (!bits::finite(norm) && norm > 0);
  if (!off) Check{{}}.above("clip_global_norm", norm, 0);
  return off ? 0 : norm;
}

template <class T>
struct StepCoefficients {
  MomentCoefficients<T> moments;
  T gradient_factor = 1;
  T coupled_decay = 0;    ///< lambda of g + lambda w; one-pass updates only
  T decay_before = 1;     ///< 1 - eta lambda in torch's order
  T decay_after = 1;      ///< 1 - eta lambda in Hugging Face's
  double step = 0;        ///< a: what multiplies lift(C) + s o X, limiter not included
  RandomStream rounding;  ///< of moments
};

/// beta1^t and beta2^t of the bias correction, t counted from its last restart.
struct BetaPowers {
  double first = 0;
  double second = 0;
};

/// Source: algorithms in docs/algorithms.md, "One form". c_t and sqrt(scale) come after the limiter, so both are in `step`.
template <class Policies, class T>
APOLLO_HD StepCoefficients<T> coefficients(const Plan& plan, const Settings& settings, const Record& record,
                                           TensorId id, const StepInput& input, const BetaPowers& powers) {
  using Moments = typename Policies::Moments;
  StepCoefficients<T> c;
  const double beta1 = Moments::first_decay(settings);
  c.moments.beta1 = static_cast<T>(beta1);
  c.moments.one_minus_beta1 = static_cast<T>(1 - beta1);
  c.moments.beta2 = static_cast<T>(settings.beta2);
  c.moments.one_minus_beta2 = static_cast<T>(1 - settings.beta2);
  c.moments.eps = static_cast<T>(settings.eps);
  c.step = input.lr * step_scale<Policies>(plan, settings);
  if constexpr (Moments::bias_corrected) {
    const double first = 1 - powers.first;
    const double second = __builtin_sqrt(1 - powers.second);
    if (!Policies::Projection::projects && Policies::Granularity::elementwise && settings.order == Order::torch) {
      c.moments.first_factor = static_cast<T>(1 / first);
      c.moments.second_factor = static_cast<T>(1 / second);
    } else {
      c.step *= second / first;
    }
  }
  c.gradient_factor = static_cast<T>(input.gradient_factor);
  if (settings.decay == Decay::coupled)
    c.coupled_decay = static_cast<T>(settings.weight_decay);
  else
    (settings.order == Order::torch ? c.decay_before : c.decay_after) =
        static_cast<T>(1 - input.lr * settings.weight_decay);
  c.rounding = {settings.seed, id, Stream::round_moments, static_cast<std::uint64_t>(record.steps + 1)};
  return c;
}
template <class Policies, class T>
StepCoefficients<T> coefficients(const Plan& plan, const Settings& settings, const Record& record, TensorId id,
                                 const StepInput& input) {
  BetaPowers powers;
  if constexpr (Policies::Moments::bias_corrected) {
    const auto clock = static_cast<double>(record.steps + 1 - record.restart);
    powers = {__builtin_pow(Policies::Moments::first_decay(settings), clock), __builtin_pow(settings.beta2, clock)};
  }
  return coefficients<Policies, T>(plan, settings, record, id, input, powers);
}

namespace square {

/// A mean of squares as it is kept. Infinity would never be forgotten.
template <class T>
APOLLO_HD T stored(double value) {
  constexpr double largest = 3.4e38;
  return static_cast<T>(sizeof(T) == 4 && value > largest ? largest : value);
}

}  // namespace square

/// V of a block from the mean of its elements' squares now, and with it what multiplies their first moments.
template <class T>
APOLLO_HD double block_step(const Settings& settings, const StepCoefficients<T>& c, double mean, T& v) {
  v = square::stored<T>(settings.beta2 * static_cast<double>(v) + (1 - settings.beta2) * mean);
  const double root = static_cast<double>(c.moments.second_factor) * __builtin_sqrt(static_cast<double>(v));
  return c.step * static_cast<double>(c.moments.first_factor) / (root + settings.eps);
}

}  // namespace apollo
