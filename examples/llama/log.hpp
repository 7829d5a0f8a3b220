// SPDX-License-Identifier: Apache-2.0
// A run's log as CSV: written whole, read back bit for bit.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "files.hpp"
#include "numbers.hpp"
#include "run.hpp"

namespace llama {

namespace report {

inline constexpr std::string_view log_header =
    "step,tokens,seconds,lr_factor,training_loss,validation_loss,optimizer_ms";

/// One line of a log, taken field by field from the left. Errors name the file, the line and the field.
class LogLine {
 public:
  LogLine(const std::string& path, std::size_t number, std::string_view line)
      : path_(path), number_(number), line_(line) {}

  [[noreturn]] void refuse(const std::string& expected, std::string_view found) const {
    throw std::runtime_error("cannot read '" + path_ + "', line " + std::to_string(number_) + ": expected " + expected +
                             ", found '" + std::string(found) + "'");
  }

  std::string_view next(const std::string& name) {
    if (at_ > line_.size()) refuse("a field " + name, "");
    const std::size_t comma = std::min(line_.find(',', at_), line_.size());
    const std::string_view field = line_.substr(at_, comma - at_);
    at_ = comma + 1;
    return field;
  }
  std::int64_t integer(const std::string& name) { return number<std::int64_t>(next(name), "an integer for " + name); }
  double real(const std::string& name) { return number<double>(next(name), "a number for " + name); }
  /// not_evaluated where the field is empty.
  double real_or_empty(const std::string& name) {
    const std::string_view field = next(name);
    return field.empty() ? not_evaluated : number<double>(field, "a number or nothing for " + name);
  }
  void end() const {
    if (at_ <= line_.size()) refuse("seven fields", line_);
  }

 private:
  template <class Number>
  Number number(std::string_view field, const std::string& expected) const {
    Number value{};
    const char* end = field.data() + field.size();
    const std::from_chars_result result = std::from_chars(field.data(), end, value);
    if (result.ec != std::errc() || result.ptr != end) refuse(expected, field);
    return value;
  }

  const std::string& path_;
  std::size_t number_;
  std::string_view line_;
  std::size_t at_ = 0;
};

}  // namespace report

/// Writes a log, whole or not at all.
inline void write_log(const std::string& path, const std::vector<LogRow>& log) {
  std::string text = std::string(report::log_header) + "\n";
  for (const LogRow& row : log) {
    text += std::to_string(row.step) + "," + std::to_string(row.tokens) + "," + report::digits(row.seconds) + ",";
    text += report::digits(row.lr_factor) + "," + report::digits(row.training_loss) + ",";
    if (row.validation_loss != not_evaluated) text += report::digits(row.validation_loss);
    text += "," + report::digits(row.optimizer_ms) + "\n";
  }
  write_whole(path, text);
}

/// Reads back what write_log wrote, bit for bit.
inline std::vector<LogRow> read_log(const std::string& path) {
  const std::string text = read_whole(path);
  std::vector<LogRow> log;
  std::size_t number = 1;
  for (std::size_t at = 0; at < text.size() || number == 1; ++number) {
    const std::size_t end = text.find('\n', at);
    const std::string_view whole = std::string_view(text).substr(at, end - at);
    report::LogLine line(path, number, whole);
    if (number == 1 && whole != report::log_header)
      line.refuse("the header '" + std::string(report::log_header) + "'", whole);
    if (end == std::string::npos) line.refuse("a whole line, not a file cut short", whole);
    at = end + 1;
    if (number == 1) continue;
    LogRow row;
    row.step = line.integer("step");
    row.tokens = line.integer("tokens");
    row.seconds = line.real("seconds");
    row.lr_factor = line.real("lr_factor");
    row.training_loss = line.real("training_loss");
    row.validation_loss = line.real_or_empty("validation_loss");
    row.optimizer_ms = line.real("optimizer_ms");
    line.end();
    log.push_back(row);
  }
  return log;
}

}  // namespace llama
