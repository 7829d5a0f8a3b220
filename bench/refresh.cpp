// SPDX-License-Identifier: Apache-2.0
// GaLore's refresh, in turns with LAPACK's sgesdd of the same matrix on as many threads, and how much of the exact
// basis' energy it keeps. Prints NAME VALUE UNIT; --help lists the flags.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <exception>
#include <iostream>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

#include "figures.hpp"
#include "models/lists.hpp"
#include "refresh/gradients.hpp"
#include "refresh/refresh.hpp"

namespace {

using bench::Decomposition;
using bench::Figures;
using bench::Index;
using bench::Refresh;
using bench::Seconds;
using bench::Shape;

struct Arguments {
  std::vector<std::string> lists{"60m", "350m"};
  std::vector<int> threads{1, 2};
  int pairs = 7;
  Index rank = 0;
  double angle = 0.1;
  std::vector<std::string> gradients;
  std::string model = "nano";
  std::string filter = ".";
  std::string json;
};

/// The shapes that a model's refreshes meet, each once.
std::vector<Shape> shapes_of(const bench::List& list) {
  std::vector<Shape> shapes;
  for (const bench::Tensor& tensor : list.tensors)
    if (std::find(shapes.begin(), shapes.end(), tensor.shape) == shapes.end()) shapes.push_back(tensor.shape);
  return shapes;
}

/// Times of one kind of refresh, and how much of the exact basis' energy each basis had.
struct Series {
  const char* name;
  std::vector<double> milliseconds, times_faster, energy;

  void add(Seconds refresh, Seconds decomposition, double part) {
    milliseconds.push_back(1e3 * refresh);
    times_faster.push_back(decomposition / refresh);
    energy.push_back(part);
  }
  void report(Figures& figures, const std::string& before) const {
    const std::string prefix = before + "/" + name;
    figures.add_quartiles(prefix, milliseconds, "ms");
    figures.add_quartiles(prefix + "/times_faster_than_sgesdd", times_faster, "x");
    figures.add(prefix + "/energy", *std::min_element(energy.begin(), energy.end()), "x");
  }
};

void run_shape(Figures& figures, const Arguments& arguments, const std::string& name, Shape shape, Index rank,
               int threads) {
  Refresh cold(shape, rank, threads), warm(shape, rank, threads);
  Decomposition exact(shape);
  bench::TurningGradient gradient(shape);
  Series colds{"cold", {}, {}, {}}, warms{"warm", {}, {}, {}};
  std::vector<double> decompositions;
  warm.run(gradient.values(), false);
  for (int pair = -1; pair < arguments.pairs; ++pair) {
    gradient.turn(arguments.angle);
    const Seconds from_noise = cold.run(gradient.values(), false), from_before = warm.run(gradient.values(), true);
    const Seconds decomposition = exact.run(gradient.values(), threads);
    if (pair < 0) continue;  // to warm up
    colds.add(from_noise, decomposition, cold.energy(gradient.values()) / exact.energy(rank));
    warms.add(from_before, decomposition, warm.energy(gradient.values()) / exact.energy(rank));
    decompositions.push_back(1e3 * decomposition);
  }
  figures.add_quartiles(name + "/sgesdd", decompositions, "ms");
  colds.report(figures, name);
  warms.report(figures, name);
  // As far as a gradient can turn: one refresh from the basis of another that has nothing to do with it.
  gradient.turn(1.5707963267948966);
  warm.run(gradient.values(), true);
  exact.run(gradient.values(), threads);
  figures.add(name + "/warm/energy_unrelated", warm.energy(gradient.values()) / exact.energy(rank), "x");
}

void run_lists(Figures& figures, const Arguments& arguments) {
  const std::regex filter(arguments.filter);
  for (const std::string& name : arguments.lists) {
    const bench::List list = bench::make_list(name, bench::Scope::matrices);
    const Index rank = arguments.rank > 0 ? arguments.rank : list.hidden / 4;
    for (const Shape shape : shapes_of(list))
      for (const int threads : arguments.threads) {
        const std::string one = "refresh/" + name + "/" + std::to_string(shape.rows) + "x" +
                                std::to_string(shape.cols) + "/r" + std::to_string(rank) + "/t" +
                                std::to_string(threads);
        if (std::regex_search(one, filter)) run_shape(figures, arguments, one, shape, rank, threads);
      }
  }
}

/// The energy that a basis of the first file's gradient has on the second's after one warm refresh, and that of a cold
/// basis.
void run_gradients(Figures& figures, const Arguments& arguments) {
  if (arguments.gradients.size() != 2)
    throw std::invalid_argument("--gradients needs two files, found " + std::to_string(arguments.gradients.size()));
  const auto before = bench::read_gradients(arguments.gradients[0]),
             after = bench::read_gradients(arguments.gradients[1]);
  const int threads = arguments.threads.front();
  std::vector<double> warm, cold;
  for (std::size_t i = 0; i < after.size(); ++i) {
    if (before.size() != after.size() || before[i].name != after[i].name || before[i].shape != after[i].shape)
      throw std::invalid_argument(arguments.gradients[0] + " and " + arguments.gradients[1] +
                                  " hold other matrices, from " + after[i].name + " on");
    const Shape shape = after[i].shape;
    const Index side = std::min(shape.rows, shape.cols);
    const Index rank = arguments.rank > 0 ? arguments.rank : std::max(Index{1}, side / 4);
    Refresh refresh(shape, rank, threads);
    Decomposition exact(shape);
    exact.run(after[i].values, threads);
    refresh.run(before[i].values, false);
    refresh.run(after[i].values, true);
    warm.push_back(refresh.energy(after[i].values) / exact.energy(rank));
    refresh.run(after[i].values, false);
    cold.push_back(refresh.energy(after[i].values) / exact.energy(rank));
  }
  const std::string name = "refresh/" + arguments.model + "/gradients/";
  const auto report = [&](const std::string& prefix, const std::vector<double>& energy) {
    figures.add(prefix + "energy_min", *std::min_element(energy.begin(), energy.end()), "x");
    figures.add(prefix + "energy_median", bench::median(energy), "x");
  };
  report(name, warm);
  report(name + "cold/", cold);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  std::vector<std::string> list_names;
  for (const bench::Llama& llama : bench::llamas) list_names.emplace_back(llama.name);

  CLI::App app("Times GaLore's refresh against LAPACK's sgesdd and measures what its basis keeps.");
  app.add_option("--lists", arguments.lists, "models")->delimiter(',')->check(CLI::IsMember(list_names));
  app.add_option("--threads", arguments.threads)->delimiter(',')->check(CLI::PositiveNumber);
  app.add_option("--pairs", arguments.pairs, "a cold refresh, a warm one and a decomposition each")
      ->check(CLI::PositiveNumber);
  app.add_option("--rank", arguments.rank, "0: a quarter of the width")->check(CLI::NonNegativeNumber);
  app.add_option("--angle", arguments.angle, "by which the gradient turns from one refresh to the next, in radians")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--gradients", arguments.gradients,
                 "two files that examples/llama --save-gradients wrote: energies on these instead")
      ->delimiter(',');
  app.add_option("--model", arguments.model, "what figures of --gradients are named by")->capture_default_str();
  app.add_option("--filter", arguments.filter, "regular expression of the names to run");
  app.add_option("--json", arguments.json, "file for the figures");
  CLI11_PARSE(app, argc, argv);
  try {
    std::cerr << "sgesdd by " << bench::blas_name() << '\n';
    Figures figures;
    if (arguments.gradients.empty())
      run_lists(figures, arguments);
    else
      run_gradients(figures, arguments);
    if (!arguments.json.empty()) figures.write(arguments.json);
  } catch (const std::exception& error) {
    std::cerr << "bench_refresh: " << error.what() << '\n';
    return 1;
  }
}
