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
  std::uint64_t seed = 0;  ///< of StochasticWeights

  constexpr Settings settings() const {
    Settings s;
    s.lr = lr, s.weight_decay = weight_decay, s.decay = decay, s.check_finite = check_finite, s.seed = seed;
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

/// Q-GaLore (arXiv:2407.08296): GaLore's, and when its bases are similar enough to be computed half as often.
struct QGaLoreOptions {
  double lr = 1e-2;
  Index rank = 128;
  double scale = 0.25;  ///< alpha; not under a root
  Index update_proj_gap = 200;
  ProjType proj_type = ProjType::std;
  SvdMethod svd = SvdMethod::subspace;
  OnRefresh on_refresh = OnRefresh::keep;
  double similarity_threshold = 0.4;  ///< above 1: update_proj_gap never grows
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
    s.svd = svd, s.on_refresh = on_refresh, s.similarity_threshold = similarity_threshold;
    s.beta1 = beta1, s.beta2 = beta2, s.eps = eps;
    s.weight_decay = weight_decay, s.order = order, s.check_finite = check_finite, s.seed = seed;
    return s;
  }
};

/// AdamW with one step length a channel (arXiv:2412.05270, sec. 3): APOLLO before it saves memory. Or a tensor, with
/// StructuredAdamW<TensorScaling>.
struct StructuredAdamWOptions {
  double lr = 1e-2;
  Scale scale = 1;                                 ///< its square root multiplies the step
  ChannelAxis channel_axis = ChannelAxis::longer;  ///< which side is the channels
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-6;
  double weight_decay = 0;
  Order order = Order::huggingface;
  double limiter_gamma = 1.01;
  double limiter_floor = 0.5;
  bool check_finite = true;
  std::uint64_t seed = 0;  ///< of stochastic rounding

  constexpr Settings settings() const {
    Settings s;
    s.lr = lr, s.scale = scale, s.channel_axis = channel_axis, s.beta1 = beta1, s.beta2 = beta2, s.eps = eps;
    s.weight_decay = weight_decay, s.order = order, s.limiter_gamma = limiter_gamma, s.limiter_floor = limiter_floor;
    s.check_finite = check_finite, s.seed = seed;
    return s;
  }
};

/// APOLLO with a singular basis (arXiv:2412.05270, sec. 5.4).
struct ApolloSvdOptions {
  double lr = 1e-2;
  Index rank = 256;
  double scale = 1;  ///< its square root multiplies the step
  Index update_proj_gap = 200;
  ProjType proj_type = ProjType::std;
  SvdMethod svd = SvdMethod::subspace;
  OnRefresh on_refresh = OnRefresh::keep;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-6;
  double weight_decay = 0;
  Order order = Order::huggingface;
  double limiter_gamma = 1.01;
  double limiter_floor = 0.5;
  bool allow_rank_1 = false;
  bool check_finite = true;
  std::uint64_t seed = 0;

  constexpr Settings settings() const {
    ApolloOptions o;
    o.lr = lr, o.rank = rank, o.scale = scale, o.update_proj_gap = update_proj_gap, o.proj_type = proj_type;
    o.on_refresh = on_refresh, o.beta1 = beta1, o.beta2 = beta2, o.eps = eps, o.weight_decay = weight_decay;
    o.order = order, o.limiter_gamma = limiter_gamma, o.limiter_floor = limiter_floor, o.allow_rank_1 = allow_rank_1;
    o.check_finite = check_finite, o.seed = seed;
    Settings s = o.settings();
    s.svd = svd;
    return s;
  }
};

/// Fira (arXiv:2410.01623): GaLore, and what its projection leaves of the gradient at the channel's mean step.
struct FiraOptions {
  double lr = 1e-2;
  Index rank = 128;
  double scale = 1;  ///< alpha, of the projected part; not under a root
  Index update_proj_gap = 200;
  ProjType proj_type = ProjType::std;
  SvdMethod svd = SvdMethod::subspace;
  OnRefresh on_refresh = OnRefresh::keep;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-6;
  double weight_decay = 0;
  Order order = Order::huggingface;
  double limiter_gamma = 1.01;  ///< of the residual alone
  double limiter_floor = 0.5;
  FiraResidual residual = FiraResidual::paper;
  bool check_finite = true;
  std::uint64_t seed = 0;

  constexpr Settings settings() const {
    Settings s;
    s.lr = lr, s.rank = rank, s.scale = scale, s.update_proj_gap = update_proj_gap, s.proj_type = proj_type;
    s.svd = svd, s.on_refresh = on_refresh, s.beta1 = beta1, s.beta2 = beta2, s.eps = eps;
    s.weight_decay = weight_decay, s.order = order, s.limiter_gamma = limiter_gamma, s.limiter_floor = limiter_floor;
    s.residual = residual, s.check_finite = check_finite, s.seed = seed;
    return s;
  }
};

/// Flora (arXiv:2402.03293): a momentum kept in a random projection, and turned when the projection changes.
struct FloraOptions {
  double lr = 1e-2;
  Index rank = 128;
  Index update_proj_gap = 1000;  ///< kappa
  ProjType proj_type = ProjType::std;
  OnRefresh on_refresh = OnRefresh::rotate;
  double beta1 = 0.9;
  double weight_decay = 0;
  Order order = Order::huggingface;
  bool check_finite = true;
  std::uint64_t seed = 0;

  constexpr Settings settings() const {
    Settings s;
    s.lr = lr, s.rank = rank, s.update_proj_gap = update_proj_gap, s.proj_type = proj_type, s.on_refresh = on_refresh;
    s.beta1 = beta1, s.weight_decay = weight_decay, s.order = order, s.check_finite = check_finite, s.seed = seed;
    return s;
  }
};

/// Flora on Adafactor's second moment (arXiv:2402.03293; Adafactor: arXiv:1804.04235): the gradient is divided by the root of a
/// factored mean of squares before it is projected.
struct FloraFactoredOptions {
  double lr = 1e-2;
  Index rank = 128;
  Index update_proj_gap = 1000;  ///< kappa
  ProjType proj_type = ProjType::std;
  OnRefresh on_refresh = OnRefresh::rotate;
  double beta1 = 0.9;
  double decay_rate = 0.8;
  double eps = 1e-30;  ///< added to squares
  double weight_decay = 0;
  Order order = Order::huggingface;
  bool check_finite = true;
  std::uint64_t seed = 0;

  constexpr Settings settings() const {
    Settings s;
    s.lr = lr, s.rank = rank, s.update_proj_gap = update_proj_gap, s.proj_type = proj_type, s.on_refresh = on_refresh;
    s.beta1 = beta1, s.decay_rate = decay_rate, s.eps = eps, s.weight_decay = weight_decay, s.order = order;
    s.check_finite = check_finite, s.seed = seed;
    return s;
  }
};

/// Adam-mini (arXiv:2406.16793): Adam with one second moment a block of channels. The blocks are stated, never guessed from a
/// name: in torch's layout (out x in) `block` is 1 for values, attention outputs, MLPs, embeddings and heads, the head size
/// for queries and keys, and 0 for anything else.
struct AdamMiniOptions {
  double lr = 1e-3;
  Index block = 1;                               ///< channels a block; 0: the whole tensor
  ChannelAxis channel_axis = ChannelAxis::rows;  ///< cols for weights stored in x out
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  Order order = Order::torch;
  bool check_finite = true;
  std::uint64_t seed = 0;  ///< of stochastic rounding

  constexpr Settings settings() const {
    Settings s;
    s.lr = lr, s.block = block, s.channel_axis = channel_axis, s.beta1 = beta1, s.beta2 = beta2, s.eps = eps;
    s.weight_decay = weight_decay, s.order = order, s.check_finite = check_finite, s.seed = seed;
    return s;
  }
};

/// GaLore with Adafactor's second moment and no first (arXiv:2403.03507, sec. 5; Adafactor: arXiv:1804.04235).
struct GaLoreAdafactorOptions {
  double lr = 1e-2;
  Index rank = 128;
  double scale = 0.25;  ///< alpha; not under a root
  Index update_proj_gap = 200;
  ProjType proj_type = ProjType::std;
  SvdMethod svd = SvdMethod::subspace;
  OnRefresh on_refresh = OnRefresh::keep;
  double decay_rate = 0.8;
  double eps = 1e-30;  ///< added to squares
  double clip_threshold = 1;
  double weight_decay = 0;
  Order order = Order::torch;  ///< the published code decays first
  bool check_finite = true;
  std::uint64_t seed = 0;

  constexpr Settings settings() const {
    Settings s;
    s.lr = lr, s.rank = rank, s.scale = scale, s.update_proj_gap = update_proj_gap, s.proj_type = proj_type;
    s.svd = svd, s.on_refresh = on_refresh, s.decay_rate = decay_rate, s.eps = eps, s.clip_threshold = clip_threshold;
    s.weight_decay = weight_decay, s.order = order, s.check_finite = check_finite, s.seed = seed;
    return s;
  }
};

/// SCALE (arXiv:2506.16659): the gradient with every channel's norm made 1; ColumnNormalizedSgd<MeanMoments<>> with momentum,
/// for the output head. (The published code divides by root mean squares: its lr is lr / sqrt(channel length) here.)
struct ColumnNormalizedSgdOptions {
  double lr = 1e-3;
  ChannelAxis channel_axis = ChannelAxis::rows;  ///< torch's layout (out x in); cols for weights stored in x out
  double beta1 = 0.9;                            ///< of MeanMoments
  double weight_decay = 0;
  Order order = Order::huggingface;
  bool check_finite = true;
  std::uint64_t seed = 0;  ///< of stochastic rounding

  constexpr Settings settings() const {
    Settings s;
    s.lr = lr, s.channel_axis = channel_axis, s.beta1 = beta1, s.weight_decay = weight_decay, s.order = order;
    s.check_finite = check_finite, s.seed = seed;
    return s;
  }
};

/// Options of a composition of one's own: every hyper-parameter there is. One that differs from its default here although no
/// policy of the composition reads it is refused, so that nothing is set in vain.
struct StructuredOptions {
  double lr = 1e-3;
  double momentum = 0.9;  ///< MomentumMoments
  double beta1 = 0.9;     ///< AdamMoments, BlockAdamMoments, MeanMoments, FactoredMeanMoments
  double beta2 = 0.999;   ///< AdamMoments, BlockAdamMoments
  double eps = 1e-6;      ///< AdamMoments, BlockAdamMoments, AdafactorMoments, FactoredMeanMoments
  double weight_decay = 0;
  Order order = Order::huggingface;
  Decay decay = Decay::decoupled;  ///< coupled: IdentityProjection with ElementScaling
  Index rank = 0;                  ///< projections
  Scale scale = 1;
  Index update_proj_gap = 200;                     ///< RandomProjection, SvdProjection
  ProjType proj_type = ProjType::std;              ///< projections
  SvdMethod svd = SvdMethod::subspace;             ///< SvdProjection
  OnRefresh on_refresh = OnRefresh::keep;          ///< projections
  double similarity_threshold = 0.4;               ///< Int4SvdProjection
  ChannelAxis channel_axis = ChannelAxis::longer;  ///< channels or blocks without a projection
  double limiter_gamma = 1.01;                     ///< NormGrowthLimiter
  double limiter_floor = 0.5;                      ///< NormGrowthLimiter
  Index block = 1;                                 ///< BlockAdamMoments
  double decay_rate = 0.8;                         ///< AdafactorMoments, FactoredMeanMoments
  double clip_threshold = 1;                       ///< AdafactorMoments
  FiraResidual residual = FiraResidual::paper;     ///< ResidualScaling
  bool allow_rank_1 = false;                       ///< ChannelScaling
  bool check_finite = true;
  std::uint64_t seed = 0;

  constexpr Settings settings() const {
    Settings s;
    s.lr = lr, s.momentum = momentum, s.beta1 = beta1, s.beta2 = beta2, s.eps = eps, s.weight_decay = weight_decay;
    s.order = order, s.decay = decay, s.rank = rank, s.scale = scale, s.update_proj_gap = update_proj_gap,
    s.proj_type = proj_type;
    s.svd = svd, s.on_refresh = on_refresh, s.channel_axis = channel_axis, s.limiter_gamma = limiter_gamma;
    s.limiter_floor = limiter_floor, s.block = block, s.decay_rate = decay_rate, s.clip_threshold = clip_threshold;
    s.residual = residual, s.allow_rank_1 = allow_rank_1, s.check_finite = check_finite, s.seed = seed;
    s.similarity_threshold = similarity_threshold;
    return s;
  }
};

}  // namespace apollo
