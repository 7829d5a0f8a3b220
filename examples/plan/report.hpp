// SPDX-License-Identifier: Apache-2.0
// A plan in words and numbers: a table for the terminal, what fits in a budget, and stacked bars as SVG.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "../llama/results.hpp"
#include "bytes.hpp"
#include "units.hpp"

namespace plan {

/// What a plan is compared with and how it is shown.
struct View {
  const Unit* unit = nullptr;  ///< null: the largest decimal one in which the largest total is at least 1
  Index budget = 0;            ///< of one rank; 0: none
  Index world = 1;             ///< ranks of plain data parallelism
};

inline const Unit& unit_of(std::span<const Row> rows, const View& view) {
  if (view.unit != nullptr) return *view.unit;
  Index largest = 0;
  for (const Row& row : rows) largest = std::max(largest, row.bytes.total());
  for (const char* name : {"GB", "MB"})
    if (largest >= unit_named(name).bytes) return unit_named(name);
  return unit_named("B");
}

/// Error: more bytes than can be counted.
inline Index of_all_ranks(Index bytes, Index world) {
  if (bytes > std::numeric_limits<Index>::max() / world)
    throw std::runtime_error("world " + std::to_string(world) + " times " + std::to_string(bytes) +
                             " bytes is more than can be counted");
  return bytes * world;
}

inline std::string heading(const Model& model, const Request& request) {
  std::string text = model.name + ": " + std::to_string(model.parameters) + " parameters";
  text += ", " + std::to_string(model.parameters_in(Role::matrix)) + " of them in matrices, " +
          std::to_string(model.parameters_in(Role::embedding)) + " in embedding and head, " +
          std::to_string(model.parameters_in(Role::rest)) + " in the rest\n";
  text += std::string("weights ") + name_of(request.weights);
  if (request.weights == Number::int8) text += " (matrices, embedding and head; fp32 for the rest)";
  text += std::string(", gradients ") + name_of(request.gradients);
  text += request.layerwise ? " of the largest layer" : " of everything";
  text += std::string(", moments ") + name_of(request.moments) + ", rank " +
          std::to_string(request.rank > 0 ? request.rank : model.rank);
  return text + "\n";
}

inline std::string table(std::span<const Row> rows, const View& view) {
  const Unit& unit = unit_of(rows, view);
  std::vector<std::string> headings{unit.name, "weights", "gradients",    "states:\nmatrices", "embedding,\nhead",
                                    "rest",    "records", "work-\nspace", "weights\n+ states", "total"};
  if (view.world > 1) headings.push_back("all " + std::to_string(view.world) + "\nranks");
  if (view.budget > 0) headings.push_back("of " + in_unit(view.budget, unit));
  auto lines = llama::report::heading_lines({headings, {}, {}});
  for (const Row& row : rows) {
    const Bytes& b = row.bytes;
    std::vector<std::string> line{row.member};
    for (const Index bytes : {b.weights, b.gradients, b.matrix_states, b.embedding_states, b.rest_states, b.records,
                              b.workspace, b.weights + b.states(), b.total()})
      line.push_back(in_unit(bytes, unit));
    if (view.world > 1) line.push_back(in_unit(of_all_ranks(b.total(), view.world), unit));
    if (view.budget > 0)
      line.push_back(b.total() <= view.budget ? in_unit(view.budget - b.total(), unit) + " left"
                                              : in_unit(b.total() - view.budget, unit) + " over");
    lines.push_back(line);
  }
  return llama::report::aligned(lines);
}

/// What fits in the budget of one rank, and what does not.
inline std::string verdict(std::span<const Row> rows, const View& view) {
  std::string fits, exceeds;
  for (const Row& row : rows) {
    std::string& list = row.bytes.total() <= view.budget ? fits : exceeds;
    list += (list.empty() ? "" : ", ") + row.member;
  }
  const std::string budget = in_unit(view.budget, unit_of(rows, view)) + " " + unit_of(rows, view).name;
  return "fits in " + budget + ": " + (fits.empty() ? "nothing" : fits) +
         "\ndoes not fit: " + (exceeds.empty() ? "nothing" : exceeds) + "\n";
}

inline std::vector<std::string> notes(const Model& model, std::span<const Row> rows, const View& view) {
  const Unit& unit = unit_of(rows, view);
  std::vector<std::string> list;
  list.push_back(
      "Not counted: activations, which what is left must hold, sums of micro-batches, and what a framework or a driver "
      "keeps.");
  list.push_back(unit.bytes == 1 ? "B: bytes." : std::string(unit.name) + ": " + unit.meaning + ".");
  list.push_back(
      "Embedding, head and the rest (norms, biases, unknown) take AdamW beside every member. Workspace: of one "
      "thread on Eigen's backend.");
  if (view.world > 1) {
    const std::string world = std::to_string(view.world);
    list.push_back("Plain data parallelism: each of " + world + " ranks holds the whole total, " +
                   (view.budget > 0 ? "which the budget of one rank is compared with, " : "") + "and all " + world +
                   " together " + world +
                   " times as much. More ranks make the batch larger, not the total of one smaller.");
    list.push_back(
        "Gradients are all-reduced where they lie. A library that copies them into buckets first (torch's "
        "DistributedDataParallel without gradient_as_bucket_view) holds them once more.");
  }
  Index rank = 0;
  for (const Row& row : rows) rank = std::max(rank, row.rank);
  const auto narrow = std::count_if(model.tensors.begin(), model.tensors.end(),
                                    [&](const Tensor& t) { return t.role == Role::matrix && t.shorter_side() < rank; });
  if (narrow > 0)
    list.push_back(std::to_string(narrow) + " matrices have a side shorter than rank " + std::to_string(rank) +
                   ", which is their rank then: the library asks for a group of its own for them.");
  list.insert(list.end(), model.notes.begin(), model.notes.end());
  return list;
}

// --- bars -----------------------------------------------------------------------------------------------------------------

namespace bars {

struct Part {
  const char* name;
  const char* colour;  ///< Okabe and Ito's, which the colour-blind can tell apart
  Index (*bytes)(const Bytes&);
};

inline constexpr std::array<Part, 5> parts{
    {{"weights", "#0072B2", [](const Bytes& b) { return b.weights; }},
     {"gradients", "#56B4E9", [](const Bytes& b) { return b.gradients; }},
     {"states of matrices", "#D55E00", [](const Bytes& b) { return b.matrix_states; }},
     {"states of the others", "#E69F00", [](const Bytes& b) { return b.embedding_states + b.rest_states; }},
     {"workspace, records", "#009E73", [](const Bytes& b) { return b.workspace + b.records; }}}};

inline std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c == '&')
      result += "&amp;";
    else if (c == '<')
      result += "&lt;";
    else if (c == '>')
      result += "&gt;";
    else
      result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return result;
}

inline std::string text_at(double x, double y, const char* anchor, std::string_view text) {
  using llama::report::fixed;
  return "<text x=\"" + fixed(x, 1) + "\" y=\"" + fixed(y, 1) + "\" text-anchor=\"" + anchor + "\">" + escaped(text) +
         "</text>\n";
}

inline std::string line_at(double x, double top, double bottom, const char* style) {
  using llama::report::fixed;
  return "<line x1=\"" + fixed(x, 1) + "\" x2=\"" + fixed(x, 1) + "\" y1=\"" + fixed(top, 1) + "\" y2=\"" +
         fixed(bottom, 1) + "\" " + style + "/>\n";
}

inline std::string box_at(double x, double y, double width, double height, const char* colour) {
  using llama::report::fixed;
  return "<rect x=\"" + fixed(x, 1) + "\" y=\"" + fixed(y, 1) + "\" width=\"" + fixed(width, 1) + "\" height=\"" +
         fixed(height, 1) + "\" fill=\"" + colour + "\"/>\n";
}

/// The shortest step of 1, 2 or 5 times a power of ten that leaves an axis of this length at most ten of them.
inline double tick(double length) {
  double step = 1;
  while (step < length) step *= 10;
  while (step > length) step /= 10;
  step /= 10;
  for (const double factor : {1.0, 2.0, 5.0})
    if (length / (step * factor) <= 10) return step * factor;
  return step * 10;
}

}  // namespace bars

/// One bar a member, with a line at the budget.
inline std::string svg(const Model& model, std::span<const Row> rows, const View& view) {
  using namespace bars;
  using llama::report::fixed;
  const Unit& unit = unit_of(rows, view);
  const auto length_of = [&](Index bytes) { return static_cast<double>(bytes) / static_cast<double>(unit.bytes); };
  Index largest = view.budget;
  for (const Row& row : rows) largest = std::max(largest, row.bytes.total());
  const double left = 160, right = 790, top = 100, height = 34,
               bottom = top + height * static_cast<double>(rows.size());
  const double scale = (right - left) / length_of(std::max<Index>(largest, 1));

  std::string text = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"" + fixed(bottom + 60, 0) +
                     "\" font-family=\"sans-serif\" font-size=\"15\" fill=\"#222222\">\n";
  text += box_at(0, 0, 900, bottom + 60, "#ffffff") + text_at(16, 26, "start", model.name);
  double x = 16;
  for (const Part& part : parts) {
    text += box_at(x, 44, 14, 14, part.colour) + text_at(x + 20, 56, "start", part.name);
    x += 46 + 8 * static_cast<double>(std::string_view(part.name).size());
  }
  const double step = tick(length_of(std::max<Index>(largest, 1)));
  for (int i = 0; i * step <= length_of(largest); ++i) {
    text += line_at(left + i * step * scale, top, bottom, "stroke=\"#e4e4e4\" stroke-width=\"0.7\"");
    text += text_at(left + i * step * scale, bottom + 20, "middle", llama::report::digits(i * step));
  }
  text += text_at((left + right) / 2, bottom + 44, "middle",
                  "bytes of one rank, without activations (" + std::string(unit.name) + ")");
  std::string totals;  // above the line of the budget
  double y = top;
  for (const Row& row : rows) {
    text += text_at(left - 10, y + height / 2 + 5, "end", row.member);
    double at = left;
    for (const Part& part : parts) {
      const double width = length_of(part.bytes(row.bytes)) * scale;
      text += box_at(at, y + 6, width, height - 12, part.colour);
      at += width;
    }
    totals += text_at(at + 6, y + height / 2 + 5, "start", in_unit(row.bytes.total(), unit));
    y += height;
  }
  if (view.budget > 0) {
    const double at = left + length_of(view.budget) * scale;
    text += line_at(at, top - 8, bottom, "stroke=\"#000000\" stroke-width=\"1.5\" stroke-dasharray=\"5 4\"");
    text += text_at(at, top - 12, "middle", "budget");
  }
  text += "<g paint-order=\"stroke\" stroke=\"#ffffff\" stroke-width=\"4\">\n" + totals + "</g>\n";
  return text + "</svg>\n";
}

}  // namespace plan
