// SPDX-License-Identifier: Apache-2.0
// Plans the memory of training: the bytes of weights, gradients, states, records and workspace under every member of the
// library, and what fits in a budget. Nothing is allocated, nothing trained.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <map>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <apollo/eigen.hpp>

#include "../llama/files.hpp"
#include "read.hpp"
#include "report.hpp"

namespace {

struct Flags {
  std::string preset, config;
  std::vector<std::string> safetensors;
  bool matrices_only = false;
  std::vector<std::string> members{"all"};
  plan::Request request;
  std::string weights = "fp32", gradients, moments = "fp32", budget, unit, svg;
  plan::View view;
};

plan::Model model_of(const Flags& flags) {
  const plan::Model model = !flags.config.empty()        ? plan::read_config(flags.config)
                            : !flags.safetensors.empty() ? plan::read_safetensors(flags.safetensors)
                                                         : plan::model_of_preset(flags.preset);
  return flags.matrices_only ? plan::matrices_of(model) : model;
}

void print(Flags flags) {
  plan::Request& request = flags.request;
  request.weights = plan::number_named(flags.weights);
  request.moments = plan::number_named(flags.moments);
  request.gradients = request.weights == plan::Number::fp32 ? plan::Number::fp32 : plan::Number::bf16;
  if (!flags.gradients.empty()) request.gradients = plan::number_named(flags.gradients);
  if (!flags.budget.empty()) flags.view.budget = plan::parse_bytes(flags.budget);
  if (!flags.unit.empty()) flags.view.unit = &plan::unit_named(flags.unit);
  if (std::find(flags.members.begin(), flags.members.end(), "all") != flags.members.end()) flags.members.clear();

  const plan::Model model = model_of(flags);
  const auto rows = plan::rows_of(model, request, flags.members, apollo::EigenBackend(1));
  std::string text = plan::heading(model, request) + "\n" + plan::table(rows, flags.view) + "\n";
  if (flags.view.budget > 0) text += plan::verdict(rows, flags.view) + "\n";
  for (const std::string& note : plan::notes(model, rows, flags.view)) text += note + "\n";
  std::fputs(text.c_str(), stdout);
  if (!flags.svg.empty()) llama::write_whole(flags.svg, plan::svg(model, rows, flags.view));
}

void add_model_flags(CLI::App& app, Flags& flags) {
  std::map<std::string, std::string> presets;
  for (const llama::Preset& preset : llama::presets()) presets[preset.name] = preset.name;
  auto* model = app.add_option_group("model", "one of");
  model->add_option("--preset", flags.preset, "a shape of examples/llama: nano, 60m, 130m, 350m, 1b, 7b, 13b")
      ->check(CLI::IsMember(presets));
  model->add_option("--config", flags.config, "a Hugging Face config.json of a LLaMA or Mistral model");
  model->add_option("--safetensors", flags.safetensors,
                    "files of one model, of which only the headers are read; roles are told by Hugging Face's names "
                    "(docs/memory.md)");
  model->require_option(1);
  app.add_flag("--matrices-only", flags.matrices_only, "leave out embedding, head and the rest, as papers' tables may");
}

void add_training_flags(CLI::App& app, Flags& flags) {
  const CLI::IsMember real(std::vector<std::string>{"fp32", "bf16"});
  app.add_option("--members", flags.members, "which members of the library, by commas, or all")
      ->delimiter(',')
      ->check([](const std::string& name) {
        std::string names = "all";
        for (const std::string& known : plan::member_names()) {
          if (name == known) return std::string();
          names += ", " + known;
        }
        return name == "all" ? std::string() : "'" + name + "' is none of " + names;
      });
  app.add_option("--weights", flags.weights,
                 "fp32, bf16, or int8: codes in groups of 128 for matrices, embedding and head, fp32 for the rest")
      ->check(CLI::IsMember(std::vector<std::string>{"fp32", "bf16", "int8"}))
      ->capture_default_str();
  app.add_option("--dtype", flags.gradients, "of gradients (default: fp32 with fp32 weights, else bf16)")->check(real);
  app.add_option("--moments", flags.moments, "how moments are stored")->check(real)->capture_default_str();
  app.add_option("--rank", flags.request.rank, "of low-rank members (default: a quarter of the hidden size; 256 at 7b)")
      ->check(CLI::PositiveNumber);
  app.add_flag("--layerwise", flags.request.layerwise,
               "step inside the backward pass, with the gradients of one layer");
}

void add_output_flags(CLI::App& app, Flags& flags) {
  app.add_option("--budget", flags.budget,
                 "memory of one GPU, such as 80GB, 12GiB, 500MB: what fits and what does not");
  app.add_option("--world", flags.view.world, "ranks of plain data parallelism, each of which holds everything")
      ->check(CLI::PositiveNumber);
  app.add_option("--unit", flags.unit, "GB (1e9 bytes), GiB (2^30), MB, MiB or B (default: by size)");
  app.add_option("--svg", flags.svg, "file for stacked bars");
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Counts the bytes of training a model under every member of the library");
  add_model_flags(app, flags);
  add_training_flags(app, flags);
  add_output_flags(app, flags);
  CLI11_PARSE(app, argc, argv);
  try {
    print(flags);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  return 1;
}
