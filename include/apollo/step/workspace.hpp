// SPDX-License-Identifier: Apache-2.0
// The workspace: scratch memory that all tensors of a model share, and how one step's arrays lie in it.
#pragma once

#include <vector>

#include <apollo/step/basis.hpp>
#include <apollo/step/memory.hpp>
#include <apollo/step/plan.hpp>
#include <apollo/step/state.hpp>

namespace apollo {

template <class Backend>
class Workspace;

/// What one step works in: a whole workspace, or one lane's part of it.
template <class Backend>
struct WorkspacePart {
  std::byte* data;
  Index capacity;  ///< bytes
  typename Backend::Tools& tools;

  WorkspacePart(std::byte* begin, Index bytes, typename Backend::Tools& kept)
      : data(begin), capacity(bytes), tools(kept) {}
  WorkspacePart(Workspace<Backend>& whole);  // NOLINT: every workspace is a part of itself
};

/// Grows when tensors are registered, never during a step. One step at a time, on all lanes of the backend, or one on each lane
/// at a time in a part of its own. Concurrent steps of the user's own need one workspace each.
template <class Backend>
class Workspace {
 public:
  Workspace() : tools_(1) {}

  /// Makes room for steps of a tensor with this plan.
  template <class Policies, class T>
  void reserve(const Backend& backend, const Plan& plan, const Settings& settings);

  /// Makes room for such a step on each lane at once.
  template <class Policies, class T>
  void reserve_lanes(const Backend& backend, const Plan& plan, const Settings& settings);

  Index bytes() const {
    Index sum = arena_.bytes();
    for (const auto& tools : tools_) sum += tools.bytes();
    return sum;
  }
  WorkspacePart<Backend> whole() { return {arena_.data(), arena_.bytes(), tools_.front()}; }
  WorkspacePart<Backend> lane(int number) {
    return {arena_.data() + number * lane_bytes_, lane_bytes_, tools_[static_cast<std::size_t>(number)]};
  }

 private:
  void grow(Index bytes) {
    if (bytes > arena_.bytes()) arena_ = HostBuffer<std::byte>(bytes);
  }

  HostBuffer<std::byte> arena_;
  std::vector<typename Backend::Tools> tools_;  ///< of each lane; the first are the whole workspace's too
  Index lane_bytes_ = 0;
};

template <class Backend>
WorkspacePart<Backend>::WorkspacePart(Workspace<Backend>& whole) : WorkspacePart(whole.whole()) {}

/// The arrays of one step. Those that a composition does not need are null.
template <class Policies, class T>
struct Scratch {
  using Projection = typename Policies::Projection;

  T* r = nullptr;           ///< kept x rank: the projected gradient (factored moments: also the whole one), then N
  T* n = nullptr;           ///< kept x rank: N where R is needed beside it
  T* directions = nullptr;  ///< removed x rank: P^T of a dense random projection, or of a packed basis
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
    if (packs_basis<Projection>) scratch.directions = carver.take<T>(directions);
    if (rotates || packs_basis<Projection>) {
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
    if constexpr (computes_basis<Projection>)
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
  grow(arena_bytes<Policies, T>(backend, plan, settings));
  backend.template prepare<T, Policies>(tools_.front(), plan, settings);
}

template <class Backend>
template <class Policies, class T>
void Workspace<Backend>::reserve_lanes(const Backend& backend, const Plan& plan, const Settings& settings) {
  const Backend lane = backend.lane();
  const Index bytes = arena_bytes<Policies, T>(lane, plan, settings);
  if (bytes > lane_bytes_) lane_bytes_ = bytes;
  grow(lane_bytes_ * backend.lanes());
  while (tools_.size() < static_cast<std::size_t>(backend.lanes())) tools_.emplace_back();
  for (auto& tools : tools_) lane.template prepare<T, Policies>(tools, plan, settings);
}

}  // namespace apollo
