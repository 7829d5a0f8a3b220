// SPDX-License-Identifier: Apache-2.0
// Rows of a comparison: runs that differ in their seeds alone, their means, and ratios to AdamW's.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <apollo/base/error.hpp>

#include "run.hpp"

namespace llama {

/// The optimizer's name, with its learning rates or steps where `all` has several of that optimizer.
inline std::string label(const Run& run, std::span<const Run> all) {
  bool rates = false, steps = false;
  for (const Run& other : all) {
    if (other.optimizer != run.optimizer) continue;
    rates = rates || other.lr != run.lr || other.other_lr != run.other_lr;
    steps = steps || other.steps != run.steps;
  }
  std::string text = run.optimizer;
  if (rates) text += " lr " + apollo::text(run.lr) + "/" + apollo::text(run.other_lr);
  if (steps) text += " " + std::to_string(run.steps) + " steps";
  return text;
}

struct Mean {
  double value = 0;
  double error = 0;  ///< standard error; 0 of a single value
  std::size_t count = 0;
};

inline Mean mean_of(std::span<const double> values) {
  Mean mean{0, 0, values.size()};
  if (values.empty()) return mean;
  const auto n = static_cast<double>(values.size());
  for (const double x : values) mean.value += x;
  mean.value /= n;
  double squares = 0;
  for (const double x : values) squares += (x - mean.value) * (x - mean.value);
  if (values.size() > 1) mean.error = std::sqrt(squares / (n - 1) / n);
  return mean;
}

/// A row of the tables. It points into the runs it was made of.
struct Row {
  std::string label;
  std::vector<const Run*> runs;

  const Run& first() const { return *runs.front(); }
  const Run* at_seed(std::uint64_t seed) const {
    for (const Run* run : runs)
      if (run->seed == seed) return run;
    return nullptr;
  }
  template <class Value>
  Mean mean(Value value) const {
    std::vector<double> values;
    for (const Run* run : runs) values.push_back(value(*run));
    return mean_of(values);
  }
  Mean mean(double Run::*member) const {
    return mean([member](const Run& run) { return run.*member; });
  }
};

inline double perplexity(const Run& run) { return std::exp(run.validation_loss); }

namespace report {

inline bool same_row(const Run& a, const Run& b) {
  return a.optimizer == b.optimizer && a.lr == b.lr && a.other_lr == b.other_lr && a.steps == b.steps;
}

/// Runs of other models or ranks would make means and percentages that mean nothing.
inline void check_member(const Row& row, const Run& run) {
  if (row.at_seed(run.seed) != nullptr)
    throw std::runtime_error("two runs of " + row.label + " have seed " + std::to_string(run.seed));
  const auto same = [&](const char* name, std::int64_t Run::*member) {
    if (row.first().*member != run.*member)
      throw std::runtime_error("runs of " + row.label + " cannot share a row: " + name + " is " +
                               std::to_string(row.first().*member) + " at seed " + std::to_string(row.first().seed) +
                               ", " + std::to_string(run.*member) + " at seed " + std::to_string(run.seed));
  };
  same("weight_bytes", &Run::weight_bytes);
  same("matrix_state_bytes", &Run::matrix_state_bytes);
  same("matrix_record_bytes", &Run::matrix_record_bytes);
  same("state_bytes", &Run::state_bytes);
  same("record_bytes", &Run::record_bytes);
  same("adamw_matrix_bytes", &Run::adamw_matrix_bytes);
  same("adamw_bytes", &Run::adamw_bytes);
}

}  // namespace report

/// Groups runs by all but their seeds, in order of first appearance. Errors: a seed twice in a row, or one row's runs
/// keeping different states.
inline std::vector<Row> rows_of(std::span<const Run> runs) {
  std::vector<Row> rows;
  for (const Run& run : runs) {
    const auto found =
        std::find_if(rows.begin(), rows.end(), [&](const Row& row) { return report::same_row(row.first(), run); });
    if (found == rows.end()) {
      rows.push_back({label(run, runs), {&run}});
    } else {
      report::check_member(*found, run);
      found->runs.push_back(&run);
    }
  }
  return rows;
}

/// The row that others are compared with: of those of "adamw", the one with the lowest mean validation loss. Null: none.
inline const Row* baseline_of(std::span<const Row> rows) {
  const Row* best = nullptr;
  double lowest = 0;
  for (const Row& row : rows) {
    if (row.first().optimizer != "adamw") continue;
    double loss = row.mean(&Run::validation_loss).value;
    if (std::isnan(loss)) loss = std::numeric_limits<double>::infinity();
    if (best == nullptr || loss < lowest) best = &row, lowest = loss;
  }
  return best;
}

/// Perplexity over the baseline's, seed by seed over the seeds that both have; count 0 if there are none.
inline Mean ratio_to(const Row& baseline, const Row& row) {
  std::vector<double> ratios;
  for (const Run* run : row.runs)
    if (const Run* base = baseline.at_seed(run->seed)) ratios.push_back(perplexity(*run) / perplexity(*base));
  return mean_of(ratios);
}

}  // namespace llama
