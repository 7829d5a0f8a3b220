// SPDX-License-Identifier: Apache-2.0
// The named optimizers: each a line of docs/algorithms.md's table. `Overrides` replace a policy, the scalar type or the
// backend: Apollo<double>, Apollo<RandomProjection<Gaussian>>, AdamW<AdamMoments<bfloat16>, EigenBackend>.
#pragma once

#include <apollo/optimizer/structured.hpp>

namespace apollo {

/// State: 2 m n values. Source: Loshchilov and Hutter, arXiv:1711.05101.
template <class... Overrides>
using AdamW = StructuredOptimizer<Overrides..., AdamWOptions, IdentityProjection, ElementScaling, AdamMoments<>>;

/// State: none.
template <class... Overrides>
using Sgd = StructuredOptimizer<Overrides..., SgdOptions, IdentityProjection, ElementScaling, NoMoments>;

/// State: m n values.
template <class... Overrides>
using SgdMomentum =
    StructuredOptimizer<Overrides..., SgdMomentumOptions, IdentityProjection, ElementScaling, MomentumMoments<>>;

/// State: 2 r L values, L the kept side. Source: arXiv:2412.05270, Algorithm 1, which draws a Gaussian P:
/// Apollo<RandomProjection<Gaussian>>. Sparse signs train as well and cost a fraction (docs/design.md).
template <class... Overrides>
using Apollo = StructuredOptimizer<Overrides..., ApolloOptions, RandomProjection<SparseSign>, ChannelScaling,
                                   AdamMoments<>, NormGrowthLimiter>;

/// State: 2 L values. Source: arXiv:2412.05270, sec. 4.2.
template <class... Overrides>
using ApolloMini = StructuredOptimizer<Overrides..., ApolloMiniOptions, RandomProjection<Gaussian>, TensorScaling,
                                       AdamMoments<>, NormGrowthLimiter>;

/// State: 2 r L + r S values, S the removed side. Source: arXiv:2403.03507, Algorithm 2.
template <class... Overrides>
using GaLore = StructuredOptimizer<Overrides..., GaLoreOptions, SvdProjection, ElementScaling, AdamMoments<>>;

/// State: 2 m n values. Source: arXiv:2412.05270, sec. 3.
template <class... Overrides>
using StructuredAdamW = StructuredOptimizer<Overrides..., StructuredAdamWOptions, IdentityProjection, ChannelScaling,
                                            AdamMoments<>, NormGrowthLimiter>;

/// State: 2 r L + r S values. Source: arXiv:2412.05270, sec. 5.4.
template <class... Overrides>
using ApolloSvd = StructuredOptimizer<Overrides..., ApolloSvdOptions, SvdProjection, ChannelScaling, AdamMoments<>,
                                      NormGrowthLimiter>;

/// State: 2 r L + r S values. Source: arXiv:2410.01623, Algorithm 1.
template <class... Overrides>
using Fira =
    StructuredOptimizer<Overrides..., FiraOptions, SvdProjection, ResidualScaling, AdamMoments<>, NormGrowthLimiter>;

/// State: r L values. Source: arXiv:2402.03293, Algorithm 2.
template <class... Overrides>
using Flora =
    StructuredOptimizer<Overrides..., FloraOptions, RandomProjection<Gaussian>, ElementScaling, MeanMoments<>>;

/// State: r L + L + S values. Source: arXiv:2402.03293 with arXiv:1804.04235.
template <class... Overrides>
using FloraFactored = StructuredOptimizer<Overrides..., FloraFactoredOptions, RandomProjection<Gaussian>,
                                          ElementScaling, FactoredMeanMoments<>>;

/// State: m n values and one a block. Source: arXiv:2406.16793, Algorithm 1.
template <class... Overrides>
using AdamMini =
    StructuredOptimizer<Overrides..., AdamMiniOptions, IdentityProjection, ElementScaling, BlockAdamMoments<>>;

/// State: r S + L + r values. Source: arXiv:2403.03507 with arXiv:1804.04235.
template <class... Overrides>
using GaLoreAdafactor =
    StructuredOptimizer<Overrides..., GaLoreAdafactorOptions, SvdProjection, ElementScaling, AdafactorMoments>;

/// SCALE. State: none; with MeanMoments<>, for the head, m n values. Source: arXiv:2506.16659, Algorithm 1.
template <class... Overrides>
using ColumnNormalizedSgd =
    StructuredOptimizer<Overrides..., ColumnNormalizedSgdOptions, IdentityProjection, NormalizedScaling, NoMoments>;

// --- in 8 bits: states, weights, or both ----------------------------------------------------------------------------------

/// State: 2 m n bytes and 8 for 256 values. Int8Dynamic in place of Int8Linear makes it that of arXiv:2110.02861.
template <class... Overrides>
using AdamW8bit = AdamW<Overrides..., AdamMoments<Int8Linear>>;

/// State: 2 r L bytes, 8 for 256 of those values, and r S values. Source: arXiv:2403.03507, sec. 4.3.
template <class... Overrides>
using GaLore8bit = GaLore<Overrides..., AdamMoments<Int8Linear>>;

/// Apollo for weights in 8-bit groups (Int8Matrix) or bfloat16, which it rounds stochastically. Source: arXiv:2412.05270,
/// sec. 5.3, with the weights of arXiv:2407.08296.
template <class... Overrides>
using QApollo = Apollo<Overrides..., StochasticWeights>;

/// ApolloMini likewise.
template <class... Overrides>
using QApolloMini = ApolloMini<Overrides..., StochasticWeights>;

/// State: 2 r L bytes of moments and r S / 2 of basis, and 8 for 256 of either; for weights as QApollo's.
/// Source: arXiv:2407.08296.
template <class... Overrides>
using QGaLore = StructuredOptimizer<Overrides..., QGaLoreOptions, Int4SvdProjection, ElementScaling,
                                    AdamMoments<Int8Linear>, StochasticWeights>;

/// Which optimizer an option type stands for.
template <class Options>
struct MemberOf;
template <>
struct MemberOf<AdamWOptions> {
  using type = AdamW<>;
};
template <>
struct MemberOf<SgdOptions> {
  using type = Sgd<>;
};
template <>
struct MemberOf<SgdMomentumOptions> {
  using type = SgdMomentum<>;
};
template <>
struct MemberOf<ApolloOptions> {
  using type = Apollo<>;
};
template <>
struct MemberOf<ApolloMiniOptions> {
  using type = ApolloMini<>;
};
template <>
struct MemberOf<GaLoreOptions> {
  using type = GaLore<>;
};
template <>
struct MemberOf<QGaLoreOptions> {
  using type = QGaLore<>;
};
template <>
struct MemberOf<StructuredAdamWOptions> {
  using type = StructuredAdamW<>;
};
template <>
struct MemberOf<ApolloSvdOptions> {
  using type = ApolloSvd<>;
};
template <>
struct MemberOf<FiraOptions> {
  using type = Fira<>;
};
template <>
struct MemberOf<FloraOptions> {
  using type = Flora<>;
};
template <>
struct MemberOf<FloraFactoredOptions> {
  using type = FloraFactored<>;
};
template <>
struct MemberOf<AdamMiniOptions> {
  using type = AdamMini<>;
};
template <>
struct MemberOf<GaLoreAdafactorOptions> {
  using type = GaLoreAdafactor<>;
};
template <>
struct MemberOf<ColumnNormalizedSgdOptions> {
  using type = ColumnNormalizedSgd<>;
};

}  // namespace apollo
