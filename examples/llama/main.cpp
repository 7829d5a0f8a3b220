// SPDX-License-Identifier: Apache-2.0
// Trains LLaMA models on the bytes of a text under several optimizers, from the same initialization and in the same data
// order, and sets perplexity, state and time side by side.
#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <map>
#include <new>
#include <numeric>
#include <random>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

#include <CLI/CLI.hpp>

#include "files.hpp"
#include "gradients.hpp"
#include "log.hpp"
#include "progress.hpp"
#include "results.hpp"
#include "summary.hpp"
#include "trainer.hpp"

namespace {

namespace fs = std::filesystem;
using llama::Run;
using llama::Trainer;
using llama::TrainerSettings;

struct Flags {
  TrainerSettings settings;  // of every run
  std::string text;
  std::string results = "llama-results";
  std::string preset = "nano";
  std::vector<std::string> optimizers{"adamw", "galore", "apollo", "apollo-mini"};
  std::vector<double> lrs{0}, other_lrs{0};  // 0: the optimizer's own
  int seeds = 1;
  std::int64_t evaluate_every = 0;  // 0: a twelfth of the steps
  llama::Index evaluate_windows = 64;
  llama::Index final_windows = 0;     // 0: all
  std::int64_t checkpoint_every = 0;  // 0: at the end
  std::int64_t stop_after = 0;        // 0: never
  bool no_checkpoint = false;
  bool resume = false;
  bool overwrite = false;
  bool no_tables = false;
  llama::GradientFiles gradients;
  int generate = 0;
  std::string prompt = "In the beginning ";
  double temperature = 0.8;
};

volatile std::sig_atomic_t interrupted = 0;

/// Prints what the model writes after the prompt, byte by byte from its distribution.
void generate(Trainer& trainer, const Flags& flags) {
  std::vector<int> tokens;
  for (const char c : flags.prompt) tokens.push_back(static_cast<unsigned char>(c));
  std::string written = flags.prompt;
  std::mt19937_64 random(flags.settings.seed);
  for (int i = 0; i < flags.generate; ++i) {
    const std::size_t context = std::min(tokens.size(), static_cast<std::size_t>(trainer.settings().sequence));
    const auto logits =
        trainer.model().next(std::span(tokens).last(context)).leftCols(256).template cast<double>().eval();
    const Eigen::ArrayXd weights = ((logits.array() - logits.maxCoeff()) / flags.temperature).exp().transpose();
    // A draw of our own: std::discrete_distribution may differ between standard libraries.
    double left = weights.sum() * static_cast<double>(random() >> 11) * 0x1p-53;
    int token = 0;
    while (token < 255 && (left -= weights(token)) >= 0) ++token;
    tokens.push_back(token);
    const bool control = (token < 32 && token != '\n') || token == 127;
    written += control ? '?' : static_cast<char>(token);
  }
  std::printf("\n%s, seed %llu, writes:\n%s\n", trainer.settings().optimizer.c_str(),
              static_cast<unsigned long long>(trainer.settings().seed), written.c_str());
  std::fflush(stdout);
}

/// One run, from its newest checkpoint if told to resume. False: stopped before its end, with a checkpoint.
bool train(const TrainerSettings& settings, const Flags& flags, const llama::Text& text, std::vector<Run>& runs) {
  Trainer trainer(settings, text);
  const fs::path folder = fs::path(flags.results) / name_of(trainer.settings());
  const fs::path checkpoint = Trainer::newest_checkpoint(folder), summary = folder / "summary.json";
  if (!checkpoint.empty() && flags.resume) {
    trainer.load(checkpoint);
    flags.gradients.check_start(trainer.step_number());
  } else if (!checkpoint.empty() && !fs::exists(summary) && !flags.overwrite) {
    throw std::runtime_error("'" + folder.string() + "' holds a run that did not end, at " +
                             checkpoint.filename().string() + ": go on with --resume, start again with --overwrite");
  }
  if (!trainer.finished()) {
    if (trainer.step_number() == 0) fs::remove_all(folder);
    fs::create_directories(folder);
    fs::remove(summary);
    const std::int64_t steps = trainer.settings().steps;
    const std::int64_t every = flags.evaluate_every > 0 ? flags.evaluate_every : std::max<std::int64_t>(1, steps / 12);
    llama::Progress progress(name_of(trainer.settings()), steps, trainer.log());
    while (!trainer.finished() && interrupted == 0) {
      const llama::LogRow row = trainer.step();
      flags.gradients.save(trainer.model(), row.step);
      const bool last = trainer.finished();
      const bool stop = flags.stop_after > 0 && row.step >= flags.stop_after;
      double evaluated = llama::not_evaluated;
      if (row.step % every == 0 || last) evaluated = trainer.note_validation_loss(flags.evaluate_windows);
      progress.show(row, evaluated);
      if (stop) break;
      if (flags.checkpoint_every > 0 && row.step % flags.checkpoint_every == 0 && !last) trainer.save(folder);
    }
    progress.end();
    if (!flags.no_checkpoint) trainer.save(folder);
  }
  llama::write_log((folder / "log.csv").string(), trainer.log());
  if (!trainer.finished()) return false;

  if (flags.resume && fs::exists(summary)) {
    runs.push_back(llama::run_of(llama::read_json(summary)));
    runs.back().log = trainer.log();
  } else {
    runs.push_back(trainer.summary(flags.final_windows));
    llama::write_whole(summary.string(), llama::summary_of(runs.back()).dump(2) + "\n");
  }
  if (runs.back().skipped > 0)
    std::fprintf(stderr, "%s: %lld steps of single tensors were skipped\n", name_of(trainer.settings()).c_str(),
                 static_cast<long long>(runs.back().skipped));
  if (flags.generate > 0) generate(trainer, flags);
  return true;
}

/// Every combination of optimizer, learning rates and seed; seeds outermost, so that rows stay paired if it is interrupted.
std::vector<TrainerSettings> combinations(const Flags& flags) {
  std::vector<TrainerSettings> list;
  for (const std::string& setting : llama::asked_in_vain(flags.optimizers, flags.settings.matrices))
    throw std::invalid_argument(setting + " was given, but no optimizer among those that run has one");
  for (int seed = 0; seed < flags.seeds; ++seed)
    for (const std::string& optimizer : flags.optimizers)
      for (const double lr : flags.lrs)
        for (const double other_lr : flags.other_lrs) {
          TrainerSettings s = flags.settings;
          s.optimizer = optimizer, s.lr = lr, s.other_lr = other_lr;
          s.seed += static_cast<std::uint64_t>(seed);
          list.push_back(llama::resolved(s));
        }
  std::set<std::string> names;
  for (const TrainerSettings& s : list)
    if (!names.insert(name_of(s)).second) throw std::invalid_argument(name_of(s) + " is asked for twice");
  return list;
}

std::string title_of(const TrainerSettings& s, const Flags& flags, const llama::Text& text) {
  std::string title = "LLaMA " + llama::model_name(flags.preset, s.model) + ", " +
                      std::to_string(llama::parameter_count(s.model)) + " parameters, " + llama::text_of(s.weights) +
                      " weights of " + std::to_string(llama::weight_bytes(s.model, s.weights)) + " bytes, " +
                      std::to_string(s.steps) + " steps of " + std::to_string(s.accumulate * s.batch) + " x " +
                      std::to_string(s.sequence) + " tokens of " + fs::path(flags.text).filename().string() + " (" +
                      std::to_string(text.size()) + " bytes), ";
  title += flags.seeds == 1 ? "seed " + std::to_string(s.seed) : std::to_string(flags.seeds) + " seeds";
  return title + ", " + std::to_string(s.threads) + (s.threads == 1 ? " thread" : " threads") + ", products by " +
         llama::products_by;
}

int compare(const Flags& flags) {
  if (flags.text.empty())
    throw std::invalid_argument(
        "no text to train on: name a file with --text FILE (examples/run brings the King James Bible from Debian's "
        "bible-kjv)");
  const llama::Text text(flags.text, flags.settings.sequence);
  const std::vector<TrainerSettings> list = combinations(flags);  // refuses before anything runs
  flags.gradients.prepare(list.front(), list.size(), flags.stop_after);
  const std::string title = title_of(list.front(), flags, text);
  std::fprintf(stderr, "%s\n", title.c_str());
  std::signal(SIGINT, [](int) { interrupted = 1; });
  std::vector<Run> runs;
  bool complete = true;
  for (const TrainerSettings& settings : list) {
    complete = train(settings, flags, text, runs) && complete;
    if (interrupted != 0) break;
  }
  if (!runs.empty() && !flags.no_tables) {
    std::printf("\n%s\n\n%s\n", title.c_str(), llama::terminal_table(runs).c_str());
    std::fflush(stdout);
    llama::write_results(flags.results, title, runs);
    std::printf("logs, summary.md and plots are in %s\n", flags.results.c_str());
  }
  if (complete && interrupted == 0) return 0;
  if (flags.no_checkpoint)
    std::printf("stopped before the end, without a checkpoint\n");
  else
    std::printf("stopped before the end; --resume goes on from the checkpoints in %s\n", flags.results.c_str());
  return interrupted != 0 ? 130 : 0;
}

void add_model_flags(CLI::App& app, Flags& flags) {
  llama::Config& model = flags.settings.model;
  std::map<std::string, std::string> names;
  for (const llama::Preset& preset : llama::presets()) names[preset.name] = preset.name;
  // Runs before the flags that follow it are read, so that those change the preset.
  app.add_option_function<std::string>(
         "--preset",
         [&flags, &model](const std::string& name) {
           flags.preset = name;
           for (const llama::Preset& preset : llama::presets())
             if (name == preset.name) model = preset.config;
         },
         "shape of the model: nano, or the papers' 60m, 130m, 350m, 1b, 7b, 13b")
      ->check(CLI::IsMember(names))
      ->trigger_on_parse()
      ->default_str("nano");
  app.add_option("--vocabulary", model.vocabulary, "rows of embedding and head; byte tokens use 256")
      ->trigger_on_parse();
  app.add_option("--hidden", model.hidden)->trigger_on_parse();
  app.add_option("--layers", model.layers)->trigger_on_parse();
  app.add_option("--heads", model.heads)->trigger_on_parse();
  app.add_option("--intermediate", model.intermediate, "width of SwiGLU")->trigger_on_parse();
  app.add_flag("--tied", model.tied, "the head is the embedding");
  app.add_option_function<std::string>(
         "--weights",
         [&flags](const std::string& type) {
           flags.settings.weights = type == "int8" ? llama::WeightType::int8 : llama::WeightType::fp32;
         },
         "fp32, or int8: all but the norms as 8-bit codes in groups of 128")
      ->check(CLI::IsMember({"fp32", "int8"}))
      ->default_str("fp32");
}

void add_training_flags(CLI::App& app, Flags& flags) {
  TrainerSettings& s = flags.settings;
  app.add_option("--text", flags.text, "file to train on, any bytes");
  app.add_option("--optimizer", flags.optimizers, "which ones, separated by commas")
      ->delimiter(',')
      ->check([](const std::string& name) {
        try {
          llama::tuned_for(name);
        } catch (const std::exception& error) {
          return std::string(error.what());
        }
        return std::string();
      })
      ->capture_default_str();
  app.add_option("--lr", flags.lrs, "of the matrices, one or several by commas (default: tuned for each)")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app.add_option("--other-lr", flags.other_lrs, "of embedding, head and norms, one or several (default: tuned)")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app.add_option("--rank", s.matrices.rank, "of APOLLO and GaLore (default: a quarter of --hidden)")
      ->check(CLI::PositiveNumber);
  app.add_option("--scale", s.matrices.scale, "of the low-rank optimizers (default: each its own)")
      ->check(CLI::PositiveNumber);
  app.add_option("--update-proj-gap", s.matrices.update_proj_gap, "steps between projections (default: 200)")
      ->check(CLI::PositiveNumber);
  app.add_option("--limiter-gamma", s.matrices.limiter_gamma, "growth of an update's norm that is let through")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--limiter-floor", s.matrices.limiter_floor, "0: the published rule")->check(CLI::NonNegativeNumber);
  app.add_option("--beta1", s.matrices.beta1)->capture_default_str();
  app.add_option("--beta2", s.matrices.beta2)->capture_default_str();
  app.add_option("--steps", s.steps)->capture_default_str();
  app.add_option("--warmup", s.warmup, "steps (default: a tenth)")->check(CLI::NonNegativeNumber);
  app.add_option("--lr-floor", s.lr_floor, "where the cosine ends, as a part of the learning rate")
      ->capture_default_str();
  app.add_option("--batch", s.batch, "sequences at a time")->capture_default_str();
  app.add_option("--sequence", s.sequence, "tokens in each")->capture_default_str();
  app.add_option("--accumulate", s.accumulate, "batches in a step")->capture_default_str();
  app.add_flag("--one-batch", s.one_batch, "every step trains on the data of the first: does its loss fall?");
  app.add_flag("--layerwise", s.layerwise, "step inside the backward pass, with the gradients of one layer in memory");
  app.add_flag("--recompute", s.recompute,
               "activations once more in the backward pass, with those of one layer in memory");
  app.add_option("--seed", s.seed, "of weights, data order and projections")->capture_default_str();
  app.add_option("--seeds", flags.seeds, "so many, from --seed on")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--threads", s.threads, "the results do not depend on them")->capture_default_str();
}

std::string optimizers_help() {
  std::string text = "Optimizers, and the learning rates they were tuned to (matrices / embedding, head, norms):";
  std::size_t width = 0;
  for (const llama::Tuned& t : llama::tuned) width = std::max(width, t.name.size() + 2);
  for (const llama::Tuned& t : llama::tuned)
    text += "\n  " + std::string(t.name) + std::string(width - t.name.size(), ' ') + std::string(t.what) + ", " +
            llama::report::digits(t.lr) + " / " + llama::report::digits(t.other_lr);
  return text;
}

void add_output_flags(CLI::App& app, Flags& flags) {
  app.add_option("--results", flags.results, "folder for logs, tables, plots and checkpoints")->capture_default_str();
  app.add_option("--evaluate-every", flags.evaluate_every, "steps (default: a twelfth of --steps)")
      ->check(CLI::PositiveNumber);
  app.add_option("--evaluate-windows", flags.evaluate_windows, "windows of the validation text scored while training")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--final-windows", flags.final_windows, "windows scored at the end (default: all)")
      ->check(CLI::PositiveNumber);
  CLI::Option* every =
      app.add_option("--checkpoint-every", flags.checkpoint_every, "steps (default: only at the end or on Ctrl-C)")
          ->check(CLI::PositiveNumber);
  app.add_option("--stop-after", flags.stop_after, "leave off at this step, with a checkpoint")
      ->check(CLI::PositiveNumber);
  app.add_flag("--no-checkpoint", flags.no_checkpoint, "none, not at the end either")->excludes(every);
  app.add_flag("--resume", flags.resume, "go on from the newest checkpoint of each run");
  app.add_flag("--overwrite", flags.overwrite, "start again where a run did not end");
  app.add_flag("--no-tables", flags.no_tables,
               "runs only, of many processes into one folder; --resume makes the tables later");
  app.add_option("--save-gradients", flags.gradients.folder,
                 "folder for gradients of one run's matrices, as step_STEP.safetensors");
  app.add_option("--save-gradients-at", flags.gradients.steps, "at these steps, separated by commas")->delimiter(',');
  app.add_option("--generate", flags.generate, "bytes that each trained model writes")->check(CLI::NonNegativeNumber);
  app.add_option("--prompt", flags.prompt, "what they go on from")->capture_default_str();
  app.add_option("--temperature", flags.temperature)->check(CLI::PositiveNumber)->capture_default_str();
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  flags.settings.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  CLI::App app("Trains LLaMA on the bytes of a text under several optimizers, side by side");
  app.footer(optimizers_help());
  add_model_flags(app, flags);
  add_training_flags(app, flags);
  add_output_flags(app, flags);
  bool quick = false;
  app.add_flag("--quick", quick, "a tenth of the steps");
  CLI11_PARSE(app, argc, argv);
  if (quick) flags.settings.steps = std::max<std::int64_t>(1, flags.settings.steps / 10);
  if (flags.prompt.empty()) flags.prompt = "\n";
  try {
    return compare(flags);
  } catch (const std::bad_alloc&) {
    const TrainerSettings& s = flags.settings;
    const double weights = static_cast<double>(llama::weight_bytes(s.model, s.weights));
    const double gradients = s.layerwise ? 0 : 4 * static_cast<double>(llama::parameter_count(s.model));
    std::fprintf(stderr, "not enough memory: %s alone need %.1f GiB\n",
                 s.layerwise ? "weights" : "weights and gradients", (weights + gradients) / (1 << 30));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  return 1;
}
