// SPDX-License-Identifier: Apache-2.0
// A progress bar on the terminal; a line at each quarter where the output is a file.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include <sys/resource.h>
#include <unistd.h>

#include "run.hpp"

namespace llama {

/// The most memory that this process has had resident, in GiB.
inline double peak_memory() {
  struct rusage usage = {};
  ::getrusage(RUSAGE_SELF, &usage);
#if defined(__APPLE__)
  constexpr double unit = 1;
#else
  constexpr double unit = 1024;
#endif
  return static_cast<double>(usage.ru_maxrss) * unit / (1 << 30);
}

/// Writes to stderr, so that the tables on stdout can be redirected.
class Progress {
 public:
  /// `log`: what an earlier process did, which does not count for the speed.
  Progress(std::string name, std::int64_t steps, const std::vector<LogRow>& log)
      : name_(std::move(name)), steps_(steps), terminal_(::isatty(STDERR_FILENO) != 0) {
    if (!log.empty()) first_ = log.back();
  }

  void show(const LogRow& row, double validation_loss) {
    last_ = row;
    if (validation_loss != not_evaluated) validation_loss_ = validation_loss;
    const bool quarter = row.step * 4 / steps_ != (row.step - 1) * 4 / steps_;
    const auto now = Clock::now();
    if (terminal_ ? now - shown_ < std::chrono::milliseconds(100) && row.step < steps_ : !quarter) return;
    shown_ = now;
    const double elapsed = std::chrono::duration<double>(now - start_).count();  // validation included
    const double left = elapsed * static_cast<double>(steps_ - row.step) / static_cast<double>(row.step - first_.step);
    std::string line = name_ + "  ";
    if (terminal_) line += bar(row.step) + " ";
    char numbers[160];
    std::snprintf(numbers, sizeof numbers, "%lld/%lld  loss %.3f", static_cast<long long>(row.step),
                  static_cast<long long>(steps_), row.training_loss);
    line += numbers;
    if (validation_loss_ != not_evaluated) {
      std::snprintf(numbers, sizeof numbers, ", validation %.3f", validation_loss_);
      line += numbers;
    }
    std::snprintf(numbers, sizeof numbers, "  %s tokens/s  %lld:%02lld left", speed().c_str(),
                  static_cast<long long>(left) / 60, static_cast<long long>(left) % 60);
    line += numbers;
    std::fprintf(stderr, terminal_ ? "\r%s\033[K" : "%s\n", line.c_str());
    std::fflush(stderr);
  }

  /// What the steps took, and the most memory that the process has had.
  void end() {
    if (terminal_) std::fprintf(stderr, "\n");
    if (last_.step == first_.step) return;
    const double seconds = (last_.seconds - first_.seconds) / static_cast<double>(last_.step - first_.step);
    std::fprintf(stderr, "%s  %.3g s/step, %s tokens/s, peak memory %.2f GiB\n", name_.c_str(), seconds,
                 speed().c_str(), peak_memory());
  }

 private:
  using Clock = std::chrono::steady_clock;

  std::string bar(std::int64_t step) const {
    constexpr std::int64_t width = 20;
    const auto full = static_cast<std::size_t>(step * width / steps_);
    return "[" + std::string(full, '#') + std::string(width - full, '-') + "]";
  }

  /// Tokens a second of training.
  std::string speed() const {
    const double tokens = static_cast<double>(last_.tokens - first_.tokens) / (last_.seconds - first_.seconds);
    char number[32];
    std::snprintf(number, sizeof number, "%.*f", tokens < 100 ? 1 : 0, tokens);
    return number;
  }

  std::string name_;
  std::int64_t steps_;
  LogRow first_, last_;  // before this process, and the newest
  bool terminal_;
  double validation_loss_ = not_evaluated;
  Clock::time_point start_ = Clock::now(), shown_{};
};

}  // namespace llama
