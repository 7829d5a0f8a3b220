// SPDX-License-Identifier: Apache-2.0
// The dlib bridge against dlib's own layers, Adam and trainer.
#include <dlib/dnn.h>

#include <doctest/doctest.h>

#include <sstream>

#include <apollo/bridge/dlib.hpp>
#include <apollo/eigen.hpp>

namespace {

using namespace dlib;
using Sample = matrix<float, 12, 1>;
template <class Options>
using Solver = apollo::DlibSolver<Options, apollo::AdamWOptions, apollo::EigenBackend>;

/// A layer that has been given input once, so that it has parameters; and gradients for it.
template <class Layer>
struct Fixture {
  Layer net;
  resizable_tensor gradient;
  dlib::rand random{7};

  explicit Fixture(const typename Layer::input_type& sample) {
    net(sample);
    gradient.copy_size(layer().get_layer_params());
  }
  auto& layer() { return net.layer_details(); }
  const tensor& parameters() { return layer().get_layer_params(); }
  template <class AnySolver>
  std::vector<float> step(AnySolver& solver, float lr) {
    const tensor& moved = solver(lr, layer(), gradient);
    const std::vector<float> result(moved.host(), moved.host() + moved.size());
    tt::add(layer().get_layer_params(), layer().get_layer_params(), moved);
    return result;
  }
  void draw() {
    for (float& g : gradient) g = static_cast<float>(random.get_random_gaussian());
  }
};
using Dense = Fixture<fc<9, input<Sample>>>;

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(d <= largest)) largest = d;
  }
  return largest;
}

Sample sample() { return ones_matrix<float>(12, 1); }

}  // namespace

TEST_CASE("AdamW without decay is dlib's adam without decay") {
  Dense ours(sample()), theirs(sample());
  theirs.layer() = ours.layer();
  Solver<apollo::AdamWOptions> solver({.lr = 1e-2, .weight_decay = 0}, {.lr = 1e-2, .weight_decay = 0});
  dlib::adam adam(0, 0.9f, 0.999f);
  for (int t = 0; t < 30; ++t) {
    ours.draw(), theirs.draw();
    const float lr = t < 15 ? 1e-2f : 1e-3f;
    const auto a = ours.step(solver, lr), b = theirs.step(adam, lr);
    CHECK(difference(a, b) <= 2e-6);
    CHECK(difference(a, std::vector<float>(a.size())) > 1e-4);
  }
}

TEST_CASE("layers are seen as matrices and biases: bytes of state say so") {
  const auto bytes_after_a_step = [](auto& fixture) {
    Solver<apollo::ApolloMiniOptions> solver;
    fixture.draw();
    fixture.step(solver, 1e-2f);
    return solver.state_bytes();
  };
  Dense dense(sample());
  CHECK(bytes_after_a_step(dense) == 4 * (2 * 12 + 2 * 9));
  Fixture<fc_no_bias<9, input<Sample>>> no_bias(sample());
  CHECK(bytes_after_a_step(no_bias) == 4 * 2 * 12);
  const matrix<float> image = ones_matrix<float>(8, 8);
  Fixture<con<6, 3, 5, 1, 1, input<matrix<float>>>> convolution(image);  // 6 x 15
  CHECK(bytes_after_a_step(convolution) == 4 * (2 * 15 + 2 * 6));
  Fixture<cont<6, 3, 5, 1, 1, con<4, 1, 1, 1, 1, input<matrix<float>>>>> transposed(image);  // 4 x 90
  CHECK(bytes_after_a_step(transposed) == 4 * (2 * 90 + 2 * 6));
  Fixture<bn_fc<input<Sample>>> normalised(sample());
  CHECK(bytes_after_a_step(normalised) == 4 * 2 * static_cast<apollo::Index>(normalised.parameters().size()));
}

TEST_CASE("multipliers of layers, a frozen bias, and a gradient that is not finite") {
  Dense fixture(sample());
  fixture.layer().set_learning_rate_multiplier(0.5);
  fixture.layer().set_bias_learning_rate_multiplier(0);
  Solver<apollo::AdamWOptions> solver({.lr = 1e-2, .weight_decay = 0}, {.lr = 1e-2, .weight_decay = 0});
  fixture.draw();
  const auto step = fixture.step(solver, 1e-2f);
  const std::size_t weights = 12 * 9;
  CHECK(std::abs(step[0]) == doctest::Approx(5e-3).epsilon(1e-3));  // Adam's first step is lr
  for (std::size_t i = weights; i < step.size(); ++i) CHECK(step[i] == 0);
  fixture.gradient.host()[3] = std::numeric_limits<float>::quiet_NaN();
  const auto none = fixture.step(solver, 1e-2f);
  CHECK(difference(none, std::vector<float>(none.size())) == 0);
}

TEST_CASE("a solver that was written and read, or copied, goes on to the bit") {
  Dense straight(sample()), resumed(sample());
  resumed.layer() = straight.layer();
  const apollo::ApolloOptions options{.lr = 1e-2, .rank = 3, .update_proj_gap = 2};
  Solver<apollo::ApolloOptions> one(options), other(options);
  for (int t = 0; t < 5; ++t) {
    straight.draw(), resumed.draw();
    straight.step(one, 1e-2f), resumed.step(other, 1e-2f);
  }
  std::stringstream file;
  serialize(other, file);
  Solver<apollo::ApolloOptions> read(options), copied(other);
  deserialize(read, file);
  Dense twin = resumed;
  for (int t = 0; t < 5; ++t) {
    straight.draw(), resumed.draw(), twin.draw();
    const auto a = straight.step(one, 1e-2f);
    CHECK(difference(a, resumed.step(read, 1e-2f)) == 0);
    CHECK(difference(a, twin.step(copied, 1e-2f)) == 0);
  }
  std::stringstream again;
  serialize(other, again);
  Solver<apollo::ApolloOptions> another_rank({.lr = 1e-2, .rank = 4});
  deserialize(another_rank, again);
  CHECK_THROWS_WITH_AS(resumed.step(another_rank, 1e-2f), doctest::Contains("a dlib solver's state"),
                       std::runtime_error);
  CHECK_THROWS_AS(Solver<apollo::ApolloOptions>({.lr = 0}), std::invalid_argument);
}
