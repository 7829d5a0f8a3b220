// SPDX-License-Identifier: Apache-2.0
// What a comparison leaves in its folder: tables of runs side by side, and plots.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numbers>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <apollo/base/error.hpp>

#include "files.hpp"
#include "log.hpp"
#include "numbers.hpp"
#include "plots.hpp"
#include "rows.hpp"
#include "run.hpp"
#include "summary.hpp"

namespace llama {

/// What every kind of table shows.
struct Table {
  std::vector<std::string> headings;            ///< '\n' where a narrow column breaks
  std::vector<std::vector<std::string>> cells;  ///< row by row
  std::vector<std::string> notes;               ///< what belongs to these runs but has no column
};

namespace report {

inline std::string with_error(const Mean& mean, int decimals) {
  if (mean.count == 0) return "-";
  if (!(mean.value < 1e6)) return apollo::text(mean.value);  // diverged: infinite, NaN or hundreds of digits
  return fixed(mean.value, decimals) + (mean.count > 1 ? " ± " + fixed(mean.error, decimals) : "");
}

inline std::string percent(std::int64_t part, std::int64_t whole) {
  return whole > 0 ? fixed(100 * static_cast<double>(part) / static_cast<double>(whole), 2) + " %" : "-";
}

inline std::vector<std::string> cells_of(const Row& row, const Row* baseline) {
  const Run& run = row.first();  // its bytes are those of the others
  std::string ratio = "-";
  if (baseline != nullptr) ratio = &row == baseline ? "1" : with_error(ratio_to(*baseline, row), 3);
  return {
      row.label,
      with_error(row.mean(perplexity), 3),
      fixed(row.mean(&Run::validation_loss).value / std::numbers::ln2, 4),
      ratio,
      std::to_string(run.matrix_state_bytes),
      percent(run.matrix_state_bytes, run.adamw_matrix_bytes),
      std::to_string(run.state_bytes),
      percent(run.state_bytes, run.adamw_bytes),
      fixed(row.mean(&Run::optimizer_median_ms).value, 2) + " / " + fixed(row.mean(&Run::optimizer_mean_ms).value, 2),
      fixed(row.mean(&Run::tokens_per_second).value, 0),
      fixed(row.mean(&Run::seconds).value, 1)};
}

inline std::string seeds_note(std::span<const Row> rows) {
  std::size_t fewest = rows.front().runs.size(), most = fewest;
  std::string counts;
  for (const Row& row : rows) {
    fewest = std::min(fewest, row.runs.size()), most = std::max(most, row.runs.size());
    counts += (counts.empty() ? "" : ", ") + row.label + " " + std::to_string(row.runs.size());
  }
  if (most == 1) return "One seed each.";
  if (fewest == most) return "Means over " + std::to_string(most) + " seeds, ± their standard error.";
  return "Means over seeds, ± their standard error. Seeds: " + counts + ".";
}

/// Records depend on the optimizer, not on learning rates or seeds.
inline std::string record_note(std::span<const Row> rows) {
  const Run& first = rows.front().first();
  std::vector<std::string> parts;
  bool same = true;
  for (const Row& row : rows) {
    const std::string bytes = std::to_string(row.first().record_bytes),
                      of_matrices = std::to_string(row.first().matrix_record_bytes);
    const std::string part = row.first().optimizer + " " + bytes + " (" + of_matrices + ")";
    if (std::find(parts.begin(), parts.end(), part) == parts.end()) parts.push_back(part);
    same = same && row.first().record_bytes == first.record_bytes &&
           row.first().matrix_record_bytes == first.matrix_record_bytes;
  }
  if (same)
    return "State stands beside the record of " + std::to_string(first.record_bytes) + " bytes, " +
           std::to_string(first.matrix_record_bytes) + " of them for the matrices: step counts and limiters' norms.";
  std::string text = "State stands beside the record of step counts and limiters' norms, in bytes (for the matrices): ";
  for (const std::string& part : parts) text += (&part == &parts.front() ? "" : ", ") + part;
  return text + ".";
}

inline std::vector<std::string> notes_of(std::span<const Row> rows, const Row* baseline) {
  std::vector<std::string> notes{seeds_note(rows)};
  if (baseline != nullptr && baseline->label != "adamw") notes.push_back("vs AdamW: " + baseline->label + ".");
  notes.push_back(record_note(rows));
  for (const Row& row : rows)
    for (const Run* run : row.runs)
      if (run->skipped > 0)
        notes.push_back(row.label + " at seed " + std::to_string(run->seed) + " left out " +
                        std::to_string(run->skipped) + " steps of tensors, for example because of a NaN.");
  return notes;
}

}  // namespace report

inline Table table_of(std::span<const Run> runs) {
  Table table;
  table.headings = {"optimizer",
                    "perplexity",
                    "bits\na byte",
                    "vs AdamW\n(times)",
                    "state of\nmatrices\n(bytes)",
                    "of\nAdamW's",
                    "state of\nmodel\n(bytes)",
                    "of\nAdamW's",
                    "optimizer\nms/step\nmedian / mean",
                    "tokens/s",
                    "seconds"};
  if (runs.empty()) return table;
  const std::vector<Row> rows = rows_of(runs);
  const Row* baseline = baseline_of(rows);
  for (const Row& row : rows) table.cells.push_back(report::cells_of(row, baseline));
  table.notes = report::notes_of(rows, baseline);
  return table;
}

namespace report {

inline std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == at)
      parts.emplace_back();
    else
      parts.back() += c;
  }
  return parts;
}

inline std::string replaced(const std::string& text, char from, const std::string& to) {
  std::string result;
  for (const char c : text) result += c == from ? to : std::string(1, c);
  return result;
}

/// Characters of a UTF-8 text: its bytes without those that go on with a character.
inline std::size_t width_of(const std::string& text) {
  const auto starts = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; };
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), starts));
}

/// The heading as lines of the terminal's table, the last of them right above the cells.
inline std::vector<std::vector<std::string>> heading_lines(const Table& table) {
  std::size_t height = 0;
  for (const std::string& heading : table.headings) height = std::max(height, split(heading, '\n').size());
  std::vector<std::vector<std::string>> lines(height, std::vector<std::string>(table.headings.size()));
  for (std::size_t i = 0; i < table.headings.size(); ++i) {
    const std::vector<std::string> parts = split(table.headings[i], '\n');
    for (std::size_t k = 0; k < parts.size(); ++k) lines[height - parts.size() + k][i] = parts[k];
  }
  return lines;
}

/// Names to the left, numbers to the right, columns two spaces apart.
inline std::string aligned(const std::vector<std::vector<std::string>>& lines) {
  std::vector<std::size_t> widths(lines.front().size());
  for (const auto& line : lines)
    for (std::size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], width_of(line[i]));
  std::string text;
  for (const auto& line : lines) {
    for (std::size_t i = 0; i < line.size(); ++i) {
      const std::string space(widths[i] - width_of(line[i]), ' ');
      text += i == 0 ? line[i] + space : "  " + space + line[i];
    }
    text += "\n";
  }
  return text;
}

inline std::string markdown_line(const std::vector<std::string>& cells) {
  std::string text = "|";
  for (const std::string& cell : cells) text += " " + replaced(cell, '|', "\\|") + " |";
  return text + "\n";
}

inline std::vector<std::string> column_notes() {
  return {
      "perplexity: e to the validation loss in nats a byte, over all windows of the validation text.",
      "bits a byte: the same loss / ln 2.",
      "vs AdamW: perplexity over that of adamw at the same seed and its best learning rates here; below 1 is better.",
      "state: moments and bases, kept from step to step. Matrices are those of attention and SwiGLU.",
      "state of model: with embedding, head and norms, which AdamW steps in every run.",
      "of AdamW's: in percent of what AdamW would keep for the same tensors.",
      "optimizer ms/step: what few steps do, such as compute new bases, shows in the mean alone.",
      "tokens/s and seconds: training with the optimizer, without validation."};
}

/// A field of a CSV file, between quotes if it needs them.
inline std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  return '"' + replaced(text, '"', "\"\"") + '"';
}
inline std::string csv_field(double value) { return digits(value); }
inline std::string csv_field(std::int64_t value) { return std::to_string(value); }
inline std::string csv_field(std::uint64_t value) { return std::to_string(value); }

/// Means over the row's seeds, at the steps where all of them were evaluated and none had diverged.
inline Curve curve_of(const Row& row) {
  struct Sum {
    std::size_t count = 0;
    Curve::Point point;
  };
  std::map<std::int64_t, Sum> sums;
  for (const Run* run : row.runs)
    for (const LogRow& logged : run->log) {
      if (logged.validation_loss == not_evaluated) continue;
      Sum& sum = sums[logged.step];
      ++sum.count;
      sum.point.seconds += logged.seconds;
      sum.point.loss += logged.validation_loss;
    }
  Curve curve{row.label, {}};
  const auto n = static_cast<double>(row.runs.size());
  for (const auto& [step, sum] : sums)
    if (sum.count == row.runs.size() && std::isfinite(sum.point.loss))
      curve.points.push_back({static_cast<double>(step), sum.point.seconds / n, sum.point.loss / n});
  return curve;
}

/// Named by the optimizer: learning rates do not change what it keeps, and one bar is enough for all of them.
inline Bar bar_of(const Row& row) {
  const Run& run = row.first();
  return {run.optimizer, run.matrix_state_bytes, run.state_bytes - run.matrix_state_bytes, run.adamw_bytes};
}

}  // namespace report

/// For a terminal some 120 characters wide.
inline std::string terminal_table(std::span<const Run> runs) {
  const Table table = table_of(runs);
  std::vector<std::vector<std::string>> lines = report::heading_lines(table);
  lines.insert(lines.end(), table.cells.begin(), table.cells.end());
  std::string text = report::aligned(lines);
  for (const std::string& note : table.notes) text += (&note == &table.notes.front() ? "\n" : "") + note + "\n";
  return text;
}

/// The same cells in GitHub's Markdown, with the notes as a list.
inline std::string markdown_table(std::span<const Run> runs) {
  const Table table = table_of(runs);
  std::vector<std::string> headings, rulers;
  for (const std::string& heading : table.headings) {
    headings.push_back(report::replaced(heading, '\n', " "));
    rulers.push_back(rulers.empty() ? "---" : "---:");
  }
  std::string text = report::markdown_line(headings) + report::markdown_line(rulers);
  for (const auto& cells : table.cells) text += report::markdown_line(cells);
  for (const std::string& note : table.notes) text += (&note == &table.notes.front() ? "\n- " : "- ") + note + "\n";
  return text;
}

/// One line a run, in the order given: all of its summary.
inline void write_runs_csv(const std::string& path, std::span<const Run> runs) {
  std::string text;
  const Run names;
  report::each_field(names,
                     [&](const char* name, const auto&) { text += (text.empty() ? "" : ",") + std::string(name); });
  for (const Run& run : runs) {
    char before = '\n';
    report::each_field(run, [&](const char*, const auto& member) {
      text += before + report::csv_field(member);
      before = ',';
    });
  }
  write_whole(path, text + "\n");
}

/// Writes runs.csv, summary.md and the plots into an existing folder. Without gnuplot the plots are left out, see plots.hpp.
inline void write_results(const std::string& folder, const std::string& title, const std::vector<Run>& runs) {
  if (runs.empty()) throw std::runtime_error("no runs to write results of into '" + folder + "'");
  write_runs_csv(folder + "/runs.csv", runs);
  std::string summary = "# " + title + "\n\n" + markdown_table(runs);
  for (const std::string& note : report::column_notes()) summary += "- " + note + "\n";
  write_whole(folder + "/summary.md", summary);

  std::vector<Curve> curves;
  std::vector<Bar> bars;
  for (const Row& row : rows_of(runs)) {
    curves.push_back(report::curve_of(row));
    const Bar bar = report::bar_of(row);
    if (std::find(bars.begin(), bars.end(), bar) == bars.end()) bars.push_back(bar);
  }
  write_plots(folder, std::move(curves), bars);
}

}  // namespace llama
