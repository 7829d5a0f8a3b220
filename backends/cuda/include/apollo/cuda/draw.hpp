// SPDX-License-Identifier: Apache-2.0
// Kernels that draw a random projection: P of a dense sketch as numbers, a sparse one as tables of inputs and signs.
#pragma once

#include <apollo/cuda/table.hpp>
#include <apollo/policy/projection.hpp>
#include <apollo/random/normal.hpp>

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

}  // namespace apollo::cuda
