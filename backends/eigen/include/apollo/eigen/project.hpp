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
    runs::for_runs(order, begin, end, x.cols, [&](Index j, Index s, int count) {
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

  /// sum += factor x; `sum` has one unit stride.
  template <class V>
  static GradientSummary add_tile(const MatrixView<const V>& x, T factor, const MatrixView<T>& sum, Index begin,
                                  Index end) {
    GradientSummary summary;
    T buffer[runs::length];
    const Order2D order = memory_order(sum);
    const bool rows = order == Order2D::row_major;
    runs::for_runs(order, begin, end, x.cols, [&](Index j, Index s, int count) {
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

  /// Rank 1: a dot product for each channel.
  template <class G>
  static GradientSummary project_line(const Plan& plan, const MatrixView<const G>& x, const T* p, T factor, T* r,
                                      Index begin, Index end, double* channel) {
    GradientSummary summary = inspect_tile(x, begin, end, channel);
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
};

}  // namespace apollo
