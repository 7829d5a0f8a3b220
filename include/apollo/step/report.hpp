// SPDX-License-Identifier: Apache-2.0
// What a step says about itself.
#pragma once

#include <string_view>

#include <apollo/base/config.hpp>

namespace apollo {

/// What a pass over the gradient found. The sum of squares is of the gradient as given, before any factor.
struct GradientSummary {
  bool finite = true;
  double squared_norm = 0;
};

/// Why a tensor was not stepped. Its weight, its state and its step count are then as they were.
enum class Skip : std::uint8_t {
  none,
  not_finite,     ///< the gradient, or its projection, has a NaN or an infinity
  no_gradient,    ///< none was given this tick
  no_projection,  ///< a FixedProjection that was never set
  wrong_shape,    ///< W or G is not of the shape that was planned
  null_data,      ///< W or G has no memory
  overlap,        ///< W and G share memory
  wrong_groups,   ///< W is of 8-bit groups whose size, ranges or strides cannot be, or moments were planned by columns
  no_workspace,   ///< the workspace was not reserved for this tensor
  not_reached,    ///< layer-wise stepping has not come to it yet
};

constexpr const char* describe(Skip reason) {
  switch (reason) {
    case Skip::none: return "stepped";
    case Skip::not_finite: return "skipped: the gradient is not finite";
    case Skip::no_gradient: return "skipped: no gradient";
    case Skip::no_projection: return "skipped: no projection was set";
    case Skip::wrong_shape: return "skipped: weight or gradient is not of the planned shape";
    case Skip::null_data: return "skipped: weight or gradient has no data";
    case Skip::wrong_groups: return "skipped: the weight's 8-bit groups are not as they must be";
    case Skip::overlap: return "skipped: weight and gradient overlap";
    case Skip::no_workspace: return "skipped: the workspace is too small; call reserve()";
    case Skip::not_reached: return "skipped: not stepped in this tick";
  }
  return "?";
}

/// How the gradients of several micro-batches were summed for one step.
enum class Accumulated : std::uint8_t {
  none,       ///< the step took one gradient
  projected,  ///< as R: kept x rank numbers
  whole,      ///< in full, since the step itself, or the basis that it computes, takes the whole gradient
};

/// A norm that a step had no reason to compute (that would cost a pass).
inline constexpr double not_measured = -1;

struct TensorReport {
  std::string_view name;
  bool stepped = false;
  bool refreshed = false;  ///< the projection changed in this step
  Skip reason = Skip::none;
  double gradient_norm = not_measured;  ///< of the gradient as scaled; one-pass optimizers measure it with check_finite
  double update_norm = not_measured;  ///< of U = s o X after the limiter, before the learning rate; structured updates
  double limiter = 1;                 ///< U was divided by this
  Accumulated accumulated = Accumulated::none;
};

}  // namespace apollo
