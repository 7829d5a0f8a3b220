// SPDX-License-Identifier: Apache-2.0
// Members with a singular basis on a device: a few steps of gradients whose leading directions are far from the others, and what
// they changed. The same on a GPU (basis.cu) and on the emulated device (emulated.cpp).
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "suite.hpp"

namespace bases {

struct Outcome {
  std::string name;
  std::vector<double> change;  ///< of the weights
};

/// Four directions of falling weight that turn a little from step to step.
inline std::vector<float> gradient(apollo::Index rows, apollo::Index cols, std::uint64_t step) {
  std::vector<float> g(static_cast<std::size_t>(rows * cols));
  for (std::uint64_t k = 0; k < 4; ++k)
    for (apollo::Index i = 0; i < rows; ++i)
      for (apollo::Index j = 0; j < cols; ++j) {
        const auto value = [&](std::uint64_t side, apollo::Index at) {
          const std::uint64_t number = (10 * k + side) << 32 | static_cast<std::uint64_t>(at);
          return suite::value_of(number) + 0.2f * suite::value_of(number + ((step + 1) << 48));
        };
        g[static_cast<std::size_t>(i * cols + j)] +=
            0.1f * std::pow(3.0f, -static_cast<float>(k)) * value(1, i) * value(2, j);
      }
  return g;
}

template <class Member, class Device>
Outcome run(const Device& device, const char* name, const typename Member::Options& options) {
  using apollo::cuda::Memory;
  const apollo::Index shapes[][2] = {{300, 64}, {64, 300}};
  apollo::cuda::BasicOptimizer<Device> optimizer(device);
  const auto group = optimizer.template add_group<Member>(options);
  std::vector<Memory<Device>> w, g;
  for (const auto& shape : shapes) {
    const apollo::Index bytes = shape[0] * shape[1] * static_cast<apollo::Index>(sizeof(float));
    w.emplace_back(device, bytes, std::string_view(), "a test");
    g.emplace_back(device, bytes, std::string_view(), "a test");
    device.clear(w.back().template as<void>(), bytes, {});
    optimizer.add(group, "tensor " + std::to_string(w.size()),
                  apollo::row_major(w.back().template as<float>(), shape[0], shape[1]),
                  apollo::row_major(g.back().template as<float>(), shape[0], shape[1]));
  }
  for (std::uint64_t step = 0; step < 5; ++step) {
    for (std::size_t i = 0; i < w.size(); ++i) {
      const std::vector<float> values = gradient(shapes[i][0], shapes[i][1], step);
      device.write(g[i].template as<float>(), values.data(), g[i].bytes(), {});
    }
    optimizer.step();
  }
  Outcome outcome{name, {}};
  for (std::size_t i = 0; i < w.size(); ++i) {
    std::vector<float> values(static_cast<std::size_t>(w[i].bytes()) / sizeof(float));
    device.read(values.data(), w[i].template as<float>(), w[i].bytes(), {});
    outcome.change.insert(outcome.change.end(), values.begin(), values.end());
  }
  return outcome;
}

template <class Device>
std::vector<Outcome> run_members(const Device& device) {
  using namespace apollo;
  std::vector<Outcome> outcomes;
  outcomes.push_back(run<GaLore<>>(device, "GaLore by subspace iteration",
                                   {.lr = 0.01, .rank = 4, .update_proj_gap = 2, .on_refresh = OnRefresh::rotate}));
  outcomes.push_back(
      run<GaLore<>>(device, "GaLore, exact", {.lr = 0.01, .rank = 4, .update_proj_gap = 2, .svd = SvdMethod::exact}));
  outcomes.push_back(
      run<QGaLore<AdamMoments<>>>(device, "Q-GaLore, fp32 moments",
                                  {.lr = 0.01, .rank = 4, .update_proj_gap = 2, .on_refresh = OnRefresh::rotate}));
  outcomes.push_back(
      run<GaLoreAdafactor<>>(device, "GaLore with Adafactor's moments",
                             {.lr = 0.01, .rank = 4, .update_proj_gap = 2, .on_refresh = OnRefresh::rotate}));
  outcomes.push_back(run<Fira<>>(device, "Fira", {.lr = 0.01, .rank = 3, .update_proj_gap = 2}));
  outcomes.push_back(run<ApolloSvd<>>(device, "APOLLO over singular vectors", {.lr = 0.01, .rank = 4}));
  return outcomes;
}

/// On the emulated device; in emulated.cpp.
std::vector<Outcome> run_emulated();

}  // namespace bases
