// SPDX-License-Identifier: Apache-2.0
// The Eigen backend's loops: project, moments, apply, and the linear algebra that a basis is made of.
#pragma once

#include <apollo/eigen/moments.hpp>
#include <apollo/eigen/project.hpp>
#include <apollo/step/residual.hpp>

namespace apollo {

template <class T, class Policies>
class EigenSession {
  using Scratch = EigenScratch<T, Policies>;
  using Tiles = EigenTiles<T>;
  using Runs = EigenMoments<T>;

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

  void pack_basis(Index size, const T* values, const PackedBasis& packed) const {
    for_groups(size, [&](Index number) { packed.pack(number, size, values); });
  }
  void unpack_basis(Index size, const PackedBasis& packed, T* values) const {
    for_groups(size, [&](Index number) { packed.unpack(number, size, values); });
  }

  // --- project ----------------------------------------------------------------------------------------------------------

  template <class Sketch>
  void draw_directions(Sketch sketch, const RandomStream& stream, const Plan& plan, T* directions) const {
    const Index rows = (16384 + plan.rank - 1) / plan.rank;
    executor::for_tiles(pool_, (plan.removed + rows - 1) / rows, [&](Index tile, int) {
      const Index first = tile * rows;
      const Index count = plan.removed - first < rows ? plan.removed - first : rows;
      draw(sketch, stream, plan.rank, plan.removed, first, count, directions + first * plan.rank);
    });
  }

  void scale_directions(const Plan& plan, const DenseDirections<T>& p, const T* factor, T* to) const {
    for (Index s = 0; s < plan.removed; ++s)
      for (Index k = 0; k < plan.rank; ++k) to[s * plan.rank + k] = factor[s] * p.data[s * plan.rank + k];
  }

  template <class G>
  GradientSummary inspect(const Plan& plan, const MatrixView<const G>& x, double* channel) const {
    return over_tiles(plan, [&](Index begin, Index end, int) { return Tiles::inspect_tile(x, begin, end, channel); });
  }

  template <class V>
  GradientSummary add(const Plan& plan, const MatrixView<const V>& x, T factor, const MatrixView<T>& sum) const {
    return over_tiles(plan, [&](Index begin, Index end, int) { return Tiles::add_tile(x, factor, sum, begin, end); });
  }

  /// Cost: 2 r flops an element, one read of X from memory (its norms find it in the cache). A product takes several tiles, since it
  /// packs P for each anew.
  template <class G>
  GradientSummary project(const Plan& plan, const MatrixView<const G>& x, const DenseDirections<T>& p, T factor, T* r,
                          double* channel) const {
    if (plan.rank == 1)
      return over_tiles(plan, [&](Index begin, Index end, int lane) {
        return Tiles::project_line(plan, x, p.data, factor, r, begin, end, channel, scratch_.lane(plan, lane).lines);
      });
    const auto directions = row_major(p.data, plan.removed, plan.rank);
    const Index groups = product_groups(plan);
    executor::for_tiles(pool_, groups, [&](Index group, int lane) {
      const Index first = group * plan.tiles / groups, last = (group + 1) * plan.tiles / groups;
      const Index begin = plan.tile_begin(first), channels = plan.tile_end(last - 1) - begin;
      const auto out = row_major(r + begin * plan.rank, channels, plan.rank);
      for (Index i = 0; i < out.size(); ++i) out.data[i] = 0;
      gemm::add_product(x.middle_rows(begin, channels), directions, out, factor, scratch_.lane(plan, lane).product);
      for (Index tile = first; tile < last; ++tile) {
        const Index from = plan.tile_begin(tile), to = plan.tile_end(tile);
        scratch_.tiles[tile] = Tiles::inspect_tile(x, from, to, channel);
        Tiles::check_projection(r + from * plan.rank, (to - from) * plan.rank, scratch_.tiles[tile]);
      }
    });
    return sum_of_tiles(plan);
  }

  /// Cost: `nonzeros` additions an element, whatever the rank.
  template <class G>
  GradientSummary project(const Plan& plan, const MatrixView<const G>& x, const SparseDirections& p, T factor, T* r,
                          double* channel) const {
    const T weight = factor / static_cast<T>(__builtin_sqrt(static_cast<double>(p.nonzeros)));
    const bool by_row = memory_order(x) == Order2D::row_major;
    SparseLines<T> lines = scratch_.sparse;
    if (!by_row) lines.invert(p);
    return over_tiles(plan, [&](Index begin, Index end, int number) {
      T* out = r + begin * plan.rank;
      GradientSummary summary;
      if (by_row) {
        summary = Tiles::scatter_rows(plan, x, p, begin, end, out, weight, channel);
      } else {
        const auto lane = scratch_.lane(plan, number);
        summary = Tiles::scatter_columns(plan, x, lines, begin, end, out, weight, channel, lane.rows, lane.lines);
        Tiles::check_projection(out, (end - begin) * plan.rank, summary);
      }
      return summary;
    });
  }

  // --- moments ----------------------------------------------------------------------------------------------------------

  template <class Moments>
  void moments(const Plan& plan, const T* r, T* n_matrix, const MomentPointers<stored_t<Moments, T>>& state,
               const StepCoefficients<T>& c, double* n_channel, double* r_channel) const {
    if constexpr (Runs::template has_norms_alone<Moments>)
      if (n_matrix == nullptr && Runs::norms_are_near(plan.rank, c))
        return executor::for_tiles(pool_, plan.tiles, [&](Index tile, int) {
          for (Index j = plan.tile_begin(tile); j < plan.tile_end(tile); ++j)
            Runs::template update_norms<Moments>(r, state, j, plan.rank, c, n_channel[j], r_channel[j]);
        });
    executor::for_tiles(pool_, plan.tiles, [&](Index tile, int) {
      const Index first = plan.tile_begin(tile) * plan.rank, last = plan.tile_end(tile) * plan.rank;
      if (n_channel != nullptr)
        for (Index j = plan.tile_begin(tile); j < plan.tile_end(tile); ++j) n_channel[j] = r_channel[j] = 0;
      T buffer[runs::length];
      for (Index at = first; at < last; at += runs::length) {
        const StorageRun run = flat_run(at, last);
        T* n = n_matrix != nullptr ? n_matrix + at : buffer;
        Runs::template update<Moments>(r + at, n, state, run, c);
        if (n_channel != nullptr) Runs::add_by_channel(plan.rank, at, run.count, n, r + at, n_channel, r_channel);
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
      for_storage_runs(plan.state_order, plan.kept, plan.removed, plan.tile_begin(tile), plan.tile_end(tile), 0,
                       plan.removed, [&](const StorageRun& run) {
                         run.parts([&](Index j, Index s, int count, int offset) {
                           const T* g = runs::load(x.at(j, s), rows ? x.col_stride : x.row_stride, count, x_buffer);
                           for (int i = 0; i < count; ++i) n[offset + i] = c.gradient_factor * g[i];
                         });
                         Runs::template update<Moments>(n, n, state, run, c);
                         run.parts([&](Index j, Index, int count, int offset) {
                           const T* part = n + offset;
                           if (rows)
                             n_channel[j] += runs::sum_squares(part, count);
                           else
                             for (int i = 0; i < count; ++i)
                               n_channel[j + i] += static_cast<double>(part[i]) * static_cast<double>(part[i]);
                         });
                       });
    });
  }

  template <class G>
  void gather(const Plan& plan, const MatrixView<const G>& x, T factor, T* r) const {
    executor::for_tiles(pool_, plan.tiles, [&](Index tile, int) {
      for (Index j = plan.tile_begin(tile); j < plan.tile_end(tile); ++j)
        for (Index s = 0; s < plan.removed; ++s) r[j * plan.removed + s] = factor * static_cast<T>(x(j, s));
    });
  }
  template <class V>
  void sum_squares(const Plan& plan, const MatrixView<const V>& values, double* channel, double* column) const {
    if (channel != nullptr)
      executor::for_tiles(pool_, plan.tiles, [&](Index tile, int) {
        Tiles::inspect_tile(values, plan.tile_begin(tile), plan.tile_end(tile), channel);
      });
    // Of each column over all channels in order, so that tiles do not show.
    const bool rows = memory_order(values) == Order2D::row_major;
    executor::for_tiles(pool_, (values.cols + runs::length - 1) / runs::length, [&](Index tile, int) {
      const Index first = tile * runs::length;
      const int count = run_of(values.cols, first);
      T buffer[runs::length];
      bool finite = true;
      for (int k = 0; k < count; ++k) column[first + k] = 0;
      runs::for_runs(memory_order(values), 0, values.rows, count, runs::length, [&](Index j, Index k, int length) {
        const T* run =
            runs::load(values.at(j, first + k), rows ? values.col_stride : values.row_stride, length, buffer);
        if (rows)
          for (int i = 0; i < length; ++i)
            column[first + k + i] += static_cast<double>(run[i]) * static_cast<double>(run[i]);
        else
          column[first + k] += runs::measure(run, length, finite);
      });
    });
  }

  double multiply_outer(const Plan& plan, T* r, const T* channel, const T* direction) const {
    return over_tiles(plan,
                      [&](Index begin, Index end, int) {
                        GradientSummary summary;
                        for (Index j = begin; j < end; ++j)
                          for (Index k = 0; k < plan.rank; k += runs::length) {
                            const int count = run_of(plan.rank, k);
                            T* row = r + j * plan.rank + k;
                            for (int i = 0; i < count; ++i) row[i] = row[i] * channel[j] * direction[k + i];
                            summary.squared_norm += runs::measure(row, count, summary.finite);
                          }
                        return summary;
                      })
        .squared_norm;
  }

  // --- what a projection leaves -----------------------------------------------------------------------------------------

  template <class G>
  void residual_norms(const Plan& plan, const MatrixView<const G>& x, const DenseDirections<T>& p, double factor,
                      double share, const T* r, const double* r_channel, double* norms) const {
    executor::for_tiles(pool_, plan.tiles, [&](Index tile, int) {
      for (Index j = plan.tile_begin(tile); j < plan.tile_end(tile); ++j)
        norms[j] = residual::norm(plan, x, p, factor, share, r, r_channel[j], norms[j], j);
    });
  }

  void combine(const Plan& plan, T alpha, T* n, const T* channel, const T* r) const {
    executor::for_tiles(pool_, plan.tiles, [&](Index tile, int) {
      for (Index j = plan.tile_begin(tile); j < plan.tile_end(tile); ++j) {
        const Index first = j * plan.rank, last = first + plan.rank;
        for (Index at = first; at < last; ++at) n[at] = alpha * n[at] - channel[j] * r[at];
      }
    });
  }

  // --- apply ------------------------------------------------------------------------------------------------------------

  template <class Kept, class G>
  void apply(const Plan& plan, const Kept& w, const MatrixView<const G>& x, const T* channel_step,
             const StepCoefficients<T>& c) const {
    // Every element is its own: lines of memory are walked as they lie, backwards, since the end of X is still in the cache.
    const Order2D order = Kept::by_run ? plan.order_of_x() : memory_order(w.view);
    const bool rows = order == Order2D::row_major;
    const Index lines = rows ? plan.kept : plan.removed, across = rows ? plan.removed : plan.kept;
    Index height = across < tile_elements ? tile_elements / across : 1;
    if (Kept::by_run && across < storage_block) height = tile_elements;  // joined lines are cut where runs begin
    const Index x_stride = rows ? x.col_stride : x.row_stride;
    const Index tiles = (lines + height - 1) / height;
    const auto change = [&](Index j, int count, auto* values, const auto* g) {
      const simd::Apply<T> apply{c.decay_before, c.decay_after, channel_step[j]};
      simd::dispatch([&](auto kernels) { kernels.apply(values, g, count, apply, rows ? nullptr : channel_step + j); });
    };
    executor::for_tiles<-1>(pool_, tiles, [&](Index number, int) {
      const Index first = number * height, last = first + height < lines ? first + height : lines;
      if constexpr (Kept::by_run) {
        for_storage_runs(order, plan.kept, plan.removed, rows ? first : 0, rows ? last : plan.kept, rows ? 0 : first,
                         rows ? plan.removed : last, [&](const StorageRun& run) {
                           if constexpr (Kept::stochastic && !Kept::grouped && simd::readable<G, T>)
                             if (apply_stochastic(w, x, run, c, channel_step)) return;
                           runs::change_parts<T>(w, run, [&](Index j, Index s, int count, int, T* values) {
                             runs::with_values<T>(x.at(j, s), x_stride, count,
                                                  [&](const auto* g) { change(j, count, values, g); });
                           });
                         });
      } else {
        const Index longest = runs::longest<T>(w.view, x, order);
        for (Index line = first; line < last; ++line)
          for (Index at = 0; at < across; at += longest) {
            const int count = static_cast<int>(across - at < longest ? across - at : longest);
            const Index j = rows ? line : at, s = rows ? at : line;
            runs::change<T>(w.view.at(j, s), rows ? w.view.col_stride : w.view.row_stride, x.at(j, s), x_stride, count,
                            [&](auto* values, const auto* g) { change(j, count, values, g); });
          }
      }
    });
  }

  template <class Kept>
  void apply_lift(const Plan& plan, const Kept& w, const T* c_matrix, const DenseDirections<T>& p, T step,
                  const StepCoefficients<T>& c) const {
    const auto directions = row_major(p.data, plan.removed, plan.rank).transposed();
    lift_by_slices(plan, w, step, c, [&](Index j, Index rows, Index s, Index cols, T* slice, const auto& lane) {
      const auto out = row_major(slice, rows, cols);
      for (Index i = 0; i < out.size(); ++i) slice[i] = 0;
      gemm::add_product(row_major(c_matrix + j * plan.rank, rows, plan.rank), directions.middle_cols(s, cols), out,
                        T(1), lane.product);
    });
  }

  template <class Kept>
  void apply_lift(const Plan& plan, const Kept& w, const T* c_matrix, const SparseDirections& p, T step,
                  const StepCoefficients<T>& c) const {
    const T weight = step / static_cast<T>(__builtin_sqrt(static_cast<double>(p.nonzeros)));
    lift_by_slices(plan, w, weight, c, [&](Index j, Index rows, Index s, Index cols, T* slice, const auto&) {
      for (Index i = 0; i < rows; ++i)
        for (Index k = 0; k < cols; ++k) {
          const T* entries = c_matrix + (j + i) * plan.rank;
          T sum = 0;
          for (int h = 0; h < p.nonzeros; ++h) {
            const T entry = entries[p.bucket_of(h, s + k)];
            sum += p.sign[h * plan.removed + s + k] != 0 ? -entry : entry;
          }
          slice[i * cols + k] = sum;
        }
    });
  }

  /// The lift and the scaled gradient in one pass over W: what is lifted meets X while it is in the cache.
  template <class Kept, class G>
  void apply_lift(const Plan& plan, const Kept& w, const T* c_matrix, const DenseDirections<T>& p, T step,
                  const StepCoefficients<T>& c, const MatrixView<const G>& x, const T* channel_step) const {
    const auto directions = row_major(p.data, plan.removed, plan.rank).transposed();
    const bool by_row = memory_order(x) == Order2D::row_major;
    const auto fill = [&](Index j, Index rows, Index s, Index cols, T* slice, const auto& lane) {
      T buffer[runs::length];
      const auto out = row_major(slice, rows, cols);
      runs::for_runs(memory_order(x), 0, rows, cols, runs::length, [&](Index i, Index k, int count) {
        const T* g = runs::load(x.at(j + i, s + k), by_row ? x.col_stride : x.row_stride, count, buffer);
        const T* scale = channel_step + j + i;
        T* to = out.at(i, k);
        if (by_row)
          for (int at = 0; at < count; ++at) to[at] = scale[0] * g[at];
        else
          for (int at = 0; at < count; ++at) to[at * cols] = scale[at] * g[at];
      });
      gemm::add_product(row_major(c_matrix + j * plan.rank, rows, plan.rank), directions.middle_cols(s, cols), out,
                        step, lane.product);
    };
    lift_by_slices(plan, w, T(1), c, fill);
  }

  /// Cost with fp32 throughout: 28 bytes an element for Adam (read G, M, V, W; write M, V, W).
  template <class Moments, class Kept, class G>
  void update(const Plan& plan, const Kept& w, const MatrixView<const G>& x,
              const MomentPointers<stored_t<Moments, T>>& state, const StepCoefficients<T>& c,
              const T* channel_step) const {
    using Storage = typename Runs::template StorageOf<Moments>;
    const Order2D order = plan.state_order;
    const bool rows = order == Order2D::row_major;
    const bool by_channel = channel_step != nullptr;
    const Index x_stride = rows ? x.col_stride : x.row_stride;
    const auto change = [&](Index j, int count, auto* values, const auto* g, T* first, T* second) {
      const simd::Apply<T> apply{c.decay_before, c.decay_after, by_channel ? channel_step[j] : static_cast<T>(c.step)};
      const T* steps = by_channel && !rows ? channel_step + j : nullptr;
      simd::dispatch([&](auto kernels) {
        kernels.template update<Moments, Storage>(values, g, first, second, count, c, apply, steps);
      });
    };
    // Backwards: the guard has left the end of X in the cache.
    executor::for_tiles<-1>(pool_, plan.tiles, [&](Index tile, int) {
      const Index begin = plan.tile_begin(tile), end = plan.tile_end(tile);
      if constexpr (!Storage::in_place || Kept::by_run) {
        for_storage_runs(order, plan.kept, plan.removed, begin, end, 0, plan.removed, [&](const StorageRun& run) {
          if constexpr (Runs::template in_one_pass<Moments, Kept, G>)
            if (!by_channel && run.count % simd::in_one_pass == 0 &&
                Runs::template update_block<Moments>(w, x, state, run, c))
              return;
          Runs::template with_moments<Moments>(state, run, c, [&](T* first, T* second) {
            runs::change_parts<T>(w, run, [&](Index j, Index s, int count, int offset, auto* values) {
              runs::with_values<T>(x.at(j, s), x_stride, count, [&](const auto* g) {
                change(j, count, values, g, first == nullptr ? first : first + offset,
                       second == nullptr ? second : second + offset);
              });
            });
          });
        });
      } else {
        runs::for_runs(
            order, begin, end, plan.removed, runs::longest<T>(w.view, x, order), [&](Index j, Index s, int count) {
              const Index at = rows ? j * plan.removed + s : s * plan.kept + j;
              const auto moment = [&](int b) { return b < Moments::buffers ? state.buffer[b] + at : nullptr; };
              runs::change<T>(w.view.at(j, s), rows ? w.view.col_stride : w.view.row_stride, x.at(j, s), x_stride,
                              count,
                              [&](auto* values, const auto* g) { change(j, count, values, g, moment(0), moment(1)); });
            });
      }
    });
  }

 private:
  /// A run of bfloat16 weights in one pass, if they and x lie adjacent in one line and fill vectors; else false, and nothing
  /// happened.
  template <class Kept, class G>
  bool apply_stochastic(const Kept& w, const MatrixView<const G>& x, const StorageRun& run,
                        const StepCoefficients<T>& c, const T* channel_step) const {
    const Index line = run.value() / run.across, at = run.value() - line * run.across;
    if (run.count % simd::in_one_pass != 0 || at + run.count > run.across) return false;
    bfloat16* weights = adjacent(w.view, run);
    const G* values = adjacent(x, run);
    if (weights == nullptr || values == nullptr) return false;
    const bool rows = run.order == Order2D::row_major;
    const T* steps = channel_step + (rows ? line : at);
    const simd::Apply<T> apply{c.decay_before, c.decay_after, *steps};
    simd::dispatch([&](auto kernels) {
      kernels.apply_stochastic(weights, values, run.count, apply, rows ? nullptr : steps, w.rounding,
                               run.block(storage_block));
    });
    return true;
  }

  /// Calls body(number) for all groups of a packed basis, 64 of them a tile.
  template <class Body>
  void for_groups(Index size, Body&& body) const {
    constexpr Index at_once = 64;
    const Index groups = PackedBasis::groups(size);
    executor::for_tiles(pool_, (groups + at_once - 1) / at_once, [&](Index tile, int) {
      const Index last = (tile + 1) * at_once < groups ? (tile + 1) * at_once : groups;
      for (Index number = tile * at_once; number < last; ++number) body(number);
    });
  }

  /// Runs body(begin, end, lane) for every tile of channels and adds the summaries in order of tiles.
  template <class Body>
  GradientSummary over_tiles(const Plan& plan, Body&& body) const {
    executor::for_tiles(pool_, plan.tiles, [&](Index tile, int lane) {
      scratch_.tiles[tile] = body(plan.tile_begin(tile), plan.tile_end(tile), lane);
    });
    return sum_of_tiles(plan);
  }
  GradientSummary sum_of_tiles(const Plan& plan) const {
    GradientSummary total;
    for (Index tile = 0; tile < plan.tiles; ++tile) {
      total.finite = total.finite && scratch_.tiles[tile].finite;
      total.squared_norm += scratch_.tiles[tile].squared_norm;
    }
    return total;
  }

  /// Into how many groups of tiles a dense projection is cut: as many for every lane, each of rows that a second-level cache holds,
  /// and no more than a product takes at once. Which are together does not show in R.
  Index product_groups(const Plan& plan) const {
    const auto fits = [&](Index tiles) {
      const Index rows = tiles * plan.tile;
      return rows <= gemm::row_block && rows * plan.removed <= 4 * tile_elements;
    };
    Index tiles = 1;
    while (fits(tiles + 1)) ++tiles;
    const Index groups = (plan.tiles + tiles - 1) / tiles;
    const Index even = (groups + pool_.lanes - 1) / pool_.lanes * pool_.lanes;
    return even < plan.tiles ? even : plan.tiles;
  }

  static int run_of(Index size, Index first) {
    return static_cast<int>(size - first < runs::length ? size - first : runs::length);
  }

  template <class A, class B, class C>
  void by_rows(const MatrixView<A>& a, const MatrixView<B>& b, const MatrixView<C>& c, bool clear, C alpha) const {
    constexpr Index height = gemm::row_block / 2;  // matrices of a basis have few rows, and every lane should get some
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

  /// W <- (W before - step U) after, U made slice by slice of at most 256 columns by fill(j, rows, s, cols, slice, lane).
  template <class Kept, class Fill>
  void lift_by_slices(const Plan& plan, const Kept& w, T step, const StepCoefficients<T>& c, Fill&& fill) const {
    executor::for_tiles(pool_, plan.tiles, [&](Index tile, int number) {
      const auto lane = scratch_.lane(plan, number);
      const Index begin = plan.tile_begin(tile), rows = plan.tile_end(tile) - begin;
      const simd::Apply<T> apply{c.decay_before, c.decay_after, step};
      const Order2D order = plan.order_of_x();
      const bool by_row = order == Order2D::row_major;
      for (Index s = 0; s < plan.removed; s += runs::length) {
        const Index cols = plan.removed - s < runs::length ? plan.removed - s : runs::length;
        fill(begin, rows, s, cols, lane.rows, lane);
        const auto u = row_major(static_cast<const T*>(lane.rows), rows, cols);
        const auto change = [&](Index j, Index k, int count, T* values) {
          runs::with_values<T>(u.at(j - begin, k - s), by_row ? 1 : cols, count, [&](const T* from) {
            simd::dispatch(
                [&](auto kernels) { kernels.apply(values, from, count, apply, static_cast<const T*>(nullptr)); });
          });
        };
        for_storage_runs(order, plan.kept, plan.removed, begin, begin + rows, s, s + cols, [&](const StorageRun& run) {
          runs::change_parts<T>(w, run,
                                [&](Index j, Index k, int count, int, T* values) { change(j, k, count, values); });
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
