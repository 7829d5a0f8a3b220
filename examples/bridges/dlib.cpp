// SPDX-License-Identifier: Apache-2.0
// dlib: a network learns which of ten directions a vector lies nearest to, with APOLLO as the trainer's solver.
#include <dlib/dnn.h>

#include <cstdio>

#include <apollo/bridge/dlib.hpp>
#include <apollo/eigen.hpp>

using namespace dlib;

constexpr long inputs = 48, classes = 10;
using Sample = matrix<float, inputs, 1>;
using Net = loss_multiclass_log<fc<classes, relu<fc<96, input<Sample>>>>>;
using Solver = apollo::DlibSolver<apollo::ApolloOptions, apollo::AdamWOptions, apollo::EigenBackend>;

int main() {
  dlib::rand random(1);
  const auto draw = [&](auto& values) {
    for (float& value : values) value = static_cast<float>(random.get_random_gaussian());
  };
  std::vector<Sample> directions(classes), samples(6000);
  std::vector<unsigned long> labels;
  for (Sample& direction : directions) draw(direction);
  for (Sample& sample : samples) {
    draw(sample);
    unsigned long nearest = 0;
    for (unsigned long k = 1; k < classes; ++k)
      if (dot(directions[k], sample) > dot(directions[nearest], sample)) nearest = k;
    labels.push_back(nearest);
  }
  const std::size_t training = 5500;

  Net net;
  dnn_trainer<Net, Solver> trainer(net, Solver({.lr = 1e-2, .rank = 8}, {.lr = 1e-3}));
  trainer.set_learning_rate(1e-2);
  trainer.set_mini_batch_size(50);
  trainer.set_max_num_epochs(30);
  trainer.train({samples.begin(), samples.begin() + training}, {labels.begin(), labels.begin() + training});

  const auto guesses = net(std::vector<Sample>(samples.begin() + training, samples.end()));
  int right = 0;
  for (std::size_t i = 0; i < guesses.size(); ++i) right += guesses[i] == labels[training + i];
  const double accuracy = right / static_cast<double>(guesses.size());
  std::printf("dlib: %.1f %% of %zu vectors that were not trained on\n", 100 * accuracy, guesses.size());
  return accuracy >= 0.88 ? 0 : 1;
}
