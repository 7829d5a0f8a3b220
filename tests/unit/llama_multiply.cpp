// SPDX-License-Identifier: Apache-2.0
// The LLaMA example's matrix products, by either library, against plain sums in double.
// also: optimised-sanitizers
#include <doctest/doctest.h>

#include <cstddef>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "llama/parallel.hpp"

namespace {

using llama::Index;
using llama::Transposed;
using llama::View;

/// A block inside a larger matrix of small whole numbers and halves, whose products floats hold exactly.
template <class Scalar>
struct Block {
  Block(Index rows, Index cols, unsigned seed) : memory((rows + 2) * (cols + 3)), rows_(rows), cols_(cols) {
    std::mt19937 random(seed);
    for (Index i = 0; i < memory.size(); ++i) memory(i) = static_cast<Scalar>(static_cast<int>(random() % 9) - 4) / 2;
  }
  View<Scalar> view() { return {memory.data() + cols_ + 3 + 1, rows_, cols_, Eigen::OuterStride<>(cols_ + 3)}; }

  llama::Vector<Scalar> memory;
  Index rows_, cols_;
};

/// One product of the given size, checked entry by entry, and that nothing around the result was touched.
template <class Scalar, class Multiply>
void check(Multiply multiply, Transposed transposed, Index rows, Index cols, Index inner, bool accumulate) {
  CAPTURE(static_cast<int>(transposed));
  CAPTURE(rows);
  CAPTURE(cols);
  CAPTURE(inner);
  CAPTURE(accumulate);
  const bool left_turned = transposed == Transposed::left, right_turned = transposed == Transposed::right;
  Block<Scalar> left(left_turned ? inner : rows, left_turned ? rows : inner, 1);
  Block<Scalar> right(right_turned ? cols : inner, right_turned ? inner : cols, 2);
  Block<Scalar> out(rows, cols, 3), before = out;
  if (!accumulate) out.view()(0, 0) = std::numeric_limits<Scalar>::quiet_NaN();  // what is overwritten must not be read
  multiply(transposed, Scalar(0.5), left.view(), right.view(), accumulate, out.view());
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; ++j) {
      double sum = 0;
      for (Index k = 0; k < inner; ++k)
        sum += static_cast<double>(left_turned ? left.view()(k, i) : left.view()(i, k)) *
               static_cast<double>(right_turned ? right.view()(j, k) : right.view()(k, j));
      const double expected = 0.5 * sum + (accumulate ? static_cast<double>(before.view()(i, j)) : 0.0);
      REQUIRE(static_cast<double>(out.view()(i, j)) == expected);
      out.view()(i, j) = before.view()(i, j);
    }
  CHECK(out.memory == before.memory);
}

template <class Scalar, class Multiply>
void check_all(Multiply multiply) {
  struct Size {
    Index rows, cols, inner;
  };
  // One row, one column, attention's blocks, a tile with ends of every kind, a sum longer than any library's own blocks.
  for (const Size& s :
       {Size{1, 1, 1}, Size{1, 33, 7}, Size{32, 96, 32}, Size{29, 1, 128}, Size{65, 131, 43}, Size{9, 17, 1500}})
    for (const Transposed transposed : {Transposed::none, Transposed::left, Transposed::right})
      for (const bool accumulate : {false, true})
        check<Scalar>(multiply, transposed, s.rows, s.cols, s.inner, accumulate);
}

TEST_CASE("Eigen's products of blocks of larger matrices") {
  const auto multiply = [](Transposed t, auto scale, const auto& left, const auto& right, bool accumulate, auto out) {
    llama::by_eigen::multiply(t, scale, left, right, accumulate, out);
  };
  check_all<float>(multiply);
  check_all<double>(multiply);
}

TEST_CASE("the trainer's products of blocks of larger matrices") {
  MESSAGE("float products by " << std::string(llama::products_by));
  const auto multiply = [](Transposed t, auto scale, const auto& left, const auto& right, bool accumulate, auto out) {
    llama::multiply(t, scale, left, right, accumulate, out);
  };
  check_all<float>(multiply);
  check_all<double>(multiply);
}

TEST_CASE("products run together give each what it gives alone, for any number of threads") {
  const auto run = [](int threads) {
    Block<float> x(200, 70, 1), w(410, 70, 2), y(200, 410, 3), dx(200, 70, 4), dw(410, 70, 5);
    llama::Products<float> products(threads);
    products.forward(y.view(), x.view(), w.view());
    products.run();
    products.weight(dw.view(), y.view(), x.view(), true);
    products.input(dx.view(), y.view(), w.view(), false);
    products.run();
    products.run();  // of none: nothing changes
    return std::vector<llama::Vector<float>>{y.memory, dw.memory, dx.memory};
  };
  const auto one = run(1);
  CHECK(run(2) == one);
  CHECK(run(3) == one);

  Block<float> x(200, 70, 1), w(410, 70, 2), y(200, 410, 3), dx(200, 70, 4), dw(410, 70, 5);
  llama::by_eigen::multiply(Transposed::right, 1.0F, x.view(), w.view(), false, y.view());
  llama::by_eigen::multiply(Transposed::left, 1.0F, y.view(), x.view(), true, dw.view());
  llama::by_eigen::multiply(Transposed::none, 1.0F, y.view(), w.view(), false, dx.view());
  CHECK(y.memory == one[0]);
  CHECK(dw.memory == one[1]);
  CHECK(dx.memory == one[2]);
}

}  // namespace
