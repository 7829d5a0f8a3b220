// SPDX-License-Identifier: Apache-2.0
// The optimizers that step a model's matrices on a device, by name: a line each. Names are those of ../models/members.hpp where
// members are the same.
#pragma once

#include <string_view>
#include <type_traits>

#include <apollo/apollo.hpp>

namespace bench::cuda {

/// Whether there are members with a singular basis: on a GPU where cuBLAS and cuSOLVER are linked.
#if defined(__CUDACC__) && !defined(BENCH_CUDA_SOLVER)
inline constexpr bool has_solver = false;
#else
inline constexpr bool has_solver = true;
#endif

/// Whether a member's matrix products are asked for in TF32; else our kernels take drawn projections, and cuBLAS bases in fp32.
constexpr bool in_tf32(std::string_view member) { return member.ends_with("_tf32"); }

/// Calls visit.member<Member>(name, gradient_reads, options) for each member that is run with weights and gradients of T.
/// gradient_reads: in a step that streams; the check for NaN is one where nothing else needs two. Learning rates are near zero:
/// many steps along one gradient must leave ordinary numbers.
template <class T, class Visit>
void each_member(apollo::Index rank, Visit& visit) {
  using namespace apollo;
  using Half = AdamMoments<bfloat16>;
  constexpr double lr = 1e-6;
  [[maybe_unused]] constexpr Index never = Index{1} << 40;
  visit.template member<AdamW<>>("adamw", 2, {.lr = lr});
  visit.template member<AdamW<>>("adamw_unchecked", 1, {.lr = lr, .check_finite = false});
  visit.template member<ApolloMini<>>("apollo_mini", 2, {.lr = lr});
  visit.template member<Apollo<>>("apollo_sparse", 2, {.lr = lr, .rank = rank});
  visit.template member<Apollo<RandomProjection<Gaussian>>>("apollo_gaussian", 2, {.lr = lr, .rank = rank});
  if constexpr (has_solver) {
    visit.template member<GaLore<>>("galore", 1, {.lr = lr, .rank = rank, .update_proj_gap = never});
    visit.template member<GaLore<>>("galore_tf32", 1, {.lr = lr, .rank = rank, .update_proj_gap = never});
    visit.template member<Apollo<RandomProjection<Gaussian>>>("apollo_gaussian_tf32", 2, {.lr = lr, .rank = rank});
  }
  if constexpr (std::is_same_v<T, float>) {
    visit.template member<AdamW<Half>>("adamw_bf16", 2, {.lr = lr});
  } else {
    visit.template member<AdamW<Half, StochasticWeights>>("adamw_stochastic", 2, {.lr = lr});
    visit.template member<QApolloMini<>>("apollo_mini_stochastic", 2, {.lr = lr});
  }
}

}  // namespace bench::cuda
