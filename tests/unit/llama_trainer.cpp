// SPDX-License-Identifier: Apache-2.0
// The LLaMA example's trainer: resuming bit for bit, steps inside the backward pass and their memory, accumulated batches,
// the bytes each optimizer keeps, weights of floats and of int8, and the text's parts.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "llama/gradients.hpp"
#include "llama/trainer.hpp"
#include "support.hpp"

namespace {

namespace fs = std::filesystem;
using llama::GradientMemory;
using llama::Index;
using llama::Parameter;
using llama::Text;
using llama::Trainer;
using llama::TrainerSettings;
using llama::WeightType;
using support::mentions;
using support::refusal;

/// Words of a small language, drawn with a fixed seed.
std::vector<std::uint8_t> words(std::size_t size, std::uint64_t seed) {
  constexpr const char* language[] = {"the ", "model ", "learns ", "a ", "text. ", "from ", "bytes ", "and "};
  std::string all;
  for (std::uint64_t i = 0; all.size() < size; ++i) all += language[support::mix(support::mix(seed) + i) % 8];
  return {all.begin(), all.begin() + static_cast<std::ptrdiff_t>(size)};
}
const Text text(words(3000, 1), "words", 16);

/// A few steps of a small model; bases are refreshed in steps 1, 4 and 7.
TrainerSettings settings(std::string_view optimizer) {
  TrainerSettings s;
  s.model = {.vocabulary = 256, .hidden = 16, .layers = 2, .heads = 2, .intermediate = 24};
  s.optimizer = optimizer, s.matrices.update_proj_gap = 3;
  s.seed = 5, s.batch = 2, s.sequence = 16, s.steps = 8;
  return s;
}

void train(Trainer& trainer, std::int64_t until) {
  while (trainer.step_number() < until) {
    trainer.step();
    if (trainer.step_number() % 3 == 0) trainer.note_validation_loss(2);
  }
}

Eigen::VectorXf weights_of(Trainer& trainer) {
  Eigen::VectorXf all(llama::parameter_count(trainer.settings().model));
  float* to = all.data();
  auto& model = trainer.model();
  for (const Parameter& p : model.parameters()) {
    if (model.is_int8(p))
      model.int8_weight(p).dequantize(0, p.rows, to);
    else
      std::copy_n(model.weight(p).data(), p.size(), to);
    to += p.size();
  }
  return all;
}
/// What a log says of the training; times differ from run to run.
std::vector<double> losses_of(const std::vector<llama::LogRow>& log) {
  std::vector<double> all;
  for (const llama::LogRow& row : log)
    all.insert(all.end(), {static_cast<double>(row.step), static_cast<double>(row.tokens), row.lr_factor,
                           row.training_loss, row.validation_loss});
  return all;
}

template <class Array>
bool same_bits(const Array& a, const Array& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof a[0]) == 0;
}
/// Weights and log, whichever kinds of trainer these are.
template <class A, class B>
bool same_run(A& a, B& b) {
  return same_bits(weights_of(a), weights_of(b)) && same_bits(losses_of(a.log()), losses_of(b.log()));
}

/// An empty folder, removed with all it holds.
struct Folder {
  fs::path path;
  explicit Folder(const std::string& name) : path("llama_trainer_" + name) {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  Folder(Folder&&) = delete;
};

std::string bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}
/// What load() says; empty if it loads.
std::string load_refusal(Trainer& trainer, const fs::path& checkpoint) {
  try {
    trainer.load(checkpoint);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return {};
}

/// The bytes of state that the published algorithm keeps for a matrix.
Index published_state(std::string_view optimizer, Index rank, Index rows, Index cols) {
  const Index longer = std::max(rows, cols), shorter = std::min(rows, cols);
  const auto blocks = [](Index size) { return (size + 255) / 256; };
  if (optimizer == "q-galore") {
    const Index moment = rank * longer, basis = rank * shorter;
    return 2 * (moment + 4 * blocks(moment)) + (basis + 1) / 2 + 8 * blocks(basis);
  }
  if (optimizer == "adamw-8bit")  // blocks follow rows, or the whole matrix where they are short
    return 2 * (rows * cols + 4 * (cols < 256 ? blocks(rows * cols) : rows * blocks(cols)));
  if (optimizer.substr(0, 2) == "q-") optimizer.remove_prefix(2);
  if (optimizer == "sgd" || optimizer == "scale") return 0;
  if (optimizer == "sgd-momentum") return 4 * longer * shorter;
  if (optimizer == "flora") return 4 * rank * longer;
  if (optimizer == "flora-factored") return 4 * (rank * longer + longer + shorter);
  if (optimizer == "galore-adafactor") return 4 * (rank * shorter + longer + rank);
  if (optimizer == "apollo-mini") return 4 * 2 * longer;
  if (optimizer == "galore" || optimizer == "fira" || optimizer == "apollo-svd")
    return 4 * (2 * rank * longer + rank * shorter);
  if (optimizer.substr(0, 6) == "apollo") return 4 * 2 * rank * longer;
  return 8 * longer * shorter;  // AdamW
}

}  // namespace

TEST_CASE("a run that was resumed ends in the same bits as one without the break") {
  for (const llama::Tuned& tuned : llama::tuned)
    for (const std::int64_t stop : {4, 5, 6}) {  // after new bases, in between, and before
      INFO(tuned.name, ", stopped after ", stop);
      const Folder folder("resume"), again("again");
      TrainerSettings s = settings(tuned.name);
      if (stop == 5) s.weights = WeightType::int8;
      Trainer whole(s, text), first(s, text);
      train(whole, 8);
      train(first, stop);
      first.save(folder.path);
      const fs::path checkpoint = Trainer::newest_checkpoint(folder.path);

      s.threads = stop == 6 ? 1 : 2, s.layerwise = stop != 4, s.recompute = stop != 4;  // none decides a bit
      Trainer second(s, text);
      second.load(checkpoint);
      CHECK(second.step_number() == stop);
      CHECK(same_run(second, first));
      second.save(again.path);
      for (const std::string& file : names_in(checkpoint))
        CHECK(bytes_of(checkpoint / file) == bytes_of(again.path / checkpoint.filename() / file));
      train(second, 8);
      CHECK(same_run(second, whole));
    }
}

TEST_CASE("a checkpoint of other settings is refused by the name of the one that differs") {
  const Folder folder("settings");
  Trainer made(settings("apollo"), text);
  train(made, 2);
  made.save(folder.path);
  const fs::path checkpoint = Trainer::newest_checkpoint(folder.path);

  const auto refused = [&](const TrainerSettings& s, const std::string& key) {
    CAPTURE(key);
    Trainer trainer(s, text);
    const Eigen::VectorXf before = weights_of(trainer);
    CHECK(mentions(load_refusal(trainer, checkpoint), {checkpoint.c_str(), (" " + key + " = ").c_str()}));
    CHECK(trainer.step_number() == 0);
    CHECK(same_bits(weights_of(trainer), before));
  };
  const std::vector<std::pair<const char*, void (*)(TrainerSettings&)>> changes{
      {"hidden", [](TrainerSettings& s) { s.model.hidden = 20, s.matrices.rank = 4; }},
      {"tied", [](TrainerSettings& s) { s.model.tied = true; }},
      {"weights", [](TrainerSettings& s) { s.weights = WeightType::int8; }},
      {"optimizer", [](TrainerSettings& s) { s.optimizer = "apollo-gaussian"; }},
      {"lr", [](TrainerSettings& s) { s.lr = 0.123; }},
      {"rank", [](TrainerSettings& s) { s.matrices.rank = 5; }},
      {"beta1", [](TrainerSettings& s) { s.matrices.beta1 = 0.8; }},
      {"seed", [](TrainerSettings& s) { s.seed = 6; }},
  };
  for (const auto& [key, change] : changes) {
    TrainerSettings s = settings("apollo");
    change(s);
    refused(s, key);
  }
  const Text other(words(3000, 2), "other words", 16);
  Trainer elsewhere(settings("apollo"), other);
  CHECK(mentions(load_refusal(elsewhere, checkpoint), {"text_hash"}));
  Trainer same(settings("apollo"), text);
  CHECK(load_refusal(same, checkpoint).empty());

  const nlohmann::json made_with = nlohmann::json::parse(bytes_of(checkpoint / "trainer.json"));
  CHECK(made_with.at("settings").size() >= 26);
  for (const auto& [key, value] : made_with.at("settings").items()) {  // all the others
    nlohmann::json changed = made_with;
    changed["settings"].erase(key);
    std::ofstream(checkpoint / "trainer.json") << changed;
    refused(settings("apollo"), key);
  }
}

TEST_CASE("a damaged checkpoint is refused and changes nothing") {
  const TrainerSettings s = settings("apollo");
  Trainer untouched(s, text);
  train(untouched, 3);
  for (const char* file : {"model.safetensors", "optimizer.safetensors", "log.csv", "trainer.json"})
    for (const bool missing : {false, true}) {
      INFO(file, missing ? " missing" : " cut short");
      const Folder folder("damaged");
      Trainer made(s, text);
      train(made, 2);
      made.save(folder.path);
      const fs::path damaged = folder.path / "checkpoint-2" / file;
      if (missing)
        fs::remove(damaged);
      else
        fs::resize_file(damaged, fs::file_size(damaged) - 3);

      Trainer trainer(s, text);
      CHECK(mentions(load_refusal(trainer, folder.path / "checkpoint-2"), {file}));
      CHECK(trainer.step_number() == 0);
      CHECK(trainer.log().empty());
      train(trainer, 3);
      CHECK(same_run(trainer, untouched));
    }
}

TEST_CASE("a folder holds the newest checkpoint alone, and nothing unfinished") {
  const Folder folder("saves");
  CHECK(Trainer::newest_checkpoint(folder.path).empty());
  CHECK(Trainer::newest_checkpoint(folder.path / "nowhere").empty());
  for (const char* name : {"checkpoint-9", "checkpoint-10", "checkpoint-", "checkpoint-12x", "unfinished", "run-99"})
    fs::create_directories(folder.path / name);
  CHECK(Trainer::newest_checkpoint(folder.path).filename() == "checkpoint-10");

  const Folder run("run");
  fs::create_directories(run.path / "unfinished");  // of a save that was killed
  std::ofstream(run.path / "unfinished" / "model.safetensors.part") << "half";
  std::ofstream(run.path / "notes") << "not ours";
  Trainer trainer(settings("adamw"), text);
  for (const std::int64_t step : {1, 2, 3}) {
    train(trainer, step);
    trainer.save(run.path);
    const std::string checkpoint = "checkpoint-" + std::to_string(step);
    CHECK(names_in(run.path) == std::set<std::string>{"notes", checkpoint});
    CHECK(names_in(run.path / checkpoint) ==
          std::set<std::string>{"log.csv", "model.safetensors", "optimizer.safetensors", "trainer.json"});
    trainer.save(run.path);  // the same again
  }
  CHECK(names_in(run.path) == std::set<std::string>{"notes", "checkpoint-3"});
}

TEST_CASE("steps inside the backward pass give the same bits with one layer's gradients in memory") {
  for (const Index intermediate : {24, 100})  // the head's gradients are the largest, then a layer's
    for (const bool tied : {false, true})
      for (const llama::Tuned& tuned : llama::tuned) {
        INFO(tuned.name, ", intermediate ", intermediate, ", tied ", tied);
        TrainerSettings s = settings(tuned.name);
        s.model.tied = tied, s.model.intermediate = intermediate;
        if (intermediate == 24) s.weights = WeightType::int8;
        std::vector<std::size_t> units(4, 0);  // bytes of each one's gradients
        for (const Parameter& p : llama::parameters_of(s.model))
          units[p.unit] += 4 * static_cast<std::size_t>(p.size());

        GradientMemory::restart();
        std::size_t before = GradientMemory::live;
        Trainer ordinary(s, text);
        train(ordinary, 5);
        CHECK(GradientMemory::peak - before == units[0] + units[1] + units[2] + units[3]);

        GradientMemory::restart();
        before = GradientMemory::live;
        s.layerwise = true;
        Trainer layerwise(s, text);
        train(layerwise, 5);
        const std::size_t largest = *std::max_element(units.begin() + (tied ? 1 : 0), units.end());
        CHECK(GradientMemory::peak - before ==
              largest + (tied ? units[0] : 0));  // both ends of the backward pass write a tied embedding's
        CHECK(GradientMemory::live.load() == GradientMemory::peak.load());
        CHECK(same_run(layerwise, ordinary));
      }
}

TEST_CASE("four accumulated batches are one batch of four times the size") {
  for (const char* optimizer : {"adamw", "apollo", "apollo-mini", "sgd-momentum"})
    for (const bool tied : {false, true}) {
      CAPTURE(optimizer);
      TrainerSettings s = settings(optimizer);
      s.model.tied = tied, s.batch = 8;
      Trainer whole(s, text);
      s.batch = 2, s.accumulate = 4;
      Trainer parts(s, text);
      const Eigen::VectorXf start = weights_of(parts);
      for (int step = 1; step <= 3; ++step) {
        const double loss = whole.step().training_loss;
        CHECK(std::abs(parts.step().training_loss - loss) <= 1e-5 * loss);
      }
      CHECK((weights_of(parts) - weights_of(whole)).norm() <= 1e-5f * (weights_of(whole) - start).norm());
    }
}

TEST_CASE(
    "gradients are saved at the steps that were asked for: of all matrices, what the optimizer has stepped with") {
  const Folder folder("gradients");
  const llama::GradientFiles files{folder.path / "new" / "folder", {3, 1}};
  TrainerSettings s = settings("sgd");
  s.accumulate = 2, s.warmup = 0;
  Trainer trainer(s, text);
  files.prepare(trainer.settings(), 1, 0);
  while (trainer.step_number() < 4) {
    const Eigen::VectorXf before = weights_of(trainer);
    const llama::LogRow row = trainer.step();
    files.save(trainer.model(), row.step);
    const std::string path = files.path(row.step);
    CHECK(fs::exists(path) == (row.step == 1 || row.step == 3));
    if (!fs::exists(path)) continue;
    const apollo::InputFile file(path);
    const auto header = llama::read_header(file);
    CHECK(*header.find_metadata("step") == std::to_string(row.step));
    std::size_t matrices = 0;
    Index at = 0;
    for (const Parameter& p : trainer.model().parameters()) {
      CAPTURE(p.name);
      const apollo::safetensors::Tensor* found = header.find(p.name);
      CHECK((found != nullptr) == (p.kind == llama::Kind::matrix));
      if (found != nullptr) {
        ++matrices;
        CHECK(found->type == apollo::safetensors::Type::F32);
        CHECK(found->shape == std::vector<Index>{p.rows, p.cols});
        Eigen::VectorXf saved(p.size());
        file.read(saved.data(), static_cast<std::size_t>(p.size()) * sizeof(float), header.data_offset + found->begin);
        CHECK(same_bits(saved, Eigen::VectorXf(trainer.model().gradient(p).reshaped<Eigen::RowMajor>())));
        const Eigen::VectorXf now = weights_of(trainer).segment(at, p.size());
        const auto lr = static_cast<float>(trainer.settings().lr * row.lr_factor);
        CHECK((before.segment(at, p.size()) - lr * saved - now).norm() <=
              1e-5f * lr * saved.norm() + 1e-6f * now.norm());
      }
      at += p.size();
    }
    CHECK(header.tensors.size() == matrices);
  }
  CHECK(names_in(files.folder) == std::set<std::string>{"step_1.safetensors", "step_3.safetensors"});
}

TEST_CASE("every optimizer keeps the published number of values for each matrix") {
  std::map<std::string, Index> nano;
  for (const llama::Tuned& tuned : llama::tuned)
    for (const bool small : {true, false}) {
      const std::string name(tuned.name);
      CAPTURE(name);
      TrainerSettings s = settings(name);
      if (!small) s.model = llama::presets()[0].config;
      Trainer trainer(s, text);
      if (small) train(trainer, 2);  // nothing more comes with the steps
      Index matrices = 0, all = 0, count = 0, adamw = 0;
      for (const Parameter& p : trainer.model().parameters()) {
        CAPTURE(p.name);
        const bool matrix = p.kind == llama::Kind::matrix;
        Index expected = matrix ? published_state(name, s.model.hidden / 4, p.rows, p.cols) : 8 * p.size();
        if (!matrix && p.kind != llama::Kind::norm && (name.rfind("q-", 0) == 0 || name == "adamw-8bit"))
          expected = published_state("adamw-8bit", 0, p.rows, p.cols);
        if (matrix && name == "adam-mini") expected = 4 * (p.size() + (p.by_head ? s.model.heads : p.rows));
        CHECK(trainer.optimizer().state_bytes(p.name) == expected);
        all += expected;
        if (matrix) matrices += expected, adamw += 8 * p.size(), ++count;
      }
      const llama::Run run = trainer.summary();
      CHECK(run.matrix_state_bytes == matrices);
      CHECK(run.state_bytes == all);
      CHECK(run.weight_bytes == 4 * llama::parameter_count(s.model));
      CHECK(run.adamw_matrix_bytes == adamw);
      CHECK(run.adamw_bytes == 8 * llama::parameter_count(s.model));
      const bool limited = name.find("apollo") < 3 || name == "fira" || name == "structured-adamw";
      CHECK(run.matrix_record_bytes == (name == "q-galore" ? 52 : limited ? 12 : 8) * count);
      if (!small) nano[name] = matrices;
    }
  // The shorter side of each of nano's matrices is its hidden size h, so rank h / 4 keeps a quarter of AdamW's, rank 1 an h-th.
  CHECK(4 * nano["apollo"] == nano["adamw"]);
  CHECK(100 * nano["apollo-mini"] < nano["adamw"]);
}

TEST_CASE("every optimizer lowers the loss") {
  std::string lines;
  for (int i = 0; i < 40; ++i) lines += "one line, again and again. ";
  const Text repetitive({lines.begin(), lines.end()}, "lines", 16);
  for (const llama::Tuned& tuned : llama::tuned) {
    CAPTURE(std::string(tuned.name));
    TrainerSettings s = settings(tuned.name);
    s.steps = 40, s.other_lr = 1.6e-2;
    if (tuned.name == "adamw-one-lr") s.lr = s.other_lr;
    if (tuned.name == "flora") s.lr = 0.1;            // follows the gradients' size, which is another here than in nano
    if (tuned.name == "flora-factored") s.lr = 1e-3;  // a projection of rank 4 is noisier than nano's
    Trainer trainer(s, repetitive);
    const double before = trainer.validation_loss();
    train(trainer, 40);
    CHECK(trainer.validation_loss() < 0.7 * before);

    if (tuned.name == "adamw-one-lr") continue;
    s.other_lr = 1e-12;  // the matrices alone
    Trainer matrices(s, repetitive);
    train(matrices, 40);
    CHECK(matrices.validation_loss() < before);
  }
}

TEST_CASE("int8 weights train under every optimizer") {
  std::string lines;
  for (int i = 0; i < 40; ++i) lines += "one line, again and again. ";
  const Text repetitive({lines.begin(), lines.end()}, "lines", 16);
  for (const llama::Tuned& tuned : llama::tuned) {
    const std::string name(tuned.name);
    CAPTURE(name);
    TrainerSettings s = settings(name);
    s.steps = 40, s.other_lr = 1.6e-2, s.weights = WeightType::int8;
    if (name == "adamw-one-lr") s.lr = s.other_lr;
    if (name == "flora") s.lr = 0.1;
    if (name == "flora-factored") s.lr = 1e-3;
    Trainer trainer(s, repetitive);
    const Eigen::VectorXf start = weights_of(trainer);
    const double before = trainer.validation_loss();
    train(trainer, 40);
    CHECK(trainer.validation_loss() < 0.8 * before);
    CHECK(trainer.summary(1).weight_bytes == llama::weight_bytes(s.model, WeightType::int8));
    Index at = 0;
    for (const Parameter& p : trainer.model().parameters()) {  // steps reach every weight's codes
      CAPTURE(p.name);
      CHECK(trainer.model().is_int8(p) == (p.kind != llama::Kind::norm));
      const bool moved = weights_of(trainer).segment(at, p.size()) != start.segment(at, p.size());
      CHECK(moved);
      at += p.size();
    }
  }
}

TEST_CASE("stochastic rounding moves weights where steps are far below a scale, rounding to nearest leaves them") {
  const auto moved = [](const char* optimizer) {
    TrainerSettings s = settings(optimizer);
    s.weights = WeightType::int8, s.lr = s.other_lr = 1e-6, s.warmup = 0, s.matrices.scale = 1;
    s.matrices.limiter_gamma = 1.01;
    Trainer trainer(s, text);
    const auto codes = [&] {
      std::vector<std::uint8_t> all;
      for (const Parameter& p : trainer.model().parameters()) {
        if (p.kind != llama::Kind::matrix) continue;
        const auto& own = trainer.model().int8_weight(p).codes();
        all.insert(all.end(), own.begin(), own.end());
      }
      return all;
    };
    const std::vector<std::uint8_t> before = codes();
    train(trainer, 8);
    const std::vector<std::uint8_t> after = codes();
    double count = 0;
    for (std::size_t i = 0; i < before.size(); ++i) count += before[i] != after[i];
    return count / static_cast<double>(before.size());
  };
  CHECK(moved("apollo") == 0);
  CHECK(moved("apollo-mini") == 0);
  CHECK(moved("q-apollo") > 1e-3);
  CHECK(moved("q-apollo-mini") > 1e-3);
}

TEST_CASE("the seed draws the projections") {
  const auto stepped = [](std::uint64_t seed) {
    Eigen::MatrixXf w = Eigen::MatrixXf::Zero(8, 8), g = w;
    for (int i = 0; i < 64; ++i) g.data()[i] = static_cast<float>(i % 7) - 2.5f;
    apollo::eigen::Optimizer optimizer;
    llama::add_matrices(optimizer, "apollo", 1, {.rank = 4}, seed, {},
                        {{.parameter = {.name = "w", .rows = 8, .cols = 8}, .weight = w.data(), .gradient = g.data()}});
    optimizer.step();
    return w;
  };
  CHECK(stepped(1) == stepped(1));
  CHECK(stepped(1) != stepped(2));
}

TEST_CASE("settings out of range and short texts are refused with value and bound, open settings are filled in") {
  const auto said = [](auto change) {
    TrainerSettings s = settings("apollo");
    change(s);
    return refusal([&] { Trainer(s, text); });
  };
  CHECK(mentions(said([](auto& s) { s.batch = 0; }), {"batch = 0", "at least 1"}));
  CHECK(mentions(said([](auto& s) { s.sequence = -1; }), {"sequence = -1", "at least 1"}));
  CHECK(mentions(said([](auto& s) { s.accumulate = 0; }), {"accumulate = 0", "at least 1"}));
  CHECK(mentions(said([](auto& s) { s.steps = 0; }), {"steps = 0", "at least 1"}));
  CHECK(mentions(said([](auto& s) { s.threads = 0; }), {"threads = 0", "at least 1"}));
  CHECK(mentions(said([](auto& s) { s.model.vocabulary = 1; }), {"vocabulary = 1", "at least 256"}));
  CHECK(mentions(said([](auto& s) { s.layerwise = true, s.accumulate = 2; }), {"layerwise", "accumulate = 2", "1"}));
  CHECK(mentions(said([](auto& s) { s.optimizer = "adam"; }), {"'adam'", "adamw", "galore", "apollo-mini", "sgd"}));
  CHECK(mentions(said([](auto& s) { s.matrices.rank = 17; }), {"rank = 17", "16"}));
  CHECK(mentions(said([](auto& s) { s.lr = -1; }), {"lr = -1", "at least 0"}));
  CHECK(mentions(said([](auto& s) { s.warmup = 9; }), {"warmup = 9", "total = 9"}));
  const TrainerSettings filled = llama::resolved(settings("galore"));
  CHECK(filled.lr == llama::tuned_for("galore").lr);
  CHECK(filled.other_lr == llama::tuned_for("galore").other_lr);
  CHECK(filled.matrices.rank == 4);
  CHECK(mentions(refusal([] { Text(words(339, 1), "short", 16); }), {"'short'", "339", "340", "16"}));
  const Text shortest(words(340, 1), "shortest", 16);
  CHECK(shortest.windows(16) == 1);
}

TEST_CASE("samples come from the training part, validation windows cover the rest, targets are the next bytes") {
  std::vector<std::uint8_t> bytes;  // below 128 where it trains, and no 8 bytes twice
  for (std::uint64_t i = 0; i < 1000; ++i)
    bytes.push_back(static_cast<std::uint8_t>(support::mix(i) % 128 + (i < 950 ? 0 : 128)));
  const Text marked(bytes, "marked", 9);

  std::set<std::ptrdiff_t> places;
  for (std::int64_t step = 1; step <= 500; ++step) {
    const llama::Batch batch = marked.sample(3, step, 0, 4, 9);
    std::vector<int> tokens, targets;
    for (Index k = 0; k < 4; ++k) {
      const llama::Batch one = marked.sample(3, step, k, 1, 9);
      tokens.insert(tokens.end(), one.tokens.begin(), one.tokens.end());
      targets.insert(targets.end(), one.targets.begin(), one.targets.end());
      const auto found = std::search(bytes.begin(), bytes.end(), one.tokens.begin(), one.tokens.end());
      REQUIRE(bytes.end() - found > 9);
      CHECK(std::equal(one.targets.begin(), one.targets.end(), found + 1));
      CHECK(std::all_of(one.targets.begin(), one.targets.end(), [](int byte) { return byte < 128; }));
      places.insert(found - bytes.begin());
    }
    CHECK(batch.tokens == tokens);
    CHECK(batch.targets == targets);
  }
  CHECK(places.size() > 700);  // of 941, all over the training part
  CHECK(*places.begin() < 20);
  CHECK(*places.rbegin() > 920);
  CHECK(marked.sample(3, 1, 0, 4, 9).tokens != marked.sample(4, 1, 0, 4, 9).tokens);

  for (const Index length : {1, 7, 9}) {
    CAPTURE(length);
    const Index windows = marked.windows(length);
    CHECK(windows == 49 / length);  // the last byte is nothing but a target
    const llama::Batch all = marked.validation(0, windows, 1, length);
    const auto part = bytes.begin() + 950;
    CHECK(all.size() == windows * length);
    CHECK(std::equal(all.tokens.begin(), all.tokens.end(), part));
    CHECK(std::equal(all.targets.begin(), all.targets.end(), part + 1));
    const llama::Batch second = marked.validation(1, 1, 5, length);
    CHECK(std::equal(second.tokens.begin(), second.tokens.end(), part + length));
  }
}
