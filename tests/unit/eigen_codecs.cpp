// SPDX-License-Identifier: Apache-2.0
// The loops over storages of few bits of every instruction set that this processor has, against the plain ones of policy/ and
// random/, code by code.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include <apollo/eigen.hpp>

#include "support.hpp"

namespace {

using apollo::bfloat16;
using apollo::Index;
using apollo::Order2D;
using apollo::storage_block;
using support::raise;
using support::uniform;

constexpr apollo::RandomStream stream{11, 12, apollo::Stream::round_moments, 13};

template <class Kernels>
void check_random_bytes() {
  for (const Index run : {Index{0}, Index{1}, Index{255}, Index{1} << 33}) {
    std::uint8_t drawn[apollo::rounding::bytes], expected[apollo::rounding::bytes];
    Kernels::draw_rounding(stream, run, drawn);
    apollo::rounding::draw(stream, run, expected);
    int differ = 0;
    for (int i = 0; i < apollo::rounding::bytes; ++i) differ += drawn[i] != expected[i];
    CHECK(differ == 0);
  }
}

/// One line of moments in blocks.
template <class Storage>
struct Line {
  std::vector<std::uint8_t> codes;
  std::vector<float> scales;
  explicit Line(Index size)
      : codes(static_cast<std::size_t>(apollo::code_bytes<typename Storage::Format>(size))),
        scales(static_cast<std::size_t>(apollo::BlockedLines{1, size}.count(Storage::Format::block))) {}
  apollo::BlockPointer pointer() { return {codes.data(), scales.data()}; }
};

/// Values whose codes reach both ends, with zeros; of the second moment none is below zero.
std::vector<float> block_values(int size, int number, int seed) {
  std::vector<float> values;
  for (int i = 0; i < size; ++i) {
    const double x =
        2 * uniform(static_cast<std::uint64_t>(seed), 0, static_cast<std::uint64_t>(i)) * std::pow(10.0, -(i % 9));
    values.push_back(i % 31 == 7 ? 0.0f : static_cast<float>(number == 0 ? x : std::fabs(x)));
  }
  return values;
}

/// Codes equal but where the machine rounds a sum of products once: there they are neighbours.
template <class Kernels, class Format>
void check_codes() {
  using Storage = apollo::MomentStorage<Format, float>;
  constexpr int size = 256 + 200;
  std::uint8_t random[apollo::rounding::bytes];
  int apart = 0, further = 0, of = 0;
  double opened_worst = 0;
  for (int number = 0; number < 2; ++number)
    for (int seed = 0; seed < 40; ++seed) {
      Line<Storage> plain(size), fast(size);
      for (Index at = 0; at < size; at += storage_block) {
        const apollo::StorageRun run = apollo::flat_run(at, size);
        apollo::rounding::draw(stream, at, random);
        std::vector<float> values = block_values(storage_block, number, 2 * seed + static_cast<int>(at != 0));
        std::vector<float> same = values;
        Storage::close(values.data(), plain.pointer(), run, number, random);
        Kernels::template close_moments<Storage>(same.data(), fast.pointer(), run, number, random);
        std::vector<float> opened(storage_block), expected(storage_block);
        Storage::open(plain.pointer(), run, number, expected.data());
        Kernels::template open_moments<Storage>(plain.pointer(), run, number, opened.data());
        for (std::size_t i = 0; i < static_cast<std::size_t>(run.count); ++i)
          raise(opened_worst, std::fabs(static_cast<double>(opened[i] - expected[i])) /
                                  (std::fabs(static_cast<double>(expected[i])) + 1e-30));
      }
      CHECK(plain.scales == fast.scales);
      for (std::size_t i = 0; i < plain.codes.size(); ++i, ++of)
        for (int half = 0; half < 8; half += Format::bits) {
          const int mask = (1 << Format::bits) - 1;
          const int a = plain.codes[i] >> half & mask, b = fast.codes[i] >> half & mask;
          apart += a != b;
          further += std::abs(a - b) > 1 && std::abs(a - b) < mask;  // around zero signed codes go round
        }
    }
  CHECK(apart <= of / 1000);
  CHECK(further == 0);
  CHECK(opened_worst <= 1e-5);
}

/// A block's step against Adam's in double from the same opened moments, the block whole or the last of a line.
template <class Kernels, class Format, class G>
void check_update_block(int size) {
  using Storage = apollo::MomentStorage<Format, float>;
  using Moments = apollo::AdamMoments<Format>;
  constexpr Index number_of_run = 3;
  const apollo::StorageRun run = apollo::flat_run(0, size);
  apollo::StepCoefficients<float> c{};
  c.moments = {0.9f, 0.1f, 0.999f, 0.001f, 1e-8f, 1.5f, 2.0f};
  c.gradient_factor = 0.5f;
  c.rounding = stream;
  const apollo::simd::Apply<float> apply{0.5f, 0.75f, 0.25f};
  for (const float coupled : {0.0f, 0.125f}) {
    c.coupled_decay = coupled;
    Line<Storage> first(size), second(size), first_after(size), second_after(size);
    std::uint8_t random[apollo::rounding::bytes];
    apollo::rounding::draw(stream, number_of_run, random);
    std::vector<float> m = block_values(storage_block, 0, 3), v = block_values(storage_block, 1, 4);
    Storage::close(m.data(), first.pointer(), run, 0, random);
    Storage::close(v.data(), second.pointer(), run, 1, random);
    Storage::open(first.pointer(), run, 0, m.data());
    Storage::open(second.pointer(), run, 1, v.data());

    std::vector<G> g;
    std::vector<float> w;
    for (int i = 0; i < size; ++i) {
      g.push_back(support::stored<G>(uniform(5, 0, static_cast<std::uint64_t>(i))));
      w.push_back(static_cast<float>(uniform(6, 0, static_cast<std::uint64_t>(i))));
    }
    std::vector<double> expected;
    std::vector<float> new_m(storage_block), new_v(storage_block);
    const apollo::MomentCoefficients<double> wide{0.9f, 0.1f, 0.999f, 0.001f, 1e-8f, 1.5f, 2.0f};
    for (std::size_t i = 0; i < g.size(); ++i) {
      double state[2] = {static_cast<double>(m[i]), static_cast<double>(v[i])};
      const double r = 0.5 * static_cast<double>(static_cast<float>(g[i])) +
                       static_cast<double>(coupled) * static_cast<double>(w[i]);
      const double u = Moments::update(r, state, wide);
      expected.push_back(0.75 * (0.5 * static_cast<double>(w[i]) - 0.25 * u));
      new_m[i] = static_cast<float>(state[0]);
      new_v[i] = static_cast<float>(Storage::takes_roots ? std::sqrt(state[1]) : state[1]);
    }
    Storage::close(new_m.data(), first_after.pointer(), run, 0, random);
    Storage::close(new_v.data(), second_after.pointer(), run, 1, random);

    Kernels::template update_block<Moments, Storage>(w.data(), g.data(), Storage::block_at(first.pointer(), run, 0),
                                                     Storage::block_at(second.pointer(), run, 0), size, number_of_run,
                                                     c, apply);
    double worst = 0;
    int apart = 0;
    for (std::size_t i = 0; i < g.size(); ++i) {
      raise(worst, std::fabs(static_cast<double>(w[i]) - expected[i]) / (1 + std::fabs(expected[i])));
      apart += first.codes[i] != first_after.codes[i];
      apart += second.codes[i] != second_after.codes[i];
    }
    CHECK(worst <= 2e-6);
    CHECK(apart <= 2);  // of 512: next to where a code ends
    CHECK(static_cast<double>(first.scales[0]) ==
          doctest::Approx(static_cast<double>(first_after.scales[0])).epsilon(1e-6));
    CHECK(static_cast<double>(second.scales[0]) ==
          doctest::Approx(static_cast<double>(second_after.scales[0])).epsilon(1e-6));
  }
}

/// Every pattern of bfloat16, NaN and infinities too, halved and moved by an exact step; in runs of several lengths.
template <class Kernels>
void check_stochastic_apply() {
  int differ = 0;
  std::vector<float> steps(storage_block);
  for (std::size_t i = 0; i < steps.size(); ++i) steps[i] = i % 2 == 0 ? 0.015625f : -0.25f;
  const auto check = [&](int pattern, int count, bool by_channel) {
    std::vector<bfloat16> w(static_cast<std::size_t>(count)), x(w.size(), bfloat16(1.0f));  // nothing behind them
    std::vector<std::uint16_t> expected;
    std::uint8_t random[apollo::rounding::bytes];
    const Index run = pattern / storage_block;
    apollo::rounding::draw(stream, run, random);
    for (int i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      w[at].bits = static_cast<std::uint16_t>(pattern + i);
      const float step = by_channel ? steps[at] : 0.0625f;
      const float moved = 0.5f * (2.0f * static_cast<float>(w[at]) - step);
      expected.push_back(apollo::bits::to_bfloat16_stochastic(moved, apollo::rounding::bits_of(random, i)));
    }
    w.push_back(bfloat16(7.0f)), x.push_back(bfloat16(1.0f));
    Kernels::apply_stochastic(w.data(), x.data(), count, apollo::simd::Apply<float>{2.0f, 0.5f, 0.0625f},
                              by_channel ? steps.data() : nullptr, stream, run);
    differ += w.back().bits != bfloat16(7.0f).bits;
    for (std::size_t i = 0; i < expected.size(); ++i) differ += w[i].bits != expected[i];
  };
  for (const bool by_channel : {false, true}) {
    for (int pattern = 0; pattern < 65536; pattern += storage_block) check(pattern, storage_block, by_channel);
    check(0x3f00, 16, by_channel);
    check(0x3f00, 176, by_channel);
  }
  CHECK(differ == 0);
}

/// Gradients whose squares are infinite leave the weights where they are, as Adam's division by infinity does.
template <class Kernels>
void check_overflow() {
  using Storage = apollo::MomentStorage<apollo::Int8Linear, float>;
  using Moments = apollo::AdamMoments<apollo::Int8Linear>;
  const apollo::StorageRun run = apollo::flat_run(0, storage_block);
  apollo::StepCoefficients<float> c{};
  c.moments = {0.9f, 0.1f, 0.999f, 0.001f, 1e-8f, 1.0f, 1.0f};
  c.gradient_factor = 1;
  Line<Storage> first(storage_block), second(storage_block);
  std::vector<float> w(storage_block, 1.0f), g(storage_block, 1e22f);
  Kernels::template update_block<Moments, Storage>(w.data(), g.data(), Storage::block_at(first.pointer(), run, 0),
                                                   Storage::block_at(second.pointer(), run, 0), storage_block, 0, c,
                                                   apollo::simd::Apply<float>{1, 1, 1e-6f});
  double worst = 0;
  for (const float value : w) raise(worst, std::fabs(static_cast<double>(value) - 1));
  CHECK(worst <= 1e-3);
}

/// Weights of three lines, each a whole run and a rest, opened and closed like weights::open and close do.
template <class Kernels, class Kept>
void check_weights(const Kept& plain, const Kept& fast, int allowed) {
  double opened_worst = 0;
  std::vector<float> expected(storage_block), opened(storage_block);
  apollo::for_storage_runs(Order2D::row_major, plain.view.rows, plain.view.cols, 0, plain.view.rows, 0, plain.view.cols,
                           [&](const apollo::StorageRun& run) {
                             std::vector<float> values = block_values(storage_block, 0, static_cast<int>(run.value()));
                             apollo::weights::close(plain, run, static_cast<const float*>(values.data()));
                             Kernels::close_weights(fast, run, static_cast<const float*>(values.data()));
                             apollo::weights::open(plain, run, expected.data());
                             Kernels::open_weights(plain, run, opened.data());
                             for (std::size_t i = 0; i < static_cast<std::size_t>(run.count); ++i)
                               raise(opened_worst, std::fabs(static_cast<double>(opened[i] - expected[i])));
                           });
  CHECK(opened_worst <= 1e-6);
  int apart = 0;
  const std::size_t size = static_cast<std::size_t>(plain.view.rows * plain.view.cols);
  for (std::size_t i = 0; i < size; ++i) {
    if constexpr (Kept::grouped)
      apart += plain.view.data[i] != fast.view.data[i];
    else
      apart += plain.view.data[i].bits != fast.view.data[i].bits;
    if (plain.remainder != nullptr) apart += plain.remainder[i] != fast.remainder[i];
  }
  CHECK(apart <= allowed);
}

template <class Kernels>
void check_all_weights() {
  constexpr Index rows = 3, cols = 300;
  for (const Index group : {32, 128, 256}) {
    apollo::Int8Matrix plain(rows, cols, group), fast(rows, cols, group);
    using Nearest = apollo::KeptWeights<apollo::NativeWeights, apollo::int8_groups>;
    using Stochastic = apollo::KeptWeights<apollo::StochasticWeights, apollo::int8_groups>;
    check_weights<Kernels>(Nearest{plain.view(), nullptr, stream}, Nearest{fast.view(), nullptr, stream}, 2);
    check_weights<Kernels>(Stochastic{plain.view(), nullptr, stream}, Stochastic{fast.view(), nullptr, stream}, 2);
    CHECK(plain.ranges().size() == fast.ranges().size());
    double worst = 0;
    for (std::size_t i = 0; i < plain.ranges().size(); ++i) {
      const apollo::GroupRange a = plain.ranges()[i], b = fast.ranges()[i];
      raise(worst, std::fabs(static_cast<double>(a.minimum - b.minimum)));
      raise(worst, std::fabs(static_cast<double>(a.scale - b.scale)) / static_cast<double>(a.scale));
    }
    CHECK(worst <= 1e-6);
  }
  std::vector<bfloat16> plain(rows * cols), fast(rows * cols);
  std::vector<std::uint16_t> plain_rest(plain.size()), fast_rest(fast.size());
  const auto a = apollo::row_major(plain.data(), rows, cols), b = apollo::row_major(fast.data(), rows, cols);
  using Split = apollo::KeptWeights<apollo::SplitWeights, bfloat16>;
  using Stochastic = apollo::KeptWeights<apollo::StochasticWeights, bfloat16>;
  check_weights<Kernels>(Split{a, plain_rest.data(), stream}, Split{b, fast_rest.data(), stream}, 0);
  check_weights<Kernels>(Stochastic{a, nullptr, stream}, Stochastic{b, nullptr, stream}, 0);
}

template <class Kernels>
void check_all(const char* set) {
  CAPTURE(std::string(set));
  check_random_bytes<Kernels>();
  check_codes<Kernels, apollo::Int8Linear>();
  check_codes<Kernels, apollo::Int8Dynamic>();
  check_codes<Kernels, apollo::Int4>();
  for (const int size : {16, 176, storage_block}) {
    CAPTURE(size);
    check_update_block<Kernels, apollo::Int8Linear, float>(size);
    check_update_block<Kernels, apollo::Int8Linear, bfloat16>(size);
    check_update_block<Kernels, apollo::Int8Dynamic, float>(size);
  }
  check_stochastic_apply<Kernels>();
  check_overflow<Kernels>();
  check_all_weights<Kernels>();
}

}  // namespace

TEST_CASE("the baseline's loops") { check_all<apollo::simd::baseline::Kernels>("baseline"); }

#if APOLLO_X86_DISPATCH
TEST_CASE("AVX2's loops" * doctest::skip(apollo::simd::best() < apollo::simd::Isa::avx2)) {
  check_all<apollo::simd::avx2::Kernels>("avx2");
}
TEST_CASE("AVX-512's loops" * doctest::skip(apollo::simd::best() < apollo::simd::Isa::avx512)) {
  check_all<apollo::simd::avx512::Kernels>("avx512");
}
#endif
