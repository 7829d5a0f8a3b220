// SPDX-License-Identifier: Apache-2.0
// Bytes of training a model: weights, gradients, and what the library says that each member keeps.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <apollo/step/workspace.hpp>
#include <apollo/tensor/int8.hpp>

#include "members.hpp"

namespace plan {

enum class Number : std::uint8_t { fp32, bf16, int8 };
inline constexpr std::array<const char*, 3> number_names{"fp32", "bf16", "int8"};

inline const char* name_of(Number number) { return number_names[static_cast<std::size_t>(number)]; }
inline Number number_named(std::string_view name) {
  for (std::size_t i = 0; i < number_names.size(); ++i)
    if (name == number_names[i]) return static_cast<Number>(i);
  throw std::invalid_argument("'" + std::string(name) + "' is none of fp32, bf16, int8");
}

struct Request {
  Number weights = Number::fp32;
  Number gradients = Number::fp32;
  bool layerwise = false;  ///< gradients of one unit at a time
  Number moments = Number::fp32;
  Index rank = 0;  ///< 0: the model's own
};

struct Bytes {
  Index weights = 0;
  Index gradients = 0;
  Index matrix_states = 0;
  Index embedding_states = 0;  ///< and the head's
  Index rest_states = 0;
  Index records = 0;    ///< step counts and limiters' norms
  Index workspace = 0;  ///< that all tensors share

  Index states() const { return matrix_states + embedding_states + rest_states; }
  Index total() const { return weights + gradients + states() + records + workspace; }
};

struct Row {
  std::string member;
  Bytes bytes;
  Index rank = 0;  ///< 0: the member has none
};

inline Index size_of(Number number) { return number == Number::fp32 ? 4 : number == Number::bf16 ? 2 : 1; }

/// int8: a byte a value and a range a group, as in apollo::Int8Matrix, for matrices, embedding and head; fp32 for the rest.
inline Index weight_bytes(const Tensor& tensor, Number number) {
  if (number != Number::int8) return tensor.size() * size_of(number);
  if (tensor.role == Role::rest) return tensor.size() * size_of(Number::fp32);
  const auto groups = apollo::BlockedLines::of(tensor.shape.rows, tensor.shape.cols).count(128);
  return tensor.size() + groups * static_cast<Index>(sizeof(apollo::GroupRange));
}

/// All gradients, or those of the largest unit. A tied embedding gets its own at both ends of the backward pass.
inline Index gradient_count(const Model& model, bool layerwise) {
  if (!layerwise) return model.parameters;
  std::vector<Index> units;
  for (const Tensor& t : model.tensors) {
    if (t.unit >= units.size()) units.resize(t.unit + 1, 0);
    units[t.unit] += t.size();
  }
  Index kept = 0, largest = 0;
  for (std::size_t unit = 0; unit < units.size(); ++unit) {
    if (unit == 0 && model.tied)
      kept = units[unit];
    else
      largest = std::max(largest, units[unit]);
  }
  return kept + largest;
}

/// Counts what the states of a model's tensors take, one after the other, and the workspace that they share.
template <class Backend>
class StateCounter {
 public:
  explicit StateCounter(const Backend& backend) : backend_(backend) {}

  /// Errors: what the library refuses of this tensor and these options.
  template <class Member, class Options>
  void add(const Tensor& tensor, const Options& options) {
    using Policies = typename Member::Policies;
    using T = typename Member::Scalar;
    const apollo::Settings settings = options.settings();
    const apollo::Plan plan =
        apollo::make_plan<Policies>(tensor.shape, settings, tensor.name, apollo::Order2D::row_major);
    (tensor.role == Role::matrix      ? bytes_.matrix_states
     : tensor.role == Role::embedding ? bytes_.embedding_states
                                      : bytes_.rest_states) += Member::state_bytes(tensor.shape, options);
    bytes_.records += Member::record_bytes(options);
    arena_ = std::max(arena_, apollo::arena_bytes<Policies, T>(backend_, plan, settings));
    tools_.insert(backend_.template tools_bytes<T, Policies>(plan, settings));
  }

  Bytes bytes() const {
    Bytes bytes = bytes_;
    bytes.workspace = arena_;
    for (const Index tool : tools_) bytes.workspace += tool;
    return bytes;
  }

 private:
  Backend backend_;
  Bytes bytes_;
  Index arena_ = 0;
  std::set<Index> tools_;  ///< tensors share a tool of the same size
};

/// The states, records and workspace of a model on a backend of one lane.
template <class MemberSteps, class Backend>
Bytes state_bytes(const Model& model, const MemberSteps& steps, const Backend& backend) {
  StateCounter<Backend> counter(backend);
  for (const Tensor& t : model.tensors) {
    if (t.role == Role::matrix)
      counter.template add<typename MemberSteps::Member>(t, options_for(t, steps.options));
    else
      counter.template add<typename MemberSteps::Others>(t, steps.other_options);
  }
  return counter.bytes();
}

/// A row for every member among `names`, in the list's order; no names are all of them.
template <class Backend>
std::vector<Row> rows_of(const Model& model, const Request& request, const std::vector<std::string>& names,
                         const Backend& backend) {
  std::vector<Row> rows;
  const auto row = [&](const char* name, const auto& steps) {
    if (!names.empty() && std::find(names.begin(), names.end(), name) == names.end()) return;
    Bytes bytes = state_bytes(model, steps, backend);
    for (const Tensor& t : model.tensors) bytes.weights += weight_bytes(t, request.weights);
    bytes.gradients = gradient_count(model, request.layerwise) * size_of(request.gradients);
    Index rank_of_member = 0;
    if constexpr (requires { steps.options.rank; }) rank_of_member = steps.options.rank;
    rows.push_back({name, bytes, rank_of_member});
  };
  const Index rank = request.rank > 0 ? request.rank : model.rank;
  if (request.moments == Number::bf16)
    for_each_member<apollo::bfloat16>(rank, row);
  else
    for_each_member<apollo::Native>(rank, row);
  return rows;
}

}  // namespace plan
