// SPDX-License-Identifier: Apache-2.0
// Groups of tensors that share options, and what ticks report about them.
#pragma once

#include <span>
#include <vector>

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

/// The groups of an Optimizer: their settings, learning rates, and how many tensors of which kind they hold.
class Groups {
 public:
  /// Returns the number of the new group. Errors: settings out of range.
  std::size_t add(const Settings& settings, bool projects) {
    check_settings(settings, {});
    groups_.push_back({settings, settings.lr, projects, 0, 0});
    return groups_.size() - 1;
  }

  /// Error: no such group.
  void check(std::size_t group, std::string_view tensor = {}) const {
    if (group >= groups_.size())
      Check{tensor}.fail("group " + text(static_cast<Index>(group)) + " of " +
                         text(static_cast<Index>(groups_.size())) + " belongs to another optimizer");
  }

  const Settings& settings(std::size_t group) const { return groups_[group].settings; }
  double lr(std::size_t group) const { return groups_[group].lr; }
  void set_lr(std::size_t group, double lr) {
    Check{{}}.at_least("lr", lr, 0);
    check(group);
    groups_[group].lr = lr;
  }

  /// Vectors have no low-rank form.
  static bool is_vector(Shape shape) { return shape.rows == 1 || shape.cols == 1; }
  void count(std::size_t group, Shape shape) { ++number(group, shape); }
  void uncount(std::size_t group, Shape shape) { --number(group, shape); }

  /// Error: a group with a projection holds vectors only. `first_of(group)` is the name of its first tensor.
  template <class FirstOf>
  void check_matrices(FirstOf&& first_of) const {
    for (std::size_t g = 0; g < groups_.size(); ++g)
      if (groups_[g].projects && groups_[g].matrices == 0 && groups_[g].vectors > 0)
        refuse("group " + text(static_cast<Index>(g)) + " has a low-rank projection but holds vectors only (" +
               text(groups_[g].vectors) + ", the first is " + quote(first_of(g)) +
               "); give them a group of AdamWOptions, or check that its matrices were not flattened");
  }

 private:
  struct State {
    Settings settings;
    double lr = 0;
    bool projects = false;
    Index matrices = 0;
    Index vectors = 0;
  };

  Index& number(std::size_t group, Shape shape) {
    return is_vector(shape) ? groups_[group].vectors : groups_[group].matrices;
  }

  std::vector<State> groups_;
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
