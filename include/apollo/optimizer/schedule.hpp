// SPDX-License-Identifier: Apache-2.0
// Learning-rate schedules: a factor in [0, 1] for every tick, the same for every group.
#pragma once

#include <apollo/step/settings.hpp>

namespace apollo {

/// Linear warm-up over `warmup` ticks, then 1.
struct Constant {
  std::int64_t warmup = 0;
};

/// Linear warm-up, then half a cosine from 1 down to `floor` at tick `total` and after. With floor 0 tick `total` itself moves
/// nothing: let `total` be one more than the number of steps.
struct Cosine {
  std::int64_t warmup = 0;
  std::int64_t total = 0;
  double floor = 0;
};

/// Linear warm-up, then a line from 1 down to `floor` at tick `total` and after.
struct Linear {
  std::int64_t warmup = 0;
  std::int64_t total = 0;
  double floor = 0;
};

/// Any of the three. Ticks count from 1, so the first step of a warm-up over n ticks has factor 1 / n, not 0.
class Schedule {
 public:
  Schedule() = default;
  Schedule(const Constant& s) : warmup_(s.warmup) { check(false); }
  Schedule(const Cosine& s) : shape_(Shape::cosine), warmup_(s.warmup), total_(s.total), floor_(s.floor) {
    check(true);
  }
  Schedule(const Linear& s) : shape_(Shape::linear), warmup_(s.warmup), total_(s.total), floor_(s.floor) {
    check(true);
  }

  APOLLO_HD double factor(std::int64_t tick) const {
    if (tick < warmup_) return static_cast<double>(tick) / static_cast<double>(warmup_);
    if (shape_ == Shape::constant) return 1;
    if (tick >= total_) return floor_;
    constexpr double pi = 3.14159265358979323846;
    const double progress = static_cast<double>(tick - warmup_) / static_cast<double>(total_ - warmup_);
    const double left = shape_ == Shape::linear ? 1 - progress : 0.5 * (1 + __builtin_cos(pi * progress));
    return floor_ + (1 - floor_) * left;
  }

 private:
  enum class Shape : std::uint8_t { constant, cosine, linear };

  void check(bool decays) const {
    const Check check{{}};
    if (warmup_ < 0) check.fail("schedule: warmup = " + text(warmup_) + " must be at least 0");
    if (decays && total_ <= warmup_)
      check.fail("schedule: total = " + text(total_) + " must be greater than warmup = " + text(warmup_));
    if (!bits::finite(floor_) || !(floor_ >= 0 && floor_ <= 1))
      check.fail("schedule: floor = " + text(floor_) + " must be between 0 and 1");
  }

  Shape shape_ = Shape::constant;
  std::int64_t warmup_ = 0;
  std::int64_t total_ = 0;
  double floor_ = 0;
};

}  // namespace apollo
