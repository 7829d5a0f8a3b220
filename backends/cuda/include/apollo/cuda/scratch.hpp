// SPDX-License-Identifier: Apache-2.0
// What a tensor of a composition needs on the device beside its state: scratch, and into how many parts each loop is cut.
#pragma once

#include <apollo/cuda/batch.hpp>
#include <apollo/cuda/channels.hpp>
#include <apollo/cuda/composition.hpp>
#include <apollo/cuda/factored.hpp>
#include <apollo/cuda/lift.hpp>
#include <apollo/cuda/low_rank_blocks.hpp>
#include <apollo/cuda/multiply.hpp>
#include <apollo/cuda/residual.hpp>
#include <apollo/cuda/rotate.hpp>

namespace apollo::cuda {

template <class Policies, class W, class G>
class StepScratch {
  using Is = Composition<Policies>;
  using Projection = typename Policies::Projection;
  using Granularity = typename Policies::Granularity;
  using Moments = typename Policies::Moments;

 public:
  /// The scratch of a step, and into how many parts its passes are cut.
  template <class Device>
  static void reserve(const Device& device, std::string_view name, Tensor<Device>& tensor, PartCounts& parts) {
    Entry& entry = tensor.entry;
    const Plan& plan = entry.setup.plan;
    entry.blocks = parts[Pass::by_run];
    if constexpr (Is::projected) {
      const auto pass = entry.along ? Pass::along_channels : Pass::across_channels;
      if constexpr (Is::draws_signs) {
        parts[pass] = entry.along ? ProjectSparseAlong<G>::parts(plan) : ProjectSparseAcross<G>::parts(plan);
        if (!entry.along) entry.norm_parts = ProjectSparseAcross<G>::parts_of_norms(plan);
      } else {
        if constexpr (Is::draws_numbers) parts[Pass::by_draw] = DenseDraw<typename Projection::Sketch>::parts(plan);
        if (entry.by_products)
          reserve_products(entry, parts);
        else
          parts[pass] = entry.along ? ProjectDenseAlong<G>::parts(plan) : ProjectDenseAcross<G>::parts(plan);
        if (!entry.by_products && !entry.along)
          entry.parts = entry.norm_parts = ProjectDenseAcross<G>::parts_of_r(plan);
      }
      parts[Pass::by_moment] = LowRankMoments<Policies>::parts(plan);
      if (Is::moments_in_blocks) parts[Pass::by_moment_run] = CloseRuns<Moments>::parts(plan);
      if (Is::rotates(entry.setup.settings)) {
        parts[Pass::old_draw] = Is::draws_signs ? 1 : parts[Pass::by_draw];
        parts[Pass::by_turn] = Is::draws_signs ? TurnSparse::parts(plan) : TurnDense<>::parts(plan);
        parts[Pass::by_rotation] = parts[Pass::by_moment];
        parts[Pass::by_rotated_run] = parts[Pass::by_moment_run];
      }
      if (Is::residual) parts[Pass::by_residual] = ResidualScales<Policies, G>::parts(plan);
      entry.blocks = Is::residual ? 3 * parts[Pass::by_residual] : Is::lifted ? 0 : 3 * parts[Pass::by_moment];
    }
    if constexpr (Is::by_channel) {
      using Squares = GradientSquares<G>;
      parts[entry.along ? Pass::along_channels : Pass::across_channels] =
          entry.along ? AlongChannels<Squares>::parts(entry.lines)
                      : AcrossChannels<Squares>::parts(entry.lines, entry.length);
      if (!entry.along) entry.norm_parts = AcrossChannels<Squares>::parts_of_norms(entry.lines);
      if constexpr (Is::unprojected) parts[Pass::by_moment] = ChannelScales<Policies>::parts(plan);
      entry.blocks = 3 * parts[Pass::by_moment];
    }
    if constexpr (Is::factors) {
      // Lines and columns of R, or of G in memory, where rows of X may be either.
      const Index lines = Is::of_r ? plan.kept : entry.lines, length = Is::of_r ? plan.rank : entry.length;
      using Across = AcrossChannels<ProjectedSquares<false>>;
      parts[Pass::by_line] = AlongChannels<ProjectedSquares<true>>::parts(lines);
      parts[Pass::by_place] = Across::parts(lines, length);
      (Is::of_r || entry.along ? entry.column_parts : entry.norm_parts) = Across::parts_of_norms(lines);
      entry.blocks = Is::of_r ? parts[Pass::by_moment] : Policies::factored ? parts[Pass::by_run] : 0;
    }
    Index bytes = 0;
    carve(tensor, nullptr, bytes);
    tensor.scratch = Memory<Device>(device, bytes, name, "scratch");
    carve(tensor, tensor.scratch.template as<std::byte>(), bytes = 0);
    if constexpr (Is::structured || Is::unprojected) entry.blocks = parts[Pass::by_moment];
    if constexpr (Is::residual) entry.blocks = parts[Pass::by_residual];
  }

 private:
  /// What takes the place of the kernels that project and lift.
  static void reserve_products(Entry& entry, PartCounts& parts) {
    const Plan& plan = entry.setup.plan;
    using Squares = GradientSquares<G>;
    parts[Pass::by_product] = BeginProduct<G>::parts(plan);
    if (entry.along) {
      parts[Pass::norms_along] = AlongChannels<Squares>::parts(entry.lines);
    } else {
      parts[Pass::norms_across] = AcrossChannels<Squares>::parts(entry.lines, entry.length);
      entry.norm_parts = AcrossChannels<Squares>::parts_of_norms(entry.lines);
    }
    if (Is::template lifts_in_place<W>) parts[Pass::by_lift] = 1;
  }

  /// Gives every array of the scratch its place from `begin` on, or counts their bytes where that is null.
  template <class Device>
  static void carve(Tensor<Device>& tensor, std::byte* begin, Index& bytes) {
    Entry& entry = tensor.entry;
    const Plan& plan = entry.setup.plan;
    const auto take = [&]<class T>(T*& array, Index count) {
      if (begin != nullptr && count > 0) array = reinterpret_cast<T*>(begin + bytes);
      bytes += up_to_16(count * static_cast<Index>(sizeof(T)));
    };
    take(entry.sums, entry.blocks);
    if constexpr (Is::projected) {
      if constexpr (Is::draws_signs) {
        const SparseTable table(plan);
        take(entry.map, table.size());
        take(entry.inputs, table.size());
        take(entry.signs, ceil_divide(plan.removed, 32));
        take(entry.old_map, Is::rotates(entry.setup.settings) ? table.size() : 0);
        take(entry.old_signs, Is::rotates(entry.setup.settings) ? ceil_divide(plan.removed, 32) : 0);
      } else {
        if constexpr (!Is::has_basis) take(entry.directions, plan.rank * plan.removed);
        take(entry.old_directions, Is::rotates(entry.setup.settings) ? plan.rank * plan.removed : 0);
        take(entry.scalars, entry.by_products ? 1 : 0);
        if (BeginProduct<G>::splits && entry.by_products)
          take(entry.split_directions, entry.splits * plan.rank * plan.removed);
      }
      take(entry.q, Is::rotates(entry.setup.settings) ? plan.rank * plan.rank : 0);
      if (Is::moments_in_blocks && Is::rotates(entry.setup.settings))
        take(entry.turned, Moments::buffers * plan.moment_size());
      take(entry.r, entry.parts * plan.moment_size());
      take(entry.n, Is::lifted || Is::moments_in_blocks ? plan.moment_size() : 0);
    }
    if constexpr (Is::factors) {
      const Index columns = vector_size<Policies>(plan, 1);
      take(entry.r_norms, Is::of_r ? plan.kept : 0);
      take(entry.column_sums, entry.column_parts * columns);
      take(entry.column_factor, columns);
      take(entry.channel_step, plan.kept);
    }
    if constexpr (Is::projected || Is::by_channel || Is::factors) {
      take(entry.x_norms, entry.norm_parts * plan.kept);
      if (Is::unprojected && Moments::buffers > 0) take(entry.n_norms, entry.norm_parts * plan.kept);
      if (Is::residual) {
        take(entry.n_norms, plan.kept);
        take(entry.r_norms, plan.kept);
      }
      if (Granularity::per_channel) take(entry.channel_scale, plan.kept);
      if (Granularity::per_channel || Is::by_block) take(entry.channel_step, plan.kept);
    }
  }
};

}  // namespace apollo::cuda
