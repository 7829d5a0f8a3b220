// SPDX-License-Identifier: Apache-2.0
// Saving and loading AdamW's state of a whole model, in turns with `cp` followed by fsync and with `cat` to nowhere of the same
// file, so that each pair meets the same moments of the disk. Prints NAME VALUE UNIT; --help lists the flags.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <apollo/apollo.hpp>
#include <filesystem>
#include <iostream>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

#include "figures.hpp"
#include "models/lists.hpp"

namespace {

using bench::Index;
using bench::Seconds;

struct Arguments {
  std::vector<std::string> lists{"350m"};
  std::vector<std::string> layouts{"rows", "columns"};
  std::string folder = ".";
  std::string filter = ".";
  std::string json;
  int rounds = 7;
};

/// Runs a program and waits for it. Its output goes nowhere.
void run(std::vector<std::string> words) {
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t child = 0;
  const int failure = ::posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  int status = 1;
  if (failure != 0 || ::waitpid(child, &status, 0) != child || status != 0)
    throw std::runtime_error(words[0] + " failed");
}

void sync(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0 || ::fsync(file) != 0) throw std::runtime_error("cannot sync " + path);
  ::close(file);
}

/// Numbers that a state may have, different everywhere, so that nothing on the way can be saved by their being zero.
class Fill final : public apollo::StateVisitor {
 public:
  void array(const apollo::StateArray& array) override {
    const apollo::MatrixView<float> view = array.view.as<float>();
    for (Index k = 0; k < view.size(); ++k) view.data[k] = static_cast<float>(random_++ * 2654435761u);
  }
  void integer(std::string_view, std::int64_t& value) override { value = 1; }
  void real(std::string_view, float& value) override { value = 1; }

 private:
  unsigned random_ = 1;
};

void add_times(bench::Figures& figures, const std::string& name, const std::vector<Seconds>& times, double bytes) {
  figures.add_quartiles(name, times, "s");
  figures.add(name + "_rate", 1e-9 * bytes / bench::median(times), "GB/s");
}

/// Nothing is stepped, so all tensors share the memory of one.
void run_case(bench::Figures& figures, const Arguments& arguments, const bench::List& list, const std::string& layout) {
  const std::string name = "checkpoint/adamw/" + list.name + "/" + layout + "/t1";
  if (!std::regex_search(name, std::regex(arguments.filter))) return;
  Index largest = 0;
  for (const bench::Tensor& tensor : list.tensors) largest = std::max(largest, tensor.size());
  apollo::HostBuffer<float> weights(largest);
  apollo::Optimizer optimizer;
  const auto group = optimizer.add_group(apollo::AdamWOptions{});
  for (const auto& [key, shape, low_rank, by_heads] : list.tensors)
    optimizer.add(group, key,
                  layout == "rows" ? apollo::row_major(weights.data(), shape.rows, shape.cols)
                                   : apollo::column_major(weights.data(), shape.rows, shape.cols),
                  apollo::no_gradient);
  Fill fill;
  for (const auto& parameter : optimizer.parameters()) parameter->visit_state(fill);

  const std::string path = arguments.folder + "/checkpoint.safetensors", copy = path + ".copy";
  std::vector<Seconds> saves, copies, loads, reads;
  for (int round = -1; round < arguments.rounds; ++round) {
    const Seconds save = bench::time_of([&] { apollo::save(optimizer, path); });
    // To a new file, as save() does: cp over the old one would take that one's pages, which are in memory already.
    const Seconds cp = bench::time_of([&] {
      run({"cp", path, copy + ".new"}), sync(copy + ".new");
      std::filesystem::rename(copy + ".new", copy);
    });
    const Seconds load = bench::time_of([&] { apollo::load(optimizer, path); });
    const Seconds cat = bench::time_of([&] { run({"cat", path}); });
    if (round < 0) continue;  // files that are replaced, and a file in memory
    saves.push_back(save), copies.push_back(cp), loads.push_back(load), reads.push_back(cat);
  }
  const auto bytes = static_cast<double>(std::filesystem::file_size(path));
  std::filesystem::remove(path), std::filesystem::remove(copy);
  figures.add(name + "/file_bytes", bytes, "B");
  add_times(figures, name + "/save", saves, bytes);
  add_times(figures, name + "/cp_and_fsync", copies, bytes);
  figures.add_ratio(name + "/save_speed_of_cp", copies, saves);
  add_times(figures, name + "/load", loads, bytes);
  add_times(figures, name + "/cat", reads, bytes);
  figures.add_ratio(name + "/load_speed_of_cat", reads, loads);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  std::vector<std::string> names;
  for (const bench::Llama& llama : bench::llamas) names.emplace_back(llama.name);
  CLI::App app("Times save() and load() of AdamW's state beside cp with fsync and cat of the same file.");
  app.add_option("--lists", arguments.lists, "models")->delimiter(',')->check(CLI::IsMember(names));
  app.add_option("--layouts", arguments.layouts, "of the weights, which the state in memory follows")
      ->delimiter(',')
      ->check(CLI::IsMember({"rows", "columns"}));
  app.add_option("--rounds", arguments.rounds, "a save, a copy, a load and a read each")->check(CLI::PositiveNumber);
  app.add_option("--folder", arguments.folder, "for two files of the state's size; they are removed")
      ->check(CLI::ExistingDirectory);
  app.add_option("--filter", arguments.filter, "regular expression of the names to run");
  app.add_option("--json", arguments.json, "file for the figures");
  CLI11_PARSE(app, argc, argv);
  try {
    bench::Figures figures;
    for (const std::string& list : arguments.lists)
      for (const std::string& layout : arguments.layouts)
        run_case(figures, arguments, bench::make_list(list, bench::Scope::whole), layout);
    if (!arguments.json.empty()) figures.write(arguments.json);
  } catch (const std::exception& error) {
    std::cerr << "bench_checkpoint: " << error.what() << '\n';
    return 1;
  }
}
