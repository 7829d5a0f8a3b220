// SPDX-License-Identifier: Apache-2.0
// What a benchmark prints: a line NAME VALUE UNIT for each figure, and the same as JSON.
#pragma once

#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "timing.hpp"

namespace bench {

/// Prints figures as they come and keeps them for --json. Names are made of letters, digits and "_/.", so they need no quoting.
class Figures {
 public:
  void add(const std::string& name, double value, const char* unit) {
    char number[32];
    std::snprintf(number, sizeof number, "%.6g", value);
    add(name, number, number, unit);
  }
  /// A word: the name of a device, a version.
  void add(const std::string& name, const std::string& word, const char* unit) {
    add(name, word, '"' + word + '"', unit);
  }
  /// The median and the quartiles.
  void add_quartiles(const std::string& name, const std::vector<double>& values, const char* unit) {
    add(name, median(values), unit);
    add(name + "/lower_quartile", quantile(values, 0.25), unit);
    add(name + "/upper_quartile", quantile(values, 0.75), unit);
  }
  /// Those of the ratio of each pair.
  void add_ratio(const std::string& name, const std::vector<double>& over, const std::vector<double>& under) {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < over.size(); ++i) ratios.push_back(over[i] / under[i]);
    add_quartiles(name, ratios, "x");
  }
  void write(const std::string& file) const {
    std::ofstream out(file);
    out << "[\n" << json_ << "\n]\n";
    if (!out.flush()) throw std::runtime_error("cannot write " + file);
  }

 private:
  void add(const std::string& name, const std::string& text, const std::string& json, const char* unit) {
    std::printf("%s %s %s\n", name.c_str(), text.c_str(), unit);
    std::fflush(stdout);
    json_ += json_.empty() ? "" : ",\n";
    json_ += "  {\"name\": \"" + name + "\", \"value\": " + json + ", \"unit\": \"" + unit + "\"}";
  }

  std::string json_;
};

}  // namespace bench
