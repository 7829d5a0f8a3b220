// SPDX-License-Identifier: Apache-2.0
// Sketches: subsampled transforms against their matrices, and what every sketch does to the norms of gradients of three kinds.
// also: optimised-sanitizers
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <apollo/core.hpp>

#include "family_oracles.hpp"
#include "sketches.hpp"
#include "support.hpp"

namespace {

using apollo::Index;
using apollo::RandomStream;
using apollo::Stream;
using support::Matrix;

RandomStream stream_of(std::uint64_t counter) {
  return {0x1234567, apollo::tensor_id("sketched"), Stream::projection, counter};
}

/// The frequencies and signs that the streams' layout prescribes.
struct Choice {
  std::vector<Index> sample;
  std::vector<double> signs;

  Choice(RandomStream stream, Index rank, Index removed, Index n) {
    stream.stream = Stream::hash;
    for (Index k = 0; k < rank; ++k) {
      const double unit = static_cast<double>(stream.word(static_cast<std::uint64_t>(k))) * 0x1p-32;
      sample.push_back(n / rank * k + static_cast<Index>(unit * static_cast<double>(n / rank)));
    }
    stream.stream = Stream::signs;
    for (Index s = 0; s < removed; ++s) signs.push_back(stream.bit(static_cast<std::uint64_t>(s)) ? -1.0 : 1.0);
  }
};

enum class Kind { gaussian, heavy_tailed, outlier_columns, outliers_in_a_lane };

/// Channels in rows. Heavy tails are Student's with two degrees of freedom; outliers are three columns a hundred times larger, at
/// the same place among eight or not.
Matrix gradients(Kind kind, Index channels, Index length) {
  Matrix x = support::gaussian_matrix(channels, length, 5);
  if (kind == Kind::heavy_tailed) {
    const Matrix a = support::gaussian_matrix(channels, length, 6), b = support::gaussian_matrix(channels, length, 7);
    for (std::size_t i = 0; i < x.values.size(); ++i)
      x.values[i] /= std::sqrt((a.values[i] * a.values[i] + b.values[i] * b.values[i]) / 2);
  }
  if (kind == Kind::outlier_columns)
    for (const Index s : {Index{3}, Index{20}, Index{41}})
      for (Index j = 0; j < channels; ++j) x(j, s) *= 100;
  if (kind == Kind::outliers_in_a_lane)
    for (const Index s : {Index{3}, Index{19}, Index{43}})
      for (Index j = 0; j < channels; ++j) x(j, s) *= 100;
  return x;
}

struct Statistics {
  double mean = 0, variance = 0;  // of |P x|^2 / |x|^2, over draws, averaged over channels
};

template <class Sketch>
Statistics statistics(const Matrix& x, Index rank, int draws) {
  std::vector<double> sum(static_cast<std::size_t>(x.rows)), squares = sum;
  for (int d = 0; d < draws; ++d) {
    const Matrix p = support::directions<Sketch>(stream_of(static_cast<std::uint64_t>(d)), rank, x.cols);
    const Matrix r = support::product(x, support::transposed(p));
    for (Index j = 0; j < x.rows; ++j) {
      const double ratio = std::pow(support::row_norm(r, j) / support::row_norm(x, j), 2);
      sum[static_cast<std::size_t>(j)] += ratio, squares[static_cast<std::size_t>(j)] += ratio * ratio;
    }
  }
  Statistics result;
  for (std::size_t j = 0; j < sum.size(); ++j) {
    const double mean = sum[j] / draws;
    result.mean += mean / static_cast<double>(sum.size());
    result.variance += (squares[j] / draws - mean * mean) / static_cast<double>(sum.size());
  }
  return result;
}

template <class Sketch>
void check_norms() {
  CAPTURE(std::string(Sketch::name));
  constexpr int draws = 3000;
  for (const Index rank : {Index{8}, Index{32}})
    for (const Kind kind : {Kind::gaussian, Kind::heavy_tailed, Kind::outlier_columns, Kind::outliers_in_a_lane}) {
      CAPTURE(rank);
      CAPTURE(static_cast<int>(kind));
      const auto r = static_cast<double>(rank);
      const Statistics got = statistics<Sketch>(gradients(kind, 6, 96), rank, draws);
      CHECK(std::fabs(got.mean - 1) <= 5 * std::sqrt(2 / r / draws));
      CHECK(got.variance <= 1.1 * 2 / r);  // the Gaussian's is 2 / r
    }
}

}  // namespace

TEST_CASE("a Hadamard sketch is the sampled transform of the signed input") {
  for (const Index removed : {Index{16}, Index{23}, Index{100}}) {
    const Index n = support::next_power_of_two(removed);
    for (const Index rank : {Index{1}, Index{4}, Index{16}}) {
      const RandomStream stream = stream_of(11);
      const Choice choice(stream, rank, removed, n);
      const Matrix p = support::directions<apollo::HadamardTransform>(stream, rank, removed);
      CHECK(support::relative_error(p, support::srht_sketch(choice.sample, choice.signs)) <= 1e-12);
    }
  }
}

TEST_CASE("a cosine sketch is the sampled transform of the signed input") {
  for (const Index removed : {Index{16}, Index{36}, Index{100}})
    for (const Index rank : {Index{1}, Index{4}}) {
      const RandomStream stream = stream_of(12);
      const Choice choice(stream, rank, removed, removed);
      const Matrix p = support::directions<apollo::CosineTransform>(stream, rank, removed);
      CHECK(support::relative_error(p, support::dct_sketch(choice.sample, choice.signs)) <= 1e-6);
    }
}

TEST_CASE("a transform that takes every frequency is a rotation") {
  for (const Index n : {Index{16}, Index{64}}) {
    for (const Matrix& p : {support::directions<apollo::HadamardTransform>(stream_of(1), n, n),
                            support::directions<apollo::CosineTransform>(stream_of(1), n, n)}) {
      Matrix identity(n, n);
      for (Index i = 0; i < n; ++i) identity(i, i) = 1;
      CHECK(support::relative_error(support::product(p, support::transposed(p)), identity) <= 1e-5);
    }
  }
}

TEST_CASE("transforms do not depend on the pieces they are drawn in") {
  const Index rank = 5, removed = 301;
  const auto check = [&](auto sketch) {
    std::vector<float> whole(static_cast<std::size_t>(rank * removed)), part(whole.size());
    apollo::draw(sketch, stream_of(2), rank, removed, 0, removed, whole.data());
    for (const Index first : {Index{0}, Index{1}, Index{127}, Index{128}, Index{200}, Index{300}})
      for (const Index count : {Index{1}, Index{70}, removed - first}) {
        if (first + count > removed) continue;
        apollo::draw(sketch, stream_of(2), rank, removed, first, count, part.data());
        for (Index i = 0; i < count * rank; ++i)
          REQUIRE(part[static_cast<std::size_t>(i)] == whole[static_cast<std::size_t>(first * rank + i)]);
      }
  };
  check(apollo::HadamardTransform{});
  check(apollo::CosineTransform{});
}

TEST_CASE("transforms are frozen, bit by bit") {
  const auto hash = [](auto sketch) {
    std::vector<float> p(7 * 301);
    apollo::draw(sketch, stream_of(3), 7, 301, 0, 301, p.data());
    std::uint64_t sum = 0;
    for (const float x : p) sum = support::mix(sum ^ std::bit_cast<std::uint32_t>(x));
    return sum;
  };
  CHECK(hash(apollo::HadamardTransform{}) == 2181590823213740898u);
  CHECK(hash(apollo::CosineTransform{}) == 10430390118675363398u);
}

TEST_CASE("sketches keep squared norms in the mean, with at most the Gaussian's variance") {
  check_norms<apollo::Gaussian>();
  check_norms<apollo::Rademacher>();
  check_norms<apollo::SparseSigns<1>>();
  check_norms<apollo::SparseSigns<2>>();
  check_norms<apollo::SparseSigns<4>>();
  check_norms<apollo::HadamardTransform>();
  check_norms<apollo::CosineTransform>();
}
