// SPDX-License-Identifier: Apache-2.0
// Members with drawn projections of a large rank, whose products are multiplied in every arithmetic. The same on a GPU
// (products.cu) and on the emulated device (emulated.cpp).
#pragma once

#include "basis.hpp"

namespace products {

using bases::Outcome;

template <class Device>
std::vector<Outcome> run_members(const Device& device) {
  using namespace apollo;
  using apollo::cuda::Math;
  using Normal = Apollo<RandomProjection<Gaussian>>;
  using Half = Flora<MeanMoments<bfloat16>, StochasticWeights>;
  std::vector<Outcome> outcomes;
  const auto take = [&](Outcome outcome, double bound) {
    outcome.bound = bound;
    outcomes.push_back(std::move(outcome));
  };
  const FloraOptions flora{.lr = 0.1, .rank = 40, .update_proj_gap = 2, .weight_decay = 0.1};
  const ApolloOptions normals{.lr = 0.01, .rank = 41};
  take(bases::run<Flora<>>(device, "Flora, fp32", flora, Math::fp32), 1e-4);
  take(bases::run<Flora<>>(device, "Flora, TF32", flora, Math::tf32),
       4e-3);  // devices may round where the emulator drops
  take(bases::run<Flora<>>(device, "Flora, bf16", flora, Math::bf16), 8e-3);
  take(bases::run<Half, bfloat16, bfloat16>(device, "Flora, bf16 weights and gradients", flora, Math::fp32), 1e-2);
  take(bases::run<Normal>(device, "APOLLO by normals, fp32", normals, Math::fp32), 1e-4);
  take(bases::run<Normal, float, bfloat16>(device, "APOLLO by normals, bf16 gradients", normals, Math::fp32), 1e-4);
  take(bases::run<Normal, float, bfloat16>(device, "APOLLO by normals, bf16", normals, Math::bf16), 8e-3);
  return outcomes;
}

/// On the emulated device; in emulated.cpp.
std::vector<Outcome> run_emulated();

}  // namespace products
