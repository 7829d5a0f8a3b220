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

/// Numbers in vector 0 or 1 of what elements share.
template <class Policies>
constexpr Index vector_size(const Plan& plan, int number) {
  if (Policies::by_block) return number == 0 ? plan.blocks() : 0;
  if (Policies::factored) return number == 0 ? plan.kept : plan.rank;
  if (Policies::factored_gradient) return number == 0 ? plan.kept : plan.removed;
  return 0;
}

/// Bytes of arrays alone: moments, and the basis where it is stored. The record is counted by record_bytes.
template <class Policies, class T>
constexpr Index state_bytes(const Plan& plan) {
  using Stored = stored_t<typename Policies::Moments, T>;
  Index bytes = Policies::Moments::buffers * plan.moment_size() * static_cast<Index>(sizeof(Stored));
  bytes += (vector_size<Policies>(plan, 0) + vector_size<Policies>(plan, 1)) * static_cast<Index>(sizeof(T));
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
  Buffer<T> shared[2];  ///< V where elements share it: one value a block, or one a channel and one a direction
  Buffer<T> basis;      ///< P^T: removed x rank, row-major
  Record record;

  State() = default;
  explicit State(const Plan& plan) {
    for (int i = 0; i < Moments::buffers; ++i) moment[i] = Buffer<Stored>(plan.moment_size());
    for (int i = 0; i < 2; ++i)
      if (vector_size<Policies>(plan, i) > 0) shared[i] = Buffer<T>(vector_size<Policies>(plan, i));
    if (Projection::stores_basis) basis = Buffer<T>(plan.rank * plan.removed);
  }

  MomentPointers<Stored> moments() {
    MomentPointers<Stored> pointers;
    for (int i = 0; i < Moments::buffers; ++i) pointers.buffer[i] = moment[i].data();
    return pointers;
  }

  /// Moment 0 of an unprojected tensor, oriented like X.
  MatrixView<const Stored> momentum(const Plan& plan) const { return oriented(plan, moment[0].data()); }

  /// Calls visit.array(name, view) for every array and visit.scalar(name, value) for every number of the record in use.
  /// Names are torch's where torch has the thing. Moments of unprojected tensors are shown in the weight's own orientation,
  /// so that a checkpoint does not depend on memory layout.
  template <class Visitor>
  void visit(const Plan& plan, const Settings& settings, Visitor&& visit) {
    constexpr bool mean = Moments::buffers == 2 || Policies::by_block || Policies::factored_gradient;
    constexpr const char* names[] = {mean ? "exp_avg" : "momentum_buffer", "exp_avg_sq"};
    for (int i = 0; i < Moments::buffers; ++i) visit.array(names[i], moment_view(plan, moment[i].data()));
    constexpr const char* shared_names[] = {Policies::by_block ? "exp_avg_sq" : "exp_avg_sq_row", "exp_avg_sq_col"};
    for (int i = 0; i < 2; ++i)
      if (const Index size = vector_size<Policies>(plan, i); size > 0)
        visit.array(shared_names[i], row_major(shared[i].data(), size, 1));
    if (Projection::stores_basis) visit.array("basis", row_major(basis.data(), plan.removed, plan.rank));
    visit.scalar("step", record.steps);
    if (Policies::Limiter::active) visit.scalar("previous_norm", record.previous_norm);
    if (Projection::projects && settings.on_refresh == OnRefresh::reset) visit.scalar("restart", record.restart);
    if (std::is_same_v<Projection, FixedProjection>) visit.scalar("projection_set", record.projection_set);
  }

 private:
  template <class Value>
  static MatrixView<Value> oriented(const Plan& plan, Value* data) {
    return plan.state_order == Order2D::row_major ? row_major(data, plan.kept, plan.rank)
                                                  : column_major(data, plan.kept, plan.rank);
  }
  static MatrixView<Stored> moment_view(const Plan& plan, Stored* data) {
    const auto view = oriented(plan, data);
    return Projection::projects ? view : plan.orient(view);
  }
};

}  // namespace apollo
