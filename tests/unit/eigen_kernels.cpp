// SPDX-License-Identifier: Apache-2.0
// The innermost loops of every instruction set that this processor has, against the same in double: lengths around a chunk.
// also: optimised-sanitizers
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <apollo/eigen.hpp>

#include "support.hpp"

namespace {

using apollo::Index;

template <class T>
std::vector<T> values(Index count, std::uint64_t seed, double shift = 0) {
  std::vector<T> all;
  for (Index i = 0; i < count; ++i)
    all.push_back(static_cast<T>(shift + support::uniform(seed, 0, static_cast<std::uint64_t>(i))));
  return all;
}

/// Entry by entry; fails on NaN.
template <class T>
double worst(const std::vector<T>& actual, const std::vector<double>& expected) {
  double most = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    support::raise(most, std::fabs(static_cast<double>(actual[i]) - expected[i]));
  }
  return most;
}

template <class Kernels, class T>
void check_steps(Index count) {
  const auto n = static_cast<int>(count);
  const double tolerance = 16 * static_cast<double>(std::numeric_limits<T>::epsilon());
  using Moments = apollo::AdamMoments<>;
  using Storage = apollo::MomentStorage<T, T>;
  apollo::MomentCoefficients<T> c{};
  apollo::StepCoefficients<T> step{};
  apollo::Settings settings;
  settings.eps = 1e-3;
  using Policies = typename apollo::AdamW<T>::Policies;
  const apollo::Plan plan = apollo::outline<Policies>({1, count}, settings);
  const apollo::Record record;
  step = apollo::coefficients<Policies, T>(plan, settings, record, 1, {0.1, 0.5});
  c = step.moments;
  const std::vector<T> g = values<T>(count, 1), w = values<T>(count, 2), m = values<T>(count, 3),
                       v = values<T>(count, 4, 1.5), steps = values<T>(count, 5);
  const auto at = [](const std::vector<T>& x, Index i) { return static_cast<double>(x[static_cast<std::size_t>(i)]); };

  // Moments alone, then with the weights, against Moments::update in double.
  apollo::StepCoefficients<double> wide = apollo::coefficients<Policies, double>(plan, settings, record, 1, {0.1, 0.5});
  std::vector<double> expected_n, expected_m, expected_v, expected_w, expected_apply, expected_apply_steps;
  for (Index i = 0; i < count; ++i) {
    double both[2] = {at(m, i), at(v, i)};
    expected_n.push_back(Moments::update(at(g, i), both, wide.moments));
    double of_half[2] = {at(m, i), at(v, i)};
    const double u = Moments::update(0.5 * at(g, i), of_half, wide.moments);
    expected_m.push_back(both[0]), expected_v.push_back(both[1]);
    expected_w.push_back(0.75 * (0.5 * at(w, i) - at(steps, i) * u));
    expected_apply.push_back(0.75 * (0.5 * at(w, i) - 0.25 * at(g, i)));
    expected_apply_steps.push_back(0.75 * (0.5 * at(w, i) - at(steps, i) * at(g, i)));
  }
  std::vector<T> first = m, second = v, out(g.size() + 1, T(5));
  Kernels::template moments<Moments, Storage>(g.data(), out.data(), first.data(), second.data(), n, c);
  CHECK(worst(out, expected_n) <= 8 * tolerance);
  CHECK(worst(first, expected_m) <= tolerance);
  CHECK(worst(second, expected_v) <= tolerance);
  CHECK(out.back() == T(5));

  const apollo::simd::Apply<T> apply{T(0.5), T(0.75), T(0.25)};
  std::vector<T> weights = w;
  first = m, second = v;
  Kernels::template update<Moments, Storage>(weights.data(), g.data(), first.data(), second.data(), n, step, apply,
                                             steps.data());
  CHECK(worst(weights, expected_w) <= 8 * tolerance);
  weights = w;
  Kernels::apply(weights.data(), g.data(), n, apply, static_cast<const T*>(nullptr));
  CHECK(worst(weights, expected_apply) <= tolerance);
  weights = w;
  Kernels::apply(weights.data(), g.data(), n, apply, steps.data());
  CHECK(worst(weights, expected_apply_steps) <= tolerance);
}

/// Moments of which only norms are wanted, against the same in double.
template <class Kernels>
void check_norms(Index count) {
  using Moments = apollo::AdamMoments<>;
  apollo::MomentCoefficients<float> c{};
  c.beta1 = 0.75f, c.one_minus_beta1 = 0.25f, c.beta2 = 0.875f, c.one_minus_beta2 = 0.125f;
  c.first_factor = 2, c.second_factor = 1.5f, c.eps = 1e-6f;
  apollo::MomentCoefficients<double> wide{};
  wide.beta1 = 0.75, wide.one_minus_beta1 = 0.25, wide.beta2 = 0.875, wide.one_minus_beta2 = 0.125;
  wide.first_factor = 2, wide.second_factor = 1.5, wide.eps = 1e-6;
  std::vector<float> r = values<float>(count, 1), m = values<float>(count, 2), v = values<float>(count, 3, 1.5);
  m.push_back(5), v.push_back(6);
  r[0] = m[0] = v[0] = 0;  // an estimate of 1 / 0 must not get out
  std::vector<double> expected_m, expected_v;
  double expected_n = 0, expected_r = 0;
  for (std::size_t i = 0; i < r.size(); ++i) {
    double both[2] = {static_cast<double>(m[i]), static_cast<double>(v[i])};
    const double n = Moments::update(static_cast<double>(r[i]), both, wide);
    expected_n += n * n;
    expected_r += static_cast<double>(r[i]) * static_cast<double>(r[i]);
    expected_m.push_back(both[0]), expected_v.push_back(both[1]);
  }
  float n_squares = -1;
  const float r_squares = Kernels::template moments_norms<Moments>(r.data(), m.data(), v.data(), count, c, n_squares);
  CHECK(std::fabs(static_cast<double>(n_squares) - expected_n) <= 2e-6 * expected_n);
  CHECK(std::fabs(static_cast<double>(r_squares) - expected_r) <= 1e-6 * expected_r);
  CHECK(worst(m, expected_m) <= 1e-6);
  CHECK(worst(v, expected_v) <= 1e-6);
  CHECK(m.back() == 5.0f);
  CHECK(v.back() == 6.0f);
}

template <class Kernels, class T>
void check_sums(Index count) {
  const double tolerance = 4 * static_cast<double>(std::numeric_limits<T>::epsilon()) * static_cast<double>(count + 8);
  const std::vector<T> x = values<T>(count, 6), p = values<T>(count, 7);
  long double long_squares = 0, long_product = 0;  // a plain sum of so many is worse than the loops
  std::vector<double> added(x.size(), 2.0), expected_added;
  for (std::size_t i = 0; i < x.size(); ++i) {
    long_squares += static_cast<long double>(x[i]) * static_cast<long double>(x[i]);
    long_product += static_cast<long double>(x[i]) * static_cast<long double>(p[i]);
    expected_added.push_back(2 + static_cast<double>(x[i]) * static_cast<double>(x[i]));
  }
  const auto squares = static_cast<double>(long_squares), product = static_cast<double>(long_product);
  T dot = 0;
  CHECK(std::fabs(static_cast<double>(Kernels::sum_squares(x.data(), count)) - squares) <= tolerance);
  CHECK(std::fabs(static_cast<double>(Kernels::dot_squares(x.data(), p.data(), count, dot)) - squares) <= tolerance);
  CHECK(std::fabs(static_cast<double>(dot) - product) <= tolerance);
  Kernels::add_squares(x.data(), added.data(), static_cast<int>(count));
  CHECK(worst(added, expected_added) <= 1e-15);
  std::vector<T> scaled = x;
  std::vector<double> expected_scaled;
  for (const T value : x) expected_scaled.push_back(-0.5 * static_cast<double>(value));
  CHECK(std::fabs(static_cast<double>(Kernels::scale(scaled.data(), count, T(-0.5))) - squares / 4) <= tolerance);
  CHECK(worst(scaled, expected_scaled) <= 0);

  std::vector<apollo::bfloat16> narrow;
  std::vector<double> exact;
  for (const T value : x) {
    narrow.push_back(support::stored<apollo::bfloat16>(static_cast<double>(value)));
    exact.push_back(static_cast<double>(static_cast<float>(narrow.back())));
  }
  std::vector<T> converted(x.size());
  Kernels::convert(narrow.data(), converted.data(), static_cast<int>(count));
  CHECK(worst(converted, exact) <= 0);

  // Five lines of `count`, three of them added; and turned round.
  const std::vector<T> lines = values<T>(5 * count, 8);
  const std::int32_t chosen[] = {4, 0, 2};
  const T coefficients[] = {T(-1), T(0.5), T(1)};
  std::vector<T> sums(x.size(), T(1)), line_squares(x.size()), turned(lines.size());
  std::vector<double> expected_sums(x.size(), 1.0), expected_squares(x.size(), 0.0), expected_turned(lines.size());
  for (int l = 0; l < 3; ++l)
    for (Index i = 0; i < count; ++i) {
      const auto value = static_cast<double>(lines[static_cast<std::size_t>(chosen[l] * count + i)]);
      expected_sums[static_cast<std::size_t>(i)] += static_cast<double>(coefficients[l]) * value;
      expected_squares[static_cast<std::size_t>(i)] += value * value;
    }
  Kernels::add_lines(lines.data(), count, chosen, coefficients, 3, 0, count, sums.data(), line_squares.data());
  CHECK(worst(sums, expected_sums) <= tolerance);
  CHECK(worst(line_squares, expected_squares) <= tolerance);
  Kernels::transpose(lines.data(), count, turned.data(), 5, count, 5, T(-2));
  for (Index i = 0; i < count; ++i)
    for (Index l = 0; l < 5; ++l)
      expected_turned[static_cast<std::size_t>(i * 5 + l)] =
          -2 * static_cast<double>(lines[static_cast<std::size_t>(l * count + i)]);
  CHECK(worst(turned, expected_turned) <= 0);

  // Groups of eight inputs to groups of eight buckets, in every order that three bits turn.
  const Index groups = (count + 7) / 8;
  std::vector<std::int32_t> bucket;
  std::vector<std::uint32_t> sign;
  for (Index q = 0; q < groups; ++q) bucket.push_back(static_cast<std::int32_t>(8 * ((q * 5) % 3) + q % 8));
  for (Index i = 0; i < count; ++i) sign.push_back(i % 3 == 1 ? 0x80000000u : 0u);
  std::vector<T> buckets(24);
  std::vector<double> expected_buckets(24, 0.0);
  for (Index i = 0; i < count; ++i) {
    const auto value = static_cast<double>(x[static_cast<std::size_t>(i)]);
    expected_buckets[static_cast<std::size_t>(bucket[static_cast<std::size_t>(i / 8)] ^ (i % 8))] +=
        i % 3 == 1 ? -value : value;
  }
  CHECK(std::fabs(static_cast<double>(Kernels::scatter(x.data(), count, bucket.data(), sign.data(), buckets.data())) -
                  squares) <= tolerance);
  CHECK(worst(buckets, expected_buckets) <= tolerance);
}

/// Weights and gradients of bfloat16, which have a loop of their own, bit by bit: every pattern as weight and as gradient, NaN
/// and infinities too. One of two products is exactly zero, so that the sum is rounded once, fused or not.
template <class Kernels>
void check_brain_floats() {
  using apollo::bfloat16;
  constexpr int count = 65536 - 3;
  std::vector<bfloat16> x(count), w(count), still(count);
  std::vector<float> steps(count);
  for (int i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    x[at].bits = still[at].bits = static_cast<std::uint16_t>(i + 3);
    steps[at] = i % 2 == 0 ? 1.00390625f : -0.7f;  // 1 + 2^-8: ties
  }
  const auto wrong = [&](auto&& expected) {
    int differ = 0;
    for (std::size_t i = 0; i < w.size(); ++i) differ += w[i].bits != expected(i).bits;
    return differ;
  };
  const auto of = [](bfloat16 value) { return static_cast<float>(value); };
  for (const float step : {1.00390625f, -1.00390625f, 0.7f}) {
    w.assign(count, bfloat16(0.0f));
    Kernels::apply(w.data(), x.data(), count, apollo::simd::Apply<float>{1, 1, step}, static_cast<float*>(nullptr));
    CHECK(wrong([&](std::size_t i) { return bfloat16(0.0f - step * of(x[i])); }) == 0);
  }
  w.assign(count, bfloat16(0.0f));
  Kernels::apply(w.data(), x.data(), count, apollo::simd::Apply<float>{1, 1, 0},
                 static_cast<const float*>(steps.data()));
  CHECK(wrong([&](std::size_t i) { return bfloat16(0.0f - steps[i] * of(x[i])); }) == 0);
  const std::vector<bfloat16> zeros(count, bfloat16(0.0f));
  w = still;
  Kernels::apply(w.data(), zeros.data(), count, apollo::simd::Apply<float>{1.00390625f, 0.5f, 0},
                 static_cast<float*>(nullptr));
  CHECK(wrong([&](std::size_t i) { return bfloat16(0.5f * (1.00390625f * of(still[i]))); }) == 0);
}

template <class Kernels>
void check_all(const char* set) {
  CAPTURE(std::string(set));
  check_brain_floats<Kernels>();
  for (const Index count : {1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 100, 128, 256, 1000}) {
    CAPTURE(count);
    check_steps<Kernels, float>(count);
    check_steps<Kernels, double>(count);
    check_norms<Kernels>(count);
    check_sums<Kernels, float>(count);
    check_sums<Kernels, double>(count);
  }
}

}  // namespace

TEST_CASE("norms of moments that no sum of floats holds") {
  apollo::StepCoefficients<float> c{};
  c.moments.beta1 = 0, c.moments.one_minus_beta1 = 1, c.moments.beta2 = 0, c.moments.one_minus_beta2 = 1e-36f;
  c.moments.first_factor = 1, c.moments.second_factor = 1, c.moments.eps = 1e-10f;
  CHECK(apollo::EigenMoments<float>::norms_are_near(16, c));
  CHECK_FALSE(apollo::EigenMoments<float>::norms_are_near(15, c));
  std::vector<float> r(32, 3e30f), m(32), v(32);
  const apollo::MomentPointers<float> state{{m.data(), v.data()}};
  double n_norm = 0, r_norm = 0;
  apollo::EigenMoments<float>::update_norms<apollo::AdamMoments<>>(r.data(), state, 1, 16, c, n_norm, r_norm);
  CHECK(r_norm == doctest::Approx(16 * 9e60).epsilon(1e-5));
  CHECK(m[16] == 3e30f);
  CHECK(m[15] == 0.0f);
  c.moments.eps = 1e-12f;
  CHECK_FALSE(apollo::EigenMoments<float>::norms_are_near(16, c));
}

TEST_CASE("the baseline's loops") { check_all<apollo::simd::baseline::Kernels>("baseline"); }

#if APOLLO_X86_DISPATCH
TEST_CASE("AVX2's loops" * doctest::skip(apollo::simd::best() < apollo::simd::Isa::avx2)) {
  check_all<apollo::simd::avx2::Kernels>("avx2");
}
TEST_CASE("AVX-512's loops" * doctest::skip(apollo::simd::best() < apollo::simd::Isa::avx512)) {
  check_all<apollo::simd::avx512::Kernels>("avx512");
}
#endif
