// SPDX-License-Identifier: Apache-2.0
// Plots of a comparison: gnuplot's data, a script to draw them with, and a run of gnuplot, which makes SVGs of them.
#pragma once

#include <stdio.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "files.hpp"
#include "numbers.hpp"

namespace llama {

/// Validation while training, one row of the table: means over its seeds.
struct Curve {
  struct Point {
    double step = 0, seconds = 0;
    double loss = 0;  ///< nats a byte
  };
  std::string label;
  std::vector<Point> points;  ///< by ascending steps, all finite
};

/// The bytes that an optimizer keeps for the whole model.
struct Bar {
  std::string label;
  std::int64_t matrices = 0;
  std::int64_t others = 0;  ///< embedding, head and norms
  std::int64_t adamw = 0;   ///< what AdamW would keep for all of it

  bool operator==(const Bar&) const = default;
};

namespace report {

/// `text` between single quotes; `quote` is how such a text writes a single quote of its own.
inline std::string single_quoted(const std::string& text, const std::string& quote) {
  std::string quoted = "'";
  for (const char c : text) {
    if (c == '\'')
      quoted += quote;
    else
      quoted += c;
  }
  return quoted + "'";
}

inline std::string gnuplot_quoted(const std::string& text) { return single_quoted(text, "''"); }

/// One block a curve, to be drawn with `index`: gnuplot parts blocks at two empty lines.
inline std::string curve_data(std::span<const Curve> curves) {
  std::string text = "# Means over seeds. Columns: step, seconds of training, validation loss in nats a byte.\n";
  for (std::size_t i = 0; i < curves.size(); ++i) {
    text += (i == 0 ? "# " : "\n\n# ") + curves[i].label + "\n";
    for (const Curve::Point& p : curves[i].points)
      text += digits(p.step) + " " + digits(p.seconds) + " " + digits(p.loss) + "\n";
  }
  return text;
}

inline std::string bar_data(std::span<const Bar> bars) {
  std::string text = "# Bytes of state. Columns: number of the row, matrices, the rest of the model.\n";
  for (std::size_t i = 0; i < bars.size(); ++i)
    text += std::to_string(i) + " " + std::to_string(bars[i].matrices) + " " + std::to_string(bars[i].others) + "  # " +
            bars[i].label + "\n";
  return text;
}

struct Range {
  double low = 0, high = 0;
};

/// The losses worth seeing: from the lowest to the highest that a curve has after a fifth of its steps. A curve that stays
/// far above the others leaves the picture rather than pressing them together.
inline Range loss_range(std::span<const Curve> curves) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  std::vector<double> tops;
  for (const Curve& curve : curves) {
    double top = curve.points.back().loss;
    for (const Curve::Point& p : curve.points) {
      low = std::min(low, p.loss);
      if (p.step >= curve.points.back().step / 5) top = std::max(top, p.loss);
    }
    tops.push_back(top);
    high = std::max(high, top);
  }
  std::sort(tops.begin(), tops.end());
  high = std::min(high, low + 2 * (tops[(tops.size() - 1) / 2] - low));
  const double margin = high > low ? 0.04 * (high - low) : 0.1;
  return {low - margin, high + margin};
}

/// Markers at some twelve points, however many there are.
inline std::size_t marker_interval(const Curve& curve) { return std::max<std::size_t>(1, curve.points.size() / 12); }

inline std::string style_commands() {
  return R"(
# Okabe and Ito's colours, which the colour-blind can tell apart, less yellow, which is pale on white. Seven lines later they
# come again, dashed.
array colour[7] = ['#000000', '#D55E00', '#0072B2', '#009E73', '#CC79A7', '#E69F00', '#56B4E9']
array shape[7] = [7, 5, 9, 13, 11, 6, 4]
do for [i=0:27] {
  set linetype i+1 linewidth 2.2 pointsize 0.75 linecolor rgb colour[i%7+1] pointtype shape[i%7+1] dashtype i/7+1
}
set border 3 linewidth 1 linecolor rgb '#444444'
set tics nomirror out scale 0.5 textcolor rgb '#222222'
set grid linetype 1 linewidth 0.7 linecolor rgb '#e4e4e4' dashtype solid
)";
}

/// The plot command's lines, one a curve; `column` is what to draw the losses against.
inline std::string curve_commands(std::span<const Curve> curves, int column) {
  std::string text = "plot ";
  for (std::size_t i = 0; i < curves.size(); ++i) {
    text += (i == 0 ? "" : ", \\\n     ") + ("'validation.dat' index " + std::to_string(i) + " using ");
    text += std::to_string(column) + ":3 with linespoints linetype " + std::to_string(i + 1) + " pointinterval ";
    text += std::to_string(marker_interval(curves[i])) + " title " + gnuplot_quoted(curves[i].label);
  }
  return text + "\n";
}

inline std::string validation_commands(std::span<const Curve> curves) {
  const Range range = loss_range(curves);
  std::size_t longest = 0;
  for (const Curve& curve : curves) longest = std::max(longest, curve.label.size());
  const std::size_t width = 760 + 9 * longest;  // the legend stands to the right, a line a curve
  const std::size_t height = std::max<std::size_t>(460, 90 + 24 * curves.size());
  return "\n# --- validation loss while training ---\nset terminal svg size " + std::to_string(width) + "," +
         std::to_string(height) + " font 'sans-serif,15' background '#ffffff' noenhanced\n" +
         "set key outside right top vertical Left reverse samplen 2.2 spacing 1.25 width 1\n" +
         "set ylabel 'validation loss (nats/byte)'\nset xrange [0:*]\n" +
         "# Without the first fifth of the steps, where the loss is high.\nset yrange [" + fixed(range.low, 4) + ":" +
         fixed(range.high, 4) + "]\n\nset output 'validation_steps.svg'\nset xlabel 'step'\n" +
         curve_commands(curves, 1) + "\nset output 'validation_seconds.svg'\nset xlabel 'training time (s)'\n" +
         curve_commands(curves, 2);
}

/// A line of text above a bar: its parts, their sum, and the sum in percent of AdamW's.
inline std::string bar_text(const Bar& bar) {
  const std::int64_t whole = bar.matrices + bar.others;
  std::string text = std::to_string(bar.matrices) + " + " + std::to_string(bar.others) + " = " + std::to_string(whole);
  text += " bytes";
  if (bar.adamw > 0)
    text += ", " + fixed(100 * static_cast<double>(whole) / static_cast<double>(bar.adamw), 1) + " % of AdamW's";
  return text;
}

struct Unit {
  const char* name;
  const char* bytes;
};

/// The unit for an axis: the largest that leaves the longest bar at 1 or more.
inline Unit unit_for(std::span<const Bar> bars) {
  std::int64_t longest = 0;
  for (const Bar& bar : bars) longest = std::max(longest, bar.matrices + bar.others);
  if (longest >= 1'000'000'000) return {"GB", "1e9"};
  if (longest >= 1'000'000) return {"MB", "1e6"};
  return longest >= 1000 ? Unit{"kB", "1e3"} : Unit{"bytes", "1."};
}

/// Bars are drawn as boxes given by their corners: gnuplot's histograms stand upright, which leaves no room for the names.
inline std::string state_commands(std::span<const Bar> bars) {
  std::string names, texts;
  for (std::size_t i = 0; i < bars.size(); ++i) {
    const std::string at = std::to_string(i);
    names += (i == 0 ? "" : ", ") + gnuplot_quoted(bars[i].label) + " " + at;
    texts += "set label " + gnuplot_quoted(bar_text(bars[i])) + " at 0, " + at + "-0.26 left offset 0.4, 0\n";
  }
  const Unit unit = unit_for(bars);
  return "\n# --- state of the whole model ---\nset terminal svg size 900," + std::to_string(110 + 60 * bars.size()) +
         " font 'sans-serif,15' background '#ffffff' noenhanced\nset output 'state_bytes.svg'\n" +
         "set key outside center top horizontal Left reverse samplen 1.5\n" +
         "set xlabel 'optimizer state of the whole model (" + unit.name + ")'\nunset ylabel\nset xrange [0:*]\n" +
         "set yrange [" + std::to_string(bars.size()) + "-0.5:-0.5]  # the first row on top\n" +
         "unset grid\nset grid xtics\nset ytics scale 0 (" + names + ")\nset style fill solid 1 noborder\n" + texts +
         "unit = " + unit.bytes + "  # bytes\n" +
         "plot 'state.dat' using (0):1:(0):($2/unit):($1-0.05):($1+0.32) with boxxyerror linecolor rgb '#0072B2' \\\n" +
         "       title 'matrices', \\\n" +
         "     '' using (0):1:($2/unit):(($2+$3)/unit):($1-0.05):($1+0.32) with boxxyerror linecolor rgb '#E69F00' "
         "\\\n" +
         "       title 'embedding, head and norms'\n";
}

inline std::string script(std::span<const Curve> curves, std::span<const Bar> bars) {
  std::string text =
      "# Draws the plots from validation.dat and state.dat: gnuplot plots.gp\nreset\nset encoding utf8\n";
  text += style_commands();
  if (!curves.empty()) text += validation_commands(curves);
  return text + state_commands(bars) + "set output  # closes the last file\n";
}

/// Runs gnuplot in the folder. False: there is none, which stderr is told. Errors: what gnuplot says when it fails.
inline bool run_gnuplot(const std::string& folder) {
  // Without CDPATH, `cd` could go elsewhere than to a relative folder. 127 is the shell's word for a missing program.
  const std::string there = "CDPATH= cd -- " + single_quoted(folder, R"('\'')");
  std::fflush(nullptr);
  FILE* pipe = ::popen(("exec 2>&1; " + there + " && exec gnuplot plots.gp").c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("cannot start a shell for gnuplot in '" + folder + "'");
  std::string output;
  char buffer[4096];
  for (std::size_t got = 0; (got = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) output.append(buffer, got);
  const int status = ::pclose(pipe);
  if (status != -1 && WIFEXITED(status) && WEXITSTATUS(status) == 127) {
    std::fprintf(stderr, "no plots, since gnuplot is missing: install gnuplot-nox, then run: %s && gnuplot plots.gp\n",
                 there.substr(there.find("cd")).c_str());
    return false;
  }
  if (status != 0) throw std::runtime_error("gnuplot failed on '" + folder + "/plots.gp':\n" + output);
  std::fputs(output.c_str(), stderr);  // warnings
  return true;
}

}  // namespace report

/// Writes validation.dat, state.dat and plots.gp into the folder and has gnuplot draw validation_steps.svg,
/// validation_seconds.svg and state_bytes.svg. Curves without points are left out, and without any curve the first two
/// plots. False: gnuplot is missing.
inline bool write_plots(const std::string& folder, std::vector<Curve> curves, const std::vector<Bar>& bars) {
  if (bars.empty()) throw std::runtime_error("cannot plot into '" + folder + "': no runs");
  std::erase_if(curves, [](const Curve& curve) { return curve.points.empty(); });
  write_whole(folder + "/validation.dat", report::curve_data(curves));
  write_whole(folder + "/state.dat", report::bar_data(bars));
  write_whole(folder + "/plots.gp", report::script(curves, bars));
  return report::run_gnuplot(folder);
}

}  // namespace llama
