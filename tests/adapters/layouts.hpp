// SPDX-License-Identifier: Apache-2.0
// What every adapter is asked: are the view's elements the tensor's own, and does a step move them as it moves a plain matrix?
#pragma once

#include <doctest/doctest.h>

#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include <apollo/optimizer/named.hpp>

namespace adapters {

using apollo::Index;

/// Whether the type is recognised by that rule and by no other.
template <class Tensor, class Rule>
inline constexpr bool goes_by =
    apollo::adapter::Rules::fitting<Tensor> == 1 && std::is_same_v<apollo::adapter::rule_for<Tensor>, Rule>;

/// Why a type is refused, if it is.
template <class Tensor>
inline constexpr bool is_refused_for(apollo::adapter::Refusal why) {
  return apollo::adapter::Rules::fitting<Tensor> == 0 && apollo::adapter::refusal<Tensor>() == why;
}

/// at(i, j): the element as the library itself finds it.
template <class Tensor, class At>
void check_view(Tensor&& tensor, Index rows, Index cols, At&& at) {
  const auto view = apollo::view_of(tensor);
  const auto constant = apollo::view_of(std::as_const(tensor));
  REQUIRE(view.shape() == apollo::Shape{rows, cols});
  REQUIRE(constant.shape() == apollo::Shape{rows, cols});
  int wrong = 0;
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; ++j) {
      const void* own = &at(i, j);
      wrong += own != view.at(i, j) || own != constant.at(i, j);
    }
  CHECK(wrong == 0);
}

/// Fills weight and gradient, takes two steps of AdamW on the reference backend, and compares with row-major copies.
template <class Weight, class Gradient>
void check_step(Weight&& weight, Gradient&& gradient) {
  const auto w = apollo::weight_view_of(weight);
  const auto g = apollo::weight_view_of(gradient);
  using W = typename decltype(w)::value_type;
  using G = typename decltype(g)::value_type;
  using T = apollo::arithmetic_t<W>;
  REQUIRE(w.shape() == g.shape());
  std::vector<W> plain_w;
  std::vector<G> plain_g;
  for (Index i = 0; i < w.rows; ++i)
    for (Index j = 0; j < w.cols; ++j) {
      plain_w.push_back(*w.at(i, j) = static_cast<W>(static_cast<T>(1 + i) / static_cast<T>(2 + j)));
      plain_g.push_back(*g.at(i, j) = static_cast<G>(static_cast<T>(i - j) / static_cast<T>(4)));
    }
  apollo::AdamW<T> optimizer(weight, {.lr = 0.1}), plain({w.rows, w.cols}, {.lr = 0.1});
  for (int t = 0; t < 2; ++t) {
    CHECK(optimizer.step(weight, std::as_const(gradient)).stepped);
    CHECK(
        plain.step(apollo::row_major(plain_w.data(), w.rows, w.cols), apollo::row_major(plain_g.data(), w.rows, w.cols))
            .stepped);
  }
  int differ = 0;
  for (Index i = 0; i < w.rows; ++i)
    for (Index j = 0; j < w.cols; ++j)
      differ += std::memcmp(w.at(i, j), &plain_w[static_cast<std::size_t>(i * w.cols + j)], sizeof(W)) != 0;
  CHECK(differ == 0);
  CHECK(static_cast<T>(plain_w.back()) != static_cast<T>(w.rows) / static_cast<T>(1 + w.cols));
}

}  // namespace adapters
