// SPDX-License-Identifier: Apache-2.0
// The optimizers that can be compared: what steps the matrices, and the learning rates each was tuned to.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <apollo/eigen.hpp>

#include "config.hpp"

namespace llama {

/// What each optimizer was tuned to for `nano` on the default text; docs/training.md shows the sweeps.
struct Tuned {
  std::string_view name;
  double lr;                  ///< of the matrices in attention and SwiGLU
  double other_lr;            ///< of the embedding, the head and the norms, which AdamW steps in every run
  std::string_view what;      ///< for --help
  double limiter_gamma = -1;  ///< below 0: the library's default
};

inline constexpr Tuned tuned[] = {
    {"adamw", 4e-3, 3.2e-2, "AdamW with two learning rates"},
    {"adamw-one-lr", 2e-3, 2e-3, "AdamW with one learning rate for everything"},
    {"galore", 3.2e-2, 3.2e-2, "GaLore, scale .25"},
    {"apollo", 8e-3, 3.2e-2, "APOLLO, sparse sign projection, automatic scale"},
    {"apollo-gaussian", 8e-3, 3.2e-2, "APOLLO with the paper's Gaussian projection"},
    {"apollo-mini", 4e-3, 1.6e-2, "APOLLO-Mini, scale 128, limiter gamma 1.1", 1.1},
    {"q-apollo", 8e-3, 3.2e-2, "APOLLO with stochastic rounding of weights, 8-bit AdamW for embedding and head"},
    {"q-apollo-mini", 4e-3, 1.6e-2, "APOLLO-Mini likewise, scale 128, limiter gamma 1.1", 1.1},
    {"q-galore", 3.2e-2, 3.2e-2, "GaLore likewise, with 8-bit moments and a 4-bit basis"},
    {"adamw-8bit", 4e-3, 3.2e-2, "AdamW with moments of 8 bits, of embedding and head too"},
    {"structured-adamw", 8e-3, 3.2e-2, "AdamW with one scale a channel, nothing projected"},
    {"apollo-svd", 1.6e-2, 3.2e-2, "APOLLO over singular vectors"},
    {"fira", 8e-3, 3.2e-2, "Fira, alpha 1"},
    {"galore-adafactor", 1.6e-2, 3.2e-2, "GaLore with Adafactor's moment, scale .25"},
    {"flora", 1, 1.6e-2, "momentum in a random projection, turned every 1000 steps"},
    {"flora-factored", 2e-3, 1.6e-2, "Flora on Adafactor's second moment"},
    {"adam-mini", 1e-3, 3.2e-2, "AdamW with one second moment a head of queries and keys, a row of others"},
    {"scale", 2e-2, 3.2e-2, "SCALE: gradients with rows of length one, no memory"},
    {"sgd-momentum", 3e-1, 1.6e-2, "heavy-ball momentum .9"},
    {"sgd", 1, 1.6e-2, "no memory"},
};

inline const Tuned& tuned_for(std::string_view name) {
  for (const Tuned& t : tuned)
    if (t.name == name) return t;
  std::string names;
  for (const Tuned& t : tuned) names += (names.empty() ? "" : ", ") + std::string(t.name);
  throw std::invalid_argument("optimizer '" + std::string(name) + "' is none of " + names);
}

/// What flags may change of the optimizer of the matrices. `own` leaves what the optimizer has.
struct MatrixOptions {
  static constexpr int own = -1;
  apollo::Index rank = 0;  ///< 0: a quarter of the hidden size
  double scale = own;
  apollo::Index update_proj_gap = own;
  double limiter_gamma = own;
  double limiter_floor = own;
  double beta1 = 0.9;  ///< AdamW of the other parameters has them too
  double beta2 = 0.999;
};

/// Calls visit(member, options): the library's optimizer of that name, as a std::type_identity, and its options, as compared
/// here. The only place that knows the optimizers apart.
template <class Visit>
void with_member(std::string_view name, Visit&& visit) {
  const auto named = [&]<class Options>(const Options& options) {
    visit(std::type_identity<typename apollo::MemberOf<Options>::type>{}, options);
  };
  const apollo::ApolloOptions apollo_options{.scale = apollo::automatic};
  if (name == "adamw" || name == "adamw-one-lr")
    named(apollo::AdamWOptions{.weight_decay = 0});
  else if (name == "galore")
    named(apollo::GaLoreOptions{});
  else if (name == "apollo")
    named(apollo_options);
  else if (name == "apollo-gaussian")
    visit(std::type_identity<apollo::Apollo<apollo::RandomProjection<apollo::Gaussian>>>{}, apollo_options);
  else if (name == "apollo-mini")
    named(apollo::ApolloMiniOptions{});
  else if (name == "q-apollo")
    visit(std::type_identity<apollo::QApollo<>>{}, apollo_options);
  else if (name == "q-apollo-mini")
    visit(std::type_identity<apollo::QApolloMini<>>{}, apollo::ApolloMiniOptions{});
  else if (name == "q-galore")
    named(apollo::QGaLoreOptions{});
  else if (name == "adamw-8bit")
    visit(std::type_identity<apollo::AdamW8bit<>>{}, apollo::AdamWOptions{.weight_decay = 0});
  else if (name == "structured-adamw")
    named(apollo::StructuredAdamWOptions{});
  else if (name == "apollo-svd")
    named(apollo::ApolloSvdOptions{});
  else if (name == "fira")
    named(apollo::FiraOptions{});
  else if (name == "galore-adafactor")
    named(apollo::GaLoreAdafactorOptions{});
  else if (name == "flora")
    named(apollo::FloraOptions{});
  else if (name == "flora-factored")
    named(apollo::FloraFactoredOptions{});
  else if (name == "adam-mini")
    named(apollo::AdamMiniOptions{});
  else if (name == "scale")
    named(apollo::ColumnNormalizedSgdOptions{});
  else if (name == "sgd-momentum")
    named(apollo::SgdMomentumOptions{});
  else if (name == "sgd")
    named(apollo::SgdOptions{});
  else
    tuned_for(name);  // which refuses it
}

/// Gives `options` what was asked for of each setting that they have. Returns the names of those asked for in vain.
template <class Options>
std::vector<std::string> set(Options& options, const MatrixOptions& asked) {
  std::vector<std::string> lacking;
  const auto lacks = [&](bool given, const char* name) {
    if (given) lacking.emplace_back(name);
  };
  if constexpr (requires { options.rank; })
    options.rank = asked.rank;
  else
    lacks(asked.rank > 0, "rank");
  if constexpr (requires { options.scale; }) {
    if (asked.scale >= 0) options.scale = asked.scale;
  } else {
    lacks(asked.scale >= 0, "scale");
  }
  if constexpr (requires { options.update_proj_gap; }) {
    if (asked.update_proj_gap >= 0) options.update_proj_gap = asked.update_proj_gap;
  } else {
    lacks(asked.update_proj_gap >= 0, "update_proj_gap");
  }
  if constexpr (requires { options.limiter_gamma; }) {
    if (asked.limiter_gamma >= 0) options.limiter_gamma = asked.limiter_gamma;
    if (asked.limiter_floor >= 0) options.limiter_floor = asked.limiter_floor;
  } else {
    lacks(asked.limiter_gamma >= 0, "limiter_gamma");
    lacks(asked.limiter_floor >= 0, "limiter_floor");
  }
  if constexpr (requires { options.beta1; }) options.beta1 = asked.beta1;
  if constexpr (requires { options.beta2; }) options.beta2 = asked.beta2;
  return lacking;
}

/// Settings that were asked for although no optimizer among `names` has them.
inline std::vector<std::string> asked_in_vain(const std::vector<std::string>& names, const MatrixOptions& asked) {
  std::vector<std::string> vain;
  bool first = true;
  for (const std::string& name : names)
    with_member(name, [&](auto, auto options) {
      const std::vector<std::string> lacking = set(options, asked);
      if (first) vain = lacking;
      first = false;
      std::erase_if(vain, [&](const std::string& setting) {
        return std::find(lacking.begin(), lacking.end(), setting) == lacking.end();
      });
    });
  return vain;
}

}  // namespace llama
