// SPDX-License-Identifier: Apache-2.0
// The LLaMA example refuses what would otherwise be read out of bounds, divided by zero or resumed half: by value and bound,
// before anything is changed.
// not: optimised
#include <doctest/doctest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "llama/gradients.hpp"
#include "llama/trainer.hpp"
#include "support.hpp"

namespace {

namespace fs = std::filesystem;
using llama::Batch;
using llama::Text;
using llama::Trainer;
using llama::TrainerSettings;
using support::mentions;
using support::refusal;

const Text text(std::vector<std::uint8_t>(3000, 'a'), "letters", 16);

TrainerSettings small() {
  TrainerSettings s;
  s.model = {.vocabulary = 256, .hidden = 8, .layers = 1, .heads = 2, .intermediate = 12};
  s.optimizer = "apollo", s.matrices.rank = 2, s.matrices.scale = 1;
  s.batch = 2, s.sequence = 16, s.steps = 4;
  return s;
}

/// A checkpoint of step `steps` in a folder of its own.
fs::path checkpoint(const std::string& name, int steps) {
  const fs::path folder = "llama_bad_input_" + name;
  fs::remove_all(folder);
  fs::create_directories(folder);
  Trainer trainer(small(), text);
  for (int i = 0; i < steps; ++i) trainer.step();
  trainer.save(folder);
  return Trainer::newest_checkpoint(folder);
}

/// What load() says to a trainer, which must then be as it was.
std::string load_refusal(const fs::path& from) {
  Trainer trainer(small(), text);
  std::string said;
  try {
    trainer.load(from);
  } catch (const std::runtime_error& error) {
    said = error.what();
  }
  Trainer untouched(small(), text);
  CHECK(trainer.step_number() == 0);
  CHECK(trainer.log().empty());
  CHECK(trainer.step().training_loss == untouched.step().training_loss);
  return said;
}

void write(const fs::path& path, const std::string& content) { std::ofstream(path, std::ios::binary) << content; }

}  // namespace

TEST_CASE("batches whose tokens or targets do not fit are refused") {
  llama::Llama<float> model(small().model, 1);
  const std::vector<int> good{1, 2, 3, 4};
  CHECK(mentions(refusal([&] { model.loss({2, 2, good, {1, 2, 3, 256}}); }), {"target 256", "256"}));
  CHECK(mentions(refusal([&] { model.loss_and_gradients({2, 2, good, {1, 2, -5, 4}}); }), {"target -5"}));
  CHECK(mentions(refusal([&] { model.loss({2, 2, {1, 2, 300, 4}, good}); }), {"token 300", "256"}));
  CHECK(mentions(refusal([&] { model.loss({2, 2, {1, 2, 3}, good}); }), {"3 tokens", "must have 4"}));
  CHECK(mentions(refusal([&] { model.loss({2, 2, good, {1}}); }), {"1 targets", "must have 4"}));
  CHECK(mentions(refusal([&] { model.loss({0, 2, {}, {}}); }), {"no tokens"}));
  CHECK(model.loss({2, 2, good, good}) > 0);
}

TEST_CASE("a sequence longer than a part of the text is refused when the trainer is made") {
  TrainerSettings s = small();
  s.sequence = 200;
  CHECK(mentions(refusal([&] { Trainer trainer(s, text); }), {"letters", "3000", "4020", "200"}));
}

TEST_CASE("a rank below 1 is refused, whatever the optimizer") {
  TrainerSettings s = small();
  s.optimizer = "adamw", s.matrices.rank = -1;
  CHECK(mentions(refusal([&] { Trainer trainer(s, text); }), {"rank = -1", "at least 1"}));
}

TEST_CASE("AdamW with one learning rate takes no second one") {
  TrainerSettings s = small();
  s.optimizer = "adamw-one-lr", s.lr = 1e-3, s.other_lr = 2e-3;
  CHECK(mentions(refusal([&] { Trainer trainer(s, text); }), {"0.002", "0.001"}));
  s.other_lr = 0;
  CHECK(llama::resolved(s).other_lr == 1e-3);
}

TEST_CASE("a setting that no chosen optimizer has is named") {
  using llama::asked_in_vain;
  const std::vector<std::string> none;
  CHECK(asked_in_vain({"adamw", "sgd"}, {}) == none);
  CHECK(asked_in_vain({"adamw", "sgd"}, {.beta1 = 0.8}) == none);
  llama::MatrixOptions asked;
  asked.rank = 4, asked.scale = 1, asked.update_proj_gap = 7, asked.limiter_gamma = 2, asked.limiter_floor = 0;
  CHECK(asked_in_vain({"adamw"}, asked) ==
        std::vector<std::string>{"rank", "scale", "update_proj_gap", "limiter_gamma", "limiter_floor"});
  CHECK(asked_in_vain({"adamw", "galore"}, asked) == std::vector<std::string>{"limiter_gamma", "limiter_floor"});
  CHECK(asked_in_vain({"apollo-mini", "galore"}, asked) == none);
  CHECK(asked_in_vain({"apollo-mini"}, asked) == std::vector<std::string>{"rank"});
}

TEST_CASE("every optimizer takes the settings it has") {
  llama::MatrixOptions asked;
  asked.rank = 4, asked.scale = 3, asked.update_proj_gap = 7, asked.limiter_gamma = 2, asked.limiter_floor = 0.25;
  asked.beta1 = 0.5, asked.beta2 = 0.75;
  for (const llama::Tuned& tuned : llama::tuned)
    llama::with_member(tuned.name, [&](auto, auto options) {
      CAPTURE(std::string(tuned.name));
      const auto before = options;
      llama::set(options, asked);
      if constexpr (requires { options.rank; }) CHECK(options.rank == 4);
      if constexpr (requires { options.update_proj_gap; }) CHECK(options.update_proj_gap == 7);
      if constexpr (requires { options.limiter_gamma; }) CHECK(options.limiter_gamma == 2);
      if constexpr (requires { options.limiter_floor; }) CHECK(options.limiter_floor == 0.25);
      if constexpr (requires { options.beta1; }) CHECK(options.beta1 == 0.5);
      if constexpr (requires { options.beta2; }) CHECK(options.beta2 == 0.75);
      options = before;
      llama::set(options, {});
      if constexpr (requires { options.update_proj_gap; }) CHECK(options.update_proj_gap == before.update_proj_gap);
      if constexpr (requires { options.limiter_gamma; }) CHECK(options.limiter_gamma == before.limiter_gamma);
      if constexpr (requires { options.limiter_floor; }) CHECK(options.limiter_floor == before.limiter_floor);
    });
}

TEST_CASE("the names of runs and models show what is not ordinary") {
  TrainerSettings s;
  s.optimizer = "apollo-mini";
  CHECK(llama::name_of(llama::resolved(s)) == "apollo-mini-lr0.004-0.016-seed1");
  s.matrices.limiter_gamma = 1.01, s.batch = 4, s.steps = 30, s.threads = 2, s.layerwise = true;
  CHECK(llama::name_of(llama::resolved(s)) == "apollo-mini-lr0.004-0.016-seed1-batch=4-limiter_gamma=1.01-steps=30");
  s.weights = llama::WeightType::int8;
  CHECK(llama::name_of(llama::resolved(s)) ==
        "apollo-mini-lr0.004-0.016-seed1-batch=4-limiter_gamma=1.01-steps=30-weights=int8");
  s = {};
  s.model.hidden = 64, s.model.tied = true, s.lr = 1, s.seed = 7;
  CHECK(llama::name_of(llama::resolved(s)) == "adamw-lr1-0.032-seed7-hidden=64-tied=true");

  CHECK(llama::model_name("nano", {}) == "nano");
  CHECK(llama::model_name("nano", s.model) == "nano with hidden 64, a tied head");
  llama::Config config = llama::presets()[1].config;
  CHECK(llama::model_name("60m", config) == "60m");
  config.layers = 1, config.heads = 4;
  CHECK(llama::model_name("60m", config) == "60m with layers 1, heads 4");
}

TEST_CASE("files of different steps are no checkpoint") {
  const fs::path at3 = checkpoint("three", 3), at1 = checkpoint("one", 1);
  const std::string log = llama::read_whole((at3 / "log.csv").string());
  write(at3 / "log.csv", log.substr(0, log.rfind('\n', log.size() - 2) + 1));
  CHECK(mentions(load_refusal(at3), {"log.csv", "step 2", "step 3"}));
  write(at3 / "log.csv", log.substr(0, log.find('\n') + 1));
  CHECK(mentions(load_refusal(at3), {"log.csv", "step 0", "step 3"}));
  write(at3 / "log.csv", log);
  fs::copy_file(at1 / "optimizer.safetensors", at3 / "optimizer.safetensors", fs::copy_options::overwrite_existing);
  CHECK(mentions(load_refusal(at3), {"optimizer.safetensors", "step 1", "step 3"}));
}

TEST_CASE("a state file without what it must have is refused by its name") {
  const fs::path at1 = checkpoint("state", 1);
  nlohmann::json state = llama::read_json(at1 / "trainer.json");
  for (const char* content : {"3", "[]", "{}", R"({"settings":3})", R"({"settings":[]})", "{"}) {
    CAPTURE(content);
    write(at1 / "trainer.json", content);
    CHECK(mentions(load_refusal(at1), {"trainer.json"}));
  }
  for (const char* key : {"step", "skipped"}) {
    CAPTURE(key);
    nlohmann::json changed = state;
    changed.erase(key);
    write(at1 / "trainer.json", changed.dump());
    CHECK(mentions(load_refusal(at1), {"trainer.json", key}));
    changed[key] = "many";
    write(at1 / "trainer.json", changed.dump());
    CHECK(mentions(load_refusal(at1), {"trainer.json", key}));
  }
}

TEST_CASE("gradients that a run cannot save are refused before it starts") {
  using llama::GradientFiles;
  const fs::path folder = "llama_bad_input_gradients";
  fs::remove_all(folder);
  const TrainerSettings s = llama::resolved(small());  // 4 steps
  const auto said = [&](const GradientFiles& files, const TrainerSettings& settings, std::size_t runs,
                        std::int64_t stop_after) {
    const std::string message = refusal([&] { files.prepare(settings, runs, stop_after); });
    CHECK(!fs::exists(folder));
    return message;
  };
  GradientFiles().prepare(s, 7, 0);  // nothing is asked for
  CHECK(mentions(said({folder, {}}, s, 1, 0), {"save-gradients-at", "both"}));
  CHECK(mentions(said({{}, {1}}, s, 1, 0), {"save-gradients", "both"}));
  CHECK(mentions(said({folder, {1}}, s, 2, 0), {"2 runs", "same files"}));
  CHECK(mentions(said({folder, {0}}, s, 1, 0), {"step 0", "1 to 4"}));
  CHECK(mentions(said({folder, {2, 5}}, s, 1, 0), {"step 5", "1 to 4"}));
  CHECK(mentions(said({folder, {3}}, s, 1, 2), {"step 3", "1 to 2"}));
  TrainerSettings layerwise = s;
  layerwise.layerwise = true;
  CHECK(mentions(said({folder, {1}}, layerwise, 1, 0), {"layerwise", "one layer"}));

  write(folder, "a file");
  CHECK(mentions(refusal<std::runtime_error>([&] {
                   GradientFiles{folder / "in a file", {1}}.prepare(s, 1, 0);
                 }),
                 {"cannot make the folder", "in a file"}));
  fs::remove_all(folder);
  const GradientFiles files{folder, {4, 2}};
  files.prepare(s, 1, 4);
  CHECK(fs::is_directory(folder));
  files.check_start(1);
  CHECK(mentions(refusal([&] { files.check_start(2); }), {"step 2", "past"}));
}
