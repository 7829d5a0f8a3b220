// SPDX-License-Identifier: Apache-2.0
// also: fast-math, optimised-sanitizers
// Random numbers: Philox by its published vectors, frozen normals, streams that do not meet, and
// sketches that keep norms.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <set>
#include <tuple>
#include <vector>

#include <apollo/policy/projection.hpp>
#include <apollo/random/normal.hpp>
#include <apollo/random/stream.hpp>

#include "sketches.hpp"
#include "support.hpp"

namespace {

using apollo::Index;
using apollo::PhiloxCounter;
using apollo::PhiloxKey;
using apollo::RandomStream;
using apollo::Stream;

/// Philox4x32-10 once more, from the paper's description of a round.
PhiloxCounter philox_oracle(PhiloxCounter x, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = static_cast<std::uint64_t>(x.word[0]) * 0xD2511F53u;
    const std::uint64_t p1 = static_cast<std::uint64_t>(x.word[2]) * 0xCD9E8D57u;
    const auto high = [](std::uint64_t p) { return static_cast<std::uint32_t>(p >> 32); };
    const auto low = [](std::uint64_t p) { return static_cast<std::uint32_t>(p); };
    x = {{high(p1) ^ x.word[1] ^ key.word[0], low(p1), high(p0) ^ x.word[3] ^ key.word[1], low(p0)}};
    key.word[0] += 0x9E3779B9u;
    key.word[1] += 0xBB67AE85u;
  }
  return x;
}

/// Block of a stream by the frozen layout of counter and key.
PhiloxCounter block_oracle(std::uint64_t seed, std::uint32_t tensor, std::uint32_t stream, std::uint64_t counter,
                           std::uint64_t block) {
  PhiloxCounter x;
  x.word[0] = static_cast<std::uint32_t>(block);
  x.word[1] = static_cast<std::uint32_t>(((block >> 32) % 256) + stream * 256 + ((counter >> 32) % 65536) * 65536);
  x.word[2] = tensor;
  x.word[3] = static_cast<std::uint32_t>(counter);
  return philox_oracle(x, {{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}});
}

std::vector<float> normals(const RandomStream& stream, std::uint64_t first, std::uint64_t count) {
  std::vector<float> out(count);
  apollo::fill_normals(stream, first, count, out.data());
  return out;
}

std::uint64_t hash_of(const std::vector<float>& values) {
  std::uint64_t hash = 14695981039346656037u;
  for (const float x : values)
    for (int shift = 0; shift < 32; shift += 8)
      hash = (hash ^ ((std::bit_cast<std::uint32_t>(x) >> shift) & 0xffu)) * 1099511628211u;
  return hash;
}

bool same_bits(const float* a, const float* b, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i)
    if (std::bit_cast<std::uint32_t>(a[i]) != std::bit_cast<std::uint32_t>(b[i])) return false;
  return true;
}

const RandomStream reference_stream{0x0123456789abcdefu, apollo::tensor_id("layers.0.attention.wq"), Stream::projection,
                                    3};

}  // namespace

TEST_CASE("Philox4x32-10 gives the three published answers") {
  const auto run = [](PhiloxCounter counter, PhiloxKey key) { return apollo::philox(counter, key); };
  CHECK(run({{0, 0, 0, 0}}, {{0, 0}}) == PhiloxCounter{{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}});
  CHECK(run({{0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu}}, {{0xffffffffu, 0xffffffffu}}) ==
        PhiloxCounter{{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}});
  CHECK(run({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, {{0xa4093822u, 0x299f31d0u}}) ==
        PhiloxCounter{{0xd16cfe09u, 0x94fdcceb, 0x5001e420u, 0x24126ea1u}});
  static_assert(apollo::philox(PhiloxCounter{}, PhiloxKey{}).word[0] == 0x6627e8d5u);
}

TEST_CASE("Philox in lanes equals Philox alone") {
  std::uint32_t words[4][16];
  for (std::uint32_t k = 0; k < 4; ++k)
    for (std::uint32_t i = 0; i < 16; ++i) words[k][i] = static_cast<std::uint32_t>(support::mix(16 * k + i));
  std::uint32_t lanes[4][16];
  for (int k = 0; k < 4; ++k)
    for (int i = 0; i < 16; ++i) lanes[k][i] = words[k][i];
  apollo::philox<16>(lanes, {{7, 9}});
  for (int i = 0; i < 16; ++i) {
    const PhiloxCounter alone = philox_oracle({{words[0][i], words[1][i], words[2][i], words[3][i]}}, {{7, 9}});
    CHECK(alone == PhiloxCounter{{lanes[0][i], lanes[1][i], lanes[2][i], lanes[3][i]}});
  }
}

TEST_CASE("the layout of seed, tensor, stream, counter and block is frozen") {
  int wrong = 0;
  for (const std::uint64_t seed : {0ull, 1ull, 0xffffffffull, 0x100000000ull, 0xfedcba9876543210ull})
    for (const std::uint64_t counter : {0ull, 1ull, 0xffffffffull, 0x100000000ull, 0xffffffffffffull})
      for (const std::uint64_t block : {0ull, 1ull, 0xffffffffull, 0x100000000ull, 0xffffffffffull})
        for (std::uint32_t stream = 0; stream < 7; ++stream) {
          const RandomStream random{seed, 0xdeadbeefu, static_cast<Stream>(stream), counter};
          wrong += !(random.block(block) == block_oracle(seed, 0xdeadbeefu, stream, counter, block));
        }
  CHECK(wrong == 0);
  CHECK(static_cast<int>(Stream::projection) == 0);
  CHECK(static_cast<int>(Stream::hash) == 1);
  CHECK(static_cast<int>(Stream::signs) == 2);
  CHECK(static_cast<int>(Stream::round_weight) == 3);
  CHECK(static_cast<int>(Stream::round_moments) == 4);
}

TEST_CASE("words and bits are those of the blocks") {
  int wrong = 0;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    wrong += reference_stream.word(i) != reference_stream.block(i / 4).word[i % 4];
    wrong += reference_stream.bit(i) != (((reference_stream.word(i / 32) >> (i % 32)) & 1u) == 1u);
  }
  CHECK(wrong == 0);
}

TEST_CASE("tensor ids are 32-bit FNV-1a of the name") {
  CHECK(apollo::tensor_id("") == 0x811c9dc5u);
  CHECK(apollo::tensor_id("a") == 0xe40c292cu);
  CHECK(apollo::tensor_id("foobar") == 0xbf9cf968u);
  CHECK(apollo::tensor_id("\xff") != apollo::tensor_id("\x7f"));
}

TEST_CASE("no two of seed, tensor, stream, counter and block share a position") {
  std::set<std::tuple<std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t>> seen;
  std::size_t all = 0;
  for (const std::uint64_t seed : {0ull, 1ull, 2ull, 1ull << 32, 1ull << 63})
    for (const std::uint32_t tensor : {0u, 1u, 0x80000000u})
      for (std::uint32_t stream = 0; stream < 7; ++stream)
        for (const std::uint64_t counter : {0ull, 1ull, 256ull, 1ull << 32, 1ull << 40, 1ull << 47})
          for (const std::uint64_t block : {0ull, 1ull, 256ull, 1ull << 32, 1ull << 39}) {
            const RandomStream random{seed, tensor, static_cast<Stream>(stream), counter};
            const PhiloxCounter x = random.position(block);
            const PhiloxKey key = random.key();
            seen.insert({key.word[0], key.word[1], x.word[0], x.word[1], x.word[2], x.word[3]});
            ++all;
          }
  CHECK(seen.size() == all);
}

TEST_CASE("normals are Box-Muller of their words") {
  const std::uint64_t count = 1u << 14;
  const auto got = normals(reference_stream, 0, count);
  double worst = 0;
  for (std::uint64_t i = 0; i < count; i += 2) {
    const std::uint32_t radius_bits = reference_stream.word(i), turn = reference_stream.word(i + 1);
    const float uniform = std::fma(static_cast<float>(radius_bits >> 1), 0x1p-31f, 0x1p-32f);
    const double radius = std::sqrt(-2 * std::log(static_cast<double>(uniform)));
    const double angle = 2 * 3.14159265358979323846 * std::ldexp(static_cast<double>(turn), -32);
    const double error[] = {static_cast<double>(got[i]) - radius * std::cos(angle),
                            static_cast<double>(got[i + 1]) - radius * std::sin(angle)};
    for (const double e : error) worst = std::fabs(e) > worst ? std::fabs(e) : worst;
  }
  CHECK(worst < 2e-6);
}

TEST_CASE("normals are frozen, bit by bit, under all flags") {
  const auto values = normals(reference_stream, 0, 1u << 16);
  CHECK(hash_of(values) == 624414754621002843u);
  std::vector<float> portable(values.size());
  apollo::normal::fill_portable(reference_stream, 0, values.size(), portable.data());
  CHECK(same_bits(values.data(), portable.data(), values.size()));
}

TEST_CASE("a fill does not depend on where it starts or how it is cut") {
  const std::uint64_t base = (std::uint64_t{1} << 34) - 700;  // passes block 2^32
  for (const std::uint64_t origin : {std::uint64_t{0}, base}) {
    const std::uint64_t count = 1400;
    const auto whole = normals(reference_stream, origin, count);
    for (std::uint64_t trial = 0; trial < 300; ++trial) {
      const std::uint64_t first = support::mix(2 * trial) % count;
      const std::uint64_t length = support::mix(2 * trial + 1) % (count - first + 1);
      const auto part = normals(reference_stream, origin + first, length);
      REQUIRE(same_bits(part.data(), whole.data() + first, length));
    }
    for (std::uint64_t i = 0; i < 200; ++i)
      REQUIRE(same_bits(normals(reference_stream, origin + i, 1).data(), whole.data() + i, 1));
  }
}

TEST_CASE("a fill of nothing writes nothing and one of n writes n") {
  std::vector<float> out(70, -9.0f);
  apollo::fill_normals(reference_stream, 5, 0, out.data());
  CHECK(out[0] == -9.0f);
  for (std::uint64_t n = 1; n < 69; ++n) {
    out.assign(70, -9.0f);
    apollo::fill_normals(reference_stream, 3, n, out.data());
    REQUIRE(out[n] == -9.0f);
    REQUIRE(out[n - 1] != -9.0f);
  }
}

TEST_CASE("normals have the moments and the distribution of normals") {
  const std::uint64_t count = 1u << 20;
  const auto values = normals(reference_stream, 0, count);
  const auto n = static_cast<double>(count);
  double sum[5] = {}, largest = 0;
  for (const float v : values) {
    double power = 1;
    for (double& s : sum) s += power, power *= static_cast<double>(v);
    largest = std::fabs(static_cast<double>(v)) > largest ? std::fabs(static_cast<double>(v)) : largest;
  }
  // Five standard errors each.
  CHECK(std::fabs(sum[1] / n) <= 5 / std::sqrt(n));
  CHECK(std::fabs(sum[2] / n - 1) <= 5 * std::sqrt(2 / n));
  CHECK(std::fabs(sum[3] / n) <= 5 * std::sqrt(15 / n));
  CHECK(std::fabs(sum[4] / n - 3) <= 5 * std::sqrt(96 / n));
  CHECK(largest <= 6.67);
  CHECK(largest >= 4);

  double worst = 0;  // Kolmogorov's distance at a hundred points
  for (int k = -50; k <= 50; ++k) {
    const double x = 0.1 * k;
    std::uint64_t below = 0;
    for (const float v : values) below += static_cast<double>(v) <= x;
    const double gap = std::fabs(static_cast<double>(below) / n - 0.5 * std::erfc(-x / std::sqrt(2.0)));
    worst = gap > worst ? gap : worst;
  }
  CHECK(worst <= 2 / std::sqrt(n));
}

TEST_CASE("neighbours, squares of neighbours and streams do not correlate") {
  const std::uint64_t count = 1u << 19;
  const auto n = static_cast<double>(count);
  const auto base = normals(reference_stream, 0, count + 64);
  for (const std::uint64_t lag : {1u, 2u, 3u, 4u, 5u, 8u, 16u, 64u}) {
    double plain = 0, squares = 0;
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto a = static_cast<double>(base[i]), b = static_cast<double>(base[i + lag]);
      plain += a * b;
      squares += (a * a - 1) * (b * b - 1);
    }
    CHECK(std::fabs(plain / n) <= 5 / std::sqrt(n));
    CHECK(std::fabs(squares / n) <= 5 * 2 / std::sqrt(n));
  }
  RandomStream others[5] = {reference_stream, reference_stream, reference_stream, reference_stream, reference_stream};
  others[0].seed += 1;
  others[1].tensor += 1;
  others[2].stream = Stream::start;
  others[3].counter += 1;
  others[4].seed += std::uint64_t{1} << 32;
  for (const RandomStream& other : others) {
    const auto values = normals(other, 0, count);
    double plain = 0;
    for (std::uint64_t i = 0; i < count; ++i) plain += static_cast<double>(base[i]) * static_cast<double>(values[i]);
    CHECK(std::fabs(plain / n) <= 5 / std::sqrt(n));
  }
}

TEST_CASE("a Gaussian sketch is normal number s r + k over sqrt(r), in whatever pieces it is drawn") {
  const Index rank = 7, removed = 301;
  const auto values = normals(reference_stream, 0, static_cast<std::uint64_t>(rank * removed));
  std::vector<float> whole(values.size());
  apollo::draw(apollo::Gaussian{}, reference_stream, rank, removed, 0, removed, whole.data());
  double worst = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double gap = std::fabs(static_cast<double>(whole[i]) - static_cast<double>(values[i]) / std::sqrt(7.0));
    worst = gap > worst ? gap : worst;
  }
  CHECK(worst <= 1e-6);
  for (const Index first : {0, 1, 73, 150, 300}) {
    std::vector<float> part(static_cast<std::size_t>(rank * (removed - first)));
    apollo::draw(apollo::Gaussian{}, reference_stream, rank, removed, first, removed - first, part.data());
    CHECK(same_bits(part.data(), whole.data() + rank * first, part.size()));
  }
}

TEST_CASE("a Rademacher sketch is balanced signs over sqrt(r), in whatever pieces it is drawn") {
  const Index rank = 5, removed = 40001;
  std::vector<float> whole(static_cast<std::size_t>(rank * removed));
  apollo::draw(apollo::Rademacher{}, reference_stream, rank, removed, 0, removed, whole.data());
  int wrong = 0;
  double sum = 0;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    const double expected = (reference_stream.bit(i) ? -1 : 1) / std::sqrt(5.0);
    wrong += !(std::fabs(static_cast<double>(whole[i]) - expected) <= 1e-7);
    sum += static_cast<double>(whole[i]) * std::sqrt(5.0);
  }
  CHECK(wrong == 0);
  CHECK(std::fabs(sum) <= 5 * std::sqrt(static_cast<double>(whole.size())));
  for (const Index first : {1, 24, 26, 127, 128, 40000}) {
    const Index count = removed - first < 300 ? removed - first : 300;
    std::vector<float> part(static_cast<std::size_t>(rank * count));
    apollo::draw(apollo::Rademacher{}, reference_stream, rank, removed, first, count, part.data());
    CHECK(same_bits(part.data(), whole.data() + rank * first, part.size()));
  }
}

TEST_CASE("sparse tables: distinct and balanced buckets, lanes, and signs from their stream") {
  struct Case {
    Index rank, removed;
    int nonzeros;
  };
  for (const Case& c :
       {Case{8, 64, 1}, Case{8, 61, 1}, Case{64, 1000, 1}, Case{256, 4096, 1}, Case{256, 11008, 1}, Case{16, 100, 2},
        Case{48, 999, 3}, Case{10, 100, 1}, Case{10, 101, 3}, Case{12, 100, 2}, Case{1, 50, 1}, Case{2, 2, 2},
        Case{3, 7, 3}, Case{128, 128, 4}, Case{7, 7, 1}, Case{24, 25, 1}}) {
    CAPTURE(c.rank);
    CAPTURE(c.removed);
    CAPTURE(c.nonzeros);
    const bool eights = c.rank % (8 * c.nonzeros) == 0;
    const Index map_size = apollo::sparse_map_size(c.rank, c.removed, c.nonzeros);
    std::vector<std::int32_t> bucket(static_cast<std::size_t>(c.nonzeros * map_size) + 1, -5);
    std::vector<std::uint32_t> sign(static_cast<std::size_t>(c.nonzeros * c.removed) + 1, 5u);
    const auto d = apollo::draw_sparse(reference_stream, c.rank, c.removed, c.nonzeros, bucket.data(), sign.data());
    REQUIRE(bucket.back() == -5);  // no table is overrun
    REQUIRE(sign.back() == 5u);
    REQUIRE(d.lanes == (eights ? 8 : 1));
    REQUIRE(d.rank == c.rank);
    REQUIRE(d.removed == c.removed);
    REQUIRE(d.nonzeros == c.nonzeros);
    const Index groups = (c.removed + d.lanes - 1) / d.lanes;
    int outside = 0, repeated = 0, misplaced = 0, wrong_sign = 0;
    RandomStream signs = reference_stream;
    signs.stream = Stream::signs;
    for (Index h = 0; h < c.nonzeros; ++h) {
      std::vector<Index> hits(static_cast<std::size_t>(c.rank), 0);
      const Index first = c.rank * h / c.nonzeros, last = c.rank * (h + 1) / c.nonzeros;
      for (Index q = 0; q < groups; ++q) {
        const Index turned = d.bucket[h * d.map_size + q], to = turned - turned % d.lanes;
        outside += to < first || to + d.lanes > last;  // blocks are disjoint, so that an input's buckets are distinct
        if (to >= 0 && to < c.rank) ++hits[static_cast<std::size_t>(to)];
        // Every bucket is hit once before any is hit twice.
        const Index window = (last - first) / d.lanes;
        if ((q + 1) % window == 0)
          for (Index k = first; k < last; k += d.lanes)
            repeated += hits[static_cast<std::size_t>(k)] != (q + 1) / window;
      }
      for (Index k = first; k < last; k += d.lanes) {
        const Index least = groups / ((last - first) / d.lanes);
        repeated += hits[static_cast<std::size_t>(k)] < least || hits[static_cast<std::size_t>(k)] > least + 1;
      }
      for (Index s = 0; s < c.removed; ++s) {
        const Index turned = d.bucket[h * d.map_size + s / d.lanes], place = s % d.lanes;
        misplaced += d.bucket_of(static_cast<int>(h), s) != turned - turned % d.lanes + (turned % d.lanes ^ place);
        const auto number = static_cast<std::uint64_t>(h * c.removed + s);
        wrong_sign += d.sign[number] != (signs.bit(number) ? 0x80000000u : 0u);
      }
    }
    CHECK(outside == 0);
    CHECK(repeated == 0);
    CHECK(misplaced == 0);
    CHECK(wrong_sign == 0);
  }
}

TEST_CASE("sparse maps: two inputs meet in a bucket once in r times at most, also where both are the same of eight") {
  for (const Index rank : {8, 64}) {
    CAPTURE(rank);
    const Index removed = 512;
    std::vector<std::int32_t> bucket(static_cast<std::size_t>(apollo::sparse_map_size(rank, removed, 1)));
    std::vector<std::uint32_t> sign(static_cast<std::size_t>(removed));
    const int trials = 4000;
    double met = 0, met_elsewhere = 0;
    RandomStream stream = reference_stream;
    for (int t = 0; t < trials; ++t) {
      stream.counter = static_cast<std::uint64_t>(t);
      const auto d = apollo::draw_sparse(stream, rank, removed, 1, bucket.data(), sign.data());
      met += d.bucket_of(0, 3) == d.bucket_of(0, 3 + 400);
      met_elsewhere += d.bucket_of(0, 3) == d.bucket_of(0, 6 + 400);
    }
    const double expected = trials / static_cast<double>(rank), spread = 5 * std::sqrt(expected);
    CHECK(std::fabs(met - expected) <= spread);
    CHECK(std::fabs(met_elsewhere - expected) <= spread);
  }
}

TEST_CASE("sparse maps are random: every bucket is as likely, every sign too") {
  const Index rank = 64, removed = 512;
  std::vector<std::int32_t> bucket(static_cast<std::size_t>(apollo::sparse_map_size(rank, removed, 1)));
  std::vector<std::uint32_t> sign(static_cast<std::size_t>(removed));
  std::vector<double> hits(8, 0);
  double negative = 0;
  const int trials = 4000;
  RandomStream stream = reference_stream;
  for (int t = 0; t < trials; ++t) {
    stream.counter = static_cast<std::uint64_t>(t);
    const auto d = apollo::draw_sparse(stream, rank, removed, 1, bucket.data(), sign.data());
    hits[static_cast<std::size_t>(d.bucket[5] / 8)] += 1;
    for (const std::uint32_t s : sign) negative += s != 0;
  }
  for (const double h : hits) CHECK(std::fabs(h - trials / 8.0) <= 5 * std::sqrt(trials * 7.0 / 64));
  const double all = static_cast<double>(trials) * static_cast<double>(removed);
  CHECK(std::fabs(negative - all / 2) <= 5 * std::sqrt(all / 4));
}

TEST_CASE("sparse tables follow their stated shuffle") {
  const Index rank = 24, removed = 130, nonzeros = 1, lanes = 8;
  std::vector<std::int32_t> bucket(static_cast<std::size_t>(apollo::sparse_map_size(rank, removed, 1)));
  std::vector<std::uint32_t> sign(static_cast<std::size_t>(removed));
  const auto d =
      apollo::draw_sparse(reference_stream, rank, removed, static_cast<int>(nonzeros), bucket.data(), sign.data());
  RandomStream hash = reference_stream;
  hash.stream = Stream::hash;
  const Index buckets = rank / lanes, groups = (removed + lanes - 1) / lanes;
  int wrong = 0, turns = 0;
  for (Index window = 0; window < groups; window += buckets) {
    std::vector<Index> order;  // group of buckets and turn
    for (Index i = 0; i < buckets;
         ++i) {  // number i is put somewhere among the first i + 1, whose place it takes goes last
      const std::uint64_t word = hash.word(static_cast<std::uint64_t>(window + i));
      const double u = std::ldexp(static_cast<double>(word), -32);
      const auto pick = static_cast<std::size_t>(u * static_cast<double>(i + 1));
      order.push_back(0);
      order.back() = order[pick];
      order[pick] = lanes * i + static_cast<Index>(word % 8);
    }
    for (Index i = 0; i < buckets && window + i < groups; ++i) {
      wrong += d.bucket[window + i] != order[static_cast<std::size_t>(i)];
      turns += d.bucket[window + i] % lanes != 0;
    }
  }
  CHECK(wrong == 0);
  CHECK(turns > 0);
}

TEST_CASE_TEMPLATE("a sketch keeps squared norms and inner products on average", Sketch, apollo::Gaussian,
                   apollo::Rademacher, apollo::SparseSign, apollo::SparseSigns<2>, apollo::SparseSigns<3>) {
  for (const apollo::Shape shape : {apollo::Shape{8, 40}, {6, 33}, {3, 3}, {16, 16}, {48, 100}}) {
    const Index rank = shape.rows, removed = shape.cols;
    CAPTURE(rank);
    CAPTURE(removed);
    const int trials = 4000;
    const auto x = support::gaussian_matrix(1, removed, 11), y = support::gaussian_matrix(1, removed, 12);
    const double xx = support::squared_norm(x), yy = support::squared_norm(y);
    double xy = 0, mean_xx = 0, mean_xy = 0;
    for (Index s = 0; s < removed; ++s) xy += x(0, s) * y(0, s);
    RandomStream stream = reference_stream;
    for (int t = 0; t < trials; ++t) {
      stream.counter = static_cast<std::uint64_t>(t);
      const auto p = support::directions<Sketch>(stream, rank, removed);
      for (Index k = 0; k < rank; ++k) {
        double rx = 0, ry = 0;
        for (Index s = 0; s < removed; ++s) rx += p(k, s) * x(0, s), ry += p(k, s) * y(0, s);
        mean_xx += rx * rx / trials;
        mean_xy += rx * ry / trials;
      }
    }
    // |R|^2 has at most the variance 2 |x|^4 / r of the Gaussian sketch; five standard errors.
    const double spread = 5 * std::sqrt(2.0 / (static_cast<double>(rank) * trials));
    CHECK(std::fabs(mean_xx - xx) <= spread * xx);
    CHECK(std::fabs(mean_xy - xy) <= spread * std::sqrt(xx * yy));
  }
}

TEST_CASE("another refresh index is another sketch, and the entries of one have variance 1/r") {
  const Index rank = 16, removed = 2000;
  const auto n = static_cast<double>(rank * removed);
  RandomStream stream = reference_stream;
  const auto p = support::directions<apollo::Gaussian>(stream, rank, removed);
  stream.counter += 1;
  const auto q = support::directions<apollo::Gaussian>(stream, rank, removed);
  double together = 0;
  for (std::size_t i = 0; i < p.values.size(); ++i) together += p.values[i] * q.values[i] * static_cast<double>(rank);
  CHECK(std::fabs(together / n) <= 5 / std::sqrt(n));
  CHECK(std::fabs(support::squared_norm(p) / static_cast<double>(removed) - 1) <= 5 * std::sqrt(2 / n));
}
