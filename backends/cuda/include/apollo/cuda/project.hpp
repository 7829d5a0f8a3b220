// SPDX-License-Identifier: Apache-2.0
// Kernels that draw a random projection and take R = X P^T with the squared norms of X's channels in one read of G. Two for each
// kind: along a channel's memory, and across it, where channels lie adjacent to each other.
#pragma once

#include <apollo/cuda/directions.hpp>

namespace apollo::cuda {

APOLLO_HD inline RandomStream projection_stream(const Entry& entry, const Progress& progress) {
  const TensorSetup& setup = entry.setup;
  return {setup.settings.seed, setup.id, Stream::projection,
          static_cast<std::uint64_t>(setup.refresh_index(progress.record.steps))};
}
/// Of the projection before this step's, once the step is counted.
APOLLO_HD inline RandomStream old_projection_stream(const Entry& entry, const Progress& progress) {
  const TensorSetup& setup = entry.setup;
  return {setup.settings.seed, setup.id, Stream::projection,
          static_cast<std::uint64_t>(setup.refresh_index(progress.record.steps - 1) - 1)};
}
/// Of R as it is projected; clipping comes when R is read, since the global norm is known by then.
APOLLO_HD inline float gradient_factor(const Entry& entry) { return static_cast<float>(entry.input->gradient_factor); }

/// Value number `at` of R as a step takes it: of all parts, clipped, and with what was summed before.
APOLLO_HD inline float r_to_step(const Entry& entry, const Progress& progress, Index at) {
  float r = 0;
  if (entry.gradient != nullptr)
    for (Index part = 0; part < entry.parts; ++part) r += entry.r[part * entry.setup.plan.moment_size() + at];
  r *= progress.clip;
  return progress.carries != 0 ? r + entry.sum[at] : r;
}

constexpr Index ceil_divide(Index a, Index b) { return (a + b - 1) / b; }

// --- dense ----------------------------------------------------------------------------------------------------------------

/// Draws part `part` of P of a dense sketch, row k being direction k. Four numbers a thread: as they follow each other in the
/// stream or, of subsampled transforms, of one direction.
template <class Sketch>
struct DenseDraw {
  static constexpr Index a_part = 4 * threads;
  static constexpr bool transforms =
      std::is_same_v<Sketch, HadamardTransform> || std::is_same_v<Sketch, CosineTransform>;

  static Index parts(const Plan& plan) {
    return transforms ? ceil_divide(plan.rank * ceil_divide(plan.removed, 4), threads)
                      : ceil_divide(plan.rank * plan.removed, a_part);
  }

  APOLLO_HD static void run(const Plan& plan, const RandomStream& stream, Index part, int t, float* directions) {
    if constexpr (transforms)
      transform(plan, stream, part * threads + t, directions);
    else
      follow(plan, stream, part * a_part + 4 * t, directions);
  }

 private:
  APOLLO_HD static void follow(const Plan& plan, const RandomStream& stream, Index first, float* directions) {
    const float spread = normal::divide(1.0f, static_cast<float>(__builtin_sqrt(static_cast<double>(plan.rank))));
    float four[4];
    if (first >= plan.rank * plan.removed) return;
    draw(Sketch{}, stream, static_cast<std::uint64_t>(first), four);
    for (int i = 0; i < 4; ++i) {
      const Index number = first + i, s = number / plan.rank, k = number - s * plan.rank;
      if (s < plan.removed) directions[k * plan.removed + s] = spread * four[i];
    }
  }
  APOLLO_HD static void draw(Gaussian, const RandomStream& stream, std::uint64_t first, float* four) {
    normal::one_block(stream, first >> 2, four);
  }
  APOLLO_HD static void draw(Rademacher, const RandomStream& stream, std::uint64_t first, float* four) {
    for (int i = 0; i < 4; ++i) four[i] = stream.bit(first + static_cast<std::uint64_t>(i)) ? -1.0f : 1.0f;
  }

  APOLLO_HD static void transform(const Plan& plan, RandomStream stream, Index quad, float* directions) {
    const Index quads = (plan.removed + 3) / 4, k = quad / quads, first = 4 * (quad - k * quads);
    if (k >= plan.rank) return;
    float four[4];
    entries(Sketch{}, stream, plan, k, first, four);
    stream.stream = Stream::signs;
    const std::uint32_t signs = stream.word(static_cast<std::uint64_t>(first) >> 5) >> (first & 31);
    for (int i = 0; i < 4 && first + i < plan.removed; ++i)
      directions[k * plan.removed + first + i] = ((signs >> i) & 1u) != 0 ? -four[i] : four[i];
  }
  APOLLO_HD static void entries(HadamardTransform, const RandomStream& stream, const Plan& plan, Index k, Index first,
                                float* four) {
    const HadamardDirection direction(stream, k, plan.rank, plan.removed);
    const auto entry = static_cast<float>(direction.size);
    for (int i = 0; i < 4; ++i) four[i] = direction.negative(first + i) ? -entry : entry;
  }
  APOLLO_HD static void entries(CosineTransform, const RandomStream& stream, const Plan& plan, Index k, Index first,
                                float* four) {
    const CosineDirection direction(stream, k, plan.rank, plan.removed);
    const auto entry = static_cast<float>(direction.size);
    for (int i = 0; i < 4; ++i) {
      float cosine = 0, sine = 0;
      normal::cos_sin(direction.turn(first + i), cosine, sine, true);
      four[i] = entry * cosine;
    }
  }
};

template <class Sketch>
struct DrawDense {
  static constexpr const char* kernel = "DrawDense";
  struct Shared {
    char none;
  };
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    const Entry& entry = tables.entry(context.block());
    const Index part = tables.number(context.block());
    const RandomStream stream = projection_stream(entry, tables.progress_of(context.block()));
    context.last([&](int t) { DenseDraw<Sketch>::run(entry.setup.plan, stream, part, t, entry.directions); });
  }
};

/// Sums are in double: a channel's R may be small beside what it is the sum of, and its scale divides by it.
/// Directions that a block takes in one read of its part of G; a larger rank reads G again for each so many.
inline constexpr int ranks_at_once = 4;

/// A warp for each channel, eight a block.
template <class G, class Directions = PlainDirections>
struct ProjectDenseAlong {
  static constexpr const char* kernel = "ProjectDenseAlong";
  static constexpr int channels = threads / warp;
  struct Shared {
    double square[channels][warp];
    double part[channels][ranks_at_once][warp];
  };
  Tables tables;

  static Index parts(const Plan& plan) {
    return ceil_divide(plan.kept, channels) * ceil_divide(plan.rank, ranks_at_once);
  }

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    if (Directions::steps ? tables.progress_of(context.block()).active == 0 : tables.idle(context.block())) return;
    const Plan& plan = entry.setup.plan;
    const Index tiles = (plan.kept + channels - 1) / channels;
    const Index pass = tables.number(context.block()) / tiles;
    const Index first = (tables.number(context.block()) - pass * tiles) * channels;
    const Index rank = pass * ranks_at_once;
    const int ranks = static_cast<int>(min_of(plan.rank - rank, Index{ranks_at_once}));
    const bool aligned = entry.aligned && plan.removed % 8 == 0;
    context.phase([&](int t) {
      constexpr int size = 4;  // eight, 16 bytes of bfloat16, would need more registers than there are
      const Index j = first + t / warp;
      if (j >= plan.kept) return;
      const auto* x = static_cast<const G*>(entry.gradient) + j * plan.removed;
      double sum[ranks_at_once] = {};
      double square = 0;
      for (Index s = t % warp * size; s < plan.removed; s += warp * size) {
        const int left = static_cast<int>(min_of(plan.removed - s, Index{size}));
        float value[size];
        read<size>(x + s, aligned, left, value);
        for (int i = 0; i < size; ++i) square += static_cast<double>(value[i]) * static_cast<double>(value[i]);
        for (int k = 0; k < ranks_at_once; ++k)
          if (k < ranks) {
            float p[size];
            Directions::template read<size>(entry, rank + k, s, aligned, left, p);
            for (int i = 0; i < size; ++i) sum[k] += static_cast<double>(value[i]) * static_cast<double>(p[i]);
          }
      }
      shared.square[t / warp][t % warp] = square;
      for (int k = 0; k < ranks_at_once; ++k) shared.part[t / warp][k][t % warp] = sum[k];
    });
    context.last([&](int t) {
      const Index j = first + t % channels;
      const int k = t / channels;
      if (j >= plan.kept) return;
      if (k < ranks) {
        double sum = 0;
        for (int i = 0; i < warp; ++i) sum += shared.part[t % channels][k][i];
        entry.r[j * plan.rank + rank + k] = gradient_factor(entry) * static_cast<float>(sum);
      }
      if (k == ranks_at_once && pass == 0) {
        double sum = 0;
        for (int i = 0; i < warp; ++i) sum += shared.square[t % channels][i];
        entry.x_norms[j] = sum;
      }
    });
  }
};

/// A thread for each channel, and a block for each 256 of the removed side: so many parts of R.
template <class G, class Directions = PlainDirections>
struct ProjectDenseAcross {
  static constexpr const char* kernel = "ProjectDenseAcross";
  static constexpr Index inputs = 256;
  struct Shared {
    char none;
  };
  Tables tables;

  static Index parts_of_r(const Plan& plan) { return ceil_divide(plan.removed, inputs); }
  static Index parts(const Plan& plan) {
    return ceil_divide(plan.kept, threads) * parts_of_r(plan) * ceil_divide(plan.rank, ranks_at_once);
  }

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    const Entry& entry = tables.entry(context.block());
    if (Directions::steps ? tables.progress_of(context.block()).active == 0 : tables.idle(context.block())) return;
    const Plan& plan = entry.setup.plan;
    const Index tiles = (plan.kept + threads - 1) / threads;
    const Index number = tables.number(context.block());
    const Index rest = number / tiles, channel = (number - rest * tiles) * threads;
    const Index pass = rest / entry.parts, part = rest - pass * entry.parts;
    const Index rank = pass * ranks_at_once;
    const int ranks = static_cast<int>(min_of(plan.rank - rank, Index{ranks_at_once}));
    const Index begin = part * inputs, end = min_of(begin + inputs, plan.removed);
    context.last([&](int t) {
      const Index j = channel + t;
      if (j >= plan.kept) return;
      const auto* x = static_cast<const G*>(entry.gradient) + j;
      double sum[ranks_at_once] = {};
      double square = 0;
      for (Index s = begin; s < end; ++s) {
        const auto value = static_cast<float>(x[s * plan.kept]);
        square += static_cast<double>(value) * static_cast<double>(value);
        for (int k = 0; k < ranks_at_once; ++k)
          if (k < ranks) sum[k] += static_cast<double>(value) * static_cast<double>(Directions::at(entry, rank + k, s));
      }
      float* r = entry.r + part * plan.moment_size() + j * plan.rank + rank;
      for (int k = 0; k < ranks_at_once; ++k)
        if (k < ranks) r[k] = gradient_factor(entry) * static_cast<float>(sum[k]);
      if (pass == 0) entry.x_norms[part * plan.kept + j] = square;
    });
  }
};

// --- sparse signs ---------------------------------------------------------------------------------------------------------

/// How the inputs of a sparse projection come: in windows of `rank`, each of which gives every bucket one, see draw_sparse.
struct SparseTable {
  int lanes = 1;
  Index buckets = 0;  ///< groups of buckets
  Index groups = 0;   ///< of inputs
  Index windows = 0;

  APOLLO_HD explicit SparseTable(const Plan& plan)
      : lanes(sparse_lanes(plan.rank, 1)),
        buckets(plan.rank / lanes),
        groups(sparse_groups(plan.removed, lanes)),
        windows((groups + buckets - 1) / buckets) {}
  APOLLO_HD Index size() const { return windows * buckets; }

  /// The input that bucket k takes in a window; negative, or not below `removed`, where it takes none.
  APOLLO_HD Index input(const std::int32_t* inputs, Index window, Index k) const {
    const std::int32_t group = inputs[window * buckets + k / lanes];
    return group < 0 ? group : group ^ static_cast<std::int32_t>(k & (lanes - 1));
  }
  /// The bucket of input s.
  APOLLO_HD Index bucket(const std::int32_t* map, Index s) const {
    return map[s / lanes] ^ static_cast<std::int32_t>(s & (lanes - 1));
  }
};

APOLLO_INLINE float signed_value(float value, const std::uint32_t* signs, Index s) {
  return ((signs[s >> 5] >> (s & 31)) & 1u) != 0 ? -value : value;
}

/// Draws the map of a sparse projection, a thread for each window, and its signs. `window_done(window)` follows each window.
template <class WindowDone>
APOLLO_HD void draw_sparse_tables(const Plan& plan, const RandomStream& stream, int t, std::int32_t* map,
                                  std::uint32_t* signs, WindowDone&& window_done) {
  const SparseTable table(plan);
  RandomStream hash = stream, sign = stream;
  hash.stream = Stream::hash;
  sign.stream = Stream::signs;
  for (Index window = t; window < table.windows; window += threads) {
    const Index first = window * table.buckets;
    draw_sparse_window(hash, static_cast<std::uint64_t>(first), table.buckets, 0, table.lanes, map + first);
    window_done(table, first);
  }
  for (Index word = t; 32 * word < plan.removed; word += threads)
    signs[word] = sign.word(static_cast<std::uint64_t>(word));
}

/// One block a tensor.
struct DrawSparse {
  static constexpr const char* kernel = "DrawSparse";
  struct Shared {
    char none;
  };
  Tables tables;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    const Entry& entry = tables.entry(context.block());
    const RandomStream stream = projection_stream(entry, tables.progress_of(context.block()));
    context.last([&](int t) {
      draw_sparse_tables(entry.setup.plan, stream, t, entry.map, entry.signs,
                         [&](const SparseTable& table, Index first) {
                           for (Index i = 0; i < table.buckets; ++i) {
                             const std::int32_t bucket = entry.map[first + i], turn = bucket & (table.lanes - 1);
                             const auto input = static_cast<std::int32_t>((first + i) * table.lanes) | turn;
                             entry.inputs[first + bucket / table.lanes] = first + i < table.groups ? input : -1;
                           }
                         });
    });
  }
};

/// Channels of a tile of R, and which of their values are a thread's: `values` of them, value u at channel(u), bucket(u).
struct RankTile {
  static constexpr int values = 8;
  static constexpr int most = values * threads;  ///< values of a tile, so the largest rank there can be
  int rank = 0;
  int at_once = 1;  ///< channels that threads take side by side
  int channels = 1;

  APOLLO_HD explicit RankTile(Index all_ranks)
      : rank(static_cast<int>(all_ranks)),
        at_once(rank <= threads ? threads / rank : 1),
        channels(rank <= threads ? values * at_once : 1) {}

  /// Calls body(u, channel, bucket) for the values of thread t that are of the first `count` channels.
  template <class Body>
  APOLLO_INLINE void over(int t, int count, Body&& body) const {
    if (rank <= threads) {
      const int channel = t / rank, bucket = t - channel * rank;
      if (channel < at_once)
        for (int u = 0; u < values; ++u)
          if (channel + u * at_once < count) body(u, channel + u * at_once, bucket);
    } else {
      for (int u = 0; u < values; ++u)
        if (t + u * threads < rank) body(u, 0, t + u * threads);
    }
  }
  /// Half of the next power of two: with what a sum over buckets by halves begins.
  APOLLO_HD int half() const {
    int power = 1;
    while (power < rank) power *= 2;
    return power / 2;
  }
};

/// Sums over the buckets of every channel, by halves; left where bucket 0 is. `arrays` tiles of values lie behind each other.
template <int arrays, class Context>
APOLLO_HD void sum_buckets(const Context& context, const RankTile& tile, int count, double* values) {
  for (int half = tile.half(); half > 0; half /= 2)
    context.phase([&](int t) {
      tile.over(t, count, [&](int, int channel, int bucket) {
        if (bucket >= half || bucket + half >= tile.rank) return;
        double* value = values + channel * tile.rank + bucket;
        for (int i = 0; i < arrays; ++i) value[i * RankTile::most] += value[i * RankTile::most + half];
      });
    });
}

/// A tile of channels a block. A window of each is read to shared memory, from where every bucket takes its input: sums come in
/// the reference's order.
template <class G>
struct ProjectSparseAlong {
  static constexpr const char* kernel = "ProjectSparseAlong";
  struct Shared {
    double square[RankTile::most];
    float x[RankTile::most];
  };
  Tables tables;

  static Index parts(const Plan& plan) { return ceil_divide(plan.kept, RankTile(plan.rank).channels); }

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    if (tables.idle(context.block())) return;
    const Plan& plan = entry.setup.plan;
    const SparseTable table(plan);
    const RankTile tile(plan.rank);
    const int rank = tile.rank;
    const Index first = tables.number(context.block()) * tile.channels;
    const int count = static_cast<int>(min_of(plan.kept - first, Index{tile.channels}));
    const auto* x = static_cast<const G*>(entry.gradient) + first * plan.removed;
    struct Sums {
      float of[RankTile::values];
    };
    typename Context::template Each<Sums> sums;
    for (Index window = 0; window < table.windows; ++window) {
      const Index begin = window * rank;
      context.phase([&](int t) {
        tile.over(t, count, [&](int, int channel, int bucket) {
          const Index s = begin + bucket;
          const float value = s < plan.removed ? static_cast<float>(x[channel * plan.removed + s]) : 0.0f;
          const int at = channel * rank + bucket;
          const double before = window == 0 ? 0 : shared.square[at];
          shared.x[at] = value;
          shared.square[at] = before + static_cast<double>(value) * static_cast<double>(value);
        });
      });
      context.phase([&](int t) {
        tile.over(t, count, [&](int u, int channel, int bucket) {
          const Index s = table.input(entry.inputs, window, bucket);
          if (s >= 0 && s < plan.removed)
            sums[t].of[u] += signed_value(shared.x[channel * rank + (s - begin)], entry.signs, s);
        });
      });
    }
    context.phase([&](int t) {
      tile.over(t, count, [&](int u, int channel, int bucket) {
        entry.r[(first + channel) * rank + bucket] = sums[t].of[u] * gradient_factor(entry);
      });
    });
    sum_buckets<1>(context, tile, count, shared.square);
    context.last([&](int t) {
      for (int channel = t; channel < count; channel += threads)
        entry.x_norms[first + channel] = shared.square[channel * rank];
    });
  }
};

/// A thread for each channel, and a block for each 16 buckets: each reads the lines that go to them, so all lines are read once.
template <class G>
struct ProjectSparseAcross {
  static constexpr const char* kernel = "ProjectSparseAcross";
  static constexpr int buckets = 16;
  struct Shared {
    float sum[buckets][threads + 1];
  };
  Tables tables;

  static Index parts_of_norms(const Plan& plan) { return ceil_divide(plan.rank, buckets); }
  static Index parts(const Plan& plan) { return ceil_divide(plan.kept, threads) * parts_of_norms(plan); }

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Entry& entry = tables.entry(context.block());
    if (tables.idle(context.block())) return;
    const Plan& plan = entry.setup.plan;
    const SparseTable table(plan);
    const Index tiles = (plan.kept + threads - 1) / threads;
    const Index part = tables.number(context.block()) / tiles;
    const Index channel = (tables.number(context.block()) - part * tiles) * threads;
    const Index first = part * buckets;
    const int count = static_cast<int>(min_of(plan.rank - first, Index{buckets}));
    context.phase([&](int t) {
      const Index j = channel + t;
      if (j >= plan.kept) return;
      const auto* x = static_cast<const G*>(entry.gradient) + j;
      double square = 0;
      for (int b = 0; b < count; ++b) {
        float sum = 0;
        for (Index window = 0; window < table.windows; ++window) {
          const Index s = table.input(entry.inputs, window, first + b);
          if (s < 0 || s >= plan.removed) continue;
          const auto value = static_cast<float>(x[s * plan.kept]);
          sum += signed_value(value, entry.signs, s);
          square += static_cast<double>(value) * static_cast<double>(value);
        }
        shared.sum[b][t] = sum * gradient_factor(entry);
      }
      entry.x_norms[part * plan.kept + j] = square;
    });
    context.last([&](int t) {  // adjacent threads write adjacent buckets
      for (int i = t; i < threads * buckets; i += threads) {
        const int b = i % buckets, at = i / buckets;
        if (b < count && channel + at < plan.kept) entry.r[(channel + at) * plan.rank + first + b] = shared.sum[b][at];
      }
    });
  }
};

}  // namespace apollo::cuda
