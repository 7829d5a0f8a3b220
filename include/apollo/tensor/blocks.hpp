// SPDX-License-Identifier: Apache-2.0
// Blocks: how storages that share a number among adjacent values (a scale, a range) cut a matrix, and the runs in which
// they are opened and closed.
#pragma once

#include <apollo/tensor/view.hpp>

namespace apollo {

/// How many values are opened at once. Blocks that share a number are of this size or divide it.
inline constexpr int storage_block = 256;

/// Blocks lie along the lines of a matrix's memory (rows, where it is row-major), the last one of a line shorter where the
/// block's size does not divide it; lines of less than storage_block values are joined into one.
struct BlockedLines {
  Index lines = 0;
  Index length = 0;

  static constexpr BlockedLines of(Index lines, Index length) {
    return length < storage_block ? BlockedLines{1, lines * length} : BlockedLines{lines, length};
  }
  constexpr Index in_line(Index block) const { return (length + block - 1) / block; }
  constexpr Index count(Index block) const { return lines * in_line(block); }
};

/// At most storage_block adjacent values of an oriented matrix, in whole blocks.
struct StorageRun {
  Index line = 0;    ///< of BlockedLines
  Index at = 0;      ///< in that line, a multiple of storage_block
  Index length = 0;  ///< of that line
  int count = 0;
  Index across = 0;  ///< values in a line of memory, which may be shorter
  Order2D order = Order2D::row_major;

  /// Number of the first value, in order of memory.
  APOLLO_HD constexpr Index value() const { return line * length + at; }
  /// Number of the first block of that size.
  APOLLO_HD constexpr Index block(Index size) const { return line * ((length + size - 1) / size) + at / size; }

  /// Calls body(j, s, count, offset) for the parts that lie in one line of memory: `count` values from (j, s) on, along
  /// the fastest index, the first of them number `offset` of the run.
  template <class Body>
  void parts(Body&& body) const {
    const Index first = value();
    Index memory_line = first / across, position = first - memory_line * across;
    for (int offset = 0; offset < count;) {
      const Index left = across - position;
      const int part = left < count - offset ? static_cast<int>(left) : count - offset;
      if (order == Order2D::row_major)
        body(memory_line, position, part, offset);
      else
        body(position, memory_line, part, offset);
      offset += part;
      position = 0;
      ++memory_line;
    }
  }
};

/// The first value of a run of an oriented view whose values lie next to each other there too; else null.
template <class V>
constexpr V* adjacent(const MatrixView<V>& view, const StorageRun& run) {
  const bool rows = run.order == Order2D::row_major;
  const Index line = rows ? view.row_stride : view.col_stride;
  const Index stride = rows ? view.col_stride : view.row_stride;
  const bool whole = stride == 1 && (run.length == run.across || line == run.across);
  const Index first = run.value() / run.across, at = run.value() - first * run.across;
  return whole ? view.data + first * line + at : nullptr;
}

/// The run from value `at` on of one line of `size` values, such as R.
APOLLO_HD constexpr StorageRun flat_run(Index at, Index size) {
  const Index left = size - at;
  return {0, at, size, static_cast<int>(left < storage_block ? left : storage_block), size, Order2D::row_major};
}

/// Calls body(run) for the runs of channels [begin, end) and columns [first, last) of a kept x removed matrix whose memory
/// has this order. Where lines are joined the rectangle holds whole ones, and begins with a run; else it begins with one
/// in each line. Plan::tile sees to both.
template <class Body>
void for_storage_runs(Order2D order, Index kept, Index removed, Index begin, Index end, Index first, Index last,
                      Body&& body) {
  const bool rows = order == Order2D::row_major;
  const Index across = rows ? removed : kept;
  const Index lines_begin = rows ? begin : first, lines_end = rows ? end : last;
  const Index from = rows ? first : begin, to = rows ? last : end;
  const auto over = [&](Index line, Index length, Index run_begin, Index run_end) {
    for (Index at = run_begin; at < run_end; at += storage_block) {
      const Index left = run_end - at;
      body(StorageRun{line, at, length, static_cast<int>(left < storage_block ? left : storage_block), across, order});
    }
  };
  if (across < storage_block)
    over(0, kept * removed, lines_begin * across, lines_end * across);
  else
    for (Index line = lines_begin; line < lines_end; ++line) over(line, across, from, to);
}

}  // namespace apollo
