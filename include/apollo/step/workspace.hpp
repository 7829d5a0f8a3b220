// SPDX-License-Identifier: Apache-2.0
// The workspace: scratch memory that all tensors of a model share, and how one step's arrays lie in it.
#pragma once

#include <apollo/step/basis.hpp>
#include <apollo/step/memory.hpp>
#include <apollo/step/plan.hpp>
#include <apollo/step/state.hpp>

namespace apollo {

/// Grows when tensors are registered, never during a step. One step at a time: concurrent steps need one workspace each.
template <class Backend>
class Workspace {
 public:
  Workspace() = default;

  /// Makes room for steps of a tensor with this plan.
  template <class Policies, class T>
  void reserve(const Backend& backend, const Plan& plan, const Settings& settings);

  Index bytes() const { return arena_.bytes() + tools_.bytes(); }
  Index capacity() const { return arena_.bytes(); }
  std::byte* data() { return arena_.data(); }
  typename Backend::Tools& tools() { return tools_; }

 private:
  HostBuffer<std::byte> arena_;
  typename Backend::Tools tools_;
};

/// The arrays of one step. Those that a composition does not need are null.
template <class Policies, class T>
struct Scratch {
  using Projection = typename Policies::Projection;

  T* r = nullptr;           ///< kept x rank: the projected gradient (factored moments: also the whole one), then N
  T* n = nullptr;           ///< kept x rank: N where R is needed beside it
  T* directions = nullptr;  ///< removed x rank: P^T of a dense random projection
  T* old_directions = nullptr;
  T* rotation = nullptr;
  T* row = nullptr;
  std::int32_t* bucket = nullptr;
  std::uint32_t* sign = nullptr;
  double* x_norms = nullptr;  ///< squared norms per channel
  double* r_norms = nullptr;
  double* n_norms = nullptr;
  T* channel_step = nullptr;
  double* column_sums = nullptr;  ///< factored moments: one for each of the second vector
  T* column_factor = nullptr;
  T* scaled_directions = nullptr;  ///< removed x rank: P^T D_S
  BasisScratch<T> basis;
  std::byte* backend = nullptr;

  static constexpr Scratch carve(Carver& carver, const Plan& plan, const Settings& settings, Index backend_bytes) {
    Scratch scratch;
    const Index directions = plan.removed * plan.rank;
    const bool rotates = Projection::projects && settings.on_refresh == OnRefresh::rotate;
    constexpr bool factors = Policies::factored || Policies::factored_gradient;
    if constexpr (Projection::projects || factors) scratch.r = carver.take<T>(plan.kept * plan.rank);
    if constexpr (Projection::random) {
      if constexpr (!Projection::Sketch::dense) {
        constexpr int nonzeros = Projection::Sketch::nonzeros;
        scratch.bucket = carver.take<std::int32_t>(nonzeros * sparse_map_size(plan.rank, plan.removed, nonzeros));
        scratch.sign = carver.take<std::uint32_t>(nonzeros * plan.removed);
      }
      if (Projection::Sketch::dense || rotates) scratch.directions = carver.take<T>(directions);
    }
    if (rotates) {
      scratch.old_directions = carver.take<T>(directions);
      scratch.rotation = carver.take<T>(plan.rank * plan.rank);
      scratch.row = carver.take<T>(plan.rank);
    }
    constexpr bool scales = !Policies::Granularity::elementwise || Policies::Granularity::residual;
    if (Policies::Granularity::residual) scratch.n = carver.take<T>(plan.kept * plan.rank);
    if (scales || Policies::by_block) scratch.x_norms = carver.take<double>(plan.kept);
    if (scales) scratch.n_norms = carver.take<double>(plan.kept);
    if ((Projection::projects && scales) || factors) scratch.r_norms = carver.take<double>(plan.kept);
    if (scales || Policies::by_block || factors) scratch.channel_step = carver.take<T>(plan.kept);
    if (factors) {
      const Index columns = vector_size<Policies>(plan, 1);
      scratch.column_sums = carver.take<double>(columns);
      scratch.column_factor = carver.take<T>(columns > plan.rank ? columns : plan.rank);
    }
    if (Policies::factored_gradient && Projection::projects) scratch.scaled_directions = carver.take<T>(directions);
    if constexpr (std::is_same_v<Projection, SvdProjection>)
      scratch.basis = BasisScratch<T>::carve(carver, plan, settings.svd, scratch.r);
    scratch.backend = carver.take<std::byte>(backend_bytes);
    return scratch;
  }
};

/// Bytes of memory that a step of this tensor uses, tools not included.
template <class Policies, class T, class Backend>
constexpr Index arena_bytes(const Backend& backend, const Plan& plan, const Settings& settings) {
  Carver counter;
  Scratch<Policies, T>::carve(counter, plan, settings, backend.template scratch_bytes<T, Policies>(plan));
  return counter.used();
}

/// Bytes of the workspace of this tensor alone. Tensors that share one need as many as the largest of them, and the tools of
/// all.
template <class Policies, class T, class Backend>
constexpr Index workspace_bytes(const Backend& backend, const Plan& plan, const Settings& settings) {
  return arena_bytes<Policies, T>(backend, plan, settings) + backend.template tools_bytes<T, Policies>(plan, settings);
}

template <class Backend>
template <class Policies, class T>
void Workspace<Backend>::reserve(const Backend& backend, const Plan& plan, const Settings& settings) {
  const Index bytes = arena_bytes<Policies, T>(backend, plan, settings);
  if (bytes > arena_.bytes()) arena_ = HostBuffer<std::byte>(bytes);
  backend.template prepare<T, Policies>(tools_, plan, settings);
}

}  // namespace apollo
