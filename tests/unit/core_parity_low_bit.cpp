// SPDX-License-Identifier: Apache-2.0
// Parity with bitsandbytes' 8-bit AdamW on a CPU: its maps, its quantizer and its steps, from
// tests/parity/reference_low_bit.json. tests/parity/README.md says what the package does otherwise.
#include <nlohmann/json.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include <apollo/optimizer/named.hpp>

#include "base64.hpp"
#include "support.hpp"

namespace {

using apollo::Index;
using apollo::Int8Dynamic;
using apollo::Shape;
using support::Layout;
using support::Matrix;
using support::raise;
using support::Tensor;
using Json = nlohmann::json;
using Ours = apollo::AdamW<apollo::AdamMoments<Int8Dynamic>>;
using Codes = std::vector<unsigned char>;

constexpr std::size_t block = Int8Dynamic::block;
/// The package's table has 65536 entries from -1 to 1, and no zero: it moves a value by up to half a step of it.
constexpr double table = 1.0 / 65535;

const Json& reference() {
  static const Json file = [] {
    std::ifstream stream(APOLLO_SOURCE_DIR "/tests/parity/reference_low_bit.json");
    REQUIRE(stream.good());
    return Json::parse(stream);
  }();
  return file;
}

Codes bytes_of(const Json& text) { return support::decode_base64(text.get<std::string>()); }

std::vector<float> floats_of(const Json& text) {
  const Codes bytes = bytes_of(text);
  std::vector<float> values(bytes.size() / 4);
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::uint32_t word = 0;
    for (std::size_t b = 0; b < 4; ++b) word |= static_cast<std::uint32_t>(bytes[4 * i + b]) << (8 * b);
    std::memcpy(&values[i], &word, sizeof word);
  }
  return values;
}

const std::vector<float>& map_of(int number) {
  static const std::vector<float> maps[] = {floats_of(reference().at("maps").at(0)),
                                            floats_of(reference().at("maps").at(1))};
  return maps[number];
}

/// A power of two for each element, drawn in place of step number 2^20.
double size_of(std::uint64_t seed, int spread, std::uint64_t index) {
  return std::ldexp(1.0, -static_cast<int>(std::floor((support::uniform(seed, 1u << 20, index) + 1) / 2 * spread)));
}

/// One moment as the file keeps it.
struct Moment {
  Codes codes;
  std::vector<float> scales;

  double scale(std::size_t i) const { return static_cast<double>(scales[i / block]); }
  double value(std::size_t i, int number) const { return scale(i) * static_cast<double>(map_of(number)[codes[i]]); }
};

/// What codes of one moment have in common with the reference's.
struct Agreement {
  double scale = 0;      ///< largest relative difference
  double excess = 0;     ///< where codes differ, how far x is from the edges between them, over what is allowed
  std::size_t same = 0;  ///< codes
  std::size_t all = 0;
};

/// Adds what a moment has in common. `x` are the exact values, `doubt` their rounding errors, `moved` how far, as a part of
/// the scale, the reference may have moved a value before it chose a code.
void compare(const Moment& ours, const Moment& theirs, int number, const std::vector<double>& x,
             const std::vector<double>& doubt, double moved, Agreement& result) {
  REQUIRE(ours.codes.size() == x.size());
  REQUIRE(theirs.codes.size() == x.size());
  REQUIRE(ours.scales.size() == theirs.scales.size());
  const std::vector<float>& map = map_of(number);
  const auto edge_above = [&](std::size_t q) {
    return (static_cast<double>(map[q]) + static_cast<double>(map[q + 1])) / 2;
  };
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double scale = theirs.scale(i);
    raise(result.scale, std::fabs(ours.scale(i) - scale) / (scale > 0 ? scale : 1));
    ++result.all;
    const std::size_t low = std::min(ours.codes[i], theirs.codes[i]), high = std::max(ours.codes[i], theirs.codes[i]);
    if (low == high || !(scale > 0)) {  // without a scale every code is zero
      ++result.same;
      continue;
    }
    const double allowed = moved + (doubt[i] + 2e-7 * std::fabs(x[i])) / scale + 1e-12;
    raise(result.excess, (x[i] / scale - edge_above(low)) / allowed);
    raise(result.excess, (edge_above(high - 1) - x[i] / scale) / allowed);
  }
}

// --- steps --------------------------------------------------------------------------------------------------------------

struct State {
  Matrix weights;
  Moment moment[2];
};

/// The state that the file keeps after a step; before the first, initial weights and zeros.
State stored_state(const Json& c, int step) {
  const Index rows = c.at("rows").get<Index>(), cols = c.at("cols").get<Index>();
  State state;
  for (const Json& entry : c.at("states")) {
    if (entry.at("step") != step) continue;
    state.weights = Matrix(rows, cols);
    const auto weights = floats_of(entry.at("weights"));
    REQUIRE(weights.size() == state.weights.values.size());
    for (std::size_t i = 0; i < weights.size(); ++i) state.weights.values[i] = static_cast<double>(weights[i]);
    for (std::size_t k = 0; k < 2; ++k)
      state.moment[k] = {bytes_of(entry.at("codes").at(k)), floats_of(entry.at("scales").at(k))};
    return state;
  }
  REQUIRE(step == 0);
  state.weights = support::uniform_matrix(rows, cols, c.at("seed").get<std::uint64_t>());
  const std::size_t size = state.weights.values.size();
  for (Moment& moment : state.moment) moment = {Codes(size), std::vector<float>((size + block - 1) / block)};
  return state;
}

Matrix gradient_of(const Json& c, int step) {
  const auto seed = c.at("seed").get<std::uint64_t>();
  Matrix g = support::uniform_matrix(c.at("rows").get<Index>(), c.at("cols").get<Index>(), seed,
                                     static_cast<std::uint64_t>(step));
  for (std::size_t i = 0; i < g.values.size(); ++i) g.values[i] *= size_of(seed, c.at("spread").get<int>(), i);
  return g;
}

apollo::AdamWOptions options_of(const Json& c) {
  const Json& o = c.at("options");
  apollo::AdamWOptions options;
  options.lr = o.at("lr").get<double>(), options.eps = o.at("eps").get<double>();
  options.beta1 = o.at("beta1").get<double>(), options.beta2 = o.at("beta2").get<double>();
  options.weight_decay = o.at("weight_decay").get<double>();
  options.order = apollo::Order::torch;
  return options;
}

State state_of(Ours& optimizer, const Matrix& weights) {
  const support::StateDump dump = support::state_of(optimizer);
  State state{weights, {}};
  const char* names[] = {"exp_avg", "exp_avg_sq"};
  for (std::size_t k = 0; k < 2; ++k) {
    for (const double code : dump.arrays.at(names[k]).values)
      state.moment[k].codes.push_back(static_cast<unsigned char>(code));
    for (const double scale : dump.arrays.at(std::string(names[k]) + "_scale").values)
      state.moment[k].scales.push_back(static_cast<float>(scale));
  }
  return state;
}

/// Writes moments into an optimizer's arrays.
struct Writer {
  const State& from;

  template <class T>
  void array(std::string_view name, const apollo::MatrixView<T>& view) const {
    const Moment& moment = from.moment[name.substr(0, 10) == "exp_avg_sq" ? 1 : 0];
    if constexpr (sizeof(T) == 1)
      fill(moment.codes, view);
    else
      fill(moment.scales, view);
  }
  template <class T>
  void scalar(std::string_view, T&) const {}

 private:
  template <class Values, class T>
  static void fill(const Values& values, const apollo::MatrixView<T>& view) {
    REQUIRE(static_cast<Index>(values.size()) == view.rows * view.cols);
    for (Index i = 0; i < view.rows; ++i)
      for (Index j = 0; j < view.cols; ++j)
        view(i, j) = static_cast<T>(values[static_cast<std::size_t>(i * view.cols + j)]);
  }
};

}  // namespace

TEST_CASE("the dynamic maps are bitsandbytes'") {
  REQUIRE(reference().at("format") == 1);
  for (const int number : {0, 1}) {
    const std::vector<float>& map = map_of(number);
    REQUIRE(map.size() == 256);
    Codes codes(256);
    for (std::size_t q = 0; q < 256; ++q) codes[q] = static_cast<unsigned char>(q);
    float ours[256];
    Int8Dynamic::decode(codes.data(), 1.0f, number, ours);
    double worst = 0;
    for (std::size_t q = 0; q < 256; ++q)
      raise(worst, std::fabs(static_cast<double>(ours[q] - map[q])) /
                       (std::fabs(static_cast<double>(map[q])) + 1e-12));  // zero is among them
    MESSAGE("map " << number << " differs by " << worst << " of an entry");
    CHECK(worst <= 2e-7);
  }
}

TEST_CASE("Int8Dynamic has bitsandbytes' scales and codes, but for values moved by the table of its CPU library") {
  CHECK(reference().at("vectors").size() == 6);
  for (const Json& v : reference().at("vectors")) {
    const int number = v.at("number").get<int>(), spread = v.at("spread").get<int>();
    const auto size = v.at("size").get<std::size_t>();
    const auto seed = v.at("seed").get<std::uint64_t>();
    std::vector<double> x;
    for (std::size_t i = 0; i < size; ++i) {
      const double value = i / block == 1 ? 0 : support::uniform(seed, 0, i) * size_of(seed, spread, i);
      x.push_back(number == 0 ? value : std::fabs(value));
    }
    Moment ours{Codes(size), std::vector<float>((size + block - 1) / block)};
    for (std::size_t b = 0; b < ours.scales.size(); ++b) {
      float values[block] = {};
      std::uint8_t codes[block];
      for (std::size_t i = 0; i < block && b * block + i < size; ++i) values[i] = static_cast<float>(x[b * block + i]);
      Int8Dynamic::encode(values, codes, ours.scales[b], number, nullptr);
      for (std::size_t i = 0; i < block && b * block + i < size; ++i) ours.codes[b * block + i] = codes[i];
    }
    const std::vector<double> exact(size, 0.0);
    for (const bool nearest : {true, false}) {
      CAPTURE(number);
      CAPTURE(spread);
      CAPTURE(nearest);
      const Moment theirs{bytes_of(v.at(nearest ? "nearest" : "codes")), floats_of(v.at("scales"))};
      Agreement found;
      compare(ours, theirs, number, x, exact, nearest ? 0 : table, found);
      MESSAGE("moment " << number << ", spread " << spread << std::string(nearest ? ", nearest: " : ", table: ")
                        << found.same << " of " << found.all << " codes are the same");
      CHECK(found.scale <= 0);
      CHECK(found.excess <= 1);
      if (nearest) CHECK(static_cast<double>(found.same) >= 0.999 * static_cast<double>(found.all));
    }
  }
}

TEST_CASE("from bitsandbytes' state a step of AdamW with Int8Dynamic moments is bitsandbytes' step") {
  CHECK(reference().at("cases").size() == 5);
  for (const Json& c : reference().at("cases")) {
    const std::string name = c.at("name");
    const bool nearest = c.at("quantizer") == "nearest";
    const auto options = options_of(c);
    Agreement found[2];
    double worst = 0;
    int compared = 0;
    const State start = stored_state(c, 0);
    Tensor<float> w(start.weights, Layout::row_major), g(start.weights, Layout::row_major);
    Ours optimizer(w.view.shape(), options);
    for (int step = 1; step <= c.at("steps").get<int>(); ++step) {
      const bool kept = step == 1 || step == 2 || step == 50;
      const Matrix gradient = gradient_of(c, step);
      g.set(gradient);
      State before;
      if (kept) {
        before = stored_state(c, step - 1);
        w.set(before.weights);
        Writer writer{before};
        optimizer.visit_state(writer);
      }
      REQUIRE(optimizer.step(w.view, g.view).stepped);
      if (!kept) continue;
      ++compared;
      const State after = stored_state(c, step), ours = state_of(optimizer, w.get());
      raise(worst, support::relative_error(ours.weights, after.weights));
      const double betas[] = {options.beta1, options.beta2};
      for (const int k : {0, 1}) {
        std::vector<double> x, doubt;
        for (std::size_t i = 0; i < gradient.values.size(); ++i) {
          const double old = betas[k] * before.moment[k].value(i, k),
                       fresh = (1 - betas[k]) * (k == 0 ? gradient.values[i] : gradient.values[i] * gradient.values[i]);
          x.push_back(old + fresh);
          doubt.push_back(4e-7 * (std::fabs(old) + std::fabs(fresh)));
        }
        compare(ours.moment[k], after.moment[k], k, x, doubt, nearest ? 0 : table, found[k]);
      }
    }
    CAPTURE(name);
    MESSAGE(name << ": weights " << worst << ", same codes " << found[0].same << " and " << found[1].same << " of "
                 << found[0].all << ", edges " << found[0].excess << " and " << found[1].excess);
    CHECK(compared == 3);
    CHECK(worst <= 1e-6);
    for (const Agreement& moment : found) {
      CHECK(moment.scale <= 1e-6);
      CHECK(moment.excess <= 1);
      if (nearest) CHECK(static_cast<double>(moment.same) >= 0.995 * static_cast<double>(moment.all));
    }
  }
}

TEST_CASE("fifty steps of their own end beside bitsandbytes'") {
  // Of elements whose gradients have a sixteenth of the largest size or more. The V of others is within a step of the table
  // from zero, and what is divided by it is another number.
  constexpr double least = 0x1p-4;
  for (const Json& c : reference().at("cases")) {
    const std::string name = c.at("name");
    const bool nearest = c.at("quantizer") == "nearest";
    const State start = stored_state(c, 0), end = stored_state(c, 50);
    const auto options = options_of(c);
    const auto walk = [&](auto optimizer, auto zero) {
      Tensor<decltype(zero)> w(start.weights, Layout::row_major), g(start.weights, Layout::row_major);
      for (int step = 1; step <= 50; ++step) {
        g.set(gradient_of(c, step));
        REQUIRE(optimizer.step(w.view, g.view).stepped);
      }
      return w.get();
    };
    const auto distance = [&](const Matrix& a, const Matrix& b) {
      Matrix apart = support::difference(a, b);
      for (std::size_t i = 0; i < apart.values.size(); ++i)
        if (size_of(c.at("seed").get<std::uint64_t>(), c.at("spread").get<int>(), i) < least) apart.values[i] = 0;
      return support::norm(apart);
    };
    const Shape shape = start.weights.shape();
    const Matrix exact = walk(apollo::AdamW<double>(shape, options), 0.0);
    const double way = distance(exact, start.weights);
    const double dynamic = distance(walk(Ours(shape, options), 0.0f), end.weights) / way,
                 linear = distance(walk(apollo::AdamW8bit<>(shape, options), 0.0f), end.weights) / way;
    MESSAGE(name << ", parts of the way: Int8Dynamic " << dynamic << " and Int8Linear " << linear
                 << " from theirs, theirs " << distance(end.weights, exact) / way << " from AdamW in double");
    CHECK(way > 0);
    CHECK(dynamic <= (nearest ? 1e-4 : 0.02));
    CHECK(linear <= 0.15);
  }
}
