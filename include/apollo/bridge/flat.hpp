// SPDX-License-Identifier: Apache-2.0
// Flat buffers: models whose parameters lie in one stretch of memory, as those of llm.c, mlpack and many exports do.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <apollo/optimizer/optimizer.hpp>

namespace apollo::flat {

/// One tensor of the buffer, or `count` of one shape behind each other, a layer each.
struct Entry {
  std::string name;
  Index offset = 0;  ///< elements before it
  Index rows = 0;
  Index cols = 1;
  Index count = 1;
  Order2D order = Order2D::row_major;

  Index size() const { return count * rows * cols; }
};

/// The tensors of a buffer. They need not cover it: what no entry names is left alone.
class Layout {
 public:
  Layout() = default;
  /// Entries at offsets of their own. Errors: a negative offset; an extent below 1; entries that share elements.
  explicit Layout(std::vector<Entry> entries) {
    for (Entry& entry : entries) add(std::move(entry));
  }

  /// Adds a tensor right behind the last one.
  Layout& matrix(std::string name, Index rows, Index cols, Order2D order = Order2D::row_major) {
    return add({std::move(name), size_, rows, cols, 1, order});
  }
  Layout& vector(std::string name, Index size) { return add({std::move(name), size_, size, 1, 1, Order2D::row_major}); }
  /// [count, rows, cols]: matrices of their own, name[0] ... name[count - 1]; with cols = 1 vectors.
  Layout& stack(std::string name, Index count, Index rows, Index cols) {
    return add({std::move(name), size_, rows, cols, count, Order2D::row_major});
  }

  const std::vector<Entry>& entries() const { return entries_; }
  /// Elements up to the end of the last entry.
  Index size() const { return size_; }

 private:
  Layout& add(Entry entry) {
    const Check check{entry.name};
    constexpr Index most = Index{1} << 60;
    if (entry.offset < 0 || entry.offset > most) check.fail("offset = " + text(entry.offset) + " must be at least 0");
    Index room = most;
    for (const Index extent : {entry.rows, entry.cols, entry.count}) {
      if (extent < 1 || extent > room)
        check.fail(text(entry.count) + " of " + text(Shape{entry.rows, entry.cols}) +
                   ": each must be at least 1, and their product at most 2^60");
      room /= extent;
    }
    for (const Entry& other : entries_)
      if (entry.offset < other.offset + other.size() && other.offset < entry.offset + entry.size())
        check.fail("elements " + text(entry.offset) + " to " + text(entry.offset + entry.size()) +
                   " are also those of " + quote(other.name));
    if (entry.offset + entry.size() > size_) size_ = entry.offset + entry.size();
    entries_.push_back(std::move(entry));
    return *this;
  }

  std::vector<Entry> entries_;
  Index size_ = 0;
};

/// Calls body(name, entry, offset) for every matrix and vector of a buffer.
template <class Body>
void for_each(const Layout& layout, Body&& body) {
  for (const Entry& entry : layout.entries())
    for (Index k = 0; k < entry.count; ++k)
      body(entry.count == 1 ? entry.name : entry.name + "[" + std::to_string(k) + "]", entry,
           entry.offset + k * entry.rows * entry.cols);
}

template <class T>
MatrixView<T> view(const Entry& entry, T* buffer, Index offset) {
  T* data = buffer == nullptr ? nullptr : buffer + offset;
  return entry.order == Order2D::row_major ? row_major(data, entry.rows, entry.cols)
                                           : column_major(data, entry.rows, entry.cols);
}

/// Registers every tensor of the layout: what has more than one row and column under `matrices`, vectors under `others`.
/// Errors: those of BasicOptimizer::add.
template <class Backend, class Matrices, class Others, class W, class G>
void add(BasicOptimizer<Backend>& optimizer, Group<Matrices> matrices, Group<Others> others, const Layout& layout,
         W* weights, const G* gradients) {
  for_each(layout, [&](const std::string& name, const Entry& entry, Index offset) {
    const auto w = view(entry, weights, offset);
    const auto g = view(entry, gradients, offset);
    if (entry.rows > 1 && entry.cols > 1)
      optimizer.add(matrices, name, w, g);
    else
      optimizer.add(others, name, w, g);
  });
}

/// The same buffers elsewhere, as after a reallocation. Errors: those of BasicOptimizer::rebind.
template <class Backend, class W, class G>
void rebind(BasicOptimizer<Backend>& optimizer, const Layout& layout, W* weights, const G* gradients) {
  for_each(layout, [&](const std::string& name, const Entry& entry, Index offset) {
    optimizer.rebind(name, view(entry, weights, offset), view(entry, gradients, offset));
  });
}

}  // namespace apollo::flat
