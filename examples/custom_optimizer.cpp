// SPDX-License-Identifier: Apache-2.0
// A new member of the family, composed of policies: how to project, what to scale by, how to keep the moments.
#include <Eigen/Core>
#include <apollo/apollo.hpp>
#include <apollo/eigen.hpp>
#include <cstdio>

// APOLLO with a sparse projection (one product per gradient element, whatever the rank) and moments of two bytes.
using SparseApollo = apollo::StructuredOptimizer<apollo::RandomProjection<apollo::SparseSign>, apollo::ChannelScaling,
                                                 apollo::AdamMoments<apollo::bfloat16>, apollo::EigenBackend>;

int main() {
  const Eigen::MatrixXf target = Eigen::MatrixXf::Random(96, 64);
  Eigen::MatrixXf W = Eigen::MatrixXf::Zero(96, 64), G(96, 64);
  SparseApollo optimizer(W, {.lr = 2e-2, .rank = 16});
  for (int step = 0; step <= 200; ++step) {
    G = W - target;
    optimizer.step(W, G);
    if (step % 50 == 0) std::printf("step %3d: loss %.4f\n", step, static_cast<double>(0.5f * G.squaredNorm()));
  }
  std::printf("state: %lld bytes\n", static_cast<long long>(optimizer.state_bytes()));
}
