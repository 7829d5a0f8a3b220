// SPDX-License-Identifier: Apache-2.0
// The libtorch bridge against torch itself: the same AdamW, schedulers, groups, archives, layouts, and what is refused.
#include <torch/torch.h>

#undef CHECK  // torch's logging has one as well
#include <doctest/doctest.h>

#include <limits>
#include <sstream>

#include <apollo/bridge/libtorch.hpp>
#include <apollo/eigen.hpp>

namespace {

using Bridge = apollo::libtorch::Optimizer<apollo::EigenBackend>;

/// Two layers and a scalar, the same for the same seed.
struct Net : torch::nn::Module {
  torch::nn::Linear first{nullptr}, second{nullptr};
  torch::Tensor scale;
  explicit Net(std::uint64_t seed) {
    torch::manual_seed(seed);
    first = register_module("first", torch::nn::Linear(24, 40));
    second = register_module("second", torch::nn::Linear(40, 8));
    scale = register_parameter("scale", torch::ones({}));
  }
  torch::Tensor loss(const torch::Tensor& x, const torch::Tensor& y) {
    return (second->forward(torch::tanh(first->forward(x))) * scale - y).pow(2).mean();
  }
};

struct Data {
  torch::Tensor x, y;
  explicit Data(std::uint64_t seed) {
    torch::manual_seed(seed);
    x = torch::randn({32, 24});
    y = torch::randn({32, 8});
  }
};

void backward(Net& net, torch::optim::Optimizer& optimizer, const Data& data) {
  optimizer.zero_grad();
  net.loss(data.x, data.y).backward();
}

double distance(const torch::nn::Module& a, const torch::nn::Module& b) {
  double largest = 0;
  const auto left = a.parameters(), right = b.parameters();
  for (std::size_t i = 0; i < left.size(); ++i) {
    const double d = (left[i] - right[i]).abs().max().item<double>();
    if (!(d <= largest)) largest = d;
  }
  return largest;
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "nothing was thrown";
}

torch::Tensor parameter(const torch::Tensor& values) { return values.clone().set_requires_grad(true); }

}  // namespace

#define CHECK_SAYS(call, part)                          \
  do {                                                  \
    const std::string said = message_of([&] { call; }); \
    CAPTURE(said);                                      \
    CHECK(said.find(part) != std::string::npos);        \
  } while (false)

TEST_CASE("fifty steps of AdamW under a scheduler are torch's") {
  Net ours(1), theirs(1);
  const Data data(2);
  REQUIRE(distance(ours, theirs) == 0);
  Bridge bridge(ours.parameters(), apollo::AdamWOptions{.lr = 3e-3, .weight_decay = 0.1});
  torch::optim::AdamW adamw(theirs.parameters(), torch::optim::AdamWOptions(3e-3).weight_decay(0.1));
  torch::optim::StepLR our_schedule(bridge, 10, 0.5), their_schedule(adamw, 10, 0.5);
  const double before = theirs.loss(data.x, data.y).item<double>();
  for (int step = 0; step < 50; ++step) {
    backward(ours, bridge, data), backward(theirs, adamw, data);
    bridge.step(), adamw.step();
    our_schedule.step(), their_schedule.step();
    CHECK(bridge.report().stepped == 5);
  }
  CHECK(bridge.param_groups()[0].options().get_lr() == adamw.param_groups()[0].options().get_lr());
  CHECK(bridge.param_groups()[0].options().get_lr() < 1e-3);
  CHECK(distance(ours, theirs) <= 1e-6);
  CHECK(theirs.loss(data.x, data.y).item<double>() < 0.8 * before);
}

TEST_CASE("groups have members of their own, a module's names are identities, and torch may add more later") {
  Net net(1);
  Bridge bridge(net, apollo::ApolloMiniOptions{.lr = 1e-2}, apollo::AdamWOptions{.lr = 1e-3}, {"second.weight"});
  REQUIRE(bridge.param_groups().size() == 2);
  CHECK(bridge.param_groups()[0].params().size() == 1);
  CHECK(bridge.param_groups()[0].options().get_lr() == 1e-2);
  CHECK(bridge.param_groups()[1].options().get_lr() == 1e-3);
  CHECK(bridge.inner().state_bytes("first.weight") == 2 * 40 * 4);
  CHECK(bridge.inner().state_bytes("second.weight") == 2 * 40 * 8 * 4);
  CHECK(bridge.inner().state_bytes("scale") == 2 * 4);

  const torch::Tensor late = parameter(torch::ones({16, 16})), more = parameter(torch::ones({3}));
  bridge.add_param_group(Bridge::group({late}, apollo::ApolloOptions{.lr = 1e-2, .rank = 4}));
  bridge.add_parameters({more});
  late.mutable_grad() = torch::ones({16, 16});
  const torch::Tensor before = late.detach().clone();
  bridge.step();
  CHECK(bridge.report().stepped == 1);
  CHECK(bridge.report().skipped == 6);
  CHECK(bridge.inner().state_bytes("2.0") == 2 * 4 * 16 * 4);
  CHECK((late - before).abs().min().item<double>() > 0);
  CHECK_SAYS(Bridge(net, apollo::ApolloMiniOptions{}, apollo::AdamWOptions{}, {"third.weight"}), "1 of the 1 names");
}

TEST_CASE("a closure computes gradients with autograd on, and autograd notices what a step changed") {
  Net net(1);
  const Data data(2);
  Bridge bridge(net.parameters(), apollo::AdamWOptions{.lr = 1e-2});
  double first = 0, last = 0;
  for (int step = 0; step < 20; ++step) {
    const torch::NoGradGuard off;
    last = bridge
               .step([&] {
                 bridge.zero_grad();
                 torch::Tensor loss = net.loss(data.x, data.y);
                 loss.backward();
                 return loss;
               })
               .item<double>();
    if (step == 0) first = last;
  }
  CHECK(last < 0.8 * first);
  const torch::Tensor loss = net.loss(data.x, data.y);
  bridge.step();
  CHECK_SAYS(loss.backward(), "modified by an inplace operation");
}

TEST_CASE("an undefined gradient is skipped, one that moved is found, one that is not finite changes nothing") {
  Net net(1);
  const Data data(2);
  Bridge bridge(net, apollo::ApolloOptions{.lr = 1e-2, .rank = 4}, apollo::AdamWOptions{});
  for (int step = 0; step < 3; ++step) {
    backward(net, bridge, data);
    for (auto& p : net.parameters()) p.mutable_grad() = p.grad().clone();  // as set_to_none and a new one would
    if (step == 1) net.first->bias.mutable_grad() = torch::Tensor();
    if (step == 2) net.first->weight.mutable_grad()[0][0] = std::numeric_limits<float>::quiet_NaN();
    const torch::Tensor before = net.first->weight.detach().clone();
    bridge.step();
    CHECK(bridge.report().stepped == (step == 0 ? 5 : 4));
    CHECK(torch::equal(before, net.first->weight) == (step == 2));
  }
  CHECK(bridge.inner().steps("first.weight") == 2);
  CHECK(bridge.inner().steps("first.bias") == 2);
}

TEST_CASE("weights and gradients in any strides, kernels as first x rest, double beside float") {
  torch::manual_seed(3);
  const torch::Tensor values = torch::randn({12, 10}), slope = torch::randn({12, 10});
  const torch::Tensor kernel = torch::randn({8, 3, 5, 5}), kernel_slope = torch::randn({8, 3, 5, 5});
  const torch::Tensor rows = parameter(values), columns = values.t().contiguous().t().set_requires_grad(true);
  const torch::Tensor flat = parameter(kernel.reshape({8, 75})), whole = parameter(kernel);
  rows.mutable_grad() = slope.clone();
  columns.mutable_grad() = torch::cat({slope, slope}, 1).slice(1, 10, 20);  // rows of 20, of which 10 are the gradient
  flat.mutable_grad() = kernel_slope.reshape({8, 75}).clone();
  whole.mutable_grad() = kernel_slope.contiguous(torch::MemoryFormat::ChannelsLast);
  REQUIRE(!columns.is_contiguous());
  REQUIRE(!whole.grad().is_contiguous());
  const auto options = apollo::AdamWOptions{.lr = 1e-2};
  Bridge plain({rows, flat}, options), strided({columns, whole}, options);
  for (int step = 0; step < 5; ++step) plain.step(), strided.step();
  CHECK(strided.report().stepped == 2);
  CHECK((rows - columns).abs().max().item<double>() <= 1e-6);
  CHECK((flat.reshape({8, 3, 5, 5}) - whole).abs().max().item<double>() <= 1e-6);
  CHECK((rows - values).abs().min().item<double>() > 1e-3);

  const torch::Tensor wide = parameter(values.to(torch::kDouble));
  wide.mutable_grad() = slope.to(torch::kDouble);
  apollo::libtorch::Optimizer<apollo::EigenBackend, float, double> both({wide, rows}, options);
  both.step();
  CHECK(both.report().stepped == 2);
  CHECK((wide - values).abs().min().item<double>() > 1e-3);
}

TEST_CASE("torch::save and torch::load resume to the bit, with the groups' lr") {
  const Data data(2);
  const auto train = [&](Net& net, Bridge& bridge, int from, int to) {
    for (int step = from; step < to; ++step) {
      backward(net, bridge, data);
      bridge.step();
      if (step % 3 == 2)
        for (auto& group : bridge.param_groups()) group.options().set_lr(0.5 * group.options().get_lr());
    }
  };
  const apollo::ApolloOptions matrices{.lr = 1e-2, .rank = 4, .update_proj_gap = 3};
  Net straight(1), stopped(1), resumed(9);
  Bridge a(straight, matrices, apollo::AdamWOptions{}), b(stopped, matrices, apollo::AdamWOptions{});
  train(straight, a, 0, 10);
  train(stopped, b, 0, 5);
  std::stringstream archive;
  torch::save(b, archive);
  {
    const torch::NoGradGuard off;
    const auto from = stopped.parameters();
    auto to = resumed.parameters();
    for (std::size_t i = 0; i < to.size(); ++i) to[i].copy_(from[i]);
  }
  Bridge c(resumed, matrices, apollo::AdamWOptions{});
  torch::load(c, archive);
  CHECK(c.param_groups()[0].options().get_lr() == 5e-3);
  train(resumed, c, 5, 10);
  CHECK(distance(straight, resumed) == 0);

  std::stringstream again;
  torch::save(b, again);
  Net other(1);
  Bridge another_rank(other, apollo::ApolloOptions{.lr = 1e-2, .rank = 5}, apollo::AdamWOptions{});
  CHECK_SAYS(torch::load(another_rank, again), "cannot load 'archive'");
  std::stringstream of_torch;
  torch::optim::AdamW adamw(other.parameters());
  torch::save(adamw, of_torch);
  CHECK_SAYS(torch::load(another_rank, of_torch), "holds no optimizer of apollo's");
}

TEST_CASE("what cannot be stepped is refused by name") {
  const apollo::AdamWOptions options;
  Net net(1);
  CHECK_SAYS(Bridge(net.parameters(), apollo::AdamWOptions{.lr = -1}), "lr = -1");
  const torch::Tensor of_half = torch::ones({4, 4}, torch::kHalf).set_requires_grad(true);
  CHECK_SAYS(Bridge({of_half}, options), "tensor '0.0': parameter of type Half");
  const torch::Tensor last = torch::ones({4, 3, 5, 5}).contiguous(torch::MemoryFormat::ChannelsLast);
  CHECK_SAYS(Bridge({last.set_requires_grad(true)}, options), "do not collapse to one stride");
  torch::optim::OptimizerParamGroup foreign(net.parameters(), std::make_unique<torch::optim::AdamWOptions>(1e-3));
  CHECK_SAYS(Bridge(std::vector<torch::optim::OptimizerParamGroup>{foreign}, options),
             "group 0 has options of another");

  const torch::Tensor table = parameter(torch::ones({6, 4}));
  Bridge bridge({table}, options);
  table.mutable_grad() = torch::ones({6, 4}).to_sparse();
  CHECK_SAYS(bridge.step(), "tensor '0.0': gradient of");
  table.mutable_grad() = torch::ones({6, 4});
  bridge.param_groups()[0].options().set_lr(std::numeric_limits<double>::quiet_NaN());
  CHECK_SAYS(bridge.step(), "lr = ");
  CHECK(torch::equal(table, torch::ones({6, 4})));
}
