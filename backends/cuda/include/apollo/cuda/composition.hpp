// SPDX-License-Identifier: Apache-2.0
// Which kind of step a composition of policies is on a device; every kind is a sequence of kernels in typed_batch.hpp.
#pragma once

#include <type_traits>

#include <apollo/policy/projection.hpp>
#include <apollo/policy/storage.hpp>
#include <apollo/step/plan.hpp>

namespace apollo::cuda {

template <class Policies>
struct Composition {
  using Projection = typename Policies::Projection;
  using Granularity = typename Policies::Granularity;
  using Moments = typename Policies::Moments;
  using Stored = stored_t<Moments, float>;

  /// s o X with a scale of R = X P^T: APOLLO and its like.
  static constexpr bool structured =
      Projection::projects && !Granularity::elementwise && !Granularity::of_update && Moments::shared == Shared::none;
  /// lift(C): Flora, GaLore and, with the residual, Fira.
  static constexpr bool lifted = Projection::projects && Granularity::elementwise && !Policies::by_block;
  static constexpr bool residual = Granularity::residual;
  static constexpr bool projected = structured || lifted;
  /// s o X with a scale of G itself, or of its momentum: structured AdamW and SCALE.
  static constexpr bool unprojected =
      !Projection::projects && !Granularity::elementwise && Moments::shared == Shared::none;
  /// Every element its own step, times one of its channel's block: Adam-mini.
  static constexpr bool by_block = Policies::by_block;
  static constexpr bool by_channel = unprojected || by_block;
  /// V in two factors, of R or of G; and those that project nothing.
  static constexpr bool factors = Policies::factored || Policies::factored_gradient;
  static constexpr bool dense_factors = factors && !Projection::projects;
  static constexpr bool of_r = Policies::factored && Projection::projects;

  /// Moments of few bits, whose blocks share a scale.
  static constexpr bool moments_in_blocks = Moments::buffers > 0 && is_block_format<Stored>;

  /// The lower halves of weights are state.
  static constexpr bool splits_weights = Policies::Weights::keeps_remainder;

  /// P is computed from gradients and kept, as numbers or in 4 bits.
  static constexpr bool has_basis = computes_basis<Projection>;
  static constexpr bool packs = packs_basis<Projection>;
  /// P is drawn: as tables of sparse signs, or as numbers.
  static constexpr bool draws_signs = [] {
    if constexpr (Projection::random)
      return std::is_same_v<typename Projection::Sketch, SparseSign>;
    else
      return false;
  }();
  static constexpr bool draws_numbers = [] {
    if constexpr (is_drawn_as_matrix<Projection, Projection::projects>())
      return std::is_same_v<typename Projection::Sketch, Gaussian> ||
             std::is_same_v<typename Projection::Sketch, Rademacher> ||
             std::is_same_v<typename Projection::Sketch, HadamardTransform> ||
             std::is_same_v<typename Projection::Sketch, CosineTransform>;
    else
      return false;
  }();

  /// Whether there is something that lives in directions.
  static constexpr bool turns = Moments::buffers > 0 || Policies::factored;
  /// P is numbers as they are, so R and lift(C) are matrix products ...
  static constexpr bool multiplies = projected && !draws_signs && !packs && !Policies::factored_gradient;
  /// ... and this one of them can be added to the weight as it is computed.
  template <class W>
  static constexpr bool lifts_in_place = lifted&& multiplies && !residual && std::is_same_v<W, float>;

  /// Whether this tensor's moments are turned to new directions at a refresh.
  static bool rotates(const Settings& settings) { return turns && settings.on_refresh == OnRefresh::rotate; }

  static_assert(Policies::one_pass || projected || by_channel || dense_factors,
                "apollo: apollo::cuda does not step this composition; see docs/cuda.md.");
  static_assert(!projected || draws_signs || draws_numbers || has_basis,
                "apollo: apollo::cuda projects by SparseSign, Gaussian, Rademacher, HadamardTransform, "
                "CosineTransform, SvdProjection and Int4SvdProjection; see "
                "docs/cuda.md.");
  static_assert(!(unprojected || dense_factors) || !moments_in_blocks,
                "apollo: apollo::cuda keeps moments of structured updates and of factored means without a projection "
                "as float or apollo::bfloat16; see docs/cuda.md.");
  static_assert(std::is_same_v<Stored, float> || std::is_same_v<Stored, bfloat16> || is_block_format<Stored>,
                "apollo: apollo::cuda keeps moments as float, apollo::bfloat16, Int8Linear, Int8Dynamic or Int4; see "
                "docs/cuda.md.");
};

}  // namespace apollo::cuda
