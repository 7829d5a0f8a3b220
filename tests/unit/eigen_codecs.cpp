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

/// A whole block's step against Adam's in double from the same opened moments.
template <class Kernels, class Format, class G>
void check_update_block() {
  using Storage = apollo::MomentStorage<Format, float>;
  using Moments = apollo::AdamMoments<Format>;
  constexpr int size = storage_block;
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
    apollo::rounding::draw(stream, 0, random);
    std::vector<float> m = block_values(size, 0, 3), v = block_values(size, 1, 4);
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
    std::vector<float> new_m(size), new_v(size);
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
                                                     Storage::block_at(second.pointer(), run, 0), 0, c, apply);
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

/// Every pattern of bfloat16, NaN and infinities too, halved and moved by an exact step.
template <class Kernels>
void check_stochastic_apply() {
  int differ = 0;
  std::vector<float> steps(storage_block);
  for (std::size_t i = 0; i < steps.size(); ++i) steps[i] = i % 2 == 0 ? 0.015625f : -0.25f;
  for (int pattern = 0; pattern < 65536; pattern += storage_block)
    for (const bool by_channel : {false, true}) {
      std::vector<bfloat16> w(storage_block), x(storage_block, bfloat16(1.0f));
      std::vector<std::uint16_t> expected;
      std::uint8_t random[apollo::rounding::bytes];
      const Index run = pattern / storage_block;
      apollo::rounding::draw(stream, run, random);
      for (int i = 0; i < storage_block; ++i) {
        const auto at = static_cast<std::size_t>(i);
        w[at].bits = static_cast<std::uint16_t>(pattern + i);
        const float step = by_channel ? steps[at] : 0.0625f;
        const float moved = 0.5f * (2.0f * static_cast<float>(w[at]) - step);
        expected.push_back(apollo::bits::to_bfloat16_stochastic(moved, apollo::rounding::bits_of(random, i)));
      }
      Kernels::apply_stochastic(w.data(), x.data(), apollo::simd::Apply<float>{2.0f, 0.5f, 0.0625f},
                                by_channel ? steps.data() : nullptr, stream, run);
      for (std::size_t i = 0; i < w.size(); ++i) differ += w[i].bits != expected[i];
    }
  CHECK(differ == 0);
}

template <class Kernels>
void check_all(const char* set) {
  CAPTURE(std::string(set));
  check_random_bytes<Kernels>();
  check_codes<Kernels, apollo::Int8Linear>();
  check_codes<Kernels, apollo::Int8Dynamic>();
  check_codes<Kernels, apollo::Int4>();
  check_update_block<Kernels, apollo::Int8Linear, float>();
  check_update_block<Kernels, apollo::Int8Linear, bfloat16>();
  check_update_block<Kernels, apollo::Int8Dynamic, float>();
  check_stochastic_apply<Kernels>();
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
