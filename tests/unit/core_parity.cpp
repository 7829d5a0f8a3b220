// SPDX-License-Identifier: Apache-2.0
// Parity with the published packages: the cases of tests/parity/reference.json, replayed in each layout.
#include <nlohmann/json.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <apollo/optimizer/named.hpp>

#include "base64.hpp"
#include "support.hpp"

namespace {

using apollo::Index;
using apollo::Shape;
using support::Layout;
using support::Matrix;
using support::Tensor;
using Json = nlohmann::json;

Matrix decode(const Json& entry, Index rows, Index cols) {
  const auto bytes = support::decode_base64(entry.at("data").get<std::string>());
  Matrix matrix(rows, cols);
  REQUIRE(bytes.size() == 4 * matrix.values.size());
  for (std::size_t i = 0; i < matrix.values.size(); ++i) {
    std::uint32_t word = 0;
    for (std::size_t b = 0; b < 4; ++b) word |= static_cast<std::uint32_t>(bytes[4 * i + b]) << (8 * b);
    float value = 0;
    std::memcpy(&value, &word, sizeof value);
    matrix.values[i] = static_cast<double>(value);
  }
  return matrix;
}

apollo::ProjType side_of(const std::string& name) {
  if (name == "reverse_std") return apollo::ProjType::reverse_std;
  if (name == "right") return apollo::ProjType::right;
  if (name == "left") return apollo::ProjType::left;
  REQUIRE(name == "std");
  return apollo::ProjType::std;
}

struct Result {
  double error = 0;                ///< the largest over the stored steps
  std::vector<int> limiter_steps;  ///< those on which the limiter divided by more than 1
};

/// The case's fifty steps.
template <class T, class Optimizer>
Result replay(const Json& c, Layout layout, Optimizer optimizer) {
  const Shape shape{c.at("rows").get<Index>(), c.at("cols").get<Index>()};
  const auto seed = c.at("seed").get<std::uint64_t>();
  const auto steps = c.at("steps").get<int>();
  const auto zero_step = c.at("zero_step").get<int>();
  const auto rank = c.at("rank").get<Index>();
  const Index removed = c.at("removed") == "rows" ? shape.rows : shape.cols;
  Tensor<T> w(support::uniform_matrix(shape.rows, shape.cols, seed), layout);
  Tensor<T> g(Matrix(shape.rows, shape.cols), layout);
  Result result;
  std::size_t stored = 0;
  for (int step = 1; step <= steps; ++step) {
    if constexpr (requires { optimizer.set_projection(w.view); })
      for (const Json& p : c.at("projections"))
        if (p.at("step") == step) {
          const Tensor<T> directions(decode(p, rank, removed), layout);
          optimizer.set_projection(directions.view);
        }
    const double size =
        step == zero_step
            ? 0
            : std::ldexp(1.0, c.at("gradient_exponents").at(static_cast<std::size_t>(step - 1)).get<int>());
    g.set(
        support::scaled(support::uniform_matrix(shape.rows, shape.cols, seed, static_cast<std::uint64_t>(step)), size));
    const apollo::TensorReport report = optimizer.step(w.view, g.view);
    REQUIRE(report.stepped);
    if (report.limiter > 1) result.limiter_steps.push_back(step);
    for (const Json& reference : c.at("weights"))
      if (reference.at("step") == step) {
        const double error = support::relative_error(w.get(), decode(reference, shape.rows, shape.cols));
        if (!(error <= result.error)) result.error = error;
        ++stored;
      }
  }
  CHECK(stored == c.at("weights").size());
  CHECK(optimizer.steps() == steps);
  return result;
}

template <class T>
Result replay(const Json& c, Layout layout) {
  const Shape shape{c.at("rows").get<Index>(), c.at("cols").get<Index>()};
  const std::string algorithm = c.at("algorithm");
  const Json& o = c.at("options");
  const auto option = [&](const char* name) { return o.at(name).get<double>(); };
  if (algorithm == "adamw_torch" || algorithm == "adamw_huggingface") {
    apollo::AdamWOptions options;
    options.lr = option("lr"), options.beta1 = option("beta1"), options.beta2 = option("beta2");
    options.eps = option("eps"), options.weight_decay = option("weight_decay");
    options.order = algorithm == "adamw_torch" ? apollo::Order::torch : apollo::Order::huggingface;
    return replay<T>(c, layout, apollo::AdamW<T>(shape, options));
  }
  if (algorithm == "adam_mini") {
    apollo::AdamMiniOptions options;
    options.lr = option("lr"), options.beta1 = option("beta1"), options.beta2 = option("beta2");
    options.eps = option("eps"), options.weight_decay = option("weight_decay");
    const Json& rows = c.at("blocks").at("rows_per_block");
    options.block = rows.get<Index>() == shape.rows ? 0 : rows.get<Index>();
    return replay<T>(c, layout, apollo::AdamMini<T>(shape, options));
  }
  const auto fill = [&](auto& options) {
    options.lr = option("lr"), options.weight_decay = option("weight_decay"), options.scale = option("scale");
    if constexpr (requires { options.beta1; }) {
      options.beta1 = option("beta1"), options.beta2 = option("beta2"), options.eps = option("eps");
    }
    options.proj_type = side_of(c.at("proj_type"));
    options.update_proj_gap = o.at("update_proj_gap").get<Index>();
  };
  if (algorithm == "fira") {
    apollo::FiraOptions options;
    fill(options);
    options.rank = c.at("rank").get<Index>();
    options.limiter_gamma = option("limiter_gamma"), options.limiter_floor = option("limiter_floor");
    options.residual = apollo::FiraResidual::code;
    return replay<T>(c, layout, apollo::Fira<T, apollo::FixedProjection>(shape, options));
  }
  if (algorithm == "galore_adafactor") {
    apollo::GaLoreAdafactorOptions options;
    fill(options);
    options.rank = c.at("rank").get<Index>();
    options.decay_rate = -option("decay_rate"), options.eps = option("eps1");
    options.clip_threshold = option("clip_threshold");
    return replay<T>(c, layout, apollo::GaLoreAdafactor<T, apollo::FixedProjection>(shape, options));
  }
  if (algorithm == "galore") {
    apollo::GaLoreOptions options;
    fill(options);
    options.rank = c.at("rank").get<Index>();
    return replay<T>(c, layout, apollo::GaLore<T, apollo::FixedProjection>(shape, options));
  }
  if (algorithm == "apollo") {
    apollo::ApolloOptions options;
    fill(options);
    options.rank = c.at("rank").get<Index>();
    options.limiter_gamma = option("limiter_gamma"), options.limiter_floor = option("limiter_floor");
    return replay<T>(c, layout, apollo::Apollo<T, apollo::FixedProjection>(shape, options));
  }
  REQUIRE(algorithm == "apollo_mini");
  REQUIRE(c.at("rank") == 1);
  apollo::ApolloMiniOptions options;
  fill(options);
  options.limiter_gamma = option("limiter_gamma"), options.limiter_floor = option("limiter_floor");
  return replay<T>(c, layout, apollo::ApolloMini<T, apollo::FixedProjection>(shape, options));
}

Json read(const char* path) {
  std::ifstream stream(path);
  REQUIRE(stream.good());
  return Json::parse(stream);
}
const Json& reference() {
  static const Json file = read(APOLLO_SOURCE_DIR "/tests/parity/reference.json");
  return file;
}
const Json& family() {
  static const Json file = read(APOLLO_SOURCE_DIR "/tests/parity/reference_family.json");
  return file;
}

/// In double precision the difference is the references' own rounding over fifty steps, which our
/// rounding to float would
/// partly repeat: up to 1.1e-6.
template <class T>
double tolerance(const std::string& algorithm) {
  if (algorithm != "adamw_torch") return 1e-5;
  return sizeof(T) == sizeof(float) ? 1e-6 : 2e-6;
}

template <class T>
void replay_all(const Json& file, std::size_t algorithms) {
  std::map<std::string, double> worst;
  std::map<std::string, int> runs;
  for (const Json& c : file.at("cases")) {
    const std::string name = c.at("name"), algorithm = c.at("algorithm");
    CAPTURE(name);
    CHECK(c.at("layouts").size() == 2);
    for (const Json& layout_name : c.at("layouts")) {
      const Layout layout = layout_name == "row_major" ? Layout::row_major : Layout::column_major;
      const Result result = replay<T>(c, layout);
      CAPTURE(static_cast<int>(layout));
      CHECK(result.error <= tolerance<T>(algorithm));
      CHECK(result.limiter_steps == c.value("limiter_steps", std::vector<int>{}));
      double& most = worst[algorithm];
      if (!(result.error <= most)) most = result.error;
      ++runs[algorithm];
    }
  }
  for (const auto& [algorithm, error] : worst)
    MESSAGE(algorithm << ": largest error " << error << " of " << tolerance<T>(algorithm) << " in " << runs[algorithm]
                      << " runs");
  CHECK(worst.size() == algorithms);
}

}  // namespace

TEST_CASE("gradients and weights of the file are made as its README says") {
  CHECK(support::uniform(7000, 0, 0) == doctest::Approx(-0.804259181).epsilon(1e-8));
  CHECK(support::uniform(7000, 0, 850) == doctest::Approx(-0.653170943).epsilon(1e-8));
  CHECK(support::uniform(7000, 1, 1) == doctest::Approx(0.232427835).epsilon(1e-8));
  CHECK(support::uniform(7000, 50, 850) == doctest::Approx(-0.587930322).epsilon(1e-8));
  CHECK(reference().at("format") == 1);
  CHECK(reference().at("cases").size() == 52);
}

TEST_CASE("parity in single precision") { replay_all<float>(reference(), 5); }

TEST_CASE("parity in double precision") { replay_all<double>(reference(), 5); }

TEST_CASE("parity of the family in single precision") {
  CHECK(family().at("cases").size() == 27);
  replay_all<float>(family(), 3);
}

TEST_CASE("parity of the family in double precision") { replay_all<double>(family(), 3); }
