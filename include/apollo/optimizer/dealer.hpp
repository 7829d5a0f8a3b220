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

  /// Tensors of at most so many elements are not worth several lanes ...
  static constexpr Index small_size = Index{1} << 18;
  /// ... nor are those of up to so many, as soon as each is at most a sixteenth of a lane's share of the model: lanes then end
  /// at about the same time, and wait for each other once a step instead of several times a tensor.
  static constexpr Index medium_size = Index{1} << 21;
  static constexpr Index share = 16;

  /// Reserves what a step of tensor number `index`, the next one, needs; and what those need that it makes worth dealing.
  void add(const Backend& backend, Workspace<Backend>& workspace, const Parameter<Backend>& parameter,
           std::size_t index) {
    const Shape shape = parameter.shape();
    const Index size = shape.rows * shape.cols, total = total_ + size;
    parameter.reserve(backend, workspace);
    items_.reserve(index + 1);
    dealt_.reserve(index + 1);
    const Index most = largest_dealt(total, backend.lanes());
    for (const Item& item : items_)
      if (!item.dealt && item.size <= most) item.parameter->reserve_lanes(backend, workspace);
    if (size <= most) parameter.reserve_lanes(backend, workspace);

    items_.push_back({&parameter, size, false});
    total_ = total;
    for (std::size_t i = 0; i < items_.size(); ++i)
      if (!items_[i].dealt && items_[i].size <= most) deal(i);
  }

  /// Keeps tensors below `first`.
  void truncate(std::size_t first) {
    for (std::size_t i = first; i < items_.size(); ++i) total_ -= items_[i].size;
    if (first < items_.size()) items_.resize(first);
    std::erase_if(dealt_, [&](std::size_t index) { return index >= first; });
  }

  /// Calls body(index, backend, part) for every tensor: in turn those that take all lanes; then, in one parallel region, the
  /// others, each on one lane, the largest first. Which lane that is does not show. The body must not fail.
  template <class Body>
  void for_each(const Backend& backend, Workspace<Backend>& workspace, std::size_t tensors, Body&& body) const {
    for (std::size_t index = 0; index < tensors; ++index)
      if (!items_[index].dealt) body(index, backend, Part(workspace));
    const Backend lane = backend.lane();
    backend.deal(static_cast<Index>(dealt_.size()), [&](Index at, int number) {
      body(dealt_[static_cast<std::size_t>(at)], lane, workspace.lane(number));
    });
  }

 private:
  struct Item {
    const Parameter<Backend>* parameter = nullptr;
    Index size = 0;
    bool dealt = false;
  };

  static Index largest_dealt(Index total, int lanes) {
    const Index by_share = total / (share * lanes);
    if (lanes == 1) return 0;
    return by_share < small_size ? small_size : by_share < medium_size ? by_share : medium_size;
  }

  void deal(std::size_t index) {
    items_[index].dealt = true;
    auto place = dealt_.begin();
    while (place != dealt_.end() && items_[*place].size >= items_[index].size) ++place;
    dealt_.insert(place, index);
  }

  std::vector<Item> items_;         ///< by number of the tensor
  std::vector<std::size_t> dealt_;  ///< the largest first
  Index total_ = 0;
};

}  // namespace apollo
