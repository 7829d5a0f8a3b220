// SPDX-License-Identifier: Apache-2.0
// The Eigen backend's loops: project, moments, apply, and the linear algebra that a basis is made of.
#pragma once

#include <apollo/eigen/backend.hpp>

namespace apollo {

template <class T, class Policies>
class EigenSession {
  using Scratch = EigenScratch<T, Policies>;

 public:
  EigenSession(const EigenBackend& backend, const Plan& plan, std::byte* scratch, EigenBackend::Tools& tools)
      : pool_(backend.pool()), plan_(plan), tools_(tools) {
    Carver carver(scratch);
    scratch_ = Scratch::carve(carver, plan, pool_.lanes);
  }

  // --- linear algebra ---------------------------------------------------------------------------------------------------

  /// c = a b, c row-major. Cost: 2 m k n flops; rows of c are spread over the lanes.
  template <class A, class B, class C>
  void product(const MatrixView<A>& a, const MatrixView<B>& b, const MatrixView<C>& c) const {
    by_rows(a, b, c, true, C(1));
  }
  /// c -= a b
  template <class A, class B, class C>
  void subtract_product(const MatrixView<A>& a, const MatrixView<B>& b, const MatrixView<C>& c) const {
    by_rows(a, b, c, false, C(-1));
  }

  void symmetric_eigen(Index n, const double* a, double* values, double* vectors) const {
    tools_.solver(n).compute(a, values, vectors);
  }

  // --- project ----------------------------------------------------------------------------------------------------------

  template <class Sketch>
  void draw_directions(Sketch sketch, const RandomStream& stream, const Plan& plan, T* directions) const {
    const Index rows = (16384 + plan.rank - 1) / plan.rank;
    executor::for_tiles(pool_, (plan.removed + rows - 1) / rows, [&](Index tile, int) {
      const Index first = tile * rows;
      const Index count = plan.removed - first < rows ? plan.removed - first : rows;
      draw(sketch, stream, plan.rank, first, count, directions + first * plan.rank);
    });
  }

  template <class G>
  GradientSummary inspect(const Plan& plan, const MatrixView<const G>& x, double* channel) const {
    return over_tiles(plan, [&](Index begin, Index end, int) { return inspect_tile(plan, x, begin, end, channel); });
  }

  /// Cost: 2 r flops an element, one read of X from memory (its norms find it in the cache).
  template <class G>
  GradientSummary project(const Plan& plan, const MatrixView<const G>& x, const DenseDirections<T>& p, T factor, T* r,
                          double* channel) const {
    return over_tiles(plan, [&](Index begin, Index end, int lane) {
      if (plan.rank == 1) return project_line(plan, x, p.data, factor, r, begin, end, channel);
      const auto directions = row_major(p.data, plan.removed, plan.rank);
      const auto out = row_major(r + begin * plan.rank, end - begin, plan.rank);
      for (Index i = 0; i < out.size(); ++i) out.data[i] = 0;
      gemm::add_product(x.middle_rows(begin, end - begin), directions, out, factor, scratch_.lane(plan, lane).product);
      GradientSummary summary = inspect_tile(plan, x, begin, end, channel);
      check_projection(out.data, out.size(), summary);
      return summary;
    });
  }

  /// Cost: `nonzeros` additions an element, whatever the rank.
  template <class G>
  GradientSummary project(const Plan& plan, const MatrixView<const G>& x, const SparseDirections& p, T factor, T* r,
                          double* channel) const {
    const T weight = factor / static_cast<T>(__builtin_sqrt(static_cast<double>(p.nonzeros)));
    return over_tiles(plan, [&](Index begin, Index end, int lane) {
      T* out = r + begin * plan.rank;
      if (memory_order(x) == Order2D::row_major)
        scatter_rows(plan, x, p, begin, end, out);
      else
        scatter_columns(plan, x, p, begin, end, out, scratch_.lane(plan, lane).rows);
      const Index size = (end - begin) * plan.rank;
      for (Index i = 0; i < size; ++i) out[i] *= weight;
      GradientSummary summary = inspect_tile(plan, x, begin, end, channel);
      check_projection(out, size, summary);
      return summary;
    });
  }

  // --- moments ----------------------------------------------------------------------------------------------------------

  template <class Moments>
  void moments(const Plan& plan, T* r, bool replace, const MomentPointers<stored_t<Moments, T>>& state,
               const StepCoefficients<T>& c, double* n_channel, double* r_channel) const {
    executor::for_tiles(pool_, plan.tiles, [&](Index tile, int) {
      const Index first = plan.tile_begin(tile) * plan.rank, last = plan.tile_end(tile) * plan.rank;
      if (!replace)
        for (Index j = plan.tile_begin(tile); j < plan.tile_end(tile); ++j) n_channel[j] = r_channel[j] = 0;
      T buffer[runs::length];
      for (Index at = first; at < last; at += runs::length) {
        const int count = static_cast<int>(last - at < runs::length ? last - at : runs::length);
        T* n = replace ? r + at : buffer;
        update_run<Moments>(r + at, n, state, at, count, c);
        if (!replace) add_by_channel(plan.rank, at, count, n, r + at, n_channel, r_channel);
      }
    });
  }

  template <class Moments, class G>
  void moments_of_gradient(const Plan& plan, const MatrixView<const G>& x,
                           const MomentPointers<stored_t<Moments, T>>& state, const StepCoefficients<T>& c,
                           double* n_channel) const {
    executor::for_tiles(pool_, plan.tiles, [&](Index tile, int) {
      for (Index j = plan.tile_begin(tile); j < plan.tile_end(tile); ++j) n_channel[j] = 0;
      T x_buffer[runs::length], n[runs::length];
      const bool rows = plan.state_order == Order2D::row_major;
      runs::for_runs(plan.state_order, plan.tile_begin(tile), plan.tile_end(tile), plan.removed,
                     [&](Index j, Index s, int count) {
                       const T* g = runs::load(x.at(j, s), rows ? x.col_stride : x.row_stride, count, x_buffer);
                       for (int i = 0; i < count; ++i) n[i] = c.gradient_factor * g[i];
                       update_run<Moments>(n, n, state, rows ? j * plan.removed + s : s * plan.kept + j, count, c);
                       if (rows)
                         n_channel[j] += runs::sum_squares(n, count);
                       else
                         for (int i = 0; i < count; ++i)
                           n_channel[j + i] += static_cast<double>(n[i]) * static_cast<double>(n[i]);
                     });
    });
  }

  // --- apply ------------------------------------------------------------------------------------------------------------

  template <class Weights, class W, class G>
  void apply(const Plan& plan, const MatrixView<W>& w, const MatrixView<const G>& x, const T* channel_step,
             const StepCoefficients<T>& c) const {
    const Order2D order = memory_order(w);
    const bool rows = order == Order2D::row_major;
    executor::for_tiles(pool_, plan.tiles, [&](Index tile, int) {
      T w_buffer[runs::length], x_buffer[runs::length];
      runs::for_runs(order, plan.tile_begin(tile), plan.tile_end(tile), plan.removed, [&](Index j, Index s, int count) {
        const Index stride = rows ? w.col_stride : w.row_stride;
        T* APOLLO_RESTRICT values = open(w.at(j, s), stride, count, w_buffer);
        const T* APOLLO_RESTRICT g = runs::load(x.at(j, s), rows ? x.col_stride : x.row_stride, count, x_buffer);
        const T before = c.decay_before, after = c.decay_after;
        if (rows) {
          const T step = channel_step[j];
          for (int i = 0; i < count; ++i) values[i] = after * (before * values[i] - step * g[i]);
        } else {
          const T* APOLLO_RESTRICT step = channel_step + j;
          for (int i = 0; i < count; ++i) values[i] = after * (before * values[i] - step[i] * g[i]);
        }
        runs::store<Weights>(values, w.at(j, s), stride, count);
      });
    });
  }

  template <class Weights, class W>
  void apply_lift(const Plan& plan, const MatrixView<W>& w, const T* c_matrix, const DenseDirections<T>& p, T step,
                  const StepCoefficients<T>& c) const {
    const auto directions = row_major(p.data, plan.removed, plan.rank).transposed();
    lift_by_slices<Weights>(plan, w, step, c,
                            [&](Index j, Index rows, Index s, Index cols, T* slice, const auto& lane) {
                              const auto out = row_major(slice, rows, cols);
                              for (Index i = 0; i < out.size(); ++i) slice[i] = 0;
                              gemm::add_product(row_major(c_matrix + j * plan.rank, rows, plan.rank),
                                                directions.middle_cols(s, cols), out, T(1), lane.product);
                            });
  }

  template <class Weights, class W>
  void apply_lift(const Plan& plan, const MatrixView<W>& w, const T* c_matrix, const SparseDirections& p, T step,
                  const StepCoefficients<T>& c) const {
    const T weight = step / static_cast<T>(__builtin_sqrt(static_cast<double>(p.nonzeros)));
    lift_by_slices<Weights>(plan, w, weight, c, [&](Index j, Index rows, Index s, Index cols, T* slice, const auto&) {
      for (Index i = 0; i < rows; ++i)
        for (Index k = 0; k < cols; ++k) {
          const T* entries = c_matrix + (j + i) * plan.rank;
          T sum = 0;
          for (int h = 0; h < p.nonzeros; ++h) {
            const T entry = entries[p.bucket[h * p.map_size + (s + k) / p.lanes] + (s + k) % p.lanes];
            sum += p.sign[h * plan.removed + s + k] != 0 ? -entry : entry;
          }
          slice[i * cols + k] = sum;
        }
    });
  }

  /// Cost with fp32 throughout: 28 bytes an element for Adam (read G, M, V, W; write M, V, W).
  template <class Moments, class Weights, class W, class G>
  void update(const Plan& plan, const MatrixView<W>& w, const MatrixView<const G>& x,
              const MomentPointers<stored_t<Moments, T>>& state, const StepCoefficients<T>& c) const {
    const bool rows = plan.state_order == Order2D::row_major;
    const auto step = static_cast<T>(c.step);
    executor::for_tiles(pool_, plan.tiles, [&](Index tile, int) {
      T w_buffer[runs::length], x_buffer[runs::length], n_buffer[runs::length];
      runs::for_runs(plan.state_order, plan.tile_begin(tile), plan.tile_end(tile), plan.removed,
                     [&](Index j, Index s, int count) {
                       const Index stride = rows ? w.col_stride : w.row_stride;
                       T* APOLLO_RESTRICT values = open(w.at(j, s), stride, count, w_buffer);
                       const T* g = runs::load(x.at(j, s), rows ? x.col_stride : x.row_stride, count, x_buffer);
                       T* APOLLO_RESTRICT n = n_buffer;
                       if (c.coupled_decay != 0)
                         for (int i = 0; i < count; ++i) n[i] = c.gradient_factor * g[i] + c.coupled_decay * values[i];
                       else
                         for (int i = 0; i < count; ++i) n[i] = c.gradient_factor * g[i];
                       update_run<Moments>(n, n, state, rows ? j * plan.removed + s : s * plan.kept + j, count, c);
                       const T before = c.decay_before, after = c.decay_after;
                       for (int i = 0; i < count; ++i) values[i] = after * (before * values[i] - step * n[i]);
                       runs::store<Weights>(values, w.at(j, s), stride, count);
                     });
    });
  }

 private:
  /// Runs body(begin, end, lane) for every tile of channels and adds the summaries in order of tiles.
  template <class Body>
  GradientSummary over_tiles(const Plan& plan, Body&& body) const {
    executor::for_tiles(pool_, plan.tiles, [&](Index tile, int lane) {
      scratch_.tiles[tile] = body(plan.tile_begin(tile), plan.tile_end(tile), lane);
    });
    GradientSummary total;
    for (Index tile = 0; tile < plan.tiles; ++tile) {
      total.finite = total.finite && scratch_.tiles[tile].finite;
      total.squared_norm += scratch_.tiles[tile].squared_norm;
    }
    return total;
  }

  template <class A, class B, class C>
  void by_rows(const MatrixView<A>& a, const MatrixView<B>& b, const MatrixView<C>& c, bool clear, C alpha) const {
    constexpr Index height = gemm::row_block;
    executor::for_tiles(pool_, (c.rows + height - 1) / height, [&](Index tile, int number) {
      const Index first = tile * height;
      const Index rows = c.rows - first < height ? c.rows - first : height;
      const auto out = c.middle_rows(first, rows);
      if (clear)
        for (Index i = 0; i < rows; ++i)
          for (Index j = 0; j < c.cols; ++j) out(i, j) = 0;
      const auto lane = scratch_.lane(plan_, number);
      if constexpr (std::is_same_v<C, T>)
        gemm::add_product(a.middle_rows(first, rows), b, out, alpha, lane.product);
      else
        gemm::add_product(a.middle_rows(first, rows), b, out, alpha, lane.product_double);
    });
  }

  template <class G>
  static GradientSummary inspect_tile(const Plan& plan, const MatrixView<const G>& x, Index begin, Index end,
                                      double* channel) {
    GradientSummary summary;
    T buffer[runs::length];
    const Order2D order = memory_order(x);
    const bool rows = order == Order2D::row_major;
    if (channel != nullptr)
      for (Index j = begin; j < end; ++j) channel[j] = 0;
    runs::for_runs(order, begin, end, plan.removed, [&](Index j, Index s, int count) {
      const T* run = runs::load(x.at(j, s), rows ? x.col_stride : x.row_stride, count, buffer);
      const double sum = runs::measure(run, count, summary.finite);
      summary.squared_norm += sum;
      if (channel == nullptr) return;
      if (rows)
        channel[j] += sum;
      else
        for (int i = 0; i < count; ++i) channel[j + i] += static_cast<double>(run[i]) * static_cast<double>(run[i]);
    });
    return summary;
  }

  static void check_projection(const T* r, Index size, GradientSummary& summary) {
    for (Index i = 0; i < size; i += runs::length)
      runs::measure(r + i, static_cast<int>(size - i < runs::length ? size - i : runs::length), summary.finite);
  }

  /// Rank 1: a dot product for each channel.
  template <class G>
  static GradientSummary project_line(const Plan& plan, const MatrixView<const G>& x, const T* p, T factor, T* r,
                                      Index begin, Index end, double* channel) {
    GradientSummary summary = inspect_tile(plan, x, begin, end, channel);
    T buffer[runs::length];
    const Order2D order = memory_order(x);
    const bool rows = order == Order2D::row_major;
    for (Index j = begin; j < end; ++j) r[j] = 0;
    runs::for_runs(order, begin, end, plan.removed, [&](Index j, Index s, int count) {
      const T* APOLLO_RESTRICT run = runs::load(x.at(j, s), rows ? x.col_stride : x.row_stride, count, buffer);
      if (rows) {
        T lane[16] = {};
        int i = 0;
        for (; i + 16 <= count; i += 16)
          for (int l = 0; l < 16; ++l) lane[l] += run[i + l] * p[s + i + l];
        T rest = 0;
        for (; i < count; ++i) rest += run[i] * p[s + i];
        for (int width = 8; width > 0; width /= 2)
          for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
        r[j] += lane[0] + rest;
      } else {
        T* APOLLO_RESTRICT out = r + j;
        const T scale = p[s];
        for (int i = 0; i < count; ++i) out[i] += scale * run[i];
      }
    });
    for (Index j = begin; j < end; ++j) r[j] *= factor;
    check_projection(r + begin, end - begin, summary);
    return summary;
  }

  /// Adjacent inputs of a channel go to adjacent buckets, `lanes` at a time.
  template <class G>
  static void scatter_rows(const Plan& plan, const MatrixView<const G>& x, const SparseDirections& p, Index begin,
                           Index end, T* out) {
    static_assert(runs::length % 8 == 0);  // a run never cuts a group of lanes
    T buffer[runs::length];
    for (Index i = 0; i < (end - begin) * plan.rank; ++i) out[i] = 0;
    runs::for_runs(Order2D::row_major, begin, end, plan.removed, [&](Index j, Index s, int count) {
      const T* run = runs::load(x.at(j, s), x.col_stride, count, buffer);
      T* APOLLO_RESTRICT row = out + (j - begin) * plan.rank;
      for (int h = 0; h < p.nonzeros; ++h) {
        const std::uint32_t* sign = p.sign + h * plan.removed + s;
        const std::int32_t* bucket = p.bucket + h * p.map_size + s / p.lanes;
        int i = 0;
        if (p.lanes == 8)
          for (; i + 8 <= count; i += 8) {
            T* group = row + bucket[i / 8];
            for (int l = 0; l < 8; ++l) group[l] += sign[i + l] != 0 ? -run[i + l] : run[i + l];
          }
        for (; i < count; ++i) row[bucket[i / p.lanes] + i % p.lanes] += sign[i] != 0 ? -run[i] : run[i];
      }
    });
  }

  /// Channels are adjacent: whole runs of them are added to a bucket's row of sums, which are turned at the end.
  template <class G>
  static void scatter_columns(const Plan& plan, const MatrixView<const G>& x, const SparseDirections& p, Index begin,
                              Index end, T* out, T* sums) {
    const Index height = end - begin;
    T buffer[runs::length];
    for (Index i = 0; i < height * plan.rank; ++i) sums[i] = 0;
    runs::for_runs(Order2D::column_major, begin, end, plan.removed, [&](Index j, Index s, int count) {
      const T* APOLLO_RESTRICT run = runs::load(x.at(j, s), x.row_stride, count, buffer);
      for (int h = 0; h < p.nonzeros; ++h) {
        const Index bucket = p.bucket[h * p.map_size + s / p.lanes] + s % p.lanes;
        T* APOLLO_RESTRICT row = sums + bucket * height + (j - begin);
        if (p.sign[h * plan.removed + s] != 0)
          for (int i = 0; i < count; ++i) row[i] -= run[i];
        else
          for (int i = 0; i < count; ++i) row[i] += run[i];
      }
    });
    for (Index j = 0; j < height; ++j)
      for (Index k = 0; k < plan.rank; ++k) out[j * plan.rank + k] = sums[k * height + j];
  }

  /// Moments of `count` values that are number `at` and after in their buffers. `n` may be `r`.
  template <class Moments>
  static void update_run(const T* r, T* n, const MomentPointers<stored_t<Moments, T>>& state, Index at, int count,
                         const StepCoefficients<T>& c) {
    using Storage = MomentStorage<stored_t<Moments, T>, T>;
    const MomentCoefficients<T> k = c.moments;
    if constexpr (Moments::buffers == 0) {
      for (int i = 0; i < count; ++i) n[i] = Moments::update(r[i], static_cast<T*>(nullptr), k);
    } else {
      T buffer[2][runs::length];
      T* APOLLO_RESTRICT first = Storage::open(state.buffer[0] + at, buffer[0], count);
      if constexpr (Moments::buffers == 1) {
        for (int i = 0; i < count; ++i) {
          T value[1] = {first[i]};
          n[i] = Moments::update(r[i], value, k);
          first[i] = value[0];
        }
      } else {
        T* APOLLO_RESTRICT second = Storage::open(state.buffer[1] + at, buffer[1], count);
        for (int i = 0; i < count; ++i) {
          T value[2] = {first[i], second[i]};
          n[i] = Moments::update(r[i], value, k);
          first[i] = value[0];
          second[i] = value[1];
        }
        Storage::close(second, state.buffer[1] + at, count, c.rounding[1], at);
      }
      Storage::close(first, state.buffer[0] + at, count, c.rounding[0], at);
    }
  }

  /// Adds the squares of a run of kept x rank values, number `at` and after, to their channels.
  static void add_by_channel(Index rank, Index at, int count, const T* n, const T* r, double* n_channel,
                             double* r_channel) {
    for (int i = 0; i < count;) {
      const Index j = (at + i) / rank;
      const Index left = (j + 1) * rank - (at + i);
      const int take = left < count - i ? static_cast<int>(left) : count - i;
      if (take == 1) {
        n_channel[j] += static_cast<double>(n[i]) * static_cast<double>(n[i]);
        r_channel[j] += static_cast<double>(r[i]) * static_cast<double>(r[i]);
      } else {
        bool finite = true;
        n_channel[j] += runs::measure(n + i, take, finite);
        r_channel[j] += runs::measure(r + i, take, finite);
      }
      i += take;
    }
  }

  template <class W>
  static T* open(W* weight, Index stride, int count, T* buffer) {
    if constexpr (std::is_same_v<W, T>)
      if (stride == 1) return weight;
    for (int i = 0; i < count; ++i) buffer[i] = static_cast<T>(weight[i * stride]);
    return buffer;
  }

  /// W <- (W before - step U) after, U made slice by slice of at most 256 columns by fill(j, rows, s, cols, slice, lane).
  template <class Weights, class W, class Fill>
  void lift_by_slices(const Plan& plan, const MatrixView<W>& w, T step, const StepCoefficients<T>& c,
                      Fill&& fill) const {
    executor::for_tiles(pool_, plan.tiles, [&](Index tile, int number) {
      const auto lane = scratch_.lane(plan, number);
      const Index begin = plan.tile_begin(tile), rows = plan.tile_end(tile) - begin;
      T buffer[runs::length];
      for (Index s = 0; s < plan.removed; s += runs::length) {
        const Index cols = plan.removed - s < runs::length ? plan.removed - s : runs::length;
        fill(begin, rows, s, cols, lane.rows, lane);
        const bool by_row = memory_order(w) == Order2D::row_major;
        const auto u = row_major(static_cast<const T*>(lane.rows), rows, cols);
        const auto target = w.middle_rows(begin, rows).middle_cols(s, cols);
        runs::for_runs(by_row ? Order2D::row_major : Order2D::column_major, 0, rows, cols,
                       [&](Index j, Index k, int count) {
                         const Index stride = by_row ? w.col_stride : w.row_stride;
                         const Index u_stride = by_row ? 1 : cols;
                         T* APOLLO_RESTRICT values = open(target.at(j, k), stride, count, buffer);
                         const T* APOLLO_RESTRICT from = u.at(j, k);
                         for (int i = 0; i < count; ++i)
                           values[i] = c.decay_after * (c.decay_before * values[i] - step * from[i * u_stride]);
                         runs::store<Weights>(values, target.at(j, k), stride, count);
                       });
      }
    });
  }

  const Executor& pool_;
  const Plan& plan_;
  EigenBackend::Tools& tools_;
  Scratch scratch_;
};

}  // namespace apollo
