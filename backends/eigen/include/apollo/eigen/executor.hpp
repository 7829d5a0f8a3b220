// SPDX-License-Identifier: Apache-2.0
// Who runs the tiles: OpenMP where the program is compiled with it, else one thread, or a pool of the caller's.
#pragma once

#include <atomic>

#include <apollo/base/error.hpp>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace apollo {

/// A caller's thread pool. `run` calls task(argument, lane) once for every lane in [0, lanes), possibly at once, and returns
/// when all have returned. It must not fail, and need not really have `lanes` threads.
struct Executor {
  int lanes = 1;
  void* context = nullptr;
  void (*run)(void* context, int lanes, void (*task)(void* argument, int lane), void* argument) = nullptr;
};

namespace executor {

inline void openmp(void*, int lanes, void (*task)(void* argument, int lane), void* argument) {
#if defined(_OPENMP)
  // Lanes are dealt by hand: LLVM's runtime allocates in every work-sharing loop.
#pragma omp parallel num_threads(lanes)
  for (int lane = omp_get_thread_num(); lane < lanes; lane += omp_get_num_threads()) task(argument, lane);
#else
  for (int lane = 0; lane < lanes; ++lane) task(argument, lane);
#endif
}

inline int default_lanes() {
#if defined(_OPENMP)
  return omp_get_max_threads();
#else
  return 1;
#endif
}

/// Calls body(tile, lane) for every tile. Lane l takes tiles l, l + lanes, ...: which thread computes a tile never shows in
/// its result, since tiles are fixed and share nothing. Allocates nothing. With `step` -1 each lane takes its own tiles in the
/// opposite order, the last of which its cache still has.
template <int step = 1, class Body>
void for_tiles(const Executor& pool, Index tiles, Body&& body) {
  const int lanes = tiles < pool.lanes ? static_cast<int>(tiles) : pool.lanes;
  if (lanes <= 1 || pool.run == nullptr) {
    for (Index tile = 0; tile < tiles; ++tile) body(step > 0 ? tile : tiles - 1 - tile, 0);
    return;
  }
  struct Work {
    Body& body;
    Index tiles;
    int lanes;
  } work{body, tiles, lanes};
  pool.run(
      pool.context, lanes,
      [](void* argument, int lane) {
        const Work& w = *static_cast<Work*>(argument);
        const Index last = lane + (w.tiles - 1 - lane) / w.lanes * w.lanes;
        for (Index tile = lane; tile < w.tiles; tile += w.lanes) w.body(step > 0 ? tile : last - (tile - lane), lane);
      },
      &work);
}

/// Calls body(item, lane) for every item; a lane that is free takes the next. For items that share nothing but what a lane may
/// keep, so that it does not show who took which. Allocates nothing.
template <class Body>
void deal(const Executor& pool, Index items, Body&& body) {
  std::atomic<Index> next{0};
  const auto take = [&](Index, int lane) {
    for (Index item = next++; item < items; item = next++) body(item, lane);
  };
  for_tiles(pool, items < pool.lanes ? items : pool.lanes, take);
}

}  // namespace executor

}  // namespace apollo
