// SPDX-License-Identifier: Apache-2.0
// How blocks take R: by tiles of channels, and what of it is put together where it is read.
#pragma once

#include <apollo/cuda/table.hpp>

namespace apollo::cuda {

/// Of R as it is projected; clipping comes when R is read, since the global norm is known by then.
APOLLO_HD inline float gradient_factor(const Entry& entry) { return static_cast<float>(entry.input->gradient_factor); }

/// Value number `at` of R as it was projected: of all parts.
APOLLO_HD inline float projected(const Entry& entry, Index at) {
  return sum_of_parts(entry.r, entry.parts, entry.setup.plan.moment_size(), at);
}
/// The same as a step takes it: clipped, and with what was summed before.
APOLLO_HD inline float r_to_step(const Entry& entry, const Progress& progress, Index at) {
  float r = entry.gradient != nullptr ? projected(entry, at) : 0;
  r *= progress.clip;
  return progress.carries != 0 ? r + entry.sum[at] : r;
}

/// Channels of a tile of R, and which of their values are a thread's: up to `values` of them, see over().
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

}  // namespace apollo::cuda
