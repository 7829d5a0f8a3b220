// SPDX-License-Identifier: Apache-2.0
// Members with a singular basis on a device: a few steps of gradients whose leading directions are far from the others, and what
// they changed. The same on a GPU (basis.cu) and on the emulated device (emulated.cpp).
#pragma once

#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "suite.hpp"

namespace bases {

struct Outcome {
  std::string name;
  std::vector<double> change;  ///< of the weights
  double bound = 1e-4;         ///< of its relative error
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

template <class Member, class W = float, class G = float, class Device>
Outcome run(const Device& device, const char* name, const typename Member::Options& options,
            std::optional<apollo::cuda::Math> math = {}) {
  using apollo::cuda::Memory;
  const apollo::Index shapes[][2] = {{300, 64}, {64, 300}};
  apollo::cuda::BasicOptimizer<Device> optimizer(device);
  if (math) optimizer.math(*math);
  const auto group = optimizer.template add_group<Member>(options);
  std::vector<Memory<Device>> w, g;
  for (const auto& shape : shapes) {
    const apollo::Index size = shape[0] * shape[1];
    w.emplace_back(device, size * static_cast<apollo::Index>(sizeof(W)), std::string_view(), "a test");
    g.emplace_back(device, size * static_cast<apollo::Index>(sizeof(G)), std::string_view(), "a test");
    device.clear(w.back().template as<void>(), w.back().bytes(), {});
    optimizer.add(group, "tensor " + std::to_string(w.size()),
                  apollo::row_major(w.back().template as<W>(), shape[0], shape[1]),
                  apollo::row_major(g.back().template as<G>(), shape[0], shape[1]));
  }
  for (std::uint64_t step = 0; step < 5; ++step) {
    for (std::size_t i = 0; i < w.size(); ++i) {
      const std::vector<float> exact = gradient(shapes[i][0], shapes[i][1], step);
      std::vector<G> values;
      for (const float value : exact) values.push_back(static_cast<G>(value));
      device.write(g[i].template as<G>(), values.data(), g[i].bytes(), {});
    }
    optimizer.step();
  }
  Outcome outcome{name, {}};
  for (std::size_t i = 0; i < w.size(); ++i) {
    std::vector<W> values(static_cast<std::size_t>(w[i].bytes()) / sizeof(W));
    device.read(values.data(), w[i].template as<W>(), w[i].bytes(), {});
    for (const W value : values) outcome.change.push_back(static_cast<double>(static_cast<float>(value)));
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
  outcomes.push_back(
      run<GaLore<>>(device, "GaLore of a large rank",
                    {.lr = 0.01, .rank = 40, .update_proj_gap = 4, .svd = SvdMethod::exact, .eps = 0.01}));
  outcomes.push_back(run<ApolloSvd<>>(device, "APOLLO over singular vectors", {.lr = 0.01, .rank = 4}));
  return outcomes;
}

/// Compares what a GPU found with what the emulated device did; how many members differ.
inline int differing(const std::vector<Outcome>& found, const std::vector<Outcome>& expected) {
  int failures = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    double gap = 0, norm = 0;
    for (std::size_t k = 0; k < expected[i].change.size(); ++k) {
      const double a = found[i].change[k], b = expected[i].change[k];
      gap += (a - b) * (a - b);
      norm += b * b;
    }
    const double error = std::sqrt(gap / norm);
    const bool same = error <= expected[i].bound;
    std::printf("%-48s %.2g %s\n", expected[i].name.c_str(), error, same ? "as emulated" : "DIFFERS");
    failures += same ? 0 : 1;
  }
  return failures;
}

/// On the emulated device; in emulated.cpp.
std::vector<Outcome> run_emulated();

}  // namespace bases
