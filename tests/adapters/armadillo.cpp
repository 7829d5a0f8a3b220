// SPDX-License-Identifier: Apache-2.0
// Armadillo: matrices, columns, rows, and the rectangles of them that are views.
#include <armadillo>

#include "layouts.hpp"

using namespace adapters;
using apollo::adapter::ArmadilloMatrixRule;
using apollo::adapter::ArmadilloPartRule;
using apollo::adapter::Refusal;

namespace {

arma::uword at(Index i) { return static_cast<arma::uword>(i); }

template <class Rule, class T>
void check_matrix(T& tensor) {
  static_assert(goes_by<T, Rule>);
  check_view(
      tensor, static_cast<Index>(tensor.n_rows),
      static_cast<Index>(tensor.n_cols), [&](Index i, Index j) -> auto& { return tensor.at(at(i), at(j)); });
}

}  // namespace

TEST_CASE("matrices, columns, rows") {
  arma::fmat w(5, 3), g(5, 3);
  arma::mat doubles(4, 6), double_gradient(4, 6);
  arma::fvec column(7);
  arma::frowvec row(6);
  arma::fmat::fixed<2, 3> fixed;
  std::vector<float> memory(20);
  arma::fmat borrowed(memory.data(), 4, 5, false, true);
  check_matrix<ArmadilloMatrixRule>(w);
  check_matrix<ArmadilloMatrixRule>(doubles);
  check_matrix<ArmadilloMatrixRule>(column);
  check_matrix<ArmadilloMatrixRule>(row);
  check_matrix<ArmadilloMatrixRule>(fixed);
  check_matrix<ArmadilloMatrixRule>(borrowed);
  CHECK(apollo::view_of(borrowed).data == memory.data());
  check_step(w, g);
  check_step(doubles, double_gradient);
}

TEST_CASE("rectangles are strided by the columns of their matrix") {
  arma::fmat whole(9, 8), gradient(4, 3);
  auto part = whole.submat(2, 1, 5, 3);
  auto columns = whole.cols(2, 4);
  auto rows = whole.rows(1, 6);
  auto column = whole.col(5);
  auto row = whole.row(3);
  const auto check_part = [&](auto& tensor, arma::uword first_row, arma::uword first_col, Index n, Index m) {
    static_assert(goes_by<std::remove_cvref_t<decltype(tensor)>, ArmadilloPartRule>);
    check_view(
        tensor, n, m, [&](Index i, Index j) -> auto& { return whole.at(first_row + at(i), first_col + at(j)); });
  };
  check_part(part, 2, 1, 4, 3);
  check_part(columns, 0, 2, 9, 3);
  check_part(rows, 1, 0, 6, 8);
  check_part(column, 0, 5, 9, 1);
  check_part(row, 3, 0, 1, 8);
  check_step(part, gradient);
  arma::fcube stack(4, 3, 2);
  check_step(stack.slice(1), gradient);  // a slice is a matrix
}

TEST_CASE("what owns its memory, and what is refused") {
  arma::mat a(3, 3);
  arma::cube stack(2, 2, 2);
  static_assert(apollo::TensorTraits<arma::mat>::owns && apollo::TensorTraits<arma::fvec>::owns);
  static_assert(!apollo::TensorTraits<decltype(a.submat(0, 0, 1, 1))>::owns);
  static_assert(is_refused_for<arma::cube>(Refusal::dimensions));
  static_assert(is_refused_for<decltype(stack.slices(0, 1))>(Refusal::dimensions));
  static_assert(is_refused_for<decltype(a + a)>(Refusal::no_strides));
  static_assert(is_refused_for<decltype(a * a)>(Refusal::no_strides));
  static_assert(is_refused_for<decltype(a.t())>(Refusal::no_strides));
  static_assert(is_refused_for<decltype(a.diag())>(Refusal::no_strides));
  static_assert(is_refused_for<decltype(a.elem(arma::find(a > 0)))>(Refusal::no_strides));
  static_assert(is_refused_for<decltype(a.cols(arma::uvec()))>(Refusal::no_strides));
  static_assert(is_refused_for<arma::sp_mat>(Refusal::no_strides));
}
