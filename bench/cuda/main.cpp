// SPDX-License-Identifier: Apache-2.0
// Steps of whole models on a GPU, replayed from a graph and launched one by one, in turns with copies within the device's memory
// of as many bytes. Prints NAME VALUE UNIT; --help lists the flags. Without a GPU it says so and exits with 77.
#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>
#include <map>
#include <regex>

#include "arguments.hpp"

int main(int argc, char** argv) {
  bench::cuda::Arguments arguments;
  std::string filter = ".";
  bool tensors = false;
  std::vector<std::string> list_names;
  for (const bench::Llama& model : bench::llamas) list_names.emplace_back(model.name);
  for (const bench::Llama& model : bench::device_llamas) list_names.emplace_back(model.name);

  CLI::App app("Times optimizer steps of whole models on a GPU against copies within its memory.");
  app.add_option("--lists", arguments.lists, "models; of each as many layers as fit")
      ->delimiter(',')
      ->check(CLI::IsMember(list_names));
  app.add_option("--scopes", arguments.scopes, "whole model, matrices stepped in low rank alone")
      ->delimiter(',')
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, bench::Scope>{{"whole", bench::Scope::whole}, {"matrices", bench::Scope::matrices}}));
  app.add_option("--members", arguments.members, "optimizers of the matrices")
      ->delimiter(',')
      ->check(CLI::IsMember(bench::cuda::member_names()));
  app.add_option("--ranks", arguments.ranks, "0: a quarter of the width")
      ->delimiter(',')
      ->check(CLI::NonNegativeNumber);
  app.add_option("--types", arguments.types, "of weights and gradients")
      ->delimiter(',')
      ->check(CLI::IsMember({"float", "bfloat16"}));
  app.add_option("--repetitions", arguments.repetitions, "a step and a copy each")->check(CLI::PositiveNumber);
  app.add_option("--seconds", arguments.seconds,
                 "after which a case is repeated no more, but for the first three times")
      ->check(CLI::PositiveNumber);
  app.add_option("--memory", arguments.memory, "bytes of the device to use; 0: what is free")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--filter", filter, "regular expression of the names to run");
  app.add_option("--json", arguments.json, "file for the figures");
  app.add_flag("--tensors", tensors, "print the first list, with all layers: NAME ROWS COLS RANK");
  CLI11_PARSE(app, argc, argv);
  try {
    if (tensors) {
      const bench::Llama& model = bench::cuda::model_named(arguments.lists.front());
      bench::print_tensors(std::cout, make_list(model, arguments.scopes.front()), arguments.ranks.front());
      return 0;
    }
    const std::regex pattern(filter);
    arguments.wanted = [&](const std::string& name) { return std::regex_search(name, pattern); };
    return bench::cuda::run(arguments);
  } catch (const std::exception& error) {
    std::cerr << "bench_cuda: " << error.what() << '\n';
    return 1;
  }
}
