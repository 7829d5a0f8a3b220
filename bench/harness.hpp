// SPDX-License-Identifier: Apache-2.0
// How a step is timed: matrix after matrix of a model larger than the caches, each step followed by a fused AdamW loop over as
// many parameters elsewhere, so that both meet the same moments of the machine and their ratio means something.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include <apollo/apollo.hpp>

#include "roofline/loops.hpp"
#include "timing.hpp"

namespace bench {

using apollo::Index;
using apollo::Shape;

inline std::string name_of(const std::string& member, Shape shape, Index rank, int threads) {
  const std::string matrix = std::to_string(shape.rows) + "x" + std::to_string(shape.cols);
  return member + "/" + matrix + (rank > 0 ? "/r" + std::to_string(rank) : "") + "/float/t" + std::to_string(threads);
}

/// Largest minus smallest of the repetitions, as a part of the middle one.
inline double spread(const std::vector<double>& values) {
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  const double middle = median(values);
  return middle == 0 ? 0 : (*most - *least) / middle;
}

/// As many float arrays of one model, carved into matrices of a shape. 13 million parameters: W and G alone are 104 MB, more
/// than any cache here, so that a step finds its matrix in memory, as it does in training.
class Model {
 public:
  static constexpr Index parameters = 13'000'000;

  explicit Model(int arrays) {
    for (int i = 0; i < arrays; ++i) arrays_.emplace_back(parameters);
  }
  float* array(int number, Shape shape, Index matrix) {
    return arrays_[static_cast<std::size_t>(number)].data() + matrix * shape.rows * shape.cols;
  }
  static Index matrices(Shape shape) { return parameters / (shape.rows * shape.cols); }

  /// Weights (0) and gradients (1) of the steps. Gradients are normal with spread 1e-3.
  static Model& stepped() {
    static Model model = [] {
      Model made(2);
      for (int i = 0; i < 2; ++i) {
        float* values = made.arrays_[static_cast<std::size_t>(i)].data();
        apollo::fill_normals({0, 1, apollo::Stream::start, static_cast<std::uint64_t>(i)}, 0,
                             static_cast<std::uint64_t>(parameters), values);
        for (Index k = 0; k < parameters; ++k) values[k] *= i == 0 ? 2e-2f : 1e-3f;
      }
      return made;
    }();
    return model;
  }

  /// Weights, gradients and both moments of the roofline, which shares no memory with the steps.
  static Model& roofline() {
    static Model model = [] {
      Model made(4);
      for (int i = 0; i < 2; ++i)
        std::copy_n(stepped().arrays_[static_cast<std::size_t>(i)].data(), parameters,
                    made.arrays_[static_cast<std::size_t>(i)].data());
      return made;
    }();
    return model;
  }

 private:
  std::vector<apollo::HostBuffer<float>> arrays_;
};

/// One step of the fused AdamW loop on a matrix of the roofline's own model.
inline Seconds roofline_adamw(Shape shape, Index matrix, int threads) {
  Model& model = Model::roofline();
  return time_of([&] {
    roofline::adamw(model.array(0, shape, matrix), model.array(1, shape, matrix), model.array(2, shape, matrix),
                    model.array(3, shape, matrix), shape.rows * shape.cols, threads);
  });
}

/// Sets the basis of a GaLore state as a checkpoint would, so that no case pays for a first one.
struct StartedBasis {
  template <class T>
  void array(const char* name, const apollo::MatrixView<T>& values) {
    if constexpr (std::is_floating_point_v<T>) {
      if (std::string(name) != "basis") return;
      const double scale = 1 / std::sqrt(static_cast<double>(values.rows));
      apollo::fill_normals({0, 2, apollo::Stream::start, 0}, 0, static_cast<std::uint64_t>(values.size()), values.data);
      for (Index i = 0; i < values.size(); ++i) values.data[i] *= static_cast<T>(scale);
    }
  }
  template <class Number>
  void scalar(const char* name, Number& value) {
    if (std::string(name) == "step") value = 1;
  }
};

/// An optimizer for each matrix of a model, in one workspace; steps go round.
template <class Optimizer>
class Subject {
 public:
  using Backend = typename Optimizer::Backend;

  Subject(Shape shape, Index matrices, const typename Optimizer::Options& options, const Backend& backend)
      : shape_(shape) {
    for (Index i = 0; i < matrices; ++i) {
      optimizers_.push_back(std::make_unique<Optimizer>(shape, options, "tensor", backend));
      if constexpr (std::is_same_v<typename Optimizer::Policies::Projection, apollo::SvdProjection>)
        optimizers_.back()->visit_state(StartedBasis{});
    }
    optimizers_[0]->reserve(workspace_);
    step();
  }

  Seconds step() {
    const Index matrix = next_;
    next_ = (next_ + 1) % static_cast<Index>(optimizers_.size());
    Optimizer& optimizer = *optimizers_[static_cast<std::size_t>(matrix)];
    Model& model = Model::stepped();
    const auto w = apollo::row_major(model.array(0, shape_, matrix), shape_.rows, shape_.cols);
    const auto g = apollo::row_major(model.array(1, shape_, matrix), shape_.rows, shape_.cols);
    return time_of([&] { report_ = optimizer.step(w, g, workspace_); });
  }
  const apollo::TensorReport& report() const { return report_; }
  double state_bytes_per_parameter() const {
    return static_cast<double>(optimizers_[0]->state_bytes()) / static_cast<double>(shape_.rows * shape_.cols);
  }

 private:
  Shape shape_;
  std::vector<std::unique_ptr<Optimizer>> optimizers_;
  apollo::Workspace<Backend> workspace_;
  apollo::TensorReport report_;
  Index next_ = 0;
};

struct Kept {
  std::string name;
  std::shared_ptr<void> made;
  static Kept& last() {
    static Kept kept;
    return kept;
  }
};

/// Google Benchmark calls a case many times: what it steps is made by the first call and goes when another case comes.
template <class Made, class Make>
Made& kept(const std::string& name, const Make& make) {
  static_assert(std::is_same_v<decltype(make()), std::shared_ptr<Made>>);
  Kept& last = Kept::last();
  if (last.name != name) last.made.reset(), last.made = make(), last.name = name;
  return *static_cast<Made*>(last.made.get());
}

/// Registers a case that times itself: body(state, name) calls state.SetIterationTime. bench/run knows the names of the figures.
template <class Body>
void add_case(const std::string& name, Body body) {
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) { body(state, name); })
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond)
      ->ComputeStatistics("spread", spread, benchmark::kPercentage);
}

/// Figures that every case has: time a parameter, and the same in units of the roofline's median.
inline void set_figures(benchmark::State& state, Shape shape, const std::vector<Seconds>& times,
                        const std::vector<Seconds>& roofline) {
  if (times.empty()) return;
  double sum = 0;
  for (const Seconds seconds : times) sum += seconds;
  const auto parameters = static_cast<double>(shape.rows * shape.cols);
  state.counters["ns_per_parameter"] = 1e9 * sum / static_cast<double>(times.size()) / parameters;
  if (!roofline.empty()) state.counters["roofline"] = median(times) / median(roofline);
}

/// The time of one step.
template <class Optimizer>
void add_step(const std::string& name, Shape shape, int threads, const typename Optimizer::Options& options,
              const typename Optimizer::Backend& backend) {
  add_case(name, [=](benchmark::State& state, const std::string& key) {
    auto& subject = kept<Subject<Optimizer>>(
        key, [&] { return std::make_shared<Subject<Optimizer>>(shape, Model::matrices(shape), options, backend); });
    std::vector<Seconds> times, roofline;
    Index matrix = 0;
    for (auto _ : state) {
      times.push_back(subject.step());
      state.SetIterationTime(times.back());
      if (!subject.report().stepped) return state.SkipWithError(apollo::describe(subject.report().reason));
      roofline.push_back(roofline_adamw(shape, matrix++ % Model::matrices(shape), threads));
    }
    set_figures(state, shape, times, roofline);
    state.counters["state_bytes_per_parameter"] = subject.state_bytes_per_parameter();
  });
}

/// The time of one step of an optimizer that refreshes its projection every `gap` steps: a plain step and 1/gap of what a
/// refreshing step takes longer. Every 16th iteration times a refresh.
template <class Optimizer>
void add_amortised_step(const std::string& name, Shape shape, int threads, const typename Optimizer::Options& plain,
                        const typename Optimizer::Options& refreshing, Index gap,
                        const typename Optimizer::Backend& backend) {
  struct Pair {
    Subject<Optimizer> plain, refreshing;
  };
  add_case(name, [=](benchmark::State& state, const std::string& key) {
    auto& pair = kept<Pair>(key, [&] {
      return std::shared_ptr<Pair>(
          new Pair{{shape, Model::matrices(shape), plain, backend}, {shape, 2, refreshing, backend}});
    });
    std::vector<Seconds> times, refreshes, roofline;
    Index iteration = 0;
    for (auto _ : state) {
      if (iteration % 16 == 0) {
        refreshes.push_back(pair.refreshing.step());
        if (!pair.refreshing.report().refreshed) return state.SkipWithError("the projection was not refreshed");
      }
      const Seconds step = pair.plain.step();
      const Seconds share = (median(refreshes) - step) / static_cast<double>(gap);
      times.push_back(share > 0 ? step + share : step);
      state.SetIterationTime(times.back());
      if (!pair.plain.report().stepped) return state.SkipWithError(apollo::describe(pair.plain.report().reason));
      roofline.push_back(roofline_adamw(shape, iteration++ % Model::matrices(shape), threads));
    }
    set_figures(state, shape, times, roofline);
    state.counters["refresh_us"] = 1e6 * median(refreshes);
    state.counters["state_bytes_per_parameter"] = pair.plain.state_bytes_per_parameter();
  });
}

}  // namespace bench
