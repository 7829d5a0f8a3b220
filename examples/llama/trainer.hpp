// SPDX-License-Identifier: Apache-2.0
// One training run: a model, an optimizer, a place in the data; steps, validation, checkpoints.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <apollo/apollo.hpp>
#include <apollo/eigen.hpp>

#include "files.hpp"
#include "groups.hpp"
#include "log.hpp"
#include "model.hpp"
#include "numbers.hpp"
#include "optimizers.hpp"
#include "run.hpp"
#include "text.hpp"
#include "weights.hpp"

namespace llama {

/// All that decides the bits of a run, and what does not: threads, layerwise and recompute.
struct TrainerSettings {
  Config model;
  WeightType weights = WeightType::fp32;
  std::string optimizer = "adamw";
  double lr = 0;        ///< 0: tuned_for(optimizer)
  double other_lr = 0;  ///< likewise
  MatrixOptions matrices;
  std::uint64_t seed = 1;
  Index batch = 8;         ///< sequences at a time
  Index sequence = 128;    ///< tokens in each
  Index accumulate = 1;    ///< batches in a step
  bool one_batch = false;  ///< every step trains on the data of the first
  std::int64_t steps = 600;
  std::int64_t warmup = -1;  ///< -1: a tenth of the steps
  double lr_floor = 0.1;     ///< of the cosine
  int threads = 1;
  bool layerwise = false;  ///< step each layer inside the backward pass, gradients of one layer in memory
  bool recompute = false;  ///< the backward pass computes each layer's activations once more
};

/// All settings that decide the bits of a run, by name.
inline nlohmann::json json_of(const TrainerSettings& s) {
  const MatrixOptions& m = s.matrices;
  return {{"vocabulary", s.model.vocabulary},
          {"hidden", s.model.hidden},
          {"layers", s.model.layers},
          {"heads", s.model.heads},
          {"intermediate", s.model.intermediate},
          {"tied", s.model.tied},
          {"rope_base", s.model.rope_base},
          {"norm_eps", s.model.norm_eps},
          {"weights", text_of(s.weights)},
          {"optimizer", s.optimizer},
          {"lr", s.lr},
          {"other_lr", s.other_lr},
          {"rank", m.rank},
          {"scale", m.scale},
          {"update_proj_gap", m.update_proj_gap},
          {"limiter_gamma", m.limiter_gamma},
          {"limiter_floor", m.limiter_floor},
          {"beta1", m.beta1},
          {"beta2", m.beta2},
          {"seed", s.seed},
          {"batch", s.batch},
          {"sequence", s.sequence},
          {"accumulate", s.accumulate},
          {"one_batch", s.one_batch},
          {"steps", s.steps},
          {"warmup", s.warmup},
          {"lr_floor", s.lr_floor}};
}

/// What a checkpoint must agree with.
inline nlohmann::json identity(const TrainerSettings& s, const Text& text) {
  nlohmann::json json = json_of(s);
  json["text_bytes"] = text.size();
  json["text_hash"] = text.hash();
  return json;
}

/// Fills in what settings leave open. Errors: values out of range, by name and bound.
inline TrainerSettings resolved(TrainerSettings s) {
  const auto at_least = [](const char* name, auto value, auto bound) {
    if (value < bound)
      throw std::invalid_argument(std::string(name) + " = " + std::to_string(value) + " must be at least " +
                                  std::to_string(bound));
  };
  check(s.model);
  at_least("batch", s.batch, Index{1});
  at_least("sequence", s.sequence, Index{1});
  at_least("accumulate", s.accumulate, Index{1});
  at_least("steps", s.steps, std::int64_t{1});
  at_least("threads", s.threads, 1);
  if (s.layerwise && s.accumulate > 1)
    throw std::invalid_argument("layerwise with accumulate = " + std::to_string(s.accumulate) +
                                ": accumulation needs the gradients of all layers at once; make accumulate 1");
  const Tuned& best = tuned_for(s.optimizer);
  if (s.lr == 0) s.lr = best.lr;
  const bool one_lr = s.optimizer == "adamw-one-lr";
  if (one_lr && s.other_lr != 0 && s.other_lr != s.lr)
    throw std::invalid_argument("adamw-one-lr: other_lr = " + std::to_string(s.other_lr) +
                                " must be lr = " + std::to_string(s.lr) + "; adamw has two");
  if (s.other_lr == 0) s.other_lr = one_lr ? s.lr : best.other_lr;
  if (s.matrices.limiter_gamma < 0) s.matrices.limiter_gamma = best.limiter_gamma;
  if (s.matrices.rank == 0) s.matrices.rank = std::max<Index>(1, s.model.hidden / 4);
  at_least("rank", s.matrices.rank, Index{1});
  if (s.warmup < 0) s.warmup = s.steps / 10;
  return s;
}

/// A run's name, for its folder: the optimizer, its learning rates, the seed, and each setting that is not what it would be by
/// itself. Expects resolved settings.
inline std::string name_of(const TrainerSettings& s) {
  TrainerSettings plain;
  plain.model = s.model, plain.steps = s.steps;  // ranks and warm-up follow from them
  plain.optimizer = s.optimizer, plain.lr = s.lr, plain.other_lr = s.other_lr, plain.seed = s.seed;
  nlohmann::json ordinary = json_of(resolved(plain));
  const nlohmann::json nano = json_of(TrainerSettings{});
  for (const char* key : {"vocabulary", "hidden", "layers", "heads", "intermediate", "tied", "steps"})
    ordinary[key] = nano[key];
  std::string name =
      s.optimizer + "-lr" + report::digits(s.lr) + "-" + report::digits(s.other_lr) + "-seed" + std::to_string(s.seed);
  const nlohmann::json actual = json_of(s);
  for (const auto& [key, value] : actual.items()) {
    if (value == ordinary[key]) continue;
    name += "-" + key + "=";
    if (value.is_string())
      name += value.get<std::string>();
    else
      name += value.is_number_float() ? report::digits(value.get<double>()) : value.dump();
  }
  return name;
}

class Trainer {
 public:
  Trainer(const TrainerSettings& settings, const Text& text)
      : settings_(resolved(settings)),
        text_(text),
        model_(settings_.model, settings_.seed, settings_.threads,
               settings_.layerwise ? Gradients::one_unit : Gradients::whole, settings_.weights,
               settings_.recompute ? Activations::recomputed : Activations::kept),
        optimizer_(apollo::EigenBackend(settings_.threads)) {
    text_.require(settings_.sequence);
    run_.optimizer = settings_.optimizer;
    run_.lr = settings_.lr, run_.other_lr = settings_.other_lr;
    run_.seed = settings_.seed, run_.steps = settings_.steps;
    run_.weight_bytes = weight_bytes(settings_.model, settings_.weights);
    register_parameters();
    // One tick more than there are steps: the last step is not the floor itself, which may be 0.
    optimizer_.schedule(
        apollo::Cosine{.warmup = settings_.warmup, .total = settings_.steps + 1, .floor = settings_.lr_floor});
  }

  const TrainerSettings& settings() const { return settings_; }
  std::int64_t step_number() const { return optimizer_.tick(); }
  bool finished() const { return step_number() >= settings_.steps; }
  Llama<float>& model() { return model_; }
  const apollo::eigen::Optimizer& optimizer() const { return optimizer_; }
  const std::vector<LogRow>& log() const { return run_.log; }

  /// Trains on one step's batches; returns its row of the log.
  const LogRow& step() {
    const auto start = Clock::now();
    LogRow row;
    row.step = step_number() + 1;
    row.lr_factor = optimizer_.schedule_factor();
    double optimizer_seconds = 0;
    apollo::StepReport report;
    for (Index k = 0; k < settings_.accumulate; ++k) {
      const std::int64_t data = settings_.one_batch ? 1 : row.step;
      const Batch batch = text_.sample(settings_.seed, data, k * settings_.batch, settings_.batch, settings_.sequence);
      const double share = 1.0 / static_cast<double>(settings_.accumulate);
      row.training_loss += share * model_.loss_and_gradients(batch, share, k > 0, [&](std::size_t unit) {
        if (settings_.layerwise) optimizer_seconds += timed([&] { step_unit(unit); });
      });
    }
    optimizer_seconds += timed([&] { report = settings_.layerwise ? optimizer_.end_tick() : optimizer_.step(); });
    run_.skipped += report.skipped;
    const double before = run_.log.empty() ? 0 : run_.log.back().seconds;
    row.tokens = row.step * settings_.accumulate * settings_.batch * settings_.sequence;
    row.optimizer_ms = 1e3 * optimizer_seconds;
    row.seconds = before + since(start);
    run_.log.push_back(row);
    return run_.log.back();
  }

  /// Mean nats a byte over `windows` windows spread over the validation text; 0: all of it.
  double validation_loss(Index windows = 0) {
    const Index all = text_.windows(settings_.sequence);
    const Index count = windows == 0 ? all : std::min(windows, all), stride = all / count;
    const Index at_once = std::max(settings_.batch, Index{1});
    double sum = 0;
    for (Index done = 0; done < count; done += at_once) {
      const Index part = std::min(at_once, count - done);
      sum += static_cast<double>(part) * model_.loss(text_.validation(done * stride, part, stride, settings_.sequence));
    }
    return sum / static_cast<double>(count);
  }
  /// The same, noted in the last row of the log.
  double note_validation_loss(Index windows) { return run_.log.back().validation_loss = validation_loss(windows); }

  /// The summary, with the loss over `windows` windows of the validation text; 0: all of it.
  Run summary(Index windows = 0) {
    Run run = run_;
    run.validation_loss = validation_loss(windows);
    std::vector<double> ms;
    for (const LogRow& row : run.log) ms.push_back(row.optimizer_ms);
    if (ms.empty()) return run;
    const auto middle = ms.begin() + static_cast<std::ptrdiff_t>(ms.size() / 2);
    run.optimizer_mean_ms = std::accumulate(ms.begin(), ms.end(), 0.0) / static_cast<double>(ms.size());
    std::nth_element(ms.begin(), middle, ms.end());
    run.optimizer_median_ms = *middle;
    run.seconds = run.log.back().seconds;
    run.tokens_per_second = static_cast<double>(run.log.back().tokens) / run.seconds;
    return run;
  }

  /// Writes weights, optimizer and log into `folder`/checkpoint-STEP, which appears whole; older ones are then removed.
  void save(const std::filesystem::path& folder) const {
    namespace fs = std::filesystem;
    const fs::path target = folder / (checkpoint_prefix + std::to_string(step_number()));
    const fs::path fresh = folder / "unfinished", replaced = folder / "replaced";
    for (const fs::path& leftover : {fresh, replaced}) fs::remove_all(leftover);
    fs::create_directories(fresh);
    save_weights(model_, (fresh / weights_file).string());
    apollo::save(optimizer_, (fresh / optimizer_file).string());
    write_log((fresh / log_file).string(), run_.log);
    const nlohmann::json state{
        {"settings", identity(settings_, text_)}, {"step", step_number()}, {"skipped", run_.skipped}};
    write_whole((fresh / state_file).string(), state.dump(2) + "\n");
    if (fs::exists(target)) fs::rename(target, replaced);
    fs::rename(fresh, target);
    fs::remove_all(replaced);
    for (const auto& entry : fs::directory_iterator(folder)) {
      const std::int64_t step = checkpoint_step(entry.path());
      if (step >= 0 && step < step_number()) fs::remove_all(entry.path());
    }
  }

  /// Goes on from a folder that save() wrote, to the same bits as without the break. Errors, before anything is changed:
  /// settings that differ, by name; files of different steps; whatever a file says.
  void load(const std::filesystem::path& checkpoint) {
    const std::string state_path = (checkpoint / state_file).string();
    const nlohmann::json state = read_json(state_path);
    require_same(state, identity(settings_, text_), state_path);
    const std::int64_t step = integer_of(state, "step", state_path);
    const std::int64_t skipped = integer_of(state, "skipped", state_path);
    std::vector<LogRow> log = read_log((checkpoint / log_file).string());
    const std::string optimizer_path = (checkpoint / optimizer_file).string();
    require_step((checkpoint / log_file).string(), log.empty() ? 0 : log.back().step, step);
    require_step((checkpoint / log_file).string() + " rows", static_cast<std::int64_t>(log.size()), step);
    require_step(optimizer_path, tick_of(optimizer_path), step);
    const Weights weights = read_weights(model_, (checkpoint / weights_file).string());
    apollo::load(optimizer_, optimizer_path);
    weights.assign(model_);
    run_.log = std::move(log);
    run_.skipped = skipped;
  }

  /// The newest checkpoint in `folder`, or an empty path.
  static std::filesystem::path newest_checkpoint(const std::filesystem::path& folder) {
    std::filesystem::path newest;
    if (!std::filesystem::is_directory(folder)) return newest;
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      if (checkpoint_step(entry.path()) > checkpoint_step(newest)) newest = entry.path();
    return newest;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr const char* checkpoint_prefix = "checkpoint-";
  static constexpr const char* weights_file = "model.safetensors";
  static constexpr const char* optimizer_file = "optimizer.safetensors";
  static constexpr const char* log_file = "log.csv";
  static constexpr const char* state_file = "trainer.json";

  static double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }
  template <class Work>
  static double timed(Work&& work) {
    const auto start = Clock::now();
    work();
    return since(start);
  }

  /// -1 if the path is no checkpoint's.
  static std::int64_t checkpoint_step(const std::filesystem::path& path) {
    const std::string name = path.filename().string(), prefix = checkpoint_prefix;
    std::int64_t step = -1;
    if (name.rfind(prefix, 0) == 0 && apollo::checkpoint::parse_count(name.substr(prefix.size()), step)) return step;
    return -1;
  }

  void register_parameters() {
    std::vector<Placed> parameters;
    for (const Parameter& p : model_.parameters()) {
      const bool int8 = model_.is_int8(p);
      parameters.push_back({p, int8 ? nullptr : model_.weight(p).data(), int8 ? &model_.int8_weight(p) : nullptr,
                            model_.gradient(p).data()});
    }
    add_matrices(optimizer_, settings_.optimizer, settings_.lr, settings_.matrices, settings_.seed, settings_.model,
                 parameters);
    run_.matrix_state_bytes = optimizer_.state_bytes();
    run_.matrix_record_bytes = optimizer_.record_bytes();
    add_others(optimizer_, settings_.optimizer, settings_.other_lr, settings_.matrices, settings_.seed, parameters);
    run_.state_bytes = optimizer_.state_bytes();
    run_.record_bytes = optimizer_.record_bytes();
    for (const Parameter& p : model_.parameters()) {
      const apollo::Index bytes = apollo::AdamW<>::state_bytes({p.rows, p.cols});
      run_.adamw_bytes += bytes;
      if (p.kind == Kind::matrix) run_.adamw_matrix_bytes += bytes;
    }
  }

  void step_unit(std::size_t unit) {
    for (const Parameter& p : model_.parameters())
      if (p.unit == unit) optimizer_.step(p.name);
  }

  TrainerSettings settings_;
  const Text& text_;
  Llama<float> model_;
  apollo::eigen::Optimizer optimizer_;
  Run run_;
};

}  // namespace llama
