// SPDX-License-Identifier: Apache-2.0
// also: no-exceptions
// Views: strides, overlap against brute force, the adapters, and tensors of more than two dimensions.
#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <limits>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <apollo/tensor/tensor_view.hpp>
#include <apollo/tensor/traits.hpp>

#include "support.hpp"

namespace {

using apollo::Index;
using apollo::MatrixView;

/// A tensor type of a user's own, row-major.
struct Owned {
  std::vector<double> values;
  Index height = 0;
  Index width = 0;
};

/// What Eigen's matrices look like from outside.
struct Strided {
  using Scalar = float;
  std::vector<float> memory = std::vector<float>(64);
  float* data() { return memory.data(); }
  const float* data() const { return memory.data(); }
  Index rows() const { return 3; }
  Index cols() const { return 5; }
  Index rowStride() const { return 2; }
  Index colStride() const { return 7; }
};

template <class T>
std::set<const void*> bytes_of(const MatrixView<T>& view) {
  std::set<const void*> bytes;
  for (Index i = 0; i < view.rows; ++i)
    for (Index j = 0; j < view.cols; ++j)
      for (std::size_t b = 0; b < sizeof(T); ++b) bytes.insert(reinterpret_cast<const char*>(view.at(i, j)) + b);
  return bytes;
}

template <class T, class U>
bool share_a_byte(const MatrixView<T>& a, const MatrixView<U>& b) {
  const auto left = bytes_of(a), right = bytes_of(b);
  for (const void* byte : left)
    if (right.count(byte) != 0) return true;
  return false;
}

#if defined(__cpp_exceptions)
using support::mentions;
using support::refusal;
#endif

}  // namespace

/// Looks like a container, and its own adapter knows better.
template <class T>
struct Padded {
  using value_type = T;
  std::vector<T> memory = std::vector<T>(32);
  T* data() { return memory.data(); }
  const T* data() const { return memory.data(); }
  std::size_t size() const { return memory.size(); }
  T& operator[](std::size_t i) { return memory[i]; }
};

/// Somebody else's half precision, as its owner describes it.
struct Half {
  std::uint16_t x = 0;
};

template <>
struct std::numeric_limits<Half> {
  static constexpr bool is_specialized = true, is_integer = false;
  static constexpr int digits = 11;
};

template <class T>
struct apollo::TensorTraits<Padded<T>> {
  using value_type = T;
  static MatrixView<T> view(Padded<T>& t) { return strided(t.data(), 4, 5, 8, 1); }
  static MatrixView<const T> view(const Padded<T>& t) { return strided(t.data(), 4, 5, 8, 1); }
};

template <>
struct apollo::TensorTraits<Owned> {
  using value_type = double;
  static MatrixView<double> view(Owned& t) { return row_major(t.values.data(), t.height, t.width); }
  static MatrixView<const double> view(const Owned& t) { return row_major(t.values.data(), t.height, t.width); }
};

TEST_CASE("views of raw memory name the elements their names say") {
  std::vector<float> memory(200);
  for (std::size_t k = 0; k < memory.size(); ++k) memory[k] = static_cast<float>(k);
  const auto rows = apollo::row_major(memory.data(), 3, 4);
  const auto columns = apollo::column_major(memory.data(), 3, 4);
  const auto both = apollo::strided(memory.data() + 60, 3, 4, -20, 3);
  const auto line = apollo::vector(memory.data() + 1, 12);
  for (Index i = 0; i < 3; ++i)
    for (Index j = 0; j < 4; ++j) {
      CHECK(rows(i, j) == static_cast<float>(4 * i + j));
      CHECK(columns(i, j) == static_cast<float>(i + 3 * j));
      CHECK(both(i, j) == static_cast<float>(60 - 20 * i + 3 * j));
      CHECK(both.at(i, j) == memory.data() + 60 - 20 * i + 3 * j);
    }
  CHECK(line.shape() == apollo::Shape{12, 1});
  CHECK(line(11, 0) == 12.0f);
  CHECK(rows.size() == 12);
  CHECK(rows.shape() == apollo::Shape{3, 4});
}

TEST_CASE("a transposed view swaps indices, and blocks of rows and columns stay where they are") {
  std::vector<float> memory(100);
  const auto view = apollo::strided(memory.data(), 5, 6, 11, 2);
  const auto turned = view.transposed();
  const auto middle = view.middle_rows(1, 3);
  const auto right = view.middle_cols(4, 2);
  CHECK(turned.shape() == apollo::Shape{6, 5});
  CHECK(middle.shape() == apollo::Shape{3, 6});
  CHECK(right.shape() == apollo::Shape{5, 2});
  for (Index i = 0; i < 5; ++i)
    for (Index j = 0; j < 6; ++j) {
      CHECK(turned.at(j, i) == view.at(i, j));
      if (i >= 1 && i < 4) CHECK(middle.at(i - 1, j) == view.at(i, j));
      if (j >= 4) CHECK(right.at(i, j - 4) == view.at(i, j));
    }
}

TEST_CASE("mutable views become constant ones and not the reverse") {
  static_assert(std::is_convertible_v<MatrixView<float>, MatrixView<const float>>);
  static_assert(!std::is_convertible_v<MatrixView<const float>, MatrixView<float>>);
  static_assert(!std::is_convertible_v<MatrixView<float>, MatrixView<const double>>);
  static_assert(std::is_trivially_copyable_v<MatrixView<float>>);
  float x = 3;
  const MatrixView<const float> view = apollo::row_major(&x, 1, 1);
  CHECK(view(0, 0) == 3.0f);
  constexpr MatrixView<float> nothing;
  CHECK(nothing.size() == 0);
  CHECK(nothing.data == nullptr);
}

TEST_CASE("memory order is the index that runs fastest") {
  using apollo::Order2D;
  float x[64] = {};
  CHECK(apollo::memory_order(apollo::row_major(x, 3, 4)) == Order2D::row_major);
  CHECK(apollo::memory_order(apollo::column_major(x, 3, 4)) == Order2D::column_major);
  CHECK(apollo::memory_order(apollo::strided(x + 60, 3, 4, -20, 3)) == Order2D::row_major);
  CHECK(apollo::memory_order(apollo::strided(x + 60, 3, 4, 1, -9)) == Order2D::column_major);
  CHECK(apollo::memory_order(apollo::vector(x, 9)) == Order2D::column_major);
  CHECK(apollo::memory_order(apollo::row_major(x, 1, 9)) == Order2D::row_major);
}

TEST_CASE("overlaps_itself agrees with brute force") {
  std::vector<float> memory(400);
  int wrong = 0;
  for (Index rows = 1; rows < 5; ++rows)
    for (Index cols = 1; cols < 5; ++cols)
      for (Index row = -7; row <= 7; ++row)
        for (Index col = -7; col <= 7; ++col) {
          const auto view = apollo::strided(memory.data() + 200, rows, cols, row, col);
          std::set<const float*> seen;
          for (Index i = 0; i < rows; ++i)
            for (Index j = 0; j < cols; ++j) seen.insert(view.at(i, j));
          wrong += apollo::overlaps_itself(view) != (static_cast<Index>(seen.size()) != rows * cols);
        }
  CHECK(wrong == 0);
}

TEST_CASE("overlap is exact for views of one element size and one pair of strides") {
  std::vector<float> memory(400);
  int missed = 0, invented = 0;
  for (Index rows = 0; rows < 4; ++rows)
    for (Index cols = 0; cols < 4; ++cols)
      for (Index row = -6; row <= 6; ++row)
        for (Index col = -6; col <= 6; ++col)
          for (Index offset = -24; offset <= 24; offset += 1) {
            const auto a = apollo::strided(memory.data() + 200, rows, cols, row, col);
            const auto b = apollo::strided(memory.data() + 200 + offset, rows, cols, row, col);
            bool shared = false;
            for (Index i = 0; i < rows && !shared; ++i)
              for (Index j = 0; j < cols && !shared; ++j)
                for (Index k = 0; k < rows && !shared; ++k)
                  for (Index l = 0; l < cols && !shared; ++l) shared = a.at(i, j) == b.at(k, l);
            const bool said = apollo::overlap(a, b);
            missed += shared && !said;
            // A stride of zero across columns names one element several times; nothing is promised but safety.
            invented += said && !shared && col != 0;
          }
  CHECK(missed == 0);
  CHECK(invented == 0);
}

TEST_CASE("overlap never misses a shared byte and is false for separate memory") {
  std::vector<float> memory(64);
  auto* shorts = reinterpret_cast<apollo::bfloat16*>(memory.data());
  int missed = 0, invented = 0;
  for (Index offset = 0; offset < 40; ++offset)
    for (const Index row : {1, 3, 4}) {
      const auto a = apollo::strided(memory.data() + 10, 3, 2, row, row == 1 ? 3 : 1);
      const auto b = apollo::row_major(memory.data() + offset, 2, 3);
      const auto c = apollo::row_major(shorts + offset, 3, 2);
      const auto d = apollo::column_major(static_cast<const float*>(memory.data()) + offset, 3, 2);
      missed += share_a_byte(a, b) && !apollo::overlap(a, b);
      missed += share_a_byte(a, c) && !apollo::overlap(a, c);
      missed += share_a_byte(c, a) && !apollo::overlap(c, a);
      missed += share_a_byte(a, d) && !apollo::overlap(a, d);
      invented += offset >= 20 && (apollo::overlap(a, b) || apollo::overlap(a, d));
      invented += offset <= 4 && apollo::overlap(a, b);
    }
  CHECK(missed == 0);
  CHECK(invented == 0);
  // A weight and a gradient interleaved in one buffer.
  const auto even = apollo::strided(memory.data(), 4, 3, 6, 2), odd = apollo::strided(memory.data() + 1, 4, 3, 6, 2);
  CHECK_FALSE(apollo::overlap(even, odd));
  CHECK(apollo::overlap(even, even));
  CHECK_FALSE(apollo::overlap(apollo::row_major(memory.data(), 0, 3), apollo::row_major(memory.data(), 3, 3)));
}

TEST_CASE("containers of the standard library are tensors of one column") {
  std::vector<float> vector(7);
  std::array<double, 5> array{};
  const std::span<float> span(vector.data() + 1, 3);
  const std::span<const float> constant_span(vector.data(), 7);
  const std::vector<apollo::bfloat16> brains(4);

  static_assert(std::is_same_v<decltype(apollo::view_of(vector)), MatrixView<float>>);
  static_assert(std::is_same_v<decltype(apollo::view_of(std::as_const(vector))), MatrixView<const float>>);
  static_assert(std::is_same_v<decltype(apollo::view_of(array)), MatrixView<double>>);
  static_assert(std::is_same_v<decltype(apollo::view_of(span)), MatrixView<float>>);
  static_assert(std::is_same_v<decltype(apollo::view_of(constant_span)), MatrixView<const float>>);
  static_assert(std::is_same_v<decltype(apollo::view_of(brains)), MatrixView<const apollo::bfloat16>>);
  static_assert(std::is_same_v<decltype(apollo::constant_view_of(vector)), MatrixView<const float>>);

  CHECK(apollo::view_of(vector).shape() == apollo::Shape{7, 1});
  CHECK(apollo::view_of(vector).data == vector.data());
  CHECK(apollo::view_of(vector).at(6, 0) == &vector[6]);
  CHECK(apollo::view_of(array).shape() == apollo::Shape{5, 1});
  CHECK(apollo::view_of(span).data == vector.data() + 1);
  CHECK(apollo::view_of(span).rows == 3);
  CHECK(apollo::constant_view_of(constant_span).at(2, 0) == &vector[2]);
}

TEST_CASE("types of one's own are tensors through TensorTraits, and views are themselves") {
  Owned owned{std::vector<double>(6), 2, 3};
  static_assert(std::is_same_v<decltype(apollo::view_of(owned)), MatrixView<double>>);
  static_assert(std::is_same_v<decltype(apollo::view_of(std::as_const(owned))), MatrixView<const double>>);
  CHECK(apollo::view_of(owned).shape() == apollo::Shape{2, 3});
  CHECK(apollo::view_of(owned).at(1, 2) == &owned.values[5]);

  Strided strided;
  static_assert(std::is_same_v<decltype(apollo::view_of(strided)), MatrixView<float>>);
  static_assert(std::is_same_v<decltype(apollo::view_of(std::as_const(strided))), MatrixView<const float>>);
  CHECK(apollo::view_of(strided).shape() == apollo::Shape{3, 5});
  CHECK(apollo::view_of(strided).at(2, 4) == strided.memory.data() + 32);

  const auto view = apollo::view_of(owned);
  CHECK(apollo::view_of(view).data == view.data);
  CHECK(apollo::view_of(apollo::row_major(owned.values.data(), 3, 2)).cols == 2);
  static_assert(std::is_same_v<decltype(apollo::constant_view_of(view)), MatrixView<const double>>);
}

TEST_CASE("an adapter goes before every structural rule") {
  Padded<float> padded;
  static_assert(apollo::adapter::Rules::fitting<Padded<float>> == 1);
  CHECK(apollo::view_of(padded).shape() == apollo::Shape{4, 5});
  CHECK(apollo::view_of(std::as_const(padded)).at(3, 4) == &padded.memory[28]);
}

TEST_CASE("arrays of the language are vectors and matrices") {
  float line[3] = {}, table[2][5] = {};
  const double constant[4][2] = {};
  static_assert(std::is_same_v<decltype(apollo::view_of(table)), MatrixView<float>>);
  static_assert(std::is_same_v<decltype(apollo::view_of(constant)), MatrixView<const double>>);
  CHECK(apollo::view_of(line).shape() == apollo::Shape{3, 1});
  CHECK(apollo::view_of(line).at(2, 0) == &line[2]);
  CHECK(apollo::view_of(table).shape() == apollo::Shape{2, 5});
  CHECK(apollo::view_of(table).at(1, 3) == &table[1][3]);
  CHECK(apollo::view_of(constant).at(3, 1) == &constant[3][1]);
}

TEST_CASE("a container of arrays is a matrix, row by row") {
  std::vector<std::array<float, 3>> rows(4);
  std::array<std::array<double, 2>, 5> fixed{};
  const std::span<const std::array<float, 3>> constant(rows);
  static_assert(std::is_same_v<decltype(apollo::view_of(constant)), MatrixView<const float>>);
  CHECK(apollo::view_of(rows).shape() == apollo::Shape{4, 3});
  CHECK(apollo::view_of(rows).at(3, 2) == &rows[3][2]);
  CHECK(apollo::view_of(fixed).at(4, 1) == &fixed[4][1]);
  CHECK(apollo::view_of(constant).at(2, 1) == &rows[2][1]);
}

TEST_CASE("numbers of 16 bits are told apart by their digits") {
  std::vector<Half> halves(5);
  static_assert(std::is_same_v<decltype(apollo::view_of(halves)), MatrixView<apollo::float16>>);
  static_assert(std::is_same_v<decltype(apollo::constant_view_of(halves)), MatrixView<const apollo::float16>>);
  CHECK(static_cast<void*>(apollo::view_of(halves).at(4, 0)) == &halves[4]);
  static_assert(std::is_same_v<apollo::adapter::Ours<std::int16_t>::type, std::int16_t>);
}

TEST_CASE("a type fits one rule, and one that fits none has a reason") {
  using apollo::adapter::refusal;
  using apollo::adapter::Refusal;
  using apollo::adapter::Rules;
  static_assert(Rules::fitting<std::vector<float>> == 1 && Rules::fitting<std::array<float, 2>> == 1);
  static_assert(Rules::fitting<std::span<float>> == 1 && Rules::fitting<std::span<const float>> == 1);
  static_assert(Rules::fitting<float[3]> == 1 && Rules::fitting<float[3][4]> == 1 && Rules::fitting<Strided> == 1);
  static_assert(refusal<float[3][4][5]>() == Refusal::dimensions);
  static_assert(refusal<float*>() == Refusal::pointer);
  static_assert(refusal<std::vector<std::vector<float>>>() == Refusal::rows_apart);
  static_assert(refusal<Owned>() == Refusal::unknown && refusal<int>() == Refusal::unknown);
  // Containers and arrays own their memory, spans do not.
  static_assert(apollo::TensorTraits<std::vector<float>>::owns && apollo::TensorTraits<std::array<float, 2>>::owns);
  static_assert(!apollo::TensorTraits<std::span<float>>::owns && !apollo::TensorTraits<std::span<const float>>::owns);
}

TEST_CASE("a flat container becomes a matrix if its size is right") {
  std::vector<float> memory(12);
  const auto view = apollo::row_major(memory, 3, 4);
  CHECK(view.at(2, 3) == &memory[11]);
  const std::span<const float> constant(memory);
  CHECK(apollo::row_major(constant, 4, 3).at(3, 2) == &memory[11]);
#if defined(__cpp_exceptions)
  CHECK(mentions(refusal([&] { (void)apollo::row_major(memory, 3, 5); }), {"apollo: ", "12", "3 x 5", "15"}));
  CHECK(mentions(refusal([&] { (void)apollo::row_major(memory, 2, 3); }), {"12", "2 x 3"}));
#endif
}

TEST_CASE("a dense tensor has its last dimension fastest") {
  float x[120] = {};
  const apollo::TensorView<float> view(x, {2, 3, 4, 5});
  CHECK(view.strides == std::vector<Index>{60, 20, 5, 1});
  CHECK(view.dimensions() == 4);
  CHECK(apollo::TensorView<float>(x, {7}).strides == std::vector<Index>{1});
}

TEST_CASE("unfold: vectors and matrices need no statement") {
  float x[120] = {};
  for (const auto how : {apollo::Unfold::none, apollo::Unfold::rest}) {
    const auto line = apollo::unfold(apollo::TensorView<float>(x, {9}), how, "b");
    REQUIRE(line.size() == 1);
    CHECK(line[0].shape() == apollo::Shape{9, 1});
    CHECK(line[0].at(8, 0) == x + 8);
    const auto matrix = apollo::unfold(apollo::TensorView<float>(x, {4, 6}, {2, 13}), how, "w");
    REQUIRE(matrix.size() == 1);
    CHECK(matrix[0].shape() == apollo::Shape{4, 6});
    CHECK(matrix[0].at(3, 5) == x + 71);
  }
}

TEST_CASE("unfold rest is the first dimension by the product of the others") {
  float x[240] = {};
  const auto dense = apollo::unfold(apollo::TensorView<float>(x, {2, 3, 4, 5}), apollo::Unfold::rest, "conv");
  REQUIRE(dense.size() == 1);
  CHECK(dense[0].shape() == apollo::Shape{2, 60});
  int wrong = 0;
  for (Index a = 0; a < 2; ++a)
    for (Index b = 0; b < 3; ++b)
      for (Index c = 0; c < 4; ++c)
        for (Index d = 0; d < 5; ++d) wrong += dense[0].at(a, (b * 4 + c) * 5 + d) != x + ((a * 3 + b) * 4 + c) * 5 + d;
  CHECK(wrong == 0);
  // Any first stride and any one inner stride will do, and dimensions of one do not count.
  const auto gaps = apollo::unfold(apollo::TensorView<float>(x, {2, 3, 4}, {100, 8, 2}), apollo::Unfold::rest, "conv");
  CHECK(gaps[0].at(1, 11) == x + 122);
  const auto ones =
      apollo::unfold(apollo::TensorView<float>(x, {4, 3, 1, 1}, {3, 1, 77, 99}), apollo::Unfold::rest, "conv");
  CHECK(ones[0].shape() == apollo::Shape{4, 3});
  CHECK(ones[0].at(3, 2) == x + 11);
  const auto inner = apollo::unfold(apollo::TensorView<float>(x, {4, 1, 3}, {3, 55, 1}), apollo::Unfold::rest, "conv");
  CHECK(inner[0].at(3, 2) == x + 11);
}

TEST_CASE("unfold batch is a stack of matrices") {
  float x[240] = {};
  const auto stack =
      apollo::unfold(apollo::TensorView<float>(x, {3, 4, 5}, {60, 1, 7}), apollo::Unfold::batch, "experts");
  REQUIRE(stack.size() == 3);
  for (Index e = 0; e < 3; ++e) {
    CHECK(stack[static_cast<std::size_t>(e)].shape() == apollo::Shape{4, 5});
    CHECK(stack[static_cast<std::size_t>(e)].at(3, 4) == x + 60 * e + 3 + 28);
  }
}

TEST_CASE("blocks of stated heights tile a fused matrix") {
  float x[120] = {};
  const auto view = apollo::column_major(x, 12, 5);
  const auto blocks = apollo::split_rows(view, {4, 6, 2}, "qkv");
  REQUIRE(blocks.size() == 3);
  CHECK(blocks[0].at(0, 0) == view.at(0, 0));
  CHECK(blocks[1].at(5, 4) == view.at(9, 4));
  CHECK(blocks[2].at(1, 3) == view.at(11, 3));
  CHECK(blocks[2].shape() == apollo::Shape{2, 5});
}

#if defined(__cpp_exceptions)
TEST_CASE("what cannot be unfolded is refused with tensor, value and bound") {
  float x[240] = {};
  using apollo::TensorView;
  using apollo::Unfold;
  const auto fold = [&](std::vector<Index> extents, std::vector<Index> strides, Unfold how) {
    return refusal([&] { (void)apollo::unfold(TensorView<float>(x, extents, strides), how, "conv1"); });
  };
  CHECK(
      mentions(fold({2, 3, 4}, {12, 4, 1}, Unfold::none), {"apollo: ", "conv1", "3", "Unfold::rest", "Unfold::batch"}));
  CHECK(mentions(fold({2, 3}, {3, 1}, Unfold::batch), {"conv1", "2", "3"}));
  CHECK(mentions(fold({2, 2, 2, 2}, {8, 4, 2, 1}, Unfold::batch), {"conv1", "4", "3"}));
  CHECK(mentions(fold({}, {}, Unfold::rest), {"conv1", "0"}));
  CHECK(mentions(fold({2, 3, 4}, {1, 2, 6}, Unfold::rest), {"conv1"}));     // first dimension fastest
  CHECK(mentions(fold({2, 3, 4}, {100, 10, 2}, Unfold::rest), {"conv1"}));  // a gap between rows of the rest
  CHECK(mentions(refusal([&] { TensorView<float>(x, {2, 3}, {1}); }), {"apollo: ", "2", "1"}));
  CHECK(fold({2, 3, 4}, {100, 8, 2}, Unfold::rest).empty());
}

TEST_CASE("blocks that do not tile are refused") {
  float x[60] = {};
  const auto view = apollo::row_major(x, 12, 5);
  const auto split = [&](std::vector<Index> heights) {
    return refusal([&] { (void)apollo::split_rows(view, heights, "qkv"); });
  };
  CHECK(mentions(split({4, 4}), {"apollo: ", "qkv", "8", "12"}));
  CHECK(mentions(split({8, 8}), {"qkv", "16", "12"}));
  CHECK(mentions(split({12, 0}), {"qkv", "0"}));
  CHECK(mentions(split({13, -1}), {"qkv", "-1"}));
  CHECK(mentions(split({}), {"qkv", "12"}));
  CHECK(split({12}).empty());
}
#endif
