// SPDX-License-Identifier: Apache-2.0
// The options of the named optimizers, by their published names and with their published defaults. Each turns into Settings.
#pragma once

#include <apollo/step/settings.hpp>

namespace apollo {

/// Stands for the default that belongs to the chosen order.
inline constexpr double by_order = -1.0e300;

namespace options {

constexpr double resolve(double value, Order order, double torch, double huggingface) {
  if (value != by_order) return value;
  return order == Order::torch ? torch : huggingface;
}

}  // namespace options

/// AdamW (arXiv:1711.05101). In torch's order eps is 1e-8 and weight_decay 1e-2, in Hugging Face's 1e-6 and 0.
struct AdamWOptions {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = by_order;
  double weight_decay = by_order;
  Order order = Order::torch;
  bool check_finite = true;  ///< one more read of the gradient; without it a NaN reaches the state
  std::uint64_t seed = 0;    ///< of stochastic rounding

  constexpr Settings settings() const {
    Settings s;
    s.lr = lr, s.beta1 = beta1, s.beta2 = beta2, s.order = order, s.check_finite = check_finite, s.seed = seed;
    s.eps = options::resolve(eps, order, 1e-8, 1e-6);
    s.weight_decay = options::resolve(weight_decay, order, 1e-2, 0);
    return s;
  }
};

/// Stochastic gradient descent without memory.
struct SgdOptions {
  double lr = 1e-3;
  double weight_decay = 0;
  Decay decay = Decay::decoupled;
  bool check_finite = true;

  constexpr Settings settings() const {
    Settings s;
    s.lr = lr, s.weight_decay = weight_decay, s.decay = decay, s.check_finite = check_finite;
    return s;
  }
};

/// Stochastic gradient descent with heavy-ball momentum, as torch.optim.SGD without dampening and Nesterov's step.
struct SgdMomentumOptions {
  double lr = 1e-3;
  double momentum = 0.9;
  double weight_decay = 0;
  Decay decay = Decay::decoupled;
  bool check_finite = true;
  std::uint64_t seed = 0;  ///< of stochastic rounding

  constexpr Settings settings() const {
    Settings s;
    s.lr = lr, s.momentum = momentum, s.weight_decay = weight_decay, s.decay = decay;
    s.check_finite = check_finite, s.seed = seed;
    return s;
  }
};

/// APOLLO (arXiv:2412.05270): one step length a channel, from a random projection of rank `rank`.
struct ApolloOptions {
  double lr = 1e-2;
  Index rank = 256;
  Scale scale = 1;  ///< its square root multiplies the step; `automatic` makes the step as long as AdamW's
  Index update_proj_gap = 200;
  ProjType proj_type = ProjType::std;
  OnRefresh on_refresh = OnRefresh::keep;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-6;
  double weight_decay = 0;
  Order order = Order::huggingface;
  double limiter_gamma = 1.01;
  double limiter_floor = 0.5;  ///< 0: the published rule, which one zero gradient traps
  bool allow_rank_1 = false;
  bool check_finite = true;
  std::uint64_t seed = 0;

  constexpr Settings settings() const {
    Settings s;
    s.lr = lr, s.rank = rank, s.scale = scale, s.update_proj_gap = update_proj_gap, s.proj_type = proj_type;
    s.on_refresh = on_refresh, s.beta1 = beta1, s.beta2 = beta2, s.eps = eps, s.weight_decay = weight_decay;
    s.order = order, s.limiter_gamma = limiter_gamma, s.limiter_floor = limiter_floor;
    s.allow_rank_1 = allow_rank_1, s.check_finite = check_finite, s.seed = seed;
    return s;
  }
};

/// APOLLO-Mini (arXiv:2412.05270): one step length a tensor, from a projection of rank 1.
struct ApolloMiniOptions {
  double lr = 1e-2;
  Scale scale = 128;
  Index update_proj_gap = 200;
  ProjType proj_type = ProjType::std;
  OnRefresh on_refresh = OnRefresh::keep;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-6;
  double weight_decay = 0;
  Order order = Order::huggingface;
  double limiter_gamma = 1.01;
  double limiter_floor = 0.5;
  bool check_finite = true;
  std::uint64_t seed = 0;

  constexpr Settings settings() const {
    ApolloOptions o;
    o.lr = lr, o.rank = 1, o.scale = scale, o.update_proj_gap = update_proj_gap, o.proj_type = proj_type;
    o.on_refresh = on_refresh, o.beta1 = beta1, o.beta2 = beta2, o.eps = eps, o.weight_decay = weight_decay;
    o.order = order, o.limiter_gamma = limiter_gamma, o.limiter_floor = limiter_floor;
    o.check_finite = check_finite, o.seed = seed;
    return o.settings();
  }
};

/// GaLore (arXiv:2403.03507): Adam in the leading singular directions of the gradient.
struct GaLoreOptions {
  double lr = 1e-2;
  Index rank = 128;
  double scale = 0.25;  ///< alpha; not under a root
  Index update_proj_gap = 200;
  ProjType proj_type = ProjType::std;
  SvdMethod svd = SvdMethod::subspace;
  OnRefresh on_refresh = OnRefresh::keep;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-6;
  double weight_decay = 0;
  Order order = Order::huggingface;
  bool check_finite = true;
  std::uint64_t seed = 0;

  constexpr Settings settings() const {
    Settings s;
    s.lr = lr, s.rank = rank, s.scale = scale, s.update_proj_gap = update_proj_gap, s.proj_type = proj_type;
    s.svd = svd, s.on_refresh = on_refresh, s.beta1 = beta1, s.beta2 = beta2, s.eps = eps;
    s.weight_decay = weight_decay, s.order = order, s.check_finite = check_finite, s.seed = seed;
    return s;
  }
};

/// Options of a composition of one's own: every hyper-parameter there is. One that differs from its default here although no
/// policy of the composition reads it is refused, so that nothing is set in vain.
struct StructuredOptions {
  double lr = 1e-3;
  double momentum = 0.9;  ///< MomentumMoments
  double beta1 = 0.9;     ///< AdamMoments
  double beta2 = 0.999;   ///< AdamMoments
  double eps = 1e-6;      ///< AdamMoments
  double weight_decay = 0;
  Order order = Order::huggingface;
  Decay decay = Decay::decoupled;  ///< coupled: IdentityProjection with ElementScaling
  Index rank = 0;                  ///< projections
  Scale scale = 1;
  Index update_proj_gap = 200;                     ///< RandomProjection, SvdProjection
  ProjType proj_type = ProjType::std;              ///< projections
  SvdMethod svd = SvdMethod::subspace;             ///< SvdProjection
  OnRefresh on_refresh = OnRefresh::keep;          ///< projections
  ChannelAxis channel_axis = ChannelAxis::longer;  ///< IdentityProjection with ChannelScaling
  double limiter_gamma = 1.01;                     ///< NormGrowthLimiter
  double limiter_floor = 0.5;                      ///< NormGrowthLimiter
  bool allow_rank_1 = false;                       ///< ChannelScaling
  bool check_finite = true;
  std::uint64_t seed = 0;

  constexpr Settings settings() const {
    Settings s;
    s.lr = lr, s.momentum = momentum, s.beta1 = beta1, s.beta2 = beta2, s.eps = eps, s.weight_decay = weight_decay;
    s.order = order, s.decay = decay, s.rank = rank, s.scale = scale, s.update_proj_gap = update_proj_gap,
    s.proj_type = proj_type;
    s.svd = svd, s.on_refresh = on_refresh, s.channel_axis = channel_axis, s.limiter_gamma = limiter_gamma;
    s.limiter_floor = limiter_floor, s.allow_rank_1 = allow_rank_1, s.check_finite = check_finite, s.seed = seed;
    return s;
  }
};

}  // namespace apollo
