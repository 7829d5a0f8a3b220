// SPDX-License-Identifier: Apache-2.0
// The optimizers that step a model's matrices, by name. The only place that knows them apart.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include <apollo/eigen.hpp>

namespace bench {

struct Member {
  std::string_view name;
  int gradient_reads;  ///< in a step that streams; the check for NaN is one where nothing else needs two reads
  bool product;        ///< projects by a dense product, which the bare product is then compared with
};

inline constexpr Member members[] = {
    {"adamw", 2, false},
    {"adamw_unchecked", 1, false},
    {"adamw_8bit", 2, false},
    {"adamw_8bit_dynamic", 2, false},
    {"adamw_4bit", 2, false},
    {"apollo_mini", 2, false},
    {"apollo_mini_stochastic", 2, false},
    {"apollo_sparse", 2, false},
    {"apollo_sparse_k2", 2, false},
    {"apollo_sparse_k4", 2, false},
    {"apollo_gaussian", 2, true},
    {"galore", 1, true},
    {"galore_refresh", 2, false},
    {"fira", 2, true},
    {"adam_mini", 2, false},
    {"sgd_momentum", 2, false},
};

inline const Member& member_named(std::string_view name) {
  std::string names;
  for (const Member& member : members) {
    if (member.name == name) return member;
    names += " " + std::string(member.name);
  }
  throw std::invalid_argument("member '" + std::string(name) + "' is none of" + names);
}

/// Calls visit(std::type_identity<Optimizer>, options). Learning rates are near zero: many steps along one gradient must leave
/// ordinary numbers.
template <class Visit>
void with_member(std::string_view name, apollo::Index rank, Visit&& visit) {
  constexpr double lr = 1e-6;
  constexpr apollo::Index never = apollo::Index{1} << 40;
  const auto named = [&]<class Options>(const Options& options) {
    visit(std::type_identity<typename apollo::MemberOf<Options>::type>{}, options);
  };
  const auto apollo_with = [&]<class Sketch>(Sketch) {
    visit(std::type_identity<apollo::Apollo<apollo::RandomProjection<Sketch>>>{},
          apollo::ApolloOptions{.lr = lr, .rank = rank});
  };
  if (name == "adamw")
    named(apollo::AdamWOptions{.lr = lr});
  else if (name == "adamw_unchecked")
    named(apollo::AdamWOptions{.lr = lr, .check_finite = false});
  else if (name == "adamw_8bit")
    visit(std::type_identity<apollo::AdamW8bit<>>{}, apollo::AdamWOptions{.lr = lr});
  else if (name == "adamw_8bit_dynamic")
    visit(std::type_identity<apollo::AdamW<apollo::AdamMoments<apollo::Int8Dynamic>>>{},
          apollo::AdamWOptions{.lr = lr});
  else if (name == "adamw_4bit")
    visit(std::type_identity<apollo::AdamW<apollo::AdamMoments<apollo::Int4>>>{}, apollo::AdamWOptions{.lr = lr});
  else if (name == "apollo_mini_stochastic")
    visit(std::type_identity<apollo::QApolloMini<>>{}, apollo::ApolloMiniOptions{.lr = lr});
  else if (name == "apollo_mini")
    named(apollo::ApolloMiniOptions{.lr = lr});
  else if (name == "apollo_sparse")
    apollo_with(apollo::SparseSigns<1>{});
  else if (name == "apollo_sparse_k2")
    apollo_with(apollo::SparseSigns<2>{});
  else if (name == "apollo_sparse_k4")
    apollo_with(apollo::SparseSigns<4>{});
  else if (name == "apollo_gaussian")
    apollo_with(apollo::Gaussian{});
  else if (name == "galore")
    named(apollo::GaLoreOptions{.lr = lr, .rank = rank, .update_proj_gap = never});
  else if (name == "galore_refresh")
    named(apollo::GaLoreOptions{.lr = lr, .rank = rank, .update_proj_gap = 1});
  else if (name == "fira")
    named(apollo::FiraOptions{.lr = lr, .rank = rank, .update_proj_gap = never});
  else if (name == "adam_mini")
    named(apollo::AdamMiniOptions{.lr = lr});
  else if (name == "sgd_momentum")
    named(apollo::SgdMomentumOptions{.lr = lr});
  else
    throw std::logic_error("member '" + std::string(name) + "' is listed and not made");
}

/// Whether the member is told a rank; APOLLO-Mini's is 1.
inline bool has_rank(const Member& member) {
  bool found = false;
  with_member(member.name, 1, [&](auto, const auto& options) {
    found = requires { options.rank; };
  });
  return found;
}

}  // namespace bench
