// SPDX-License-Identifier: Apache-2.0
// Registry: the tensors of an optimizer in order of registration, found by name.
#pragma once

#include <memory>
#include <vector>

#include <apollo/optimizer/json.hpp>
#include <apollo/optimizer/parameter.hpp>

namespace apollo {

/// Refuses a name that is empty or no UTF-8.
inline void check_name(std::string_view name) {
  if (name.empty()) refuse("a tensor's name is empty; it is its identity");
  for (std::size_t at = 0; at < name.size();) {
    const std::size_t length = json::utf8_length(name.substr(at));
    if (length == 0)
      refuse("the name of a tensor is not UTF-8 at byte " + text(static_cast<Index>(at)) +
             ", so no checkpoint could hold it");
    at += length;
  }
}

template <class Backend>
class Registry {
 public:
  using List = std::vector<std::unique_ptr<Parameter<Backend>>>;

  const List& all() const { return parameters_; }
  std::size_t size() const { return parameters_.size(); }
  Parameter<Backend>& operator[](std::size_t index) const { return *parameters_[index]; }

  /// Refuses a name that is empty, taken or no UTF-8, and an id that is taken.
  void check_identity(std::string_view name, TensorId id) const {
    check_name(name);
    for (const auto& other : parameters_) {
      if (other->name() == name) refuse("two tensors are named " + quote(name) + "; a name is an identity");
      if (other->id() == id)
        refuse("tensors " + quote(other->name()) + " and " + quote(name) + " share the id " + std::to_string(id) +
               ", by default a hash of the name; rename one or give it an id");
    }
  }

  /// The name and id have been checked.
  void add(std::unique_ptr<Parameter<Backend>> parameter) {
    by_name_.insert(by_name_.begin() + static_cast<std::ptrdiff_t>(lower_bound(parameter->name())), parameters_.size());
    parameters_.push_back(std::move(parameter));
  }

  /// Error: no tensor of that name. Cost: a binary search.
  std::size_t index_of(std::string_view name) const {
    if (!has(name))
      refuse("no tensor is named " + quote(name) + " (" + text(static_cast<Index>(parameters_.size())) +
             " are registered)");
    return by_name_[lower_bound(name)];
  }
  bool has(std::string_view name) const {
    const std::size_t at = lower_bound(name);
    return at < by_name_.size() && parameters_[by_name_[at]]->name() == name;
  }

  /// Keeps the first `count` tensors.
  void truncate(std::size_t count) {
    parameters_.resize(count);
    std::erase_if(by_name_, [&](std::size_t index) { return index >= count; });
  }

 private:
  /// Names are kept sorted.
  std::size_t lower_bound(std::string_view name) const {
    std::size_t first = 0, last = by_name_.size();
    while (first < last) {
      const std::size_t middle = first + (last - first) / 2;
      if (parameters_[by_name_[middle]]->name() < name)
        first = middle + 1;
      else
        last = middle;
    }
    return first;
  }

  List parameters_;
  std::vector<std::size_t> by_name_;
};

}  // namespace apollo
