// SPDX-License-Identifier: Apache-2.0
// The optimizers that can be compared: what steps the matrices, and the learning rates each was tuned to.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <apollo/eigen.hpp>

namespace llama {

/// What each optimizer was tuned to for `nano` on the default text; docs/training.md shows the sweeps.
struct Tuned {
  std::string_view name;
  double lr;                  ///< of the matrices in attention and SwiGLU
  double other_lr;            ///< of the embedding, the head and the norms, which AdamW steps in every run
  std::string_view what;      ///< for --help
  double limiter_gamma = -1;  ///< below 0: the optimizer's own
};

inline constexpr Tuned tuned[] = {
    {"adamw", 4e-3, 3.2e-2, "AdamW with two learning rates"},
    {"adamw-one-lr", 2e-3, 2e-3, "AdamW with one learning rate for everything"},
    {"galore", 3.2e-2, 3.2e-2, "GaLore, scale .25"},
    {"apollo", 8e-3, 3.2e-2, "APOLLO, Gaussian projection, automatic scale"},
    {"apollo-sparse", 8e-3, 3.2e-2, "APOLLO with the sparse sign projection"},
    {"apollo-mini", 4e-3, 1.6e-2, "APOLLO-Mini, scale 128, limiter gamma 1.1", 1.1},
    {"sgd-momentum", 1e-1, 1.6e-2, "heavy-ball momentum .9"},
    {"sgd", 5e-1, 1.6e-2, "no memory"},
};

inline const Tuned& tuned_for(std::string_view name) {
  for (const Tuned& t : tuned)
    if (t.name == name) return t;
  std::string names;
  for (const Tuned& t : tuned) names += (names.empty() ? "" : ", ") + std::string(t.name);
  throw std::invalid_argument("optimizer '" + std::string(name) + "' is none of " + names);
}

/// What flags may change of the low-rank optimizers. A number below 0 leaves the optimizer's own.
struct MatrixOptions {
  apollo::Index rank = 0;  ///< of APOLLO and GaLore; 0: a quarter of the hidden size
  double scale = -1;
  apollo::Index update_proj_gap = 200;
  double limiter_gamma = -1;
  double limiter_floor = -1;
  double beta1 = 0.9;
  double beta2 = 0.999;
};

/// Adds a group for the matrices and hands it to `add_to`. The only place that knows the optimizers apart.
template <class AddTo>
void add_matrices(apollo::eigen::Optimizer& optimizer, std::string_view name, double lr, const MatrixOptions& flags,
                  std::uint64_t seed, AddTo&& add_to) {
  const auto limited = [&](auto options) {
    options.lr = lr, options.seed = seed, options.update_proj_gap = flags.update_proj_gap;
    options.beta1 = flags.beta1, options.beta2 = flags.beta2;
    if (flags.scale >= 0) options.scale = flags.scale;
    if constexpr (requires { options.limiter_gamma; }) {
      if (flags.limiter_gamma >= 0) options.limiter_gamma = flags.limiter_gamma;
      if (flags.limiter_floor >= 0) options.limiter_floor = flags.limiter_floor;
    }
    return options;
  };
  const auto apollo_options = limited(apollo::ApolloOptions{.rank = flags.rank, .scale = apollo::automatic});

  if (name == "adamw" || name == "adamw-one-lr")
    add_to(optimizer.add_group(
        apollo::AdamWOptions{.lr = lr, .beta1 = flags.beta1, .beta2 = flags.beta2, .weight_decay = 0}));
  else if (name == "galore")
    add_to(optimizer.add_group(limited(apollo::GaLoreOptions{.rank = flags.rank})));
  else if (name == "apollo")
    add_to(optimizer.add_group(apollo_options));
  else if (name == "apollo-sparse")
    add_to(optimizer.add_group<apollo::Apollo<apollo::RandomProjection<apollo::SparseSign>>>(apollo_options));
  else if (name == "apollo-mini")
    add_to(optimizer.add_group(limited(apollo::ApolloMiniOptions{})));
  else if (name == "sgd-momentum")
    add_to(optimizer.add_group(apollo::SgdMomentumOptions{.lr = lr}));
  else if (name == "sgd")
    add_to(optimizer.add_group(apollo::SgdOptions{.lr = lr}));
  else
    tuned_for(name);  // which refuses it
}

}  // namespace llama
