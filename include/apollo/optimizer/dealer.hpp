// SPDX-License-Identifier: Apache-2.0
// Dealer: which tensors of a model are stepped on all lanes of a backend, and which are dealt to its lanes, each whole.
#pragma once

#include <vector>

#include <apollo/optimizer/parameter.hpp>

namespace apollo {

template <class Backend>
class Dealer {
 public:
  using Part = WorkspacePart<Backend>;

  /// Tensors of at most so many elements are not worth several lanes.
  static constexpr Index small_size = Index{1} << 18;

  /// Reserves what a step of tensor number `index`, the next one, needs.
  void add(const Backend& backend, Workspace<Backend>& workspace, const Parameter<Backend>& parameter,
           std::size_t index) {
    const Shape shape = parameter.shape();
    parameter.reserve(backend, workspace);
    if (backend.lanes() == 1 || shape.rows * shape.cols > small_size) return;
    parameter.reserve_lanes(backend, workspace);
    small_.push_back(index);
  }

  /// Keeps tensors below `first`.
  void truncate(std::size_t first) {
    while (!small_.empty() && small_.back() >= first) small_.pop_back();
  }

  /// Calls body(index, backend, part) for every tensor: the large ones in turn, each on all lanes; then, in one parallel region,
  /// the small ones, each on one lane. Which lane that is does not show. The body must not fail.
  template <class Body>
  void for_each(const Backend& backend, Workspace<Backend>& workspace, std::size_t tensors, Body&& body) const {
    auto next = small_.begin();
    for (std::size_t index = 0; index < tensors; ++index) {
      if (next != small_.end() && *next == index)
        ++next;
      else
        body(index, backend, Part(workspace));
    }
    const Backend lane = backend.lane();
    backend.deal(static_cast<Index>(small_.size()), [&](Index at, int number) {
      body(small_[static_cast<std::size_t>(at)], lane, workspace.lane(number));
    });
  }

 private:
  std::vector<std::size_t> small_;  ///< ascending
};

}  // namespace apollo
