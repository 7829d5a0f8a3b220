// SPDX-License-Identifier: Apache-2.0
// libtorch: a network on Fashion-MNIST under torch's AdamW and, in three more lines, under APOLLO-Mini.
#include <torch/torch.h>
#include <chrono>
#include <cstdio>

#include <apollo/bridge/libtorch.hpp>
#include <apollo/eigen.hpp>

#include "fashion_mnist/data.hpp"

using torch::nn::Linear, torch::nn::ReLU, torch::nn::Sequential;
using Apollo = apollo::libtorch::Optimizer<apollo::EigenBackend>;

torch::Tensor tensor(const std::vector<std::uint8_t>& bytes) {
  return torch::tensor(at::ArrayRef<std::uint8_t>(bytes));
}
torch::Tensor images(const example::Dataset& set) {
  return tensor(set.images).view({-1, 784}).to(torch::kFloat).div_(255).sub_(0.286).div_(0.353);
}
torch::Tensor labels(const example::Dataset& set) { return tensor(set.labels).to(torch::kLong); }

/// Returns the share of test images that are told right; `ms` is the median of a step.
double train(Sequential& net, torch::optim::Optimizer& optimizer, const example::Dataset& training,
             const example::Dataset& test, double& ms) {
  const torch::Tensor x = images(training), y = labels(training);
  torch::optim::StepLR schedule(optimizer, 1, 0.5);  // once an epoch
  std::vector<double> times;
  for (int epoch = 0; epoch < 5; ++epoch, schedule.step()) {
    for (const torch::Tensor& chosen : torch::randperm(x.size(0)).split(128)) {
      optimizer.zero_grad();
      torch::cross_entropy_loss(net->forward(x.index_select(0, chosen)), y.index_select(0, chosen)).backward();
      const auto start = std::chrono::steady_clock::now();
      optimizer.step();
      times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    }
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  ms = times[times.size() / 2];
  const torch::NoGradGuard off;
  return net->forward(images(test)).argmax(1).eq(labels(test)).to(torch::kDouble).mean().item<double>();
}

int main() {
  const auto training = example::read_dataset("/usr/share/datasets/fashion-mnist", "train", 60000);
  const auto test = example::read_dataset("/usr/share/datasets/fashion-mnist", "t10k", 10000);
  double accuracy[2], ms[2], bytes[2] = {8.0 * (784 * 512 + 512 * 256), 0};
  for (const bool mini : {false, true}) {
    torch::manual_seed(1);
    Sequential net(Linear(784, 512), ReLU(), Linear(512, 256), ReLU(), Linear(256, 10));
    torch::optim::AdamW adamw(net->parameters(), 1e-3);
    Apollo apollo(*net, apollo::ApolloMiniOptions{.lr = 1.5e-2}, apollo::AdamWOptions{.lr = 1e-3}, {"4.weight"});
    accuracy[mini] = mini ? train(net, apollo, training, test, ms[1]) : train(net, adamw, training, test, ms[0]);
    if (mini) bytes[1] = double(apollo.inner().state_bytes("0.weight") + apollo.inner().state_bytes("2.weight"));
    std::printf("%-11s  test accuracy %.2f %%, state of the hidden matrices %7.0f bytes, step %.2f ms\n",
                mini ? "APOLLO-Mini" : "AdamW", 100 * accuracy[mini], bytes[mini], ms[mini]);
  }
  return accuracy[1] >= accuracy[0] - 0.005 && 10 * bytes[1] <= bytes[0] ? 0 : 1;
}
