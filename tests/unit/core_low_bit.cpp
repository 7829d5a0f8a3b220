// SPDX-License-Identifier: Apache-2.0
// Storage of few bits against its definitions in double: block formats of moments, weights in 8-bit groups, weights rounded
// stochastically and weights split in two; their bytes, and the input that they refuse.
// also: optimised-sanitizers
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <apollo/apollo.hpp>

#include "model.hpp"

namespace {

using apollo::bfloat16;
using apollo::Index;
using apollo::Int4;
using apollo::Int8Dynamic;
using apollo::Int8Linear;
using apollo::Int8Matrix;
using apollo::Shape;
using apollo::Skip;
using apollo::SplitWeights;
using apollo::StochasticWeights;
using support::Layout;
using support::Matrix;
using support::raise;
using support::uniform;

// --- what codes stand for -----------------------------------------------------------------------------------------------

/// Midpoints of equal cells in `decades` decades below 1, the highest with the most of them; with their negatives, or with
/// twice as many; 0 and 1.
std::vector<double> dynamic_levels(int decades, bool two_signs) {
  std::vector<double> above;
  for (int d = 0; d < decades; ++d) {
    const int cells = two_signs ? 1 << d : 2 << d;
    for (int cell = 0; cell < cells; ++cell)
      above.push_back(std::pow(10.0, d - decades + 1) * (0.1 + 0.9 * (cell + 0.5) / cells));
  }
  std::vector<double> all;
  if (two_signs)
    for (std::size_t i = above.size(); i-- > 0;) all.push_back(-above[i]);
  all.push_back(0);
  all.insert(all.end(), above.begin(), above.end());
  all.push_back(1);
  return all;
}

/// What can be stored, over the block's largest magnitude; of V's roots where those are stored.
template <class Format>
std::vector<double> levels(int number) {
  if (std::is_same_v<Format, Int8Dynamic>) return dynamic_levels(7, number == 0);
  if (std::is_same_v<Format, Int4> && number == 0) return dynamic_levels(3, true);
  std::vector<double> all;
  if (std::is_same_v<Format, Int4>)
    for (int q = 0; q < 16; ++q) all.push_back((q + 1) / 16.0);
  else if (number == 0)
    for (int q = -127; q <= 127; ++q) all.push_back(q / 127.0);
  else
    for (int q = 0; q < 256; ++q) all.push_back((q + 1) / 256.0);
  return all;
}

/// Values of one line in blocks, closed and opened run by run. Of V's roots where those are stored.
template <class Format>
struct Line {
  using Storage = apollo::MomentStorage<Format, float>;
  Index size;
  std::vector<std::uint8_t> codes;
  std::vector<float> scales;

  explicit Line(Index size_)
      : size(size_),
        codes(static_cast<std::size_t>(apollo::code_bytes<Format>(size_))),
        scales(static_cast<std::size_t>((size_ + Format::block - 1) / Format::block)) {}

  void close(const std::vector<double>& values, int number, std::uint64_t counter = 1) {
    for (Index at = 0; at < size; at += apollo::storage_block) {
      const auto run = apollo::flat_run(at, size);
      float buffer[apollo::storage_block];
      std::uint8_t random[apollo::rounding::bytes];
      apollo::rounding::draw({7, 3, apollo::Stream::round_moments, counter}, run.block(apollo::storage_block), random);
      for (float& value : buffer) value = -777;  // beyond the end there may be anything
      for (int i = 0; i < run.count; ++i) buffer[i] = static_cast<float>(values[static_cast<std::size_t>(at + i)]);
      Storage::close(buffer, {codes.data(), scales.data()}, run, number, random);
    }
  }
  std::vector<double> open(int number) {
    std::vector<double> values;
    for (Index at = 0; at < size; at += apollo::storage_block) {
      const auto run = apollo::flat_run(at, size);
      float buffer[apollo::storage_block];
      const float* opened = Storage::open({codes.data(), scales.data()}, run, number, buffer);
      for (int i = 0; i < run.count; ++i) {
        const auto value = static_cast<double>(opened[i]);
        values.push_back(Storage::takes_roots && number == 1 ? std::sqrt(value) : value);
      }
    }
    return values;
  }
};

/// Calls test(format, number, name).
template <class Test>
void for_each_format(Test&& test) {
  for (const int number : {0, 1}) {
    test(Int8Linear{}, number, "Int8Linear");
    test(Int8Dynamic{}, number, "Int8Dynamic");
    test(Int4{}, number, "Int4");
  }
}

/// Both signs for M, none below zero for V.
double signed_for(int number, double value) { return number == 0 ? value : std::fabs(value); }

}  // namespace

TEST_CASE("the published 8-bit map has 256 different numbers in order, and 4 bits have 16") {
  for (const bool two_signs : {true, false}) {
    const auto map = dynamic_levels(7, two_signs);
    CHECK(map.size() == 256);
    bool rising = true;
    for (std::size_t i = 1; i < map.size(); ++i) rising = rising && map[i] > map[i - 1];
    CHECK(rising);
  }
  CHECK(dynamic_levels(3, true).size() == 16);
  CHECK(std::fabs(dynamic_levels(7, true)[128] - 0.55e-6) <= 1e-15);
}

TEST_CASE("codes decode to the numbers of their definition") {
  for_each_format([](auto format, int number, const char* name) {
    using Format = decltype(format);
    CAPTURE(std::string(name));
    CAPTURE(number);
    const auto expected = levels<Format>(number);
    constexpr int codes = 1 << Format::bits;
    for (const double scale : {1.0, 0.375, 3e-9}) {
      Line<Format> line(Format::bits == 8 ? 256 : 32);
      line.scales[0] = static_cast<float>(scale);
      for (std::size_t i = 0; i < line.codes.size(); ++i) {
        // A byte of 4-bit codes holds two, here twice the same one.
        line.codes[i] = static_cast<std::uint8_t>(Format::bits == 8 ? i : i | i << 4);
        if (std::is_same_v<Format, Int8Linear> && number == 0)  // -127 ... 127, and then -128, which nothing gets
          line.codes[i] = static_cast<std::uint8_t>(i - 127);
      }
      const auto opened = line.open(number);
      double worst = 0;
      for (std::size_t q = 0; q < expected.size(); ++q)
        for (std::size_t twin = 0; twin < 8 / Format::bits; ++twin)
          raise(worst, std::fabs(opened[q * 8 / Format::bits + twin] - scale * expected[q]) /
                           (scale * (expected[q] == 0 ? 1 : std::fabs(expected[q]))));
      CHECK(expected.size() >= codes - 1);
      CHECK(worst <= 4e-7);
    }
  });
}

TEST_CASE("memory of zeros is a state of zeros, and zeros of either sign stay zeros") {
  for_each_format([](auto format, int number, const char* name) {
    CAPTURE(std::string(name));
    CAPTURE(number);
    for (const Index size : {1, 3, 127, 129, 256, 700}) {
      Line<decltype(format)> line(size);
      for (const double value : line.open(number)) REQUIRE(value == 0);
      line.close(std::vector<double>(static_cast<std::size_t>(size), 0.5), number);
      line.close(std::vector<double>(static_cast<std::size_t>(size), number == 0 ? -0.0 : 0.0), number);
      for (const float scale : line.scales) CHECK(scale == 0);
      for (const double value : line.open(number)) REQUIRE(value == 0);
      // A negative zero beside others: of M it is zero.
      std::vector<double> values(static_cast<std::size_t>(size), 0.5);
      values[0] = -0.0;
      line.close(values, number);
      if (number == 0) CHECK(line.open(number)[0] == 0);
    }
    // A block of zeros between two others, and not less so for its neighbours.
    constexpr int block = decltype(format)::block;
    Line<decltype(format)> line(3 * block);
    std::vector<double> values(3 * block, 2.0);
    for (int i = block; i < 2 * block; ++i) values[static_cast<std::size_t>(i)] = 0;
    line.close(values, number);
    const auto opened = line.open(number);
    CHECK(line.scales == std::vector<float>{2, 0, 2});
    for (int i = 0; i < 3 * block; ++i)
      REQUIRE(std::fabs(opened[static_cast<std::size_t>(i)] - (i / block == 1 ? 0 : 2)) <= 4e-7);
  });
}

TEST_CASE("a block's scale is its largest magnitude, which is kept, also in a short last block and of one value") {
  for_each_format([](auto format, int number, const char* name) {
    using Format = decltype(format);
    CAPTURE(std::string(name));
    CAPTURE(number);
    double worst = 0;
    for (const Index size : {1, 2, 127, 129, 255, 256, 257, 700}) {
      Line<Format> line(size);
      std::vector<double> values;
      for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(size); ++i)
        values.push_back(signed_for(number, static_cast<double>(static_cast<float>(uniform(1, 2, i) * 1e-3))));
      line.close(values, number);
      const auto opened = line.open(number);
      for (std::size_t b = 0; b < line.scales.size(); ++b) {
        double largest = 0, there = 0;
        for (std::size_t i = b * Format::block; i < values.size() && i < (b + 1) * Format::block; ++i)
          if (std::fabs(values[i]) > std::fabs(largest)) largest = values[i], there = opened[i];
        CHECK(static_cast<double>(line.scales[b]) == std::fabs(largest));
        // A largest value below zero has no code of its own in dynamic maps; the next one is half a cell away.
        const bool no_code = number == 0 && largest < 0 && !std::is_same_v<Format, Int8Linear>;
        const double cell = std::is_same_v<Format, Int4> ? 0.9 / 8 : 0.9 / 128;
        raise(worst, std::fabs(there - largest) / std::fabs(largest) - (no_code ? cell : 0));
      }
    }
    CHECK(worst <= 1e-6);
  });
}

TEST_CASE("Int8Dynamic gives every value the nearest of its 256 numbers") {
  for (const int number : {0, 1}) {
    CAPTURE(number);
    const auto map = levels<Int8Dynamic>(number);
    std::vector<double> values;
    for (std::uint64_t i = 0; i < 256 * 60; ++i) {  // eight orders of magnitude
      const double magnitude = std::pow(10.0, -4 + 4 * uniform(1, 0, i));
      values.push_back(signed_for(number, uniform(1, 1, i) < 0 ? -magnitude : magnitude));
    }
    for (std::size_t q = 1; q < map.size(); ++q)  // the edges of cells
      for (const double off : {0.0, 1e-5, -1e-5, 3e-7}) values.push_back((map[q] + map[q - 1]) / 2 * (1 + off));
    for (std::size_t i = 0; i < values.size(); i += 255)
      values.insert(values.begin() + static_cast<std::ptrdiff_t>(i), 1.0);  // every block's largest
    for (double& value : values) value = static_cast<double>(static_cast<float>(value * 0.37));
    Line<Int8Dynamic> line(static_cast<Index>(values.size()));
    line.close(values, number);
    const auto opened = line.open(number);
    double worst = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double scale = static_cast<double>(line.scales[i / 256]), x = values[i] / scale;
      double best = 1e300;
      for (const double level : map)
        if (std::fabs(x - level) < best) best = std::fabs(x - level);
      raise(worst, std::fabs(x - opened[i] / scale) - best - 1e-6 * std::fabs(x));
    }
    CHECK(worst <= 1e-12);
  }
}

TEST_CASE("stochastic formats round to one of two neighbours, and to the value in the mean") {
  constexpr int draws = 4096;
  for_each_format([](auto format, int number, const char* name) {
    using Format = decltype(format);
    if (!Format::stochastic) return;
    CAPTURE(std::string(name));
    CAPTURE(number);
    const auto map = levels<Format>(number);
    // Three blocks and a short one, magnitudes over three orders, then values beside levels, and the least above zero.
    std::vector<double> values;
    for (std::uint64_t i = 0; i < 3 * Format::block + 11; ++i) {
      double x = uniform(4, 0, i);
      if (i % 3 == 1) x *= std::pow(10.0, 1.5 * (uniform(4, 1, i) - 1));
      if (i % 16 == 5) x = map[i / 16 % map.size()] * (1 + 1e-3 * uniform(4, 2, i));
      if (i % Format::block == 0) x = 1;
      if (i % Format::block == 1) x = 1e-9;
      x = signed_for(number, x > 1 ? 1 : x < -1 ? -1 : x);
      values.push_back(static_cast<double>(static_cast<float>(0.731 * x)));
    }
    values.back() = values[values.size() - 3];
    Line<Format> line(static_cast<Index>(values.size()));
    std::vector<double> sum(values.size()), lower(values.size()), upper(values.size());
    line.close(values, number);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double scale = static_cast<double>(line.scales[i / Format::block]), x = values[i] / scale;
      std::size_t above = 0;
      while (above + 1 < map.size() && map[above] < x) ++above;
      upper[i] = scale * map[above];
      lower[i] = scale * map[above == 0 ? 0 : above - 1];
    }
    double outside = 0, least = 1;
    for (int draw = 0; draw < draws; ++draw) {
      line.close(values, number, static_cast<std::uint64_t>(draw));
      const auto opened = line.open(number);
      for (std::size_t i = 0; i < values.size(); ++i) {
        sum[i] += opened[i] / draws;
        const double gap = (upper[i] - lower[i]) * 2e-4 + 1e-6 * std::fabs(opened[i]) + 1e-30;
        const double nearer = std::fabs(opened[i] - lower[i]) < std::fabs(opened[i] - upper[i]) ? lower[i] : upper[i];
        raise(outside, std::fabs(opened[i] - nearer) / gap);
        if (!(opened[i] >= least)) least = opened[i];
      }
    }
    CHECK(outside <= 1);
    CHECK((number == 0 || least > 0));
    double worst = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double gap = upper[i] - lower[i];
      if (!(gap > 0)) {  // at most the least level
        raise(worst, std::fabs(sum[i] - upper[i]) / (1e-6 * upper[i]));
        continue;
      }
      const double p = (values[i] - lower[i]) / gap;
      // Five standard errors, the grain of 16 random bits, and what few events beside a level may be.
      const double allowed = 5 * std::sqrt((p > 0 && p < 1 ? p * (1 - p) : 0) / draws) + 0x1p-15 + 4.0 / draws;
      raise(worst, std::fabs(sum[i] - values[i]) / gap / allowed);
    }
    CHECK(worst <= 1);
  });
}

TEST_CASE("random bits: 16 a value, where the text says, and none of them twice") {
  const apollo::RandomStream stream{5, 6, apollo::Stream::round_weight, 7};
  std::vector<std::uint32_t> seen;
  Index wrong = 0;
  double mean = 0;
  for (const Index run : {0, 1, 2, 3, 1 << 20}) {
    std::uint8_t random[apollo::rounding::bytes];
    apollo::rounding::draw(stream, run, random);
    const auto byte = [&](Index b) {
      const Index block = 16 * run + ((b >> 2) & 15);
      const std::uint32_t word = stream.block(static_cast<std::uint64_t>(block)).word[(b >> 6) & 3];
      if ((b & 3) == 0) seen.push_back(word);
      return (word >> 8 * (b & 3)) & 0xffu;
    };
    std::vector<std::uint32_t> own;
    for (Index i = 0; i < apollo::storage_block; ++i) own.push_back(byte(i));
    for (int i = 0; i < apollo::storage_block; ++i) {
      const std::uint32_t next = own[static_cast<std::size_t>((i & ~15) | ((i + 1) & 15))];
      const std::uint16_t bits = apollo::rounding::bits_of(random, i);
      wrong += bits != own[static_cast<std::size_t>(i)] + (next << 8);
      mean += bits / (5.0 * apollo::storage_block);
    }
  }
  CHECK(wrong == 0);
  CHECK(std::fabs(mean / 0x1p16 - 0.5) <= 5 * 0.2887 / std::sqrt(5.0 * apollo::storage_block));
  Index twice = 0;
  for (std::size_t i = 0; i < seen.size(); ++i)
    for (std::size_t k = 0; k < i; ++k) twice += seen[i] == seen[k];
  CHECK(twice == 0);
}

TEST_CASE("Int8Linear: no magnitude above the block's own, whatever the random bits") {
  double worst = -1;
  for (const std::uint8_t chance : {std::uint8_t{0}, std::uint8_t{255}})
    for (std::uint64_t k = 0; k < 2000; ++k) {
      float values[256] = {}, scale = 0, opened[256];
      std::uint8_t codes[256], random[apollo::rounding::bytes];
      for (std::uint8_t& byte : random) byte = chance;
      values[0] = static_cast<float>(-1 - 0.5 * (1 + uniform(9, 0, k)));
      values[1] = -values[0];
      Int8Linear::encode(values, codes, scale, 0, random);
      Int8Linear::decode(codes, scale, 0, opened);
      for (const int i : {0, 1}) raise(worst, static_cast<double>(opened[i] / values[i]) - 1);
    }
  CHECK(worst <= 1e-6);
}

TEST_CASE("a block of very different magnitudes, of the largest floats and of the least") {
  for_each_format([](auto format, int number, const char* name) {
    using Format = decltype(format);
    CAPTURE(std::string(name));
    CAPTURE(number);
    const double first = std::is_same_v<Format, Int8Dynamic> ? 0 : number == 0 ? 0 : levels<Format>(number)[0];
    for (const double large : {1e30, 3.4e38, 1e-30, 1e-37, 2e-38, 1e-40}) {
      CAPTURE(large);
      std::vector<double> values(300, 0.0);
      values[7] = large, values[8] = signed_for(number, -large), values[9] = large * 1e-20;
      for (double& value : values) value = static_cast<double>(static_cast<float>(value));
      Line<Format> line(300);
      line.close(values, number);
      const auto opened = line.open(number);
      // Where V is of roots, what is far below the least normal number squares to zero.
      const double scale = values[7];
      const bool rooted = Format::root_of_second && number == 1;
      if (rooted && scale < 1e-15) continue;
      if (rooted && scale > 1e19) continue;  // such a V is infinite itself
      // Next to the least normal number a block may as well be zero, but none of its zeros may become anything.
      const bool vanished = scale < 1e-36 && opened[7] == 0 && opened[8] == 0 && opened[10] == 0;
      if (vanished) continue;
      CHECK(std::fabs(opened[7] - scale) <= 1e-3 * scale);
      CHECK(std::fabs(opened[8] - values[8]) <= 0.13 * scale);
      CHECK(std::fabs(opened[9] - first * scale) <= (number == 0 && Format::stochastic ? 0.13 : 1e-3) * scale);
      CHECK(std::fabs(opened[10] - first * scale) <= 1e-3 * scale);  // a zero
    }
  });
}

TEST_CASE("what is no number becomes the code 0, as it says") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(apollo::rounding::code(nan, apollo::rounding::half) == 0);
  CHECK(apollo::block::floor_between(nan, 255.0f) == 0);
}

// --- trap 2 -------------------------------------------------------------------------------------------------------------

TEST_CASE("trap 2: rounding to nearest would keep every code of V where it is, beside a larger value that stays") {
  int stuck = 0;
  for (int q = 0; q < 256; ++q) stuck += std::lround((q + 1) * std::sqrt(0.999)) == q + 1;
  CHECK(stuck == 256);
  for (int q = 0; q < 16; ++q) stuck += std::lround((q + 1) * 0.999) == q + 1;
  CHECK(stuck == 256 + 16);
  // The published map too, below a largest value that stays: what it rounds to nearest moves with its block alone.
  const auto map = dynamic_levels(7, false);
  for (std::size_t q = 1; q + 1 < map.size(); ++q)
    stuck += map[q] * 0.999 > (map[q] + map[q - 1]) / 2 && map[q] * 0.999 < (map[q] + map[q + 1]) / 2;
  CHECK(stuck == 256 + 16 + 254);
}

namespace {

/// AdamW's second moments in this format, stepped with Gaussian gradients beside exact ones.
template <class Format>
struct Decay {
  static constexpr Index rows = 8, cols = 256;  // eight runs
  apollo::AdamW<apollo::AdamMoments<Format>> optimizer{Shape{rows, cols},
                                                       {.lr = 0, .weight_decay = 0, .check_finite = false}};
  std::vector<float> w = std::vector<float>(rows * cols), g = std::vector<float>(rows * cols);
  std::vector<double> exact = std::vector<double>(rows * cols);
  std::uint64_t phase = 0;

  static bool large(std::size_t i) { return i % Format::block == 3; }

  void run(int steps, float size, float size_of_large) {
    ++phase;
    bool stepped = true;
    for (int t = 0; t < steps; ++t) {
      apollo::fill_normals({phase, 0, apollo::Stream::projection, static_cast<std::uint64_t>(t)}, 0, g.size(),
                           g.data());
      for (std::size_t i = 0; i < g.size(); ++i) {
        if (large(i)) g[i] = g[i] < 0 ? -1.5f : 1.5f;  // so that the largest of a block is known
        g[i] *= large(i) ? size_of_large : size;
        const auto x = static_cast<double>(g[i]);
        exact[i] = 0.999 * exact[i] + 0.001 * x * x;
      }
      stepped =
          optimizer.step(apollo::row_major(w.data(), rows, cols), apollo::row_major(g.data(), rows, cols)).stepped &&
          stepped;
    }
    CHECK(stepped);
  }
  /// V of the state, decoded by the definition.
  std::vector<double> second() {
    const auto dump = support::state_of(optimizer);
    const Matrix &codes = dump.arrays.at("exp_avg_sq"), &scales = dump.arrays.at("exp_avg_sq_scale");
    const auto map = levels<Format>(1);
    std::vector<double> v;
    for (std::size_t i = 0; i < exact.size(); ++i) {
      auto code = static_cast<unsigned>(codes.values[i * Format::bits / 8]);
      if (Format::bits == 4) code = i % 2 == 0 ? code & 15u : code >> 4;
      const double value = scales.values[i / Format::block] * map[code];
      v.push_back(Format::root_of_second ? value * value : value);
    }
    return v;
  }
  /// Sums of sqrt(V), or of V, over the exact ones, of all but the large ones.
  double mean_ratio(bool roots) {
    const auto v = second();
    double sum = 0, of_exact = 0;
    for (std::size_t i = 0; i < v.size(); ++i)
      if (!large(i)) sum += roots ? std::sqrt(v[i]) : v[i], of_exact += roots ? std::sqrt(exact[i]) : exact[i];
    return sum / of_exact;
  }
};

}  // namespace

TEST_CASE_TEMPLATE("trap 2: V in codes has the mean it should have, stationary and after gradients shrink", Format,
                   Int8Linear, Int4, Int8Dynamic) {
  constexpr bool linear = std::is_same_v<Format, Int8Linear>, four = std::is_same_v<Format, Int4>;
  Decay<Format> decay;
  decay.run(8000, 0.25f, 0.25f);
  const double stationary = decay.mean_ratio(true);
  MESSAGE("stationary: sqrt(V) over the exact one " << stationary << ", V " << decay.mean_ratio(false));
  // To nearest (Int8Dynamic), what is added a step is mostly less than half a cell.
  CHECK(std::fabs(stationary - 1) <= (linear ? 0.01 : four ? 0.03 : 0.3));

  // Those of most elements shrink tenfold beside a few that do not. Roots of a tenth are fifteen of Int8Linear's steps; V of a
  // hundredth is below Int4's first level, which is then what it is.
  decay.run(10000, 0.025f, 0.25f);
  const double shrunk = decay.mean_ratio(true);
  MESSAGE("most shrunk tenfold: sqrt(V) over the exact one " << shrunk);
  if (linear) CHECK(std::fabs(shrunk - 1) <= 0.05);
  if (four) {
    const auto v = decay.second();
    double worst = 0;
    for (std::size_t i = 0; i < v.size(); ++i)
      if (!decay.large(i)) raise(worst, std::fabs(16 * v[i] / v[i / 128 * 128 + 3] - 1));
    CHECK(worst <= 1e-6);
  }

  // All gradients of a block become next to nothing: V shrinks by e^-5 in 5000 steps.
  double before = 0, after = 0;
  for (const double v : decay.second()) before += v;
  decay.run(5000, 0.25e-4f, 0.25e-4f);
  for (const double v : decay.second()) after += v;
  MESSAGE("5000 steps of nothing: V over V before " << after / before << ", e^-5 is " << std::exp(-5.0));
  CHECK(std::fabs(after / before / std::exp(-5.0) - 1) <= (linear ? 0.02 : four ? 0.05 : 0.02));
}

// --- weights in 8-bit groups --------------------------------------------------------------------------------------------

namespace {

/// Which group each value of a matrix is in, by the text: along rows, or along all of them where they have less than 256
/// values.
std::vector<std::size_t> groups_of(Index rows, Index cols, Index size) {
  std::vector<std::size_t> group;
  std::size_t number = 0;
  Index filled = 0;
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; ++j) {
      if (filled == size || (cols >= 256 && j == 0 && filled > 0)) ++number, filled = 0;
      group.push_back(number), ++filled;
    }
  return group;
}

/// Minimum and scale of every group of these values.
struct Ranges {
  std::vector<std::size_t> group;
  std::vector<double> low, high;

  Ranges(const std::vector<float>& values, Index rows, Index cols, Index size) : group(groups_of(rows, cols, size)) {
    const std::size_t count = group.empty() ? 0 : group.back() + 1;
    low.assign(count, 1e300), high.assign(count, -1e300);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto value = static_cast<double>(values[i]);
      if (value < low[group[i]]) low[group[i]] = value;
      if (value > high[group[i]]) high[group[i]] = value;
    }
  }
  double scale(std::size_t i) const {
    const double width = high[group[i]] - low[group[i]];
    return (width > 1e-5 ? width : 1e-5) / 255;
  }
  double minimum(std::size_t i) const { return low[group[i]]; }
  /// What floats cannot tell apart.
  double grain(std::size_t i) const { return 3e-7 * (std::fabs(low[group[i]]) + std::fabs(high[group[i]])); }
};

std::vector<float> floats(Index size, std::uint64_t seed, double factor = 1, double offset = 0) {
  std::vector<float> values;
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(size); ++i)
    values.push_back(static_cast<float>(offset + factor * uniform(seed, 5, i)));
  return values;
}
std::vector<float> dequantized(const Int8Matrix& matrix) {
  std::vector<float> values(static_cast<std::size_t>(matrix.rows() * matrix.cols()));
  matrix.dequantize(0, matrix.rows(), values.data());
  return values;
}
Int8Matrix quantized(const std::vector<float>& values, Index rows, Index cols, Index size) {
  Int8Matrix matrix(rows, cols, size);
  matrix.quantize(0, rows, values.data());
  return matrix;
}

/// Rows longer than a run and not divided by one, short ones, vectors, wide and tall.
constexpr Shape shapes[] = {{5, 300}, {70, 1000}, {300, 7}, {33, 20}, {20, 33}, {300, 1}, {1, 300}, {1, 1}, {2, 256}};

}  // namespace

TEST_CASE("int8 groups: to the nearest of 256 numbers from the least value to the largest of a group") {
  for (const Shape shape : shapes)
    for (const Index size : {32, 64, 128, 256}) {
      CAPTURE(shape.rows);
      CAPTURE(shape.cols);
      CAPTURE(size);
      for (const int kind : {0, 1, 2, 3, 4}) {
        CAPTURE(kind);
        // Of both signs, all positive, all negative, nearly equal, equal.
        const double factor[] = {1, 0.3, 0.3, 1e-6, 0}, offset[] = {0, 2, -2, 0.01, -0.7};
        const auto values = floats(shape.rows * shape.cols, 11, factor[kind], offset[kind]);
        const Ranges ranges(values, shape.rows, shape.cols, size);
        const Int8Matrix matrix = quantized(values, shape.rows, shape.cols, size);
        REQUIRE(matrix.ranges().size() == ranges.low.size());
        CHECK(matrix.bytes() == shape.rows * shape.cols + 8 * static_cast<Index>(ranges.low.size()));
        const auto back = dequantized(matrix);
        double worst = 0, of_range = 0;
        for (std::size_t i = 0; i < values.size(); ++i) {
          const double off = std::fabs(static_cast<double>(back[i]) - static_cast<double>(values[i]));
          raise(worst, off / (0.5 * ranges.scale(i) * (1 + 1e-4) + ranges.grain(i)));
          const apollo::GroupRange& range = matrix.ranges()[ranges.group[i]];
          raise(of_range, std::fabs(static_cast<double>(range.minimum) - ranges.minimum(i)));
          raise(of_range, std::fabs(static_cast<double>(range.scale) / ranges.scale(i) - 1) - 1e-6 -
                              ranges.grain(i) / ranges.scale(i));
          if (kind == 4) REQUIRE(back[i] == values[i]);
          if (shape.rows * shape.cols == 1) REQUIRE(back[i] == values[i]);
        }
        CHECK(worst <= 1);
        CHECK(of_range <= 0);
      }
    }
  CHECK(Int8Matrix(5, 300, 128).bytes() == 5 * 300 + 5 * 3 * 8);
  CHECK(Int8Matrix(33, 20).bytes() == 660 + 6 * 8);
  CHECK(Int8Matrix(0, 300).bytes() == 0);
}

TEST_CASE("int8 groups: parts are read and written like the whole") {
  for (const Shape shape : shapes)
    for (const Index size : {32, 128, 256}) {
      const auto values = floats(shape.rows * shape.cols, 12);
      const Int8Matrix matrix = quantized(values, shape.rows, shape.cols, size);
      const auto whole = dequantized(matrix);
      for (const Index first : {Index{0}, shape.rows / 3, shape.rows - 1, shape.rows})
        for (const Index count : {Index{0}, Index{1}, shape.rows / 2, shape.rows - first}) {
          if (first + count > shape.rows) continue;
          std::vector<float> part(static_cast<std::size_t>(count * shape.cols + 1), -777.0f);
          matrix.dequantize(first, count, part.data());
          REQUIRE(part.back() == -777.0f);
          for (std::size_t i = 0; i + 1 < part.size(); ++i)
            REQUIRE(part[i] == whole[static_cast<std::size_t>(first * shape.cols) + i]);
        }
      // Rows of a length that groups divide, or long ones, can be written a few at a time.
      if (shape.cols < 256 && shape.cols % size != 0) continue;
      Int8Matrix by_row(shape.rows, shape.cols, size);
      for (Index i = shape.rows; i-- > 0;) by_row.quantize(i, 1, values.data() + i * shape.cols);
      CHECK(model::same_bits(by_row.codes(), matrix.codes()));
      CHECK(model::same_bits(dequantized(by_row), whole));
    }
  // Joined rows: from one group's first value to another's, or to the end.
  const auto values = floats(33 * 20, 13);
  const Int8Matrix whole = quantized(values, 33, 20, 32);
  Int8Matrix parts(33, 20, 32);
  parts.quantize(16, 17, values.data() + 16 * 20);
  parts.quantize(0, 16, values.data());
  CHECK(model::same_bits(parts.codes(), whole.codes()));
}

TEST_CASE("int8 groups: what cannot be is refused with its value and its bound") {
  using support::mentions;
  using support::refusal;
  CHECK(mentions(refusal([] { Int8Matrix(3, 4, 100); }), {"apollo: ", "group_size", "100", "32", "64", "128", "256"}));
  CHECK(mentions(refusal([] { Int8Matrix(3, 4, 0); }), {"group_size", "0", "32"}));
  CHECK(mentions(refusal([] { Int8Matrix(-3, 4); }), {"apollo: ", "-3", "4"}));
  CHECK(mentions(refusal([] { Int8Matrix(3, -4); }), {"3", "-4"}));
  Int8Matrix matrix(33, 20, 32);
  std::vector<float> values(33 * 20);
  for (const auto& range : {std::pair<Index, Index>{30, 5}, {-1, 3}, {34, 0}, {2, -1}}) {
    const std::string first = std::to_string(range.first), last = std::to_string(range.first + range.second);
    CHECK(mentions(refusal([&] { matrix.dequantize(range.first, range.second, values.data()); }),
                   {"apollo: ", first.c_str(), last.c_str(), "33"}));
    CHECK(mentions(refusal([&] { matrix.quantize(range.first, range.second, values.data()); }),
                   {"apollo: ", first.c_str(), last.c_str(), "33"}));
  }
  CHECK(mentions(refusal([&] { matrix.quantize(1, 32, values.data()); }), {"1", "33", "20", "32"}));  // begins in one
  CHECK(mentions(refusal([&] { matrix.quantize(0, 7, values.data()); }), {"7", "20", "32"}));         // ends in one
}

// --- steps on 8-bit weights ---------------------------------------------------------------------------------------------

namespace {

struct ForSteps {
  double native = 0;      ///< largest |weight - float weight| over half a scale
  double stochastic = 0;  ///< ... over a scale
  Index moved = 0;        ///< codes that changed
};

/// Steps of `Wrap` on 8-bit weights, each beside one of a float twin that starts where they are.
template <class Stochastic, class Native, class Options>
ForSteps against_floats(Shape shape, Index size, const Options& options, int steps) {
  ForSteps result;
  const auto start = floats(shape.rows * shape.cols, 21, 0.5, 0.05);
  const auto track = [&](auto& optimizer, double& worst, double allowed) {
    Int8Matrix w = quantized(start, shape.rows, shape.cols, size);
    std::vector<float> twin_w(start.size());
    const auto twin_view = apollo::row_major(twin_w.data(), shape.rows, shape.cols);
    Native twin(twin_view, options, "tensor");
    for (int t = 1; t <= steps; ++t) {
      const auto g = floats(shape.rows * shape.cols, 22 + static_cast<std::uint64_t>(t));
      const auto gradient = apollo::row_major(g.data(), shape.rows, shape.cols);
      w.dequantize(0, shape.rows, twin_w.data());
      const auto codes = w.codes();
      REQUIRE(twin.step(twin_view, gradient).stepped);
      REQUIRE(optimizer.step(w, gradient).stepped);
      const auto after = dequantized(w);
      const Ranges ranges(twin_w, shape.rows, shape.cols, size);
      for (std::size_t i = 0; i < after.size(); ++i) {
        const double off = std::fabs(static_cast<double>(after[i]) - static_cast<double>(twin_w[i]));
        raise(worst, off / (allowed * ranges.scale(i) * (1 + 1e-4) + ranges.grain(i)));
        result.moved += codes[i] != w.codes()[i];
      }
    }
  };
  const Int8Matrix planned(shape.rows, shape.cols, size);
  Native native(planned, options, "tensor");
  track(native, result.native, 0.5);
  Stochastic stochastic(planned, options, "tensor");
  track(stochastic, result.stochastic, 1);
  return result;
}

/// The largest number of standard errors by which an element's mean over many names is off, each name with a stream of random
/// bits of its own.
template <class Stochastic, class Native, class Options>
double bias(Shape shape, const Options& options, int names) {
  const auto start = floats(shape.rows * shape.cols, 31, 0.5);
  const auto g = floats(shape.rows * shape.cols, 32);
  const auto gradient = apollo::row_major(g.data(), shape.rows, shape.cols);
  const Int8Matrix before = quantized(start, shape.rows, shape.cols, 128);
  std::vector<double> sum(start.size()), variance(start.size());
  double all = 0, of_all = 0;
  for (int k = 0; k < names; ++k) {
    const std::string name = "layer." + std::to_string(k);
    Int8Matrix w = before;
    auto twin_w = dequantized(w);
    const auto twin_view = apollo::row_major(twin_w.data(), shape.rows, shape.cols);
    Native(twin_view, options, name).step(twin_view, gradient);
    Stochastic(w, options, name).step(w, gradient);
    const auto after = dequantized(w);
    const Ranges ranges(twin_w, shape.rows, shape.cols, 128);
    for (std::size_t i = 0; i < after.size(); ++i) {
      const double exact = (static_cast<double>(twin_w[i]) - ranges.minimum(i)) / ranges.scale(i);
      const double part = exact - std::floor(exact);
      const double off = (static_cast<double>(after[i]) - static_cast<double>(twin_w[i])) / ranges.scale(i);
      sum[i] += off, variance[i] += part * (1 - part);
      all += off, of_all += part * (1 - part);
    }
  }
  double worst = std::fabs(all) / std::sqrt(of_all);
  for (std::size_t i = 0; i < sum.size(); ++i)
    raise(worst, std::fabs(sum[i]) / std::sqrt(variance[i] + 0.02 * names + 1));
  return worst;
}

/// Calls visit(name, tag of the stochastic one, tag of the native one, options); gradients are of size 1.
template <class Visit>
void for_each_member(Visit&& visit) {
  using namespace apollo;
  using model::Tag;
  using S = StochasticWeights;
  visit("AdamW", Tag<AdamW<S>>(), Tag<AdamW<>>(), AdamWOptions{.lr = 0.01, .weight_decay = 0.1});
  visit("Sgd", Tag<Sgd<S>>(), Tag<Sgd<>>(), SgdOptions{.lr = 0.01, .weight_decay = 0.1});
  visit("Apollo", Tag<Apollo<S>>(), Tag<Apollo<>>(), ApolloOptions{.lr = 0.01, .rank = 4, .weight_decay = 0.1});
  visit("ApolloMini", Tag<ApolloMini<S>>(), Tag<ApolloMini<>>(), ApolloMiniOptions{.lr = 0.01, .scale = 4});
  visit("GaLore", Tag<GaLore<S>>(), Tag<GaLore<>>(), GaLoreOptions{.lr = 0.02, .rank = 4});
  visit("StructuredAdamW", Tag<StructuredAdamW<S>>(), Tag<StructuredAdamW<>>(), StructuredAdamWOptions{.lr = 0.01});
  visit("AdamMini", Tag<AdamMini<S>>(), Tag<AdamMini<>>(), AdamMiniOptions{.lr = 0.01});
}

template <class Tag>
constexpr bool projects = Tag::type::Policies::Projection::projects;

}  // namespace

TEST_CASE("a step on 8-bit weights is the float step, rounded to nearest or to one of two neighbours") {
  for_each_member([](const char* name, auto stochastic, auto native, const auto& options) {
    CAPTURE(std::string(name));
    for (const Shape shape : shapes)
      for (const Index size : {32, 128}) {
        CAPTURE(shape.rows);
        CAPTURE(shape.cols);
        CAPTURE(size);
        if (projects<decltype(native)> && (shape.rows < 4 || shape.cols < 4)) continue;
        if (shape.rows == 70 && size == 32) continue;
        const ForSteps seen = against_floats<typename decltype(stochastic)::type, typename decltype(native)::type>(
            shape, size, options, 3);
        CHECK(seen.native <= 1);
        CHECK(seen.stochastic <= 1);
        CHECK((seen.moved > 0 || shape.rows * shape.cols == 1));
      }
  });
}

TEST_CASE("stochastic 8-bit weights are the float ones in the mean") {
  for_each_member([](const char* name, auto stochastic, auto native, const auto& options) {
    CAPTURE(std::string(name));
    for (const Shape shape : {Shape{5, 300}, Shape{33, 20}}) {
      CAPTURE(shape.rows);
      const double seen =
          bias<typename decltype(stochastic)::type, typename decltype(native)::type>(shape, options, 300);
      CHECK(seen <= 5);
    }
  });
}

TEST_CASE("8-bit weights: a learning rate of 0 changes no code") {
  for (const Shape shape : shapes)
    for (const double offset : {0.0, 0.4}) {
      const auto g = floats(shape.rows * shape.cols, 42);
      const auto gradient = apollo::row_major(g.data(), shape.rows, shape.cols);
      Int8Matrix w = quantized(floats(shape.rows * shape.cols, 41, 0.5, offset), shape.rows, shape.cols, 128);
      const auto codes = w.codes();
      const auto before = dequantized(w);
      apollo::AdamW<> optimizer(w, {.lr = 0});
      for (int t = 0; t < 20; ++t) REQUIRE(optimizer.step(w, gradient).stepped);
      CHECK(model::same_bits(w.codes(), codes));
      double worst = 0;
      const auto after = dequantized(w);
      for (std::size_t i = 0; i < after.size(); ++i)
        raise(worst, std::fabs(static_cast<double>(after[i]) - static_cast<double>(before[i])));
      CHECK(worst <= 2e-6);
    }
}

TEST_CASE("8-bit vectors are stepped by optimizers that were made from a shape") {
  for (const Shape shape : {Shape{1, 300}, Shape{300, 1}, Shape{1, 1}}) {
    CAPTURE(shape.rows);
    Int8Matrix w = quantized(floats(shape.rows * shape.cols, 41), shape.rows, shape.cols, 128);
    const auto g = floats(shape.rows * shape.cols, 42);
    apollo::AdamW<> optimizer(shape, {.lr = 0.01});
    const auto report = optimizer.step(w, apollo::row_major(g.data(), shape.rows, shape.cols));
    CAPTURE(std::string(apollo::describe(report.reason)));
    CHECK(report.stepped);
  }
}

TEST_CASE("a static step on 8-bit weights that cannot be is skipped, and changes nothing") {
  Int8Matrix w = quantized(floats(12 * 20, 41), 12, 20, 32);
  const auto codes = w.codes();
  const auto g = floats(12 * 20, 42);
  const auto gradient = apollo::row_major(g.data(), 12, 20);
  apollo::AdamW<> optimizer(w, {.lr = 0.1});
  const auto skip = [&](auto change) {
    auto view = w.view();
    change(view);
    const auto report = optimizer.step(view, gradient);
    CHECK_FALSE(report.stepped);
    return report.reason;
  };
  CHECK(skip([](auto& view) { view.ranges = nullptr; }) == Skip::wrong_groups);
  CHECK(skip([](auto& view) { view.group_size = 48; }) == Skip::wrong_groups);
  CHECK(skip([](auto& view) { view.group_size = 0; }) == Skip::wrong_groups);
  CHECK(skip([](auto& view) { view.row_stride = 24; }) == Skip::wrong_groups);
  CHECK(skip([](auto& view) { view.row_stride = 1, view.col_stride = 12; }) == Skip::wrong_groups);
  CHECK(skip([](auto& view) { view.rows = 11; }) == Skip::wrong_shape);
  CHECK(skip([](auto& view) { view.data = nullptr; }) == Skip::null_data);
  CHECK(optimizer.step(w, apollo::row_major(g.data(), 20, 12)).reason == Skip::wrong_shape);
  const auto columns = apollo::column_major(const_cast<float*>(g.data()), 12, 20);
  apollo::AdamW<> by_columns(columns, {.lr = 0.1});  // its moments lie by columns, groups by rows
  CHECK(by_columns.step(w, gradient).reason == Skip::wrong_groups);
  CHECK(optimizer.steps() == 0);
  CHECK(model::same_bits(w.codes(), codes));
  CHECK(optimizer.step(w, gradient).stepped);
}

TEST_CASE("8-bit weights that cannot be are refused by name when they are added") {
  Int8Matrix w(12, 20, 32);
  std::vector<float> g(12 * 20);
  const auto gradient = apollo::row_major(g.data(), 12, 20);
  apollo::Optimizer optimizer;
  const auto group = optimizer.add_group<apollo::QApollo<>>({.rank = 4});
  const auto dense = optimizer.add_group(apollo::AdamWOptions{});
  const auto message = [&](auto change, const auto& with) {
    auto view = w.view();
    change(view);
    const std::string of_dense = support::refusal([&] { optimizer.add(dense, "blocks.7.w", view, with); });
    const std::string text = support::refusal([&] { optimizer.add(group, "blocks.7.w", view, with); });
    CHECK(of_dense == text);
    CHECK(support::mentions(text, {"apollo: ", "'blocks.7.w'"}));
    CAPTURE(text);
    return text;
  };
  using support::mentions;
  CHECK(mentions(message([](auto& view) { view.ranges = nullptr; }, gradient), {"ranges", "null"}));
  CHECK(mentions(message([](auto& view) { view.data = nullptr; }, gradient), {"weight", "null"}));
  CHECK(mentions(message([](auto& view) { view.group_size = 48; }, gradient), {"group_size", "48", "32", "256"}));
  CHECK(mentions(message([](auto& view) { view.row_stride = 24; }, gradient), {"weight", "row-major"}));
  CHECK(mentions(message([](auto& view) { view.row_stride = 1, view.col_stride = 12; }, gradient),
                 {"weight", "row-major"}));
  CHECK(mentions(message([](auto&) {}, apollo::row_major(g.data(), 20, 12)), {"gradient", "20 x 12", "12 x 20"}));
  CHECK(optimizer.parameters().empty());
  optimizer.add(group, "blocks.7.w", w, gradient);
  auto view = w.view();
  view.ranges = nullptr;
  CHECK(
      mentions(support::refusal([&] { optimizer.rebind("blocks.7.w", view, gradient); }), {"'blocks.7.w'", "ranges"}));
  CHECK(optimizer.step().stepped == 1);
}

// --- weights rounded stochastically, and weights split ------------------------------------------------------------------

TEST_CASE("bfloat16 weights: steps below half a unit are lost to nearest, and add up at random") {
  constexpr Index size = 4096;
  constexpr int steps = 256;
  std::vector<float> g(size, 0x1p-12f);  // a unit below 1 is 2^-8
  const auto gradient = apollo::row_major(g.data(), 16, 256);
  const auto run = [&](auto optimizer) {
    std::vector<bfloat16> w(size, bfloat16(1.0f));
    for (int t = 0; t < steps; ++t) REQUIRE(optimizer.step(apollo::row_major(w.data(), 16, 256), gradient).stepped);
    double sum = 0, squares = 0;
    for (const bfloat16 value : w) {
      const double x = support::opened(value);
      sum += x / size, squares += x * x / size;
    }
    return std::pair<double, double>(sum, std::sqrt(squares - sum * sum));
  };
  const auto native = run(apollo::Sgd<>(Shape{16, 256}, {.lr = 1}));
  CHECK(native.first == 1);
  CHECK(native.second == 0);
  const auto stochastic = run(apollo::Sgd<StochasticWeights>(Shape{16, 256}, {.lr = 1}));
  CHECK(std::fabs(stochastic.first - (1 - steps * 0x1p-12)) <= 5 * stochastic.second / std::sqrt(double{size}));
  // A Bernoulli unit each step, with probability 1/16.
  const double deviation = std::sqrt(steps / 16.0 * 15 / 16) * 0x1p-8;
  CHECK(std::fabs(stochastic.second / deviation - 1) <= 0.06);
}

TEST_CASE("float weights have nothing to round: stochastic steps are native ones") {
  const auto same = [](auto stochastic, auto native) {
    support::Tensor<float> a(support::uniform_matrix(20, 300, 1), Layout::row_major),
        b(support::uniform_matrix(20, 300, 1), Layout::row_major);
    for (std::uint64_t t = 0; t < 5; ++t) {
      const support::Tensor<float> g(support::uniform_matrix(20, 300, 2, t), Layout::row_major);
      REQUIRE(stochastic.step(a.view, g.view).stepped);
      REQUIRE(native.step(b.view, g.view).stepped);
    }
    CHECK(a.same_bits(b.memory));
  };
  same(apollo::AdamW<StochasticWeights>(Shape{20, 300}), apollo::AdamW<>(Shape{20, 300}));
  same(apollo::QApollo<>(Shape{20, 300}, {.rank = 4}), apollo::Apollo<>(Shape{20, 300}, {.rank = 4}));
}

TEST_CASE("split and join: the upper half is the number rounded to nearest, and both are the number") {
  std::int64_t wrong = 0, not_nearest = 0, count = 0;
  for (std::uint32_t upper = 0; upper < 0x10000; ++upper)
    for (const std::uint32_t lower : {0u, 1u, 0x4321u, 0x7fffu, 0x8000u, 0x8001u, 0xc123u, 0xffffu}) {
      const float x = std::bit_cast<float>(upper << 16 | lower);
      const auto halves = apollo::split(x);
      const float joined = apollo::join(halves.upper, halves.lower);
      const auto rounded = static_cast<float>(halves.upper);
      ++count;
      if (std::isnan(x)) {
        wrong += !std::isnan(rounded) || !std::isnan(joined);
      } else if (std::isinf(x)) {
        wrong += rounded != x || joined != x;
      } else if (std::isinf(static_cast<float>(bfloat16(x)))) {
        wrong += !std::isfinite(rounded) || !std::isfinite(joined) || std::signbit(joined) != std::signbit(x);
      } else {
        wrong += std::bit_cast<std::uint32_t>(joined) != std::bit_cast<std::uint32_t>(x);
        const double off = std::fabs(static_cast<double>(rounded) - static_cast<double>(x));
        not_nearest +=
            !(off <= std::fabs(static_cast<double>(static_cast<float>(bfloat16(x))) - static_cast<double>(x)));
      }
    }
  CHECK(count == 8 * 65536);
  CHECK(wrong == 0);
  CHECK(not_nearest == 0);
}

TEST_CASE("a weight that its owner changes takes its remainder along: half a unit at most, zeros too") {
  std::int64_t wrong = 0;
  for (std::uint32_t upper = 0; upper < 0x10000; ++upper)
    for (const std::uint32_t lower : {0u, 1u, 0x7fffu, 0x8000u, 0x9000u, 0xffffu}) {
      bfloat16 value;
      value.bits = static_cast<std::uint16_t>(upper);
      const auto x = static_cast<double>(static_cast<float>(value));
      if (!std::isfinite(x)) continue;
      const auto joined = static_cast<double>(apollo::join(value, static_cast<std::uint16_t>(lower)));
      // The least unit is 2^-133; a zero has no unit of its own.
      wrong += !(std::fabs(joined - x) <= (x == 0 ? 0x1p-133 : support::half_ulp<bfloat16>(x)));
    }
  CHECK(wrong == 0);

  // Such a zero in training: a pruned layer.
  support::Tensor<bfloat16> w(support::rounded<bfloat16>(support::uniform_matrix(7, 9, 1)), Layout::row_major);
  apollo::AdamW<SplitWeights> optimizer(w.view, {.lr = 1e-3});
  for (std::uint64_t t = 0; t < 4; ++t) {
    if (t == 2) w.set(Matrix(7, 9));
    const support::Tensor<float> g(support::uniform_matrix(7, 9, 2, t), Layout::row_major);
    REQUIRE(optimizer.step(w.view, g.view).stepped);
  }
  double largest = 0;
  for (const double x : w.get().values) raise(largest, std::fabs(x));
  CHECK(largest <= 3e-3);
}

namespace {

/// Fifty steps on split bfloat16 weights and on floats; the number of weights that differ, joined, or are not the nearest.
template <class Split, class Floats, class Options>
Index split_against_floats(Shape shape, Layout layout, const Options& options) {
  const Matrix start = support::rounded<bfloat16>(support::uniform_matrix(shape.rows, shape.cols, 51));
  support::Tensor<bfloat16> narrow(start, layout);
  support::Tensor<float> wide(start, layout);
  Split split(narrow.view, options);
  Floats floats(wide.view, options);
  for (std::uint64_t t = 0; t < 50; ++t) {
    const support::Tensor<float> g(support::uniform_matrix(shape.rows, shape.cols, 52, t), layout);
    REQUIRE(split.step(narrow.view, g.view).stepped);
    REQUIRE(floats.step(wide.view, g.view).stepped);
  }
  CHECK(narrow.gaps_untouched());
  const Matrix lower = support::state_of(split).arrays.at("weight_remainder");
  const bool rows = apollo::memory_order(narrow.view) == apollo::Order2D::row_major;
  CHECK(lower.shape() == (rows ? shape : Shape{shape.cols, shape.rows}));
  Index wrong = 0;
  for (Index i = 0; i < shape.rows; ++i)
    for (Index j = 0; j < shape.cols; ++j) {
      // The lower half of the float, whose carry went into the upper one.
      const auto bits = std::bit_cast<std::uint32_t>(wide.view(i, j));
      const auto low = static_cast<std::uint32_t>(rows ? lower(i, j) : lower(j, i));
      const std::uint32_t up = narrow.view(i, j).bits;
      wrong += low != (bits & 0xffffu) || (up << 16) - (low >= 0x8000u ? 0x10000u : 0u) != (bits & 0xffff0000u);
      const double x = support::opened(wide.view(i, j));
      wrong += !(std::fabs(support::opened(narrow.view(i, j)) - x) <=
                 std::fabs(support::opened(bfloat16(wide.view(i, j))) - x));
    }
  return wrong;
}

}  // namespace

TEST_CASE("split bfloat16 weights are float weights, bit by bit, in every layout") {
  for (const Layout layout : support::all_layouts)
    for (const Shape shape : {Shape{7, 9}, Shape{300, 20}, Shape{20, 300}, Shape{300, 1}, Shape{1, 300}}) {
      CAPTURE(static_cast<int>(layout));
      CAPTURE(shape.rows);
      CAPTURE(shape.cols);
      CHECK(split_against_floats<apollo::AdamW<SplitWeights>, apollo::AdamW<>>(
                shape, layout, apollo::AdamWOptions{.lr = 1e-3, .weight_decay = 0.1}) == 0);
      if (shape.rows > 1 && shape.cols > 1)
        CHECK(split_against_floats<apollo::Apollo<SplitWeights>, apollo::Apollo<>>(
                  shape, layout, apollo::ApolloOptions{.lr = 1e-3, .rank = 4}) == 0);
    }
}

TEST_CASE("split weights keep their remainders when their owner moves them to memory of another order") {
  const auto same = [](auto split, auto floats) {
    const Matrix start = support::rounded<bfloat16>(support::uniform_matrix(20, 30, 61));
    support::Tensor<bfloat16> rows(start, Layout::row_major), columns(start, Layout::column_major);
    support::Tensor<float> wide(start, Layout::row_major);
    for (std::uint64_t t = 0; t < 10; ++t) {
      const support::Tensor<float> g(support::uniform_matrix(20, 30, 62, t), Layout::row_major);
      if (t == 5) columns.set(rows.get());
      REQUIRE(split.step(t < 5 ? rows.view : columns.view, g.view).stepped);
      REQUIRE(floats.step(wide.view, g.view).stepped);
    }
    Index wrong = 0;
    for (Index i = 0; i < 20; ++i)
      for (Index j = 0; j < 30; ++j) {
        const double x = support::opened(wide.view(i, j));
        wrong += !(std::fabs(support::opened(columns.view(i, j)) - x) <=
                   std::fabs(support::opened(bfloat16(wide.view(i, j))) - x));
      }
    CHECK(wrong == 0);
  };
  same(apollo::AdamW<SplitWeights>(Shape{20, 30}), apollo::AdamW<>(Shape{20, 30}));
  same(apollo::Apollo<SplitWeights>(Shape{20, 30}, {.rank = 4}), apollo::Apollo<>(Shape{20, 30}, {.rank = 4}));
}

// --- bytes --------------------------------------------------------------------------------------------------------------

TEST_CASE("bytes of low-bit states are those of their formulas, and those that a visitor sees") {
  using namespace apollo;
  const auto check = [](auto tag, Shape shape, const auto& options, Index expected) {
    using Member = typename decltype(tag)::type;
    CAPTURE(shape.rows);
    CAPTURE(shape.cols);
    Member optimizer(shape, options);
    CHECK(Member::state_bytes(shape, options) == expected);
    CHECK(optimizer.state_bytes() == expected);
    CHECK(support::state_of(optimizer).array_bytes == expected);
  };
  const AdamWOptions a;
  // Rows of 300 have two blocks of 8 bits each, or three of 4; rows of 7 are joined to 2100 values.
  check(model::Tag<AdamW8bit<>>(), {64, 300}, a, 2 * (64 * 300 + 64 * 2 * 4));
  check(model::Tag<AdamW8bit<>>(), {300, 7}, a, 2 * (2100 + 9 * 4));
  check(model::Tag<AdamW8bit<>>(), {1, 1}, a, 2 * (1 + 4));
  check(model::Tag<AdamW<AdamMoments<Int8Dynamic>>>(), {64, 300}, a, 2 * (64 * 300 + 64 * 2 * 4));
  check(model::Tag<AdamW<AdamMoments<Int4>>>(), {5, 301}, a, 2 * (5 * 151 + 5 * 3 * 4));  // half a byte is left over
  check(model::Tag<AdamW<AdamMoments<Int4>>>(), {7, 3}, a, 2 * (11 + 4));
  check(model::Tag<AdamW<StochasticWeights>>(), {64, 300}, a, 2 * 64 * 300 * 4);
  check(model::Tag<AdamW<SplitWeights>>(), {64, 300}, a, 64 * 300 * (2 * 4 + 2));
  check(model::Tag<Apollo<SplitWeights>>(), {64, 48}, ApolloOptions{.rank = 4}, 2 * 4 * 64 * 4 + 64 * 48 * 2);
  check(model::Tag<QApollo<>>(), {64, 48}, ApolloOptions{.rank = 4}, 2 * 4 * 64 * 4);
  check(model::Tag<QApolloMini<>>(), {64, 48}, ApolloMiniOptions{}, 2 * 64 * 4);
  check(model::Tag<GaLore8bit<>>(), {70, 40}, GaLoreOptions{.rank = 4}, 2 * (280 + 2 * 4) + 4 * 40 * 4);
  static_assert(AdamW8bit<>::state_bytes({64, 256}) == 2 * (64 * 256 + 64 * 4));

  // By columns where the weight's memory is: seven lines of 300.
  const support::Tensor<float> columns(Matrix(300, 7), Layout::column_major);
  AdamW8bit<> optimizer(columns.view);
  CHECK(optimizer.state_bytes() == 2 * (2100 + 7 * 2 * 4));
  CHECK(support::state_of(optimizer).array_bytes == optimizer.state_bytes());
  const auto dump = support::state_of(optimizer);
  CHECK(dump.arrays.at("exp_avg").shape() == Shape{7, 300});
  CHECK(dump.arrays.at("exp_avg_sq_scale").shape() == Shape{7, 2});
}

// --- refreshes ----------------------------------------------------------------------------------------------------------

TEST_CASE("moments of few bits are turned with their projection like those of floats") {
  const auto run = [](auto narrow, auto wide, double allowed) {
    support::Tensor<float> a(support::uniform_matrix(70, 40, 71), Layout::row_major),
        b(support::uniform_matrix(70, 40, 71), Layout::row_major);
    const Matrix start = b.get();
    int refreshes = 0;
    for (std::uint64_t t = 0; t < 14; ++t) {
      // Four strong directions that turn slowly.
      Matrix g = support::scaled(support::uniform_matrix(70, 40, 72, t), 0.02);
      for (std::uint64_t k = 0; k < 4; ++k) {
        const Matrix u = support::uniform_matrix(70, 1, 73 + k), v = support::uniform_matrix(1, 40, 83 + k),
                     turned = support::uniform_matrix(1, 40, 93 + k);
        for (Index i = 0; i < 70; ++i)
          for (Index j = 0; j < 40; ++j)
            g(i, j) += std::pow(0.6, static_cast<double>(k)) * u(i, 0) *
                       (v(0, j) + 0.05 * static_cast<double>(t) * turned(0, j));
      }
      const support::Tensor<float> gradient(g, Layout::row_major);
      REQUIRE(narrow.step(a.view, gradient.view).stepped);
      const auto report = wide.step(b.view, gradient.view);
      REQUIRE(report.stepped);
      refreshes += report.refreshed;
    }
    CHECK(refreshes == 4);
    const double moved = support::norm(support::difference(b.get(), start));
    const double off = support::norm(support::difference(a.get(), b.get()));
    MESSAGE("the way of few bits is off by " << off / moved << " of its length");
    CHECK(moved > 0);
    CHECK(off <= allowed * moved);
    // Moments in steps of their blocks; with beta1 = 0.9 a few roundings are remembered at a time.
    const auto few = support::state_of(narrow), many = support::state_of(wide);
    if (few.arrays.count("exp_avg_scale") == 0) return;
    double first = 0, second = 0;
    for (std::size_t i = 0; i < 280; ++i) {
      const auto code = static_cast<std::uint8_t>(few.arrays.at("exp_avg").values[i]);
      const double m = static_cast<std::int8_t>(code), step = few.arrays.at("exp_avg_scale").values[i / 256] / 127;
      raise(first, std::fabs(m - many.arrays.at("exp_avg").values[i] / step));
      const double root = few.arrays.at("exp_avg_sq").values[i] + 1,
                   root_step = few.arrays.at("exp_avg_sq_scale").values[i / 256] / 256;
      raise(second, std::fabs(root - std::sqrt(many.arrays.at("exp_avg_sq").values[i]) / root_step));
    }
    MESSAGE("M is off by " << first << " steps of its block, sqrt(V) by " << second);
    CHECK(first <= 5);
    CHECK(second <= 5);
  };
  const Shape shape{70, 40};
  apollo::GaLoreOptions options{.lr = 0.01, .rank = 4, .update_proj_gap = 4};
  options.on_refresh = apollo::OnRefresh::rotate, options.svd = apollo::SvdMethod::exact;
  run(apollo::GaLore8bit<>(shape, options), apollo::GaLore<>(shape, options), 0.1);
  run(apollo::GaLore<apollo::AdamMoments<bfloat16>>(shape, options), apollo::GaLore<>(shape, options), 0.01);
}
