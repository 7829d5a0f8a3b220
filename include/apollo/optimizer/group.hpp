// SPDX-License-Identifier: Apache-2.0
// Groups of tensors that share options, and what ticks report about them.
#pragma once

#include <span>

#include <apollo/step/report.hpp>
#include <apollo/step/settings.hpp>

namespace apollo {

/// In place of a gradient: there is none for this tensor until the next rebind. It is skipped and reported.
struct NoGradient {};
inline constexpr NoGradient no_gradient{};

/// What add_group returns. The policies are part of its type, so that add() knows what to instantiate.
template <class Policies>
struct Group {
  std::size_t index = 0;
};

/// What an Optimizer keeps of a group.
struct GroupState {
  Settings settings;
  double lr = 0;
  bool projects = false;
  Index matrices = 0;
  Index vectors = 0;
};

/// What a tick did. `tensors` lists every tensor in order of registration and stays valid until the next step or add().
struct StepReport {
  std::int64_t tick = 0;
  Index stepped = 0;
  Index skipped = 0;
  double global_norm = not_measured;  ///< of all finite gradients as scaled, before clipping; measured when clipping
  double clip_factor = 1;
  std::span<const TensorReport> tensors;
};

/// What accumulate() did, in numbers of tensors: summed in full, as R, or without a gradient.
struct AccumulationReport {
  Index whole = 0;
  Index projected = 0;
  Index skipped = 0;
  std::span<const TensorReport> tensors;  ///< valid until the next step or add()
};

}  // namespace apollo
