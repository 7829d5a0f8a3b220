// SPDX-License-Identifier: Apache-2.0
// Tensors of any number of dimensions in an optimizer: the matrices that they unfold to, added or rebound all together.
#pragma once

#include <string>
#include <vector>

#include <apollo/step/settings.hpp>
#include <apollo/tensor/tensor_view.hpp>

namespace apollo::parts {

/// A batch of E matrices is registered as name[0] ... name[E - 1].
inline std::string name_of(std::string_view name, std::size_t number, Unfold how) {
  return std::string(name) + (how == Unfold::batch ? "[" + std::to_string(number) + "]" : "");
}

inline void check_counts(std::string_view name, std::size_t weights, std::size_t gradients) {
  if (weights != gradients)
    Check{name}.fail("a gradient of " + text(static_cast<Index>(gradients)) + " matrices must have " +
                     text(static_cast<Index>(weights)));
}

/// Calls add(name, weight, gradient) for each matrix; where one is refused, undo() takes back those before it.
template <class W, class G, class Add, class Undo>
void add(std::string_view name, const std::vector<MatrixView<W>>& weights, const std::vector<MatrixView<G>>& gradients,
         Unfold how, Add&& add_one, Undo&& undo) {
  check_counts(name, weights.size(), gradients.size());
  const auto add_all = [&] {
    for (std::size_t e = 0; e < weights.size(); ++e) add_one(name_of(name, e, how), weights[e], gradients[e]);
  };
#if defined(__cpp_exceptions)
  try {
    add_all();
  } catch (...) {
    undo();
    throw;
  }
#else
  add_all();
  (void)undo;
#endif
}

/// Refuses to rebind part of a batch: has(name) says whether there is a tensor of that name.
template <class Has>
void check_batch(std::string_view name, std::size_t weights, std::size_t gradients, Unfold how, Has&& has) {
  check_counts(name, weights, gradients);
  Index registered = 0;
  if (how == Unfold::batch)
    while (has(name_of(name, static_cast<std::size_t>(registered), how))) ++registered;
  if (registered > static_cast<Index>(weights))
    Check{name}.fail("a batch of " + text(static_cast<Index>(weights)) + " matrices must have " + text(registered) +
                     ", as registered");
}

}  // namespace apollo::parts
