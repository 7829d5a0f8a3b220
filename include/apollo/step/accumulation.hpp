// SPDX-License-Identifier: Apache-2.0
// Accumulation: gradients of micro-batches on their way to one step, as a sum of R where that is all the step takes.
#pragma once

#include <apollo/step/plan.hpp>
#include <apollo/step/report.hpp>

namespace apollo {

/// Memory comes with the first micro-batch after a step: kept x rank numbers, or as many as the tensor has. The sum of a
/// refresh, which is whole although later ones are projected, goes again with its step.
template <class Policies, class T, template <class> class Buffer>
class Accumulation {
 public:
  bool pending() const { return pending_; }
  bool whole() const { return whole_; }
  Index bytes() const { return sum_.size() * static_cast<Index>(sizeof(T)); }

  /// Whether the sum for a step must be whole; `refreshes` if that step computes a basis of it.
  static constexpr bool must_be_whole(bool refreshes) { return !Policies::takes_projection_only || refreshes; }

  /// Makes room for a sum, which is zero, unless there is one already. `order`: of the memory of X.
  void begin(const Plan& plan, bool whole, Order2D order) {
    if (pending_) return;
    const Index size = whole ? plan.kept * plan.removed : plan.moment_size();
    if (sum_.size() != size) sum_ = Buffer<T>(size);
    for (Index i = 0; i < size; ++i) sum_.data()[i] = 0;
    pending_ = true;
    whole_ = whole;
    order_ = order;
  }

  /// The sum as X or as R.
  MatrixView<T> view(const Plan& plan) {
    if (!whole_) return row_major(sum_.data(), plan.kept, plan.rank);
    return order_ == Order2D::row_major ? row_major(sum_.data(), plan.kept, plan.removed)
                                        : column_major(sum_.data(), plan.kept, plan.removed);
  }

  /// The step has taken it, or nobody will.
  void finish() {
    if (whole_ && Policies::takes_projection_only) sum_ = Buffer<T>();
    pending_ = false;
    whole_ = false;
  }

 private:
  Buffer<T> sum_;
  bool pending_ = false;
  bool whole_ = false;
  Order2D order_ = Order2D::row_major;
};

}  // namespace apollo
