// SPDX-License-Identifier: Apache-2.0
// ensmallen and mlpack: an update policy for ens::SGD, ens::SGD<apollo::EnsmallenUpdate<...>>.
#pragma once

#include <type_traits>

#include <apollo/apollo.hpp>
#include <apollo/bridge/flat.hpp>

namespace apollo {

/// mlpack keeps a network's parameters in one column, in which the layout finds the matrices (of Armadillo's order, column_major,
/// for an mlpack layer). Without a layout the iterate itself is the matrix.
///
/// ens::SGD divides its step size by the batch, since its gradients are sums over one: `batch_size`, which must be that of the
/// ens::SGD, undoes it. (With ENS_OLD_SEPARABLE_STEP_BEHAVIOR it does not divide: state 1.) A last batch that is not full would
/// have a larger step, so no step is larger than matrices.lr: let it be the step size of the ens::SGD. Vectors take others.lr /
/// matrices.lr of it. This header includes nothing of ensmallen's, and works with whatever has memptr(), n_rows and n_cols.
template <class Matrices = ApolloOptions, class Others = AdamWOptions, class Backend = Reference>
class EnsmallenUpdate {
 public:
  /// Errors: batch_size below 1; matrices.lr = 0.
  explicit EnsmallenUpdate(std::size_t batch_size = 1, flat::Layout layout = {}, const Matrices& matrices = {},
                           const Others& others = {}, const Backend& backend = Backend())
      : batch_size_(static_cast<double>(batch_size)),
        layout_(std::move(layout)),
        matrices_(matrices),
        others_(others),
        backend_(backend) {
    Check{{}}.at_least("batch_size", batch_size_, 1);
    Check{{}}.above("the matrices' lr", matrices.lr, 0);
  }

  /// What ens::SGD makes for one optimisation of an iterate of rows x cols. Errors: those of BasicOptimizer; a layout that
  /// does not cover the iterate.
  template <class MatType, class GradType>
  class Policy {
   public:
    Policy(EnsmallenUpdate& parent, std::size_t rows, std::size_t cols)
        : parent_(parent), optimizer_(parent.backend_), layout_(parent.layout_) {
      const auto size = static_cast<Index>(rows * cols);
      if (layout_.entries().empty())
        layout_.matrix("iterate", static_cast<Index>(rows), static_cast<Index>(cols), Order2D::column_major);
      Index covered = 0;
      for (const flat::Entry& entry : layout_.entries()) covered += entry.size();
      if (covered != size || layout_.size() != size)
        refuse("the layout covers " + text(covered) + " of the iterate's " + text(size) + " elements, and ends at " +
               text(layout_.size()));
      matrices_group_ = optimizer_.add_group(parent.matrices_);
      others_group_ = optimizer_.add_group(parent.others_);
      optimizer_.gradient_scale(1 / parent.batch_size_);  // sums to means
    }

    void Update(MatType& iterate, const double step_size, const GradType& gradient) {
      if (optimizer_.parameters().empty())
        flat::add(optimizer_, matrices_group_, others_group_, layout_, iterate.memptr(), gradient.memptr());
      else
        flat::rebind(optimizer_, layout_, iterate.memptr(), gradient.memptr());
      const double whole = step_size * parent_.batch_size_;
      const double lr = whole < parent_.matrices_.lr ? whole : parent_.matrices_.lr;
      optimizer_.set_lr(matrices_group_, lr);
      optimizer_.set_lr(others_group_, lr * parent_.others_.lr / parent_.matrices_.lr);
      optimizer_.step();
    }

    const BasicOptimizer<Backend>& optimizer() const { return optimizer_; }

   private:
    template <class Options>
    using PoliciesOf = typename MemberOf<Options>::type::Policies;

    EnsmallenUpdate& parent_;
    BasicOptimizer<Backend> optimizer_;
    flat::Layout layout_;
    Group<PoliciesOf<Matrices>> matrices_group_;
    Group<PoliciesOf<Others>> others_group_;
  };

 private:
  double batch_size_;
  flat::Layout layout_;
  Matrices matrices_;
  Others others_;
  Backend backend_;
};

}  // namespace apollo
