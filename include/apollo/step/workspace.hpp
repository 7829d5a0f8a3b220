// SPDX-License-Identifier: Apache-2.0
// The workspace: scratch memory that all tensors of a model share, and how one step's arrays lie in it.
#pragma once

#include <apollo/step/basis.hpp>
#include <apollo/step/memory.hpp>
#include <apollo/step/plan.hpp>

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
  double* column_sums = nullptr;  ///< one a direction
  T* column_factor = nullptr;
  BasisScratch<T> basis;
  std::byte* backend = nullptr;

  static Scratch carve(Carver& carver, const Plan& plan, const Settings& settings, Index backend_bytes) {
    Scratch scratch;
    const Index directions = plan.removed * plan.rank;
    const bool rotates = Projection::projects && settings.on_refresh == OnRefresh::rotate;
    if constexpr (Projection::projects || Policies::factored) scratch.r = carver.take<T>(plan.kept * plan.rank);
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
    if ((Projection::projects && scales) || Policies::factored) scratch.r_norms = carver.take<double>(plan.kept);
    if (scales || Policies::by_block || Policies::factored) scratch.channel_step = carver.take<T>(plan.kept);
    if (Policies::factored) {
      scratch.column_sums = carver.take<double>(plan.rank);
      scratch.column_factor = carver.take<T>(plan.rank);
    }
    if constexpr (std::is_same_v<Projection, SvdProjection>)
      scratch.basis = BasisScratch<T>::carve(carver, plan, settings.svd, scratch.r);
    scratch.backend = carver.take<std::byte>(backend_bytes);
    return scratch;
  }
};

/// Bytes of workspace that a step of this tensor needs.
template <class Policies, class T, class Backend>
Index workspace_bytes(const Backend& backend, const Plan& plan, const Settings& settings) {
  Carver counter;
  Scratch<Policies, T>::carve(counter, plan, settings, backend.template scratch_bytes<T, Policies>(plan));
  return counter.used();
}

template <class Backend>
template <class Policies, class T>
void Workspace<Backend>::reserve(const Backend& backend, const Plan& plan, const Settings& settings) {
  const Index bytes = workspace_bytes<Policies, T>(backend, plan, settings);
  if (bytes > arena_.bytes()) arena_ = HostBuffer<std::byte>(bytes);
  backend.template prepare<T, Policies>(tools_, plan, settings);
}

}  // namespace apollo
