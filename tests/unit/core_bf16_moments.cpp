// SPDX-License-Identifier: Apache-2.0
// Trap 2: a second moment in bfloat16 must be able to decay. Ten thousand steps of stationary
// gradients, then of smaller ones.
// also: optimised-sanitizers
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include <apollo/optimizer/named.hpp>

#include "support.hpp"

namespace {

using apollo::Index;
using support::Matrix;

constexpr Index side = 100;

/// Mean of V over all elements, and the root mean square of V / exact V - 1.
struct Comparison {
  double mean_ratio = 0;
  double deviation = 0;
};

Comparison compare(const Matrix& narrow, const Matrix& wide) {
  double sum_narrow = 0, sum_wide = 0, squares = 0;
  for (std::size_t i = 0; i < wide.values.size(); ++i) {
    sum_narrow += narrow.values[i];
    sum_wide += wide.values[i];
    const double off = narrow.values[i] / wide.values[i] - 1;
    squares += off * off;
  }
  return {sum_narrow / sum_wide, std::sqrt(squares / static_cast<double>(wide.values.size()))};
}

}  // namespace

TEST_CASE("trap 2: rounding to nearest is what keeps a bfloat16 V from decaying") {
  int stuck = 0;
  for (std::uint32_t b = 0x3f00; b < 0x4000; ++b) {
    const float v = apollo::bits::from_bfloat16(static_cast<std::uint16_t>(b));
    stuck += apollo::bits::to_bfloat16(v * 0.999f) == b;
  }
  CHECK(stuck == 256);
}

TEST_CASE("trap 2: V in bfloat16 has the mean of V in float, stationary and after gradients shrink tenfold") {
  const apollo::Shape shape{side, side};
  apollo::AdamW<apollo::AdamMoments<apollo::bfloat16>> narrow(shape,
                                                              {.lr = 0, .weight_decay = 0, .check_finite = false});
  std::vector<float> weights(side * side, 0.0f), gradients(side * side);
  Matrix m(side, side), v(side, side);
  const auto w = apollo::row_major(weights.data(), side, side), g = apollo::row_major(gradients.data(), side, side);
  const auto run = [&](int steps, float size, std::uint64_t phase) {
    bool stepped = true;
    for (int step = 0; step < steps; ++step) {
      const apollo::RandomStream stream{phase, 0, apollo::Stream::projection, static_cast<std::uint64_t>(step)};
      apollo::fill_normals(stream, 0, gradients.size(), gradients.data());
      for (std::size_t i = 0; i < gradients.size(); ++i) {
        gradients[i] *= size;
        const auto x = static_cast<double>(gradients[i]);
        m.values[i] = 0.9 * m.values[i] + 0.1 * x;
        v.values[i] = 0.999 * v.values[i] + 0.001 * x * x;
      }
      stepped = narrow.step(w, g).stepped && stepped;
    }
    CHECK(stepped);
    const auto state = support::state_of(narrow);
    const Comparison seen = compare(state.arrays.at("exp_avg_sq"), v);
    MESSAGE("V: mean over the exact one's " << seen.mean_ratio << ", deviation of an element " << seen.deviation);
    CHECK(std::fabs(seen.mean_ratio - 1) <= 0.005);
    CHECK(seen.deviation <= 0.06);
    // M has mean zero; its error is a few roundings of 1/256 each.
    const double error = support::norm(support::difference(state.arrays.at("exp_avg"), m)) / support::norm(m);
    CHECK(error <= 0.02);
    double mean = 0;
    for (const double x : state.arrays.at("exp_avg_sq").values) mean += x / (side * side);
    return mean;
  };
  const double large = run(10000, 0.25f, 1);
  CHECK(std::fabs(large - 0.0625) <= 0.02 * 0.0625);
  const double small = run(10000, 0.025f, 2);
  CHECK(std::fabs(small - 0.000625) <= 0.03 * 0.000625);  // e^-10 of the first size is left
  CHECK(narrow.steps() == 20000);
}

TEST_CASE("trap 2: the same for APOLLO's moments") {
  const apollo::Shape shape{250, 20};
  apollo::Apollo<apollo::FixedProjection, apollo::AdamMoments<apollo::bfloat16>> narrow(shape, {.lr = 0, .rank = 4});
  Matrix p(4, 20);
  for (Index k = 0; k < 4; ++k) p(k, 5 * k) = 1;  // R is four of the columns
  const support::Tensor<float> directions(p, support::Layout::row_major);
  narrow.set_projection(directions.view);
  std::vector<float> weights(250 * 20, 0.0f), gradients(250 * 20);
  Matrix v(250, 4);
  const auto w = apollo::row_major(weights.data(), 250, 20), g = apollo::row_major(gradients.data(), 250, 20);
  bool stepped = true;
  for (int step = 0; step < 5000; ++step) {
    const apollo::RandomStream stream{3, 0, apollo::Stream::projection, static_cast<std::uint64_t>(step)};
    apollo::fill_normals(stream, 0, gradients.size(), gradients.data());
    for (Index i = 0; i < 250; ++i)
      for (Index k = 0; k < 4; ++k) {
        const auto x = static_cast<double>(g(i, 5 * k));
        v(i, k) = 0.999 * v(i, k) + 0.001 * x * x;
      }
    stepped = narrow.step(w, g).stepped && stepped;
  }
  CHECK(stepped);
  const Comparison seen = compare(support::state_of(narrow).arrays.at("exp_avg_sq"), v);
  MESSAGE("V: mean over the exact one's " << seen.mean_ratio << ", deviation of an element " << seen.deviation);
  CHECK(std::fabs(seen.mean_ratio - 1) <= 0.008);  // a thousand elements, not ten thousand
  CHECK(seen.deviation <= 0.06);
}
