// SPDX-License-Identifier: Apache-2.0
// The members of the library that plans are made for, a line each.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <apollo/optimizer/named.hpp>

#include "model.hpp"

namespace plan {

/// The optimizers of a model: `Member` steps its matrices, `Others` everything else.
template <class MemberType, class OthersType>
struct Steps {
  using Member = MemberType;
  using Others = OthersType;
  typename Member::Options options;
  typename Others::Options other_options = {};
};

/// Calls visit(name, steps) for each member, its moments stored as `Stored` where they are not of 8 bits. Embedding, head and
/// the rest take AdamW beside every member, as in examples/llama and in the papers.
template <class Stored, class Visit>
void for_each_member(Index rank, Visit&& visit) {
  using namespace apollo;
  using Adam = AdamMoments<Stored>;
  using Dense = AdamW<Adam>;
  visit("adamw", Steps<AdamW<Adam>, Dense>{});
  visit("adam-mini", Steps<AdamMini<BlockAdamMoments<Stored>>, Dense>{});
  visit("structured-adamw", Steps<StructuredAdamW<Adam>, Dense>{});
  visit("galore", Steps<GaLore<Adam>, Dense>{{.rank = rank}});
  visit("galore-adafactor", Steps<GaLoreAdafactor<>, Dense>{{.rank = rank}});
  visit("fira", Steps<Fira<Adam>, Dense>{{.rank = rank}});
  visit("flora", Steps<Flora<MeanMoments<Stored>>, Dense>{{.rank = rank}});
  visit("flora-factored", Steps<FloraFactored<FactoredMeanMoments<Stored>>, Dense>{{.rank = rank}});
  visit("apollo", Steps<Apollo<Adam>, Dense>{{.rank = rank}});
  visit("apollo-gaussian", Steps<Apollo<RandomProjection<Gaussian>, Adam>, Dense>{{.rank = rank}});
  visit("apollo-svd", Steps<ApolloSvd<Adam>, Dense>{{.rank = rank}});
  visit("apollo-mini", Steps<ApolloMini<Adam>, Dense>{});
  visit("scale", Steps<ColumnNormalizedSgd<>, Dense>{});
  visit("sgd-momentum", Steps<SgdMomentum<MomentumMoments<Stored>>, Dense>{});
  visit("sgd", Steps<Sgd<>, Dense>{});
  // With 8-bit moments, of everything else too.
  visit("adamw-8bit", Steps<AdamW8bit<>, AdamW8bit<>>{});
  visit("galore-8bit", Steps<GaLore8bit<>, AdamW8bit<>>{{.rank = rank}});
  visit("q-apollo", Steps<QApollo<Adam>, AdamW8bit<>>{{.rank = rank}});
  visit("q-apollo-mini", Steps<QApolloMini<Adam>, AdamW8bit<>>{});
  visit("q-galore", Steps<QGaLore<>, AdamW8bit<>>{{.rank = rank}});
}

inline std::vector<std::string> member_names() {
  std::vector<std::string> names;
  for_each_member<apollo::Native>(1, [&](const char* name, const auto&) { names.emplace_back(name); });
  return names;
}

/// A member's options for one tensor: a rank no longer than its shorter side, the rows of a head in a block.
template <class Options>
Options options_for(const Tensor& tensor, Options options) {
  if constexpr (requires { options.rank; }) options.rank = std::min(options.rank, tensor.shorter_side());
  if constexpr (requires { options.block; }) options.block = tensor.block;
  return options;
}

}  // namespace plan
