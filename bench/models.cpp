// SPDX-License-Identifier: Apache-2.0
// Steps of whole models, in turns with the roofline: an AdamW loop over as many parameters elsewhere, on as many threads. So both
// meet the same moments of the machine, and the ratio of a pair means something. Prints NAME VALUE UNIT; --help lists the flags.
#include <CLI/CLI.hpp>
#include <iostream>
#include <map>
#include <optional>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

#include "figures.hpp"
#include "models/subjects.hpp"

namespace {

using bench::Figures;
using bench::Index;
using bench::List;
using bench::Member;
using bench::Scope;
using bench::Seconds;
using bench::Shape;

struct Arguments {
  std::vector<std::string> lists{"small", "60m"};
  std::vector<Scope> scopes{Scope::whole, Scope::matrices};
  std::vector<std::string> members{"adamw",         "adamw_unchecked", "apollo_mini",
                                   "apollo_sparse", "apollo_gaussian", "galore"};
  std::vector<Index> ranks{0};
  std::vector<std::string> types{"float"};
  std::vector<int> threads{1, 2};
  int pairs = 21;
  std::string filter = ".";
  std::string prefix;
  std::string json;
  bool all = false;
  bool serve = false;
  bool tensors = false;
};

std::string case_name(const List& list, std::string_view what, Index rank, const std::string& type, int threads) {
  if (list.one_matrix) {  // growth/MEMBER/ROWSxCOLS/THREADS, and what is not as usual
    const Shape shape = list.tensors.front().shape;
    return "growth/" + std::string(what) + "/" + std::to_string(shape.rows) + "x" + std::to_string(shape.cols) +
           (rank > 0 && rank != list.rank ? "/r" + std::to_string(rank) : "") + (type != "float" ? "/" + type : "") +
           "/t" + std::to_string(threads);
  }
  return std::string(name_of(list.scope)) + "/" + std::string(what) + "/" + list.name +
         (rank > 0 ? "/r" + std::to_string(rank) : "") + "/" + type + "/t" + std::to_string(threads);
}

void add_times(Figures& figures, const std::string& name, const std::vector<Seconds>& times, Index parameters,
               Index bytes) {
  const Seconds seconds = bench::median(times);
  figures.add(name, 1e3 * seconds, "ms");
  figures.add(name + "/ns_per_parameter", 1e9 * seconds / static_cast<double>(parameters), "ns");
  figures.add(name + "/bandwidth", 1e-9 * static_cast<double>(bytes) / seconds, "GB/s");
}

class Benchmark {
 public:
  explicit Benchmark(const Arguments& arguments) : arguments_(arguments), filter_(arguments.filter) {}

  void run() {
    for (const std::string& name : arguments_.lists)
      for (const Scope scope : arguments_.scopes) {
        const List list = bench::make_list(name, scope);
        if (list.one_matrix && scope != arguments_.scopes.front()) continue;
        for (const int threads : arguments_.threads) run_roofline(list, threads);
        for (const std::string& type : arguments_.types) {
          const std::vector<Case> cases = cases_of(list, type);
          if (cases.empty()) continue;
          if (type == "float")
            run_cases<float>(list, cases);
          else
            run_cases<apollo::bfloat16>(list, cases);
        }
        roofline_.reset();
      }
    if (!arguments_.json.empty()) figures_.write(arguments_.json);
  }

 private:
  struct Case {
    std::string name;
    Member member;
    Index rank;
    int threads;
  };

  bool wanted(const std::string& name) const { return std::regex_search(name, filter_); }

  bench::Roofline& roofline(const List& list) {
    if (!roofline_) roofline_.emplace(list.parameters());
    return *roofline_;
  }

  /// What the loop makes of the memory, held against a loop of two streams.
  void run_roofline(const List& list, int threads) {
    const std::string name = arguments_.prefix + case_name(list, "roofline_adamw", 0, "float", threads);
    if (!wanted(name)) return;
    bench::Roofline& loops = roofline(list);
    std::vector<Seconds> adamw, axpy;
    std::vector<double> adamw_rate, axpy_rate;
    for (int pair = -1; pair < arguments_.pairs; ++pair) {
      const Seconds a = loops.adamw(threads), b = loops.axpy(threads);
      if (pair < 0) continue;  // to warm up
      adamw.push_back(a), axpy.push_back(b);
      adamw_rate.push_back(bench::Roofline::adamw_bytes / a), axpy_rate.push_back(bench::Roofline::axpy_bytes / b);
    }
    const Index parameters = list.parameters();
    add_times(figures_, name, adamw, parameters, bench::Roofline::adamw_bytes * parameters);
    figures_.add_ratio(name + "/of_axpy_bandwidth", adamw_rate, axpy_rate);
    add_times(figures_, arguments_.prefix + case_name(list, "roofline_axpy", 0, "float", threads), axpy, parameters,
              bench::Roofline::axpy_bytes * parameters);
  }

  std::vector<Case> cases_of(const List& list, const std::string& type) const {
    std::vector<Case> cases;
    for (const int threads : arguments_.threads)
      for (const std::string& member_name : arguments_.members)
        for (const Index asked : arguments_.ranks) {
          const Member& member = bench::member_named(member_name);
          const bool has_rank = bench::has_rank(member);
          if (!has_rank && asked != arguments_.ranks.front()) continue;
          const Index rank = bench::rank_of(list, asked);
          const std::string name = arguments_.prefix + case_name(list, member.name, has_rank ? rank : 0, type, threads);
          if (wanted(name)) cases.push_back({name, member, rank, threads});
        }
    return cases;
  }

  template <class T>
  void run_cases(const List& list, const std::vector<Case>& cases) {
    bench::Values<T> values(list);
    for (const Case& one : cases) run_case(list, values, one);
  }

  template <class T>
  void run_case(const List& list, bench::Values<T>& values, const Case& one) {
    const auto& [name, member, rank, threads] = one;
    bench::Subject<T> subject(list, values, member, rank, threads);
    bench::Roofline& loops = roofline(list);
    std::optional<bench::BareProduct> product;
    if constexpr (std::is_same_v<T, float>)
      if (member.product) product.emplace(list, values, rank);
    std::vector<Seconds> steps, roofline, products;
    subject.step();  // a first basis, if there is one, and whatever else the first step alone does
    for (int pair = -1; pair < arguments_.pairs; ++pair) {
      const Seconds step = subject.step(), loop = loops.adamw(threads);
      const Seconds bare = product ? product->run(threads) : 0;
      if (pair < 0) continue;  // to warm up
      steps.push_back(step), roofline.push_back(loop), products.push_back(bare);
    }
    const auto parameters = static_cast<double>(list.parameters());
    add_times(figures_, name, steps, list.parameters(), subject.step_bytes());
    figures_.add(name + "/bytes_per_parameter", static_cast<double>(subject.step_bytes()) / parameters, "B");
    figures_.add(name + "/state_bytes_per_parameter", static_cast<double>(subject.state_bytes()) / parameters, "B");
    figures_.add_ratio(name + "/roofline", steps, roofline);
    if (!product) return;
    figures_.add(name + "/bare_product", 1e3 * bench::median(products), "ms");
    figures_.add(name + "/bare_product/rate", 1e-9 * static_cast<double>(product->flops()) / bench::median(products),
                 "GFLOP/s");
    figures_.add_ratio(name + "/over_bare_product", steps, products);
  }

  const Arguments& arguments_;
  std::regex filter_;
  Figures figures_;
  std::optional<bench::Roofline> roofline_;
};

/// One step for every line that comes, answered by its nanoseconds: so that another process can take turns with this one.
template <class T>
void serve(const Arguments& arguments) {
  const List list = make_list(arguments.lists.front(), arguments.scopes.front());
  const Member& member = bench::member_named(arguments.members.front());
  const Index rank = bench::rank_of(list, arguments.ranks.front());
  const int threads = arguments.threads.front();
  bench::Values<T> values(list);
  bench::Subject<T> subject(list, values, member, rank, threads);
  std::cout << case_name(list, member.name, bench::has_rank(member) ? rank : 0, arguments.types.front(), threads)
            << std::endl;
  for (std::string line; std::getline(std::cin, line);)
    std::cout << static_cast<long long>(1e9 * subject.step()) << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  const std::vector<std::string> type_names{"float", "bfloat16"};
  std::vector<std::string> list_names, member_names;
  for (const bench::Llama& llama : bench::llamas) list_names.emplace_back(llama.name);
  for (const bench::Copies& copies : bench::growth) list_names.emplace_back(copies.name);
  for (const Member& member : bench::members) member_names.emplace_back(member.name);

  CLI::App app("Times optimizer steps of whole models against a fused AdamW loop over as many parameters.");
  app.add_option("--lists", arguments.lists, "models")->delimiter(',')->check(CLI::IsMember(list_names));
  app.add_option("--scopes", arguments.scopes, "whole model, matrices stepped in low rank alone")
      ->delimiter(',')
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, Scope>{{"whole", Scope::whole}, {"matrices", Scope::matrices}}));
  app.add_option("--members", arguments.members, "optimizers of the matrices")
      ->delimiter(',')
      ->check(CLI::IsMember(member_names));
  app.add_option("--ranks", arguments.ranks, "0: a quarter of the width, 256 of matrix_...")
      ->delimiter(',')
      ->check(CLI::NonNegativeNumber);
  app.add_option("--types", arguments.types, "of weights and gradients")
      ->delimiter(',')
      ->check(CLI::IsMember(type_names));
  app.add_option("--threads", arguments.threads)->delimiter(',')->check(CLI::PositiveNumber);
  app.add_option("--pairs", arguments.pairs, "a step and a roofline loop each")->check(CLI::PositiveNumber);
  app.add_option("--filter", arguments.filter, "regular expression of the names to run");
  app.add_option("--prefix", arguments.prefix, "in front of every name");
  app.add_option("--json", arguments.json, "file for the figures");
  app.add_flag("--all", arguments.all, "every list, member and type, whatever else is said");
  app.add_flag("--serve", arguments.serve, "one case; a step for each line of input, answered by its nanoseconds");
  app.add_flag("--tensors", arguments.tensors, "print the first list: NAME ROWS COLS RANK");
  CLI11_PARSE(app, argc, argv);
  if (arguments.all) arguments.lists = list_names, arguments.members = member_names, arguments.types = type_names;
  try {
    if (arguments.tensors)
      bench::print_tensors(std::cout, make_list(arguments.lists.front(), arguments.scopes.front()),
                           arguments.ranks.front());
    else if (arguments.serve && arguments.types.front() == "float")
      serve<float>(arguments);
    else if (arguments.serve)
      serve<apollo::bfloat16>(arguments);
    else
      Benchmark(arguments).run();
  } catch (const std::exception& error) {
    std::cerr << "bench_models: " << error.what() << '\n';
    return 1;
  }
}
