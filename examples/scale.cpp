// SPDX-License-Identifier: Apache-2.0
// A granularity of one's own: SCALE (Glentis et al., arXiv:2506.16659) written from its paper. It gives every channel of the
// gradient length one and remembers nothing, except in the output head, which has momentum. docs/compose.md explains it.
#include <cmath>
#include <cstdio>

#include <Eigen/Core>

#include <apollo/apollo.hpp>
#include <apollo/eigen.hpp>

// N is the gradient, or its momentum, and the step is s o N with one s for each channel.
struct UnitChannels {
  using role = apollo::GranularityRole;
  static constexpr bool elementwise = false;            // not N itself, as AdamW's,
  static constexpr bool per_channel = true;             // but one s a channel,
  static constexpr bool of_update = true;               // which multiplies N, not the gradient as APOLLO's;
  static constexpr bool residual = false;               // there is no projection that could leave something
  static constexpr const char* name = "unit_channels";  // in checkpoints
  static double ratio(double n_squared, double) { return 1 / (std::sqrt(n_squared) + 1e-8); }
};

using ScaleBody = apollo::eigen::StructuredOptimizer<UnitChannels>;
using ScaleHead = apollo::eigen::StructuredOptimizer<UnitChannels, apollo::MeanMoments<>>;

int main() {
  // Two layers, y = head body x, learn a map of rank 4.
  const Eigen::MatrixXf x = Eigen::MatrixXf::Random(24, 256);
  const Eigen::MatrixXf y = Eigen::MatrixXf::Random(8, 4) * Eigen::MatrixXf::Random(4, 24) * x;
  Eigen::MatrixXf body = Eigen::MatrixXf::Random(16, 24) / 4, head = Eigen::MatrixXf::Random(8, 16) / 4;
  Eigen::MatrixXf body_gradient(16, 24), head_gradient(8, 16);

  apollo::eigen::Optimizer optimizer;
  constexpr auto rows = apollo::ChannelAxis::rows;  // weights are stored out x in: a channel is one output
  optimizer.add(optimizer.add_group<ScaleBody>({.lr = 0.02, .channel_axis = rows}), "body", body, body_gradient);
  optimizer.add(optimizer.add_group<ScaleHead>({.lr = 0.02, .channel_axis = rows}), "head", head, head_gradient);
  optimizer.schedule(apollo::Cosine{.warmup = 10, .total = 601, .floor = 0.01});
  float first = 0, loss = 0;
  for (int step = 0; step < 600; ++step) {
    const Eigen::MatrixXf error = head * (body * x) - y;
    loss = error.squaredNorm() / static_cast<float>(error.size());
    if (step == 0) first = loss;
    head_gradient.noalias() = error * (body * x).transpose();
    body_gradient.noalias() = head.transpose() * error * x.transpose();
    optimizer.step();
  }
  std::printf("loss %.4f, after 600 steps %.6f; state %lld bytes, the head's momentum\n", first, loss,
              static_cast<long long>(optimizer.state_bytes()));
  return loss < 0.01f * first && optimizer.state_bytes() == 4 * head.size() ? 0 : 1;
}
