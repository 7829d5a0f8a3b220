// SPDX-License-Identifier: Apache-2.0
// scale = automatic: structured steps as long as AdamW's on the same gradients, so that a learning rate carries over.
// also: optimised-sanitizers
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include <apollo/optimizer/named.hpp>

#include "oracles.hpp"
#include "support.hpp"

namespace {

using apollo::Index;
using apollo::Shape;
using support::Matrix;

/// Length of a structured step over that of AdamW's bias-corrected step, both before the learning
/// rate, averaged over steps
/// 10 to 40 and over seeds. Gradients are Gaussian and independent.
template <class Optimizer, class Options>
double length_ratio(Shape shape, Options options, int seeds = 5) {
  double structured = 0, adam = 0;
  for (int seed = 1; seed <= seeds; ++seed) {
    options.lr = 1;
    options.seed = static_cast<std::uint64_t>(seed);
    Optimizer optimizer(shape, options);
    support::Hyper h;
    h.lr = 1;
    support::AdamWOracle oracle{h};
    std::vector<float> weights(static_cast<std::size_t>(shape.rows * shape.cols)), gradients(weights.size());
    for (int step = 1; step <= 40; ++step) {
      const apollo::RandomStream stream{static_cast<std::uint64_t>(1000 + seed), 0, apollo::Stream::start,
                                        static_cast<std::uint64_t>(step)};
      apollo::fill_normals(stream, 0, gradients.size(), gradients.data());
      Matrix gradient(shape.rows, shape.cols), dense(shape.rows, shape.cols);
      for (std::size_t i = 0; i < gradients.size(); ++i) gradient.values[i] = static_cast<double>(gradients[i]);
      oracle.step(dense, gradient);
      for (float& x : weights) x = 0;  // what is left after the step is the step
      const bool stepped = optimizer
                               .step(apollo::row_major(weights.data(), shape.rows, shape.cols),
                                     apollo::row_major(gradients.data(), shape.rows, shape.cols))
                               .stepped;
      REQUIRE(stepped);
      if (step < 10) continue;
      double squares = 0;
      for (const float x : weights) squares += static_cast<double>(x) * static_cast<double>(x);
      structured += std::sqrt(squares);
      adam += support::norm(dense);
    }
  }
  return structured / adam;
}

template <class Sketch>
using Channels =
    apollo::StructuredOptimizer<apollo::RandomProjection<Sketch>, apollo::ChannelScaling, apollo::AdamMoments<>>;
template <class Sketch>
using Whole =
    apollo::StructuredOptimizer<apollo::RandomProjection<Sketch>, apollo::TensorScaling, apollo::AdamMoments<>>;

constexpr Shape shapes[] = {{96, 64}, {64, 96}, {80, 80}, {48, 256}};

std::string refusal(const auto& action) {
  try {
    action();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("channels: steps are within 10 % of AdamW's from rank 8 on") {
  for (const Shape shape : shapes)
    for (const Index rank : {8, 16, 32, 48}) {
      if (rank > shape.rows || rank > shape.cols) continue;
      const double ratio = length_ratio<Channels<apollo::Gaussian>>(
          shape, apollo::StructuredOptions{.rank = rank, .scale = apollo::automatic});
      MESSAGE("channels of " << apollo::text(shape) << ", rank " << rank << ": " << ratio);
      CHECK(std::fabs(ratio - 1) <= 0.1);
    }
}

TEST_CASE("tensors: steps are within 10 % of AdamW's at every rank") {
  for (const Shape shape : shapes)
    for (const Index rank : {1, 2, 4, 8, 32}) {
      const double ratio = length_ratio<Whole<apollo::Gaussian>>(
          shape, apollo::StructuredOptions{.rank = rank, .scale = apollo::automatic});
      MESSAGE("tensor of " << apollo::text(shape) << ", rank " << rank << ": " << ratio);
      CHECK(std::fabs(ratio - 1) <= 0.1);
    }
}

TEST_CASE("the named optimizers take the same scale, without their limiter") {
  const Shape shape{96, 64};
  const double apollo_ratio = length_ratio<apollo::Apollo<apollo::NoLimiter>>(
      shape, apollo::ApolloOptions{.rank = 16, .scale = apollo::automatic});
  CHECK(std::fabs(apollo_ratio - 1) <= 0.1);
  const double mini_ratio =
      length_ratio<apollo::ApolloMini<apollo::NoLimiter>>(shape, apollo::ApolloMiniOptions{.scale = apollo::automatic});
  CHECK(std::fabs(mini_ratio - 1) <= 0.1);
}

TEST_CASE("the removed side counts, not the shorter one") {
  const double ratio = length_ratio<Channels<apollo::Gaussian>>(
      Shape{48, 256},
      apollo::StructuredOptions{.rank = 16, .scale = apollo::automatic, .proj_type = apollo::ProjType::reverse_std});
  CHECK(std::fabs(ratio - 1) <= 0.1);
}

TEST_CASE("nothing projected: a structured step has AdamW's length as it is") {
  using PerChannel = apollo::StructuredOptimizer<apollo::ChannelScaling, apollo::AdamMoments<>>;
  using PerTensor = apollo::StructuredOptimizer<apollo::TensorScaling, apollo::AdamMoments<>>;
  const Shape shape{96, 64};
  const apollo::StructuredOptions options{.scale = apollo::automatic};
  CHECK(std::fabs(length_ratio<PerChannel>(shape, options, 1) - 1) <= 1e-4);
  CHECK(std::fabs(length_ratio<PerTensor>(shape, options, 1) - 1) <= 1e-4);
}

TEST_CASE("the stated formulas: channel S (r - 2) / r^2, tensor S / r") {
  const Shape shape{96, 64};
  const auto factor = [&](auto automatic, auto one) {
    // The only difference is the factor, so that two first steps are proportional.
    std::vector<float> a(96 * 64, 0.0f), b(96 * 64, 0.0f);
    std::vector<float> gradients(96 * 64);
    apollo::fill_normals({4, 0, apollo::Stream::start, 1}, 0, gradients.size(), gradients.data());
    const auto g = apollo::row_major(gradients.data(), 96, 64);
    CHECK(automatic.step(apollo::row_major(a.data(), 96, 64), g).stepped);
    CHECK(one.step(apollo::row_major(b.data(), 96, 64), g).stepped);
    double top = 0, bottom = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      top += static_cast<double>(a[i]) * static_cast<double>(a[i]);
      bottom += static_cast<double>(b[i]) * static_cast<double>(b[i]);
    }
    return top / bottom;  // of squares, so that it is the scale and not its root
  };
  for (const Index rank : {3, 8, 64}) {
    const auto r = static_cast<double>(rank);
    const apollo::ApolloOptions one{.rank = rank}, chosen{.rank = rank, .scale = apollo::automatic};
    CHECK(std::fabs(factor(apollo::Apollo<>(shape, chosen), apollo::Apollo<>(shape, one)) / (64 * (r - 2) / (r * r)) -
                    1) <= 1e-4);
  }
  const apollo::ApolloMiniOptions one{.scale = 1}, chosen{.scale = apollo::automatic};
  CHECK(std::fabs(factor(apollo::ApolloMini<>(shape, chosen), apollo::ApolloMini<>(shape, one)) / 64 - 1) <= 1e-4);
}

TEST_CASE("where no automatic scale exists it is refused") {
  const Shape shape{96, 64};
  const apollo::ApolloOptions two{.rank = 2, .scale = apollo::automatic}, three{.rank = 3, .scale = apollo::automatic};
  const auto text = refusal([&] { apollo::Apollo<>(shape, two, "wq"); });
  CHECK(text.find("wq") != std::string::npos);
  CHECK(text.find("automatic") != std::string::npos);
  CHECK(refusal([&] { apollo::Apollo<>(shape, three, "wq"); }).empty());
  const apollo::ApolloOptions single{.rank = 1, .scale = apollo::automatic, .allow_rank_1 = true};
  CHECK_FALSE(refusal([&] { apollo::Apollo<>(shape, single, "wq"); }).empty());
}
