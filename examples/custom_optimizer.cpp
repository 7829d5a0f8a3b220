// SPDX-License-Identifier: Apache-2.0
// A new member of the family, composed of policies: how to project, what to scale by, how to keep the moments.
#include <cstdio>

#include <Eigen/Core>

#include <apollo/apollo.hpp>
#include <apollo/eigen.hpp>

// APOLLO with moments of two bytes and a sparse projection (one addition for each element of the gradient, whatever the
// rank). Named in any order; what is not named stays plain: no limiter, weights as they are, computing in float.
using NarrowApollo = apollo::eigen::StructuredOptimizer<apollo::RandomProjection<apollo::SparseSign>,
                                                        apollo::ChannelScaling, apollo::AdamMoments<apollo::bfloat16>>;

int main() {
  const Eigen::MatrixXf target = Eigen::MatrixXf::Random(96, 64);
  Eigen::MatrixXf W = Eigen::MatrixXf::Zero(96, 64), G(96, 64);

  // On its own. The options are all there are; one that this composition never reads would be refused.
  NarrowApollo optimizer(W, {.lr = 2e-2, .rank = 16});
  for (int step = 0; step <= 200; ++step) {
    G = W - target;
    if (step % 50 == 0) std::printf("step %3d: loss %.5f\n", step, G.array().square().mean());
    optimizer.step(W, G);
  }
  std::printf("its state is %lld bytes, APOLLO's would be %lld\n", static_cast<long long>(optimizer.state_bytes()),
              static_cast<long long>(apollo::Apollo<>::state_bytes({96, 64}, {.rank = 16})));

  // As a group of a whole model.
  apollo::eigen::Optimizer model;
  const auto group = model.add_group<NarrowApollo>({.lr = 2e-2, .rank = 16});
  model.add(group, "layer.weight", W, G);
  W.setZero();
  for (int step = 0; step < 200; ++step) {
    G = W - target;
    model.step();
  }
  const float loss = (W - target).array().square().mean();
  std::printf("in a model: loss %.5f\n", loss);
  return loss < 1e-3f ? 0 : 1;
}
