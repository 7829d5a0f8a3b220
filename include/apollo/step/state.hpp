// SPDX-License-Identifier: Apache-2.0
// State: what one tensor keeps between steps, and the one traversal of it that saving, loading and counting share.
#pragma once

#include <type_traits>

#include <apollo/policy/limiter.hpp>
#include <apollo/policy/moments.hpp>
#include <apollo/policy/storage.hpp>
#include <apollo/step/plan.hpp>

namespace apollo {

/// The few numbers every tensor keeps beside its arrays.
struct Record {
  std::int64_t steps = 0;           ///< t: steps really taken
  std::int64_t restart = 0;         ///< OnRefresh::reset: t when the bias correction last started again
  std::int64_t projection_set = 0;  ///< FixedProjection: 1 once the caller has set it
  float previous_norm = NormGrowthLimiter::no_norm;
};

/// Moment buffers as the backends see them.
template <class Stored>
struct MomentPointers {
  Stored* buffer[2] = {nullptr, nullptr};
};

/// Bytes of arrays alone: moments, and the basis where it is stored. The record is counted by record_bytes.
template <class Policies, class T>
constexpr Index state_bytes(const Plan& plan) {
  using Stored = stored_t<typename Policies::Moments, T>;
  Index bytes = Policies::Moments::buffers * plan.moment_size() * static_cast<Index>(sizeof(Stored));
  if (Policies::Projection::stores_basis) bytes += plan.rank * plan.removed * static_cast<Index>(sizeof(T));
  return bytes;
}

/// Bytes of the record that this composition uses: 8, with a limiter 4 more, with OnRefresh::reset or a fixed projection 8.
template <class Policies>
constexpr Index record_bytes(const Settings& settings) {
  Index bytes = 8;
  if (Policies::Limiter::active) bytes += 4;
  if (Policies::Projection::projects && settings.on_refresh == OnRefresh::reset) bytes += 8;
  if (std::is_same_v<typename Policies::Projection, FixedProjection>) bytes += 8;
  return bytes;
}

/// Buffer is the backend's memory. Shapes: moments kept x rank (unprojected: as the weight), basis rank x removed.
template <class Policies, class T, template <class> class Buffer>
struct State {
  using Moments = typename Policies::Moments;
  using Projection = typename Policies::Projection;
  using Stored = stored_t<Moments, T>;

  Buffer<Stored> moment[Moments::buffers == 0 ? 1 : Moments::buffers];
  Buffer<T> basis;  ///< P^T: removed x rank, row-major
  Record record;

  State() = default;
  explicit State(const Plan& plan) {
    for (int i = 0; i < Moments::buffers; ++i) moment[i] = Buffer<Stored>(plan.moment_size());
    if (Projection::stores_basis) basis = Buffer<T>(plan.rank * plan.removed);
  }

  MomentPointers<Stored> moments() {
    MomentPointers<Stored> pointers;
    for (int i = 0; i < Moments::buffers; ++i) pointers.buffer[i] = moment[i].data();
    return pointers;
  }

  /// Calls visit.array(name, view) for every array and visit.scalar(name, value) for every number of the record in use.
  /// Names are torch's where torch has the thing. Moments of unprojected tensors are shown in the weight's own orientation,
  /// so that a checkpoint does not depend on memory layout.
  template <class Visitor>
  void visit(const Plan& plan, const Settings& settings, Visitor&& visit) {
    constexpr const char* names[] = {Moments::buffers == 1 ? "momentum_buffer" : "exp_avg", "exp_avg_sq"};
    for (int i = 0; i < Moments::buffers; ++i) visit.array(names[i], moment_view(plan, moment[i].data()));
    if (Projection::stores_basis) visit.array("basis", row_major(basis.data(), plan.removed, plan.rank));
    visit.scalar("step", record.steps);
    if (Policies::Limiter::active) visit.scalar("previous_norm", record.previous_norm);
    if (Projection::projects && settings.on_refresh == OnRefresh::reset) visit.scalar("restart", record.restart);
    if (std::is_same_v<Projection, FixedProjection>) visit.scalar("projection_set", record.projection_set);
  }

 private:
  static MatrixView<Stored> moment_view(const Plan& plan, Stored* data) {
    if (Projection::projects) return row_major(data, plan.kept, plan.rank);
    const auto oriented = plan.state_order == Order2D::row_major ? row_major(data, plan.kept, plan.removed)
                                                                 : column_major(data, plan.kept, plan.removed);
    return plan.orient(oriented);
  }
};

}  // namespace apollo
