// SPDX-License-Identifier: Apache-2.0
// A state as checkpoints see it: arrays and numbers by name, whatever their types, and what they must agree on.
#pragma once

#include <string>
#include <string_view>

#include <apollo/step/state.hpp>

namespace apollo {

/// A view whose element type is known at run time only.
struct AnyView {
  const void* data = nullptr;
  const char* type = "";  ///< type_name<T>
  Index rows = 0;
  Index cols = 0;
  Index row_stride = 0;
  Index col_stride = 0;
  const void* ranges = nullptr;  ///< of int8_groups
  Index group_size = 0;

  template <class T>
  static AnyView of(const MatrixView<T>& view) {
    AnyView any{view.data,      type_name<typename MatrixView<T>::value_type>, view.rows, view.cols, view.row_stride,
                view.col_stride};
    if constexpr (is_grouped<T>) any.ranges = view.ranges, any.group_size = view.group_size;
    return any;
  }
  /// The element type has been compared with `type` before.
  template <class T>
  MatrixView<T> as() const {
    if constexpr (is_grouped<T>)
      return {{static_cast<std::uint8_t*>(const_cast<void*>(data)), rows, cols, row_stride, col_stride,
               static_cast<GroupRange*>(const_cast<void*>(ranges)), group_size}};
    else
      return {static_cast<T*>(const_cast<void*>(data)), rows, cols, row_stride, col_stride};
  }
};

/// What save and load see of a state array.
struct StateArray {
  std::string_view field;  ///< "exp_avg"
  AnyView view;
  int element_bytes = 0;
};

/// Receives the state of a parameter, array by array and number by number.
class StateVisitor {
 public:
  virtual void array(const StateArray& array) = 0;
  virtual void integer(std::string_view field, std::int64_t& value) = 0;
  virtual void real(std::string_view field, float& value) = 0;

 protected:
  ~StateVisitor() = default;
};

/// A state's own visitor, see State::visit, that tells a StateVisitor.
struct VisitState {
  StateVisitor& to;
  template <class V>
  void array(const char* field, const MatrixView<V>& view) const {
    to.array({field, AnyView::of(view), static_cast<int>(sizeof(V))});
  }
  void scalar(const char* field, std::int64_t& value) const { to.integer(field, value); }
  void scalar(const char* field, float& value) const { to.real(field, value); }
};

/// What a checkpoint must agree on for its numbers to mean the same here.
template <class Policies, class T>
std::string fingerprint(const TensorSetup& setup) {
  using Projection = typename Policies::Projection;
  using Stored = stored_t<typename Policies::Moments, T>;
  const Plan& plan = setup.plan;
  const Settings& settings = setup.settings;
  std::string print = std::string("projection=") + Projection::name + " granularity=" + Policies::Granularity::name +
                      " moments=" + Policies::Moments::name + "(" + type_name<Stored> + ")" +
                      " limiter=" + (Policies::Limiter::active ? "norm_growth" : "none") +
                      " shape=" + text(plan.shape.rows) + "x" + text(plan.shape.cols);
  if constexpr (Projection::projects) {
    print += " kept=" + std::string(plan.transposed ? "cols" : "rows") + " rank=" + text(plan.rank);
    if constexpr (!std::is_same_v<Projection, FixedProjection>)
      print += " update_proj_gap=" + text(settings.update_proj_gap) +
               (settings.refresh_phase == 0 ? "" : " refresh_phase=" + text(settings.refresh_phase));
    if (packs_basis<Projection>) print += " similarity_threshold=" + text(settings.similarity_threshold);
  }
  if (Policies::by_block)
    print += " kept=" + std::string(plan.transposed ? "cols" : "rows") + " block=" + text(plan.block);
  if constexpr (Projection::random) {
    if constexpr (!Projection::Sketch::dense) print += " nonzeros=" + text(Index{Projection::Sketch::nonzeros});
  }
  using Weights = typename Policies::Weights;
  if (!std::is_same_v<Weights, NativeWeights>) print += std::string(" weights=") + Weights::name;
  if (Weights::keeps_remainder || (is_block_format<Stored> && !Policies::moments_of_matrix))
    print += std::string(" memory=") + (plan.weight_order == Order2D::row_major ? "rows" : "columns");
  if (Projection::random || computes_basis<Projection> || MomentStorage<Stored, T>::stochastic || Weights::stochastic)
    print += " seed=" + std::to_string(settings.seed) + " id=" + std::to_string(setup.id);
  return print;
}

}  // namespace apollo
