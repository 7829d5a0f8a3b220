// SPDX-License-Identifier: Apache-2.0
// The named optimizers: each a line of docs/algorithms.md's table. `Overrides` replace a policy, the scalar type or the
// backend: Apollo<double>, Apollo<RandomProjection<SparseSign>>, AdamW<AdamMoments<bfloat16>, EigenBackend>.
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

/// State: 2 r L values, L the kept side. Source: arXiv:2412.05270, Algorithm 1.
template <class... Overrides>
using Apollo = StructuredOptimizer<Overrides..., ApolloOptions, RandomProjection<Gaussian>, ChannelScaling,
                                   AdamMoments<>, NormGrowthLimiter>;

/// State: 2 L values. Source: arXiv:2412.05270, sec. 4.2.
template <class... Overrides>
using ApolloMini = StructuredOptimizer<Overrides..., ApolloMiniOptions, RandomProjection<Gaussian>, TensorScaling,
                                       AdamMoments<>, NormGrowthLimiter>;

/// State: 2 r L + r S values, S the removed side. Source: arXiv:2403.03507, Algorithm 2.
template <class... Overrides>
using GaLore = StructuredOptimizer<Overrides..., GaLoreOptions, SvdProjection, ElementScaling, AdamMoments<>>;

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

}  // namespace apollo
