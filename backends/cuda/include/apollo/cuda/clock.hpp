// SPDX-License-Identifier: Apache-2.0
// The clock of a model on the device: its tick, what the schedule makes of it, and by what clipping scales all gradients. Kernels
// advance it, so that the replay of a captured graph is a tick like any other.
#pragma once

#include <apollo/cuda/allocation.hpp>
#include <apollo/cuda/context.hpp>
#include <apollo/optimizer/schedule.hpp>
#include <apollo/step/coefficients.hpp>
#include <apollo/step/report.hpp>

namespace apollo::cuda {

/// What all tensors of an optimizer share, on the device.
struct Clock {
  // Written by the host, between steps:
  Schedule schedule;
  double clip = 0;            ///< bound of the global norm; 0: none
  double* squares = nullptr;  ///< squared norms of the gradients as scaled, in order of registration ...
  Index tensors = 0;          ///< ... so many
  // Written by kernels:
  std::int64_t tick = 0;
  double lr_factor = 1;
  double global_norm = not_measured;  ///< of the gradients that this tick steps; measured when clipping
  double clip_factor = 1;
};

/// Begins a tick. One block.
struct Advance {
  static constexpr const char* kernel = "Advance";
  struct Shared {
    char none;
  };
  Clock* clock = nullptr;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    context.last([&](int t) {
      if (t != 0) return;
      ++clock->tick;
      clock->lr_factor = clock->schedule.factor(clock->tick);
      clock->global_norm = not_measured;
      clock->clip_factor = 1;
    });
  }
};

/// The global norm from the tensors' squares, in a fixed order, and the factor that it gives. One block.
struct Clip {
  static constexpr const char* kernel = "Clip";
  using Shared = SumMemory;
  Clock* clock = nullptr;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    typename Context::template Each<double> part;
    context.phase([&](int t) {
      for (Index i = t; i < clock->tensors; i += threads) part[t] += clock->squares[i];
    });
    const double squared = block_sum(context, shared, part);
    context.last([&](int t) {
      if (t != 0) return;
      if (!(clock->clip > 0)) return;  // in a graph that was captured with a bound
      clock->global_norm = __builtin_sqrt(squared);
      clock->clip_factor = clip_factor(clock->global_norm, clock->clip);
    });
  }
};

/// A clock and its owner on the host. All calls but the launches wait for the stream.
template <class Device>
class DeviceClock {
 public:
  using Stream = typename Device::Stream;

  explicit DeviceClock(const Device& device) : memory_(device, sizeof(Clock), {}, "a clock") {
    const Clock first;
    device.write(get(), &first, sizeof(Clock), {});
  }

  Clock* get() const { return memory_.template as<Clock>(); }
  Clock read(const Device& device, Stream stream) const {
    Clock clock;
    device.read(&clock, get(), sizeof(Clock), stream);
    return clock;
  }
  Index bytes() const { return memory_.bytes() + squares_.bytes(); }

  void schedule(const Device& device, const Schedule& schedule, Stream stream) {
    device.write(&get()->schedule, &schedule, sizeof schedule, stream);
  }
  void clip(const Device& device, double bound, Stream stream) {
    device.write(&get()->clip, &bound, sizeof bound, stream);
  }
  void set_tick(const Device& device, std::int64_t tick, Stream stream) {
    device.write(&get()->tick, &tick, sizeof tick, stream);
  }
  /// Room for the squares of so many tensors.
  void reserve(const Device& device, std::size_t tensors, Stream stream) {
    Memory<Device> squares(device, static_cast<Index>(tensors * sizeof(double)), {}, "squared norms");
    auto* const array = squares.template as<double>();
    const auto count = static_cast<Index>(tensors);
    device.write(&get()->squares, &array, sizeof array, stream);
    device.write(&get()->tensors, &count, sizeof count, stream);
    squares_ = std::move(squares);
  }

  void advance(const Device& device, Stream stream) const { device.launch(Advance{get()}, 1, stream); }
  void clip_all(const Device& device, Stream stream) const { device.launch(Clip{get()}, 1, stream); }

 private:
  Memory<Device> memory_, squares_;
};

}  // namespace apollo::cuda
