// SPDX-License-Identifier: Apache-2.0
// Plan: the geometry of one tensor's steps. Side, rank, kept axis, channels and tiles are decided and validated here, once.
#pragma once

#include <string>
#include <string_view>

#include <apollo/policy/moments.hpp>
#include <apollo/policy/storage.hpp>
#include <apollo/random/stream.hpp>
#include <apollo/step/settings.hpp>
#include <apollo/tensor/view.hpp>

namespace apollo {

/// Which of the three axes' policies, limiter and weights a tensor is stepped with. Compile-time only.
template <class ProjectionPolicy, class GranularityPolicy, class MomentsPolicy, class LimiterPolicy,
          class WeightsPolicy>
struct PolicySet {
  using Projection = ProjectionPolicy;
  using Granularity = GranularityPolicy;
  using Moments = MomentsPolicy;
  using Limiter = LimiterPolicy;
  using Weights = WeightsPolicy;

  /// Whether moments are of R, or of the gradient gathered like it; else they lie as the weight does.
  static constexpr bool moments_of_matrix =
      ProjectionPolicy::projects || MomentsPolicy::shared == Shared::factored_gradient;

  static constexpr bool by_block = Moments::shared == Shared::by_block;
  static constexpr bool factored = Moments::shared == Shared::factored;
  static constexpr bool factored_gradient = Moments::shared == Shared::factored_gradient;

  /// Nothing projected and every element its own step: moments and apply are one pass.
  static constexpr bool one_pass =
      !Projection::projects && Granularity::elementwise && !by_block && !factored && !factored_gradient;

  /// Whether R is all that a step takes of the gradient: then a sum of gradients can be kept as a sum of R.
  static constexpr bool takes_projection_only =
      Projection::projects && Granularity::elementwise && !Granularity::residual && !factored_gradient;

  /// Whether moments are stored by runs: all that are not plain numbers.
  static constexpr bool moments_in_runs =
      is_block_format<typename Moments::Stored> || std::is_same_v<typename Moments::Stored, bfloat16>;

  static_assert(!Granularity::residual ||
                    (Projection::stores_basis && !packs_basis<Projection> && Moments::buffers == 2),
                "apollo: ResidualScaling needs an orthonormal projection, singular or fixed, and AdamMoments; see "
                "docs/compose.md.");
  static_assert(!Granularity::of_update ||
                    (!Projection::projects && Moments::shared == Shared::none && Moments::buffers < 2),
                "apollo: NormalizedScaling is of NoMoments, MomentumMoments or MeanMoments, without a projection; see "
                "docs/compose.md.");
  static_assert(!by_block || (!Projection::projects && Granularity::elementwise),
                "apollo: BlockAdamMoments need ElementScaling and no projection; see docs/compose.md.");
  static_assert(!factored || (Granularity::elementwise && !Granularity::residual),
                "apollo: AdafactorMoments need ElementScaling; see docs/compose.md.");
  static_assert(!factored_gradient || (Granularity::elementwise && !Granularity::residual &&
                                       (!Projection::projects || is_drawn_as_matrix<Projection, factored_gradient>())),
                "apollo: FactoredMeanMoments need ElementScaling, and no projection or a random one that is drawn as a "
                "matrix (no sparse signs); see docs/compose.md.");
};

/// X = G, or G^T where `transposed`, is kept x removed; P is rank x removed. Without a projection rank == removed.
struct Plan {
  Shape shape;
  bool transposed = false;
  Index kept = 0;
  Index removed = 0;
  Index rank = 0;
  Index tile = 0;  ///< channels a tile; fixed here, so that no result depends on the number of threads
  Index tiles = 0;
  Order2D state_order = Order2D::row_major;   ///< memory order of unprojected moments, in terms of X
  Order2D weight_order = Order2D::row_major;  ///< of the weight as its owner sees it
  Index block = 1;                            ///< channels that share one V

  /// The planned weight's order of memory, in terms of X. Tiles begin with storage runs in this order, and in no other.
  constexpr Order2D order_of_x() const {
    return (weight_order == Order2D::row_major) != transposed ? Order2D::row_major : Order2D::column_major;
  }
  /// Numbers in one moment buffer.
  APOLLO_HD constexpr Index moment_size() const { return kept * rank; }
  APOLLO_HD constexpr Index blocks() const { return kept / block; }

  template <class T>
  constexpr MatrixView<T> orient(const MatrixView<T>& view) const {
    return transposed ? view.transposed() : view;
  }
  constexpr Index tile_begin(Index number) const { return number * tile; }
  constexpr Index tile_end(Index number) const {
    const Index end = (number + 1) * tile;
    return end < kept ? end : kept;
  }
};

/// Small enough for a second-level cache, large enough to be worth a thread's while.
inline constexpr Index tile_elements = 32768;

/// Channels of a tile of about that size, in multiples of 64: the rows of a matrix product. At least 256 where they are
/// adjacent in memory, so that what is read of a line is long.
constexpr Index tile_channels(Index removed, bool adjacent = false) {
  const Index least = adjacent ? 256 : 64;
  const Index wanted = (tile_elements + removed - 1) / removed;
  return wanted <= least ? least : (wanted + 63) / 64 * 64;
}

/// The least tile from `tile` on that begins with a storage run, where channels are adjacent or lines are joined; and, with a
/// rank other than 0, in R too.
constexpr Index tile_of_runs(Index tile, Index removed, bool adjacent, Index rank) {
  const auto up_to = [](Index value, Index multiple) { return (value + multiple - 1) / multiple * multiple; };
  if (adjacent || removed < storage_block) return up_to(tile, storage_block);
  if (rank > 0) tile = up_to(tile, 64);
  while ((tile * rank) % storage_block != 0) tile += 64;
  return tile;
}

namespace geometry {

constexpr bool removes_columns(Shape shape, ProjType type) {
  switch (type) {
    case ProjType::std: return shape.rows >= shape.cols;
    case ProjType::reverse_std: return shape.rows < shape.cols;
    case ProjType::right: return true;
    case ProjType::left: return false;
  }
  return true;
}

constexpr bool channels_are_rows(Shape shape, ChannelAxis axis) {
  return axis == ChannelAxis::longer ? shape.rows >= shape.cols : axis == ChannelAxis::rows;
}

}  // namespace geometry

/// The geometry alone, without validation: what constexpr byte counts use.
template <class Policies>
constexpr Plan outline(Shape shape, const Settings& settings, Order2D weight_order = Order2D::row_major) {
  Plan plan;
  plan.shape = shape;
  // Without channels the rows of X are what lies adjacent in memory, and a tile is any number of them.
  const bool by_memory = Policies::one_pass && shape.rows > 1 && shape.cols > 1;
  if (by_memory)
    plan.transposed = weight_order == Order2D::column_major;
  else if constexpr (Policies::Projection::projects)
    plan.transposed = !geometry::removes_columns(shape, settings.proj_type);
  else
    plan.transposed = !geometry::channels_are_rows(shape, settings.channel_axis);
  plan.kept = plan.transposed ? shape.cols : shape.rows;
  plan.removed = plan.transposed ? shape.rows : shape.cols;
  plan.rank = Policies::Projection::projects ? settings.rank : plan.removed;
  const Index across = plan.removed < 1 ? 1 : plan.removed;
  const bool weight_rows = weight_order == Order2D::row_major;
  const bool adjacent = weight_rows == plan.transposed;  // channels, in memory
  plan.tile = !by_memory ? tile_channels(across, adjacent) : across < tile_elements ? tile_elements / across : 1;
  const bool runs_of_r = Policies::moments_of_matrix && Policies::moments_in_runs;
  plan.tile = tile_of_runs(plan.tile, across, adjacent && !by_memory, runs_of_r ? plan.rank : 0);
  plan.tiles = (plan.kept + plan.tile - 1) / plan.tile;
  plan.weight_order = weight_order;
  plan.state_order = adjacent ? Order2D::column_major : Order2D::row_major;
  if (Policies::Projection::projects || Policies::factored_gradient) plan.state_order = Order2D::row_major;
  plan.block = settings.block == 0 && plan.kept > 0 ? plan.kept : settings.block;
  return plan;
}

/// The plan of one tensor. Cost: nothing that grows with the tensor.
/// Errors: settings out of range; an empty shape; for projections a vector, a rank below 1 or above the removed side (above
/// the shorter side for singular vectors), rank 1 with channel scaling unless allowed, an automatic scale that does not exist.
template <class Policies>
Plan make_plan(Shape shape, const Settings& settings, std::string_view tensor, Order2D weight_order) {
  using Projection = typename Policies::Projection;
  using Granularity = typename Policies::Granularity;
  const Check check{tensor};
  check_settings(settings, tensor);
  if (shape.rows < 1 || shape.cols < 1) check.fail("shape " + text(shape) + " is empty; both sides must be at least 1");
  const Plan plan = outline<Policies>(shape, settings, weight_order);
  if constexpr (Projection::projects) {
    if (shape.rows == 1 || shape.cols == 1)
      check.fail("shape " + text(shape) + " is a vector, which has no low-rank projection; use AdamW for it");
    if (settings.rank < 1) check.fail("rank = " + text(settings.rank) + " must be at least 1");
    if (settings.rank > plan.removed)
      check.fail("rank = " + text(settings.rank) + " must be at most " + text(plan.removed) +
                 ", the removed side of shape " + text(shape));
    if constexpr (computes_basis<Projection>)
      if (settings.rank > plan.kept)
        check.fail("rank = " + text(settings.rank) + " must be at most " + text(plan.kept) +
                   ", the number of singular vectors of shape " + text(shape));
    if constexpr (Projection::random)
      if constexpr (!Projection::Sketch::dense)
        if (settings.rank < Projection::Sketch::nonzeros)
          check.fail("rank = " + text(settings.rank) + " must be at least " +
                     text(Index{Projection::Sketch::nonzeros}) + ", the nonzeros of its sparse sign projection");
    if constexpr (Granularity::per_channel && !Granularity::residual)
      if (settings.rank == 1 && !settings.allow_rank_1)
        check.fail(
            "rank = 1 must be at least 2 with channel scaling, whose mean does not exist at rank 1 "
            "(allow_rank_1 = true if you mean it; ApolloMini scales the whole tensor)");
  }
  if (plan.block < 1 || plan.kept % plan.block != 0)
    check.fail("block = " + text(plan.block) + " must divide the " + text(plan.kept) +
               (plan.transposed ? " columns" : " rows") + " of shape " + text(shape) +
               "; 0 makes one block of them all");
  if (settings.scale.is_automatic) {
    if constexpr (Granularity::elementwise || Granularity::of_update)
      check.fail("scale = automatic exists for channel and tensor scaling only; give scale a number");
    else if constexpr (Projection::projects && !Projection::random)
      check.fail("scale = automatic exists for random projections only; give scale a number");
    else if constexpr (Projection::projects && Granularity::per_channel)
      if (settings.rank <= 2)
        check.fail("rank = " + text(settings.rank) + " must be at least 3 for scale = automatic with channel scaling");
  }
  return plan;
}

/// What multiplies a structured step beside the learning rate: sqrt(scale); for element scaling, scale itself.
template <class Policies>
APOLLO_HD constexpr double step_scale(const Plan& plan, const Settings& settings) {
  using Granularity = typename Policies::Granularity;
  if (Granularity::residual) return 1;  // it multiplies one of two terms
  if (Granularity::elementwise) return settings.scale.value;
  if (!settings.scale.is_automatic) return __builtin_sqrt(settings.scale.value);
  if (!Policies::Projection::projects) return 1;
  return __builtin_sqrt(automatic_scale<Granularity>(plan.rank, plan.removed));
}

/// Everything that identifies a tensor's steps beside its state.
struct TensorSetup {
  Plan plan;
  Settings settings;
  TensorId id = 0;

  /// Which projection a step takes after so many steps, counted from 0; with phase 0 it is (t - 1) / T.
  APOLLO_HD std::int64_t refresh_index(std::int64_t steps) const {
    return (steps + settings.refresh_phase) / settings.update_proj_gap;
  }
  APOLLO_HD bool refresh_due(std::int64_t steps) const {
    return steps == 0 || (steps + settings.refresh_phase) % settings.update_proj_gap == 0;
  }
};

}  // namespace apollo
