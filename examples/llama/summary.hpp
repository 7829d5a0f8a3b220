// SPDX-License-Identifier: Apache-2.0
// A run's summary as JSON.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include <nlohmann/json.hpp>

#include "run.hpp"

namespace llama {

namespace report {

/// Calls visit(name, member) for everything in a run but its log.
template <class SomeRun, class Visit>
void each_field(SomeRun& run, Visit visit) {
  visit("optimizer", run.optimizer);
  visit("lr", run.lr);
  visit("other_lr", run.other_lr);
  visit("seed", run.seed);
  visit("steps", run.steps);
  visit("validation_loss", run.validation_loss);
  visit("weight_bytes", run.weight_bytes);
  visit("matrix_state_bytes", run.matrix_state_bytes);
  visit("matrix_record_bytes", run.matrix_record_bytes);
  visit("state_bytes", run.state_bytes);
  visit("record_bytes", run.record_bytes);
  visit("adamw_matrix_bytes", run.adamw_matrix_bytes);
  visit("adamw_bytes", run.adamw_bytes);
  visit("skipped", run.skipped);
  visit("optimizer_median_ms", run.optimizer_median_ms);
  visit("optimizer_mean_ms", run.optimizer_mean_ms);
  visit("seconds", run.seconds);
  visit("tokens_per_second", run.tokens_per_second);
}

inline nlohmann::json json_of(const std::string& value) { return value; }
inline nlohmann::json json_of(std::uint64_t value) { return value; }
inline nlohmann::json json_of(std::int64_t value) { return value; }
/// JSON knows neither infinity nor NaN, which runs that diverged end with: those are strings.
inline nlohmann::json json_of(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

/// Each read() is false where the JSON is of another type or out of range.
inline bool read(const nlohmann::json& json, std::string& value) {
  if (!json.is_string()) return false;
  value = json.get<std::string>();
  return true;
}
inline bool read(const nlohmann::json& json, std::uint64_t& value) {
  if (!json.is_number_unsigned() && !(json.is_number_integer() && json.get<std::int64_t>() >= 0)) return false;
  value = json.get<std::uint64_t>();
  return true;
}
inline bool read(const nlohmann::json& json, std::int64_t& value) {
  constexpr auto largest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (!json.is_number_integer() || (json.is_number_unsigned() && json.get<std::uint64_t>() > largest)) return false;
  value = json.get<std::int64_t>();
  return true;
}
inline bool read(const nlohmann::json& json, double& value) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  if (json.is_number())
    value = json.get<double>();
  else if (json == "nan")
    value = std::numeric_limits<double>::quiet_NaN();
  else if (json == "inf" || json == "-inf")
    value = json == "inf" ? infinity : -infinity;
  else
    return false;
  return true;
}

inline const char* kind_of(const std::string&) { return "a string"; }
inline const char* kind_of(std::uint64_t) { return "an integer from 0 to 2^64 - 1"; }
inline const char* kind_of(std::int64_t) { return "an integer of 64 bits"; }
inline const char* kind_of(double) { return "a number"; }

}  // namespace report

/// Everything in a run but its log.
inline nlohmann::json summary_of(const Run& run) {
  nlohmann::json json = nlohmann::json::object();
  report::each_field(run, [&](const char* name, const auto& member) { json[name] = report::json_of(member); });
  return json;
}

/// Reads back what summary_of made; the log stays empty. Other keys are passed over.
inline Run run_of(const nlohmann::json& json) {
  if (!json.is_object()) throw std::runtime_error("summary of a run: expected an object, found " + json.dump());
  Run run;
  report::each_field(run, [&](const char* name, auto& member) {
    const auto found = json.find(name);
    if (found == json.end()) throw std::runtime_error(std::string("summary of a run: '") + name + "' is missing");
    if (!report::read(*found, member))
      throw std::runtime_error(std::string("summary of a run: '") + name + "' must be " + report::kind_of(member) +
                               ", found " + found->dump());
  });
  return run;
}

}  // namespace llama
