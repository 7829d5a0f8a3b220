// SPDX-License-Identifier: Apache-2.0
// What one lane does with one tile of channels on the first read of the gradient: norms, finiteness, and projections that are
// not matrix products.
#pragma once

#include <apollo/eigen/backend.hpp>
#include <apollo/eigen/runs.hpp>

namespace apollo {

template <class T>
struct EigenTiles {
  template <class G>
  static GradientSummary inspect_tile(const MatrixView<const G>& x, Index begin, Index end, double* channel) {
    GradientSummary summary;
    T buffer[runs::length];
    const Order2D order = memory_order(x);
    const bool rows = order == Order2D::row_major;
    if (channel != nullptr)
      for (Index j = begin; j < end; ++j) channel[j] = 0;
    const Index longest = runs::in_place<T>(x, order) ? runs::length_in_place : runs::length;
    runs::for_runs(order, begin, end, x.cols, longest, [&](Index j, Index s, int count) {
      const T* run = runs::load(x.at(j, s), rows ? x.col_stride : x.row_stride, count, buffer);
      const double sum = runs::measure(run, count, summary.finite);
      summary.squared_norm += sum;
      if (channel == nullptr) return;
      if (rows)
        channel[j] += sum;
      else
        simd::dispatch([&](auto kernels) { kernels.add_squares(run, channel + j, count); });
    });
    return summary;
  }

  /// sum += factor x; `sum` has one unit stride.
  template <class V>
  static GradientSummary add_tile(const MatrixView<const V>& x, T factor, const MatrixView<T>& sum, Index begin,
                                  Index end) {
    GradientSummary summary;
    T buffer[runs::length];
    const Order2D order = memory_order(sum);
    const bool rows = order == Order2D::row_major;
    runs::for_runs(order, begin, end, x.cols, runs::length, [&](Index j, Index s, int count) {
      const T* run = runs::load(x.at(j, s), rows ? x.col_stride : x.row_stride, count, buffer);
      T* to = sum.at(j, s);
      for (int i = 0; i < count; ++i) to[i] += factor * run[i];
      summary.squared_norm += runs::measure(to, count, summary.finite);
    });
    return summary;
  }

  static void check_projection(const T* r, Index size, GradientSummary& summary) {
    for (Index i = 0; i < size; i += runs::length)
      runs::measure(r + i, static_cast<int>(size - i < runs::length ? size - i : runs::length), summary.finite);
  }

  /// Rank 1: a dot product for each channel, and its norm in the same read.
  template <class G>
  static GradientSummary project_line(const Plan& plan, const MatrixView<const G>& x, const T* p, T factor, T* r,
                                      Index begin, Index end, double* channel, const EigenLines<T>& buffers) {
    GradientSummary summary;
    for (Index j = begin; j < end; ++j) r[j] = 0;
    if (memory_order(x) == Order2D::row_major) {
      over_channels(plan, x, begin, end, channel, summary, [&](Index j, Index s, const auto* run, int count) {
        T product = 0;
        const T squares = simd::dispatch([&](auto kernels) { return kernels.dot_squares(run, p + s, count, product); });
        r[j] += product;
        return static_cast<double>(squares);
      });
    } else {
      start_norms(buffers, end - begin);
      for (Index s = 0; s < plan.removed; s += lines_at_once) {
        const int lines = static_cast<int>(plan.removed - s < lines_at_once ? plan.removed - s : lines_at_once);
        add_lines(x, begin, end - begin, nullptr, s, lines, lines_ahead, p + s, r + begin, buffers.squares,
                  buffers.converted);
        flush_norms(buffers, end - begin);
      }
      finish_norms(buffers, x, begin, end, channel, summary);
    }
    for (Index j = begin; j < end; ++j) r[j] *= factor;
    check_projection(r + begin, end - begin, summary);
    return summary;
  }

  /// Adjacent inputs of a channel go to adjacent buckets, `lanes` at a time; norms in the same read.
  template <class G>
  static GradientSummary scatter_rows(const Plan& plan, const MatrixView<const G>& x, const SparseDirections& p,
                                      Index begin, Index end, T* out, T weight, double* channel) {
    static_assert(runs::length % 8 == 0);  // a run never cuts a group of lanes
    GradientSummary summary;
    over_channels(plan, x, begin, end, channel, summary, [&](Index j, Index s, const auto* run, int count) {
      T* row = out + (j - begin) * plan.rank;
      if (s == 0) start_row(row, plan.rank);
      double sum = 0;
      for (int h = 0; h < p.nonzeros; ++h) {
        const std::uint32_t* sign = p.sign + h * plan.removed + s;
        const std::int32_t* bucket = p.bucket + h * p.map_size + s / p.lanes;
        double squares = 0;
        if (p.lanes == 8) {
          squares = static_cast<double>(
              simd::dispatch([&](auto kernels) { return kernels.scatter(run, count, bucket, sign, row); }));
        } else {
          for (int i = 0; i < count; ++i)
            row[bucket[i]] += sign[i] != 0 ? -static_cast<T>(run[i]) : static_cast<T>(run[i]);
          if (h == 0) squares = runs::sum_squares(run, count);
        }
        if (h == 0) sum = squares;
      }
      if (s + count == plan.removed) finish_row(row, plan.rank, weight, summary);
      return sum;
    });
    return summary;
  }

  /// Channels are adjacent in memory: a bucket is the signed sum of its inputs' lines. The sums are turned at the end.
  template <class G>
  static GradientSummary scatter_columns(const Plan& plan, const MatrixView<const G>& x, const SparseLines<T>& p,
                                         Index begin, Index end, T* out, T weight, double* channel, T* sums,
                                         const EigenLines<T>& buffers) {
    GradientSummary summary;
    const Index width = end - begin;
    start_norms(buffers, width);
    Index lines = 0;
    for (Index b = 0; b < plan.rank; ++b) {
      T* row = sums + b * width;
      for (Index i = 0; i < width; ++i) row[i] = 0;
      const std::int32_t first = p.first[b];
      const int count = p.first[b + 1] - first;
      const bool first_map = b < p.first_map;  // in which every input is once
      const int ahead = first + 2 * count <= p.first[plan.rank] ? count : 0;
      fetch_to_write(out + b * width, width);
      add_lines(x, begin, width, p.inputs + first, 0, count, ahead, p.coefficients + first, row,
                first_map ? buffers.squares : nullptr, buffers.converted);
      if (first_map && (lines += count) >= lines_at_once) flush_norms(buffers, width), lines = 0;
    }
    flush_norms(buffers, width);
    finish_norms(buffers, x, begin, end, channel, summary);
    simd::dispatch([&](auto kernels) { kernels.transpose(sums, width, out, plan.rank, width, plan.rank, weight); });
    return summary;
  }

 private:
  static void fetch_to_write(T* values, Index count) {
    for (Index i = 0; i < count; i += 64 / static_cast<Index>(sizeof(T))) __builtin_prefetch(values + i, 1);
  }

  /// A channel of R, to be added to; the next one's memory is fetched meanwhile.
  static void start_row(T* row, Index rank) {
    fetch_to_write(row + rank, rank);
    for (Index k = 0; k < rank; ++k) row[k] = 0;
  }

  /// A channel of R in full, and whether it is finite, while it is in the nearest cache.
  static void finish_row(T* row, Index rank, T weight, GradientSummary& summary) {
    const T squares = simd::dispatch([&](auto kernels) { return kernels.scale(row, rank, weight); });
    if (!bits::finite(squares)) runs::sum_squares_slowly(row, rank, 1, summary.finite);
  }

  /// Lines whose squares may be summed in T.
  static constexpr Index lines_at_once = 256;
  /// Lines that are read one after the other are fetched so many early.
  static constexpr int lines_ahead = 8;

  /// One channel's sum of squares; where T could not hold it, it is summed again.
  template <class G>
  static void note(const MatrixView<const G>& x, Index j, double sum, double* channel, GradientSummary& summary) {
    if (!bits::finite(sum)) {
      T buffer[runs::length];
      sum = 0;
      for (Index s = 0; s < x.cols; s += runs::length) {
        const int count = static_cast<int>(x.cols - s < runs::length ? x.cols - s : runs::length);
        const T* run = runs::load(x.at(j, s), x.col_stride, count, buffer);
        sum += runs::sum_squares_slowly(run, count, 1, summary.finite);
      }
    }
    if (channel != nullptr) channel[j] = sum;
    summary.squared_norm += sum;
  }

  /// Calls body(j, s, run, count), which returns the run's sum of squares, for all runs of all channels.
  template <class G, class Body>
  static void over_channels(const Plan& plan, const MatrixView<const G>& x, Index begin, Index end, double* channel,
                            GradientSummary& summary, Body&& body) {
    T buffer[runs::length];
    const bool adjacent = x.col_stride == 1;
    const Index longest = simd::readable<G, T> && adjacent ? runs::length_in_place : runs::length;
    for (Index j = begin; j < end; ++j) {
      double sum = 0;
      for (Index s = 0; s < plan.removed; s += longest) {
        const int count = static_cast<int>(plan.removed - s < longest ? plan.removed - s : longest);
        if constexpr (simd::readable<G, T>)
          if (adjacent) {
            sum += body(j, s, x.at(j, s), count);
            continue;
          }
        sum += body(j, s, runs::load(x.at(j, s), x.col_stride, count, buffer), count);
      }
      note(x, j, sum, channel, summary);
    }
  }

  /// out_i += sum of coefficient_l x(begin + i, line l) and squares_i += sum of their squares. Lines are `lines`, or those
  /// from `first` on; they are read in place where they are adjacent values of T, else converted eight at a time.
  template <class G>
  static void add_lines(const MatrixView<const G>& x, Index begin, Index width, const std::int32_t* lines, Index first,
                        int count, int ahead, const T* coefficients, T* out, T* squares, T* converted) {
    if constexpr (simd::readable<G, T>)
      if (x.row_stride == 1)
        return simd::dispatch([&](auto kernels) {
          kernels.add_lines(x.at(begin, first), x.col_stride, lines, coefficients, count, ahead, width, out, squares);
        });
    for (int done = 0; done < count; done += EigenLines<T>::at_once) {
      const int take = count - done < EigenLines<T>::at_once ? count - done : EigenLines<T>::at_once;
      for (int l = 0; l < take; ++l) {
        const Index s = lines == nullptr ? first + done + l : lines[done + l];
        runs::load(x.at(begin, s), x.row_stride, static_cast<int>(width), converted + l * width);
      }
      simd::dispatch([&](auto kernels) {
        kernels.add_lines(static_cast<const T*>(converted), width, nullptr, coefficients + done, take, 0, width, out,
                          squares);
      });
    }
  }

  static void start_norms(const EigenLines<T>& buffers, Index width) {
    for (Index i = 0; i < width; ++i) buffers.squares[i] = 0, buffers.norms[i] = 0;
  }
  static void flush_norms(const EigenLines<T>& buffers, Index width) {
    for (Index i = 0; i < width; ++i) {
      buffers.norms[i] += static_cast<double>(buffers.squares[i]);
      buffers.squares[i] = 0;
    }
  }
  template <class G>
  static void finish_norms(const EigenLines<T>& buffers, const MatrixView<const G>& x, Index begin, Index end,
                           double* channel, GradientSummary& summary) {
    for (Index j = begin; j < end; ++j) note(x, j, buffers.norms[j - begin], channel, summary);
  }
};

}  // namespace apollo
