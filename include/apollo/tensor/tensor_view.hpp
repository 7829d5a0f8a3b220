// SPDX-License-Identifier: Apache-2.0
// Tensors of more than two dimensions, and the stated ways to see them as matrices: `rest`, `batch` and blocks of rows.
#pragma once

#include <string>
#include <vector>

#include <apollo/base/error.hpp>
#include <apollo/tensor/view.hpp>

namespace apollo {

/// How a tensor of more than two dimensions becomes matrices. It is never guessed.
enum class Unfold : std::uint8_t {
  none,   ///< not stated: a tensor of more than two dimensions is refused
  rest,   ///< first dimension x product of the rest (convolution kernels)
  batch,  ///< [E, m, n] is E matrices m x n, each with its own moments and channels (experts)
};

/// A strided tensor that somebody else owns. Element (i0, i1, ...) lives at data[sum of i_k * strides[k]].
template <class T>
struct TensorView {
  T* data = nullptr;
  std::vector<Index> extents;
  std::vector<Index> strides;

  /// A dense tensor, last dimension fastest.
  TensorView(T* data_, std::vector<Index> extents_) : data(data_), extents(extents_), strides(extents_) {
    Index stride = 1;
    for (std::size_t k = extents.size(); k-- > 0; stride *= extents[k]) strides[k] = stride;
  }
  TensorView(T* data_, std::vector<Index> extents_, std::vector<Index> strides_)
      : data(data_), extents(extents_), strides(strides_) {
    if (extents.size() != strides.size())
      refuse("a tensor of " + text(static_cast<Index>(extents.size())) + " dimensions has " +
             text(static_cast<Index>(strides.size())) + " strides");
  }

  std::size_t dimensions() const { return extents.size(); }
};

template <class T>
inline constexpr bool is_tensor_view = false;
template <class T>
inline constexpr bool is_tensor_view<TensorView<T>> = true;

/// The matrices that `view` stands for. One for vectors, matrices and `rest`; E for `batch`.
/// Errors: more than two dimensions without an unfold; `batch` of other than three; `rest` of dimensions that do not
/// collapse to one stride (that would need a copy).
template <class T>
std::vector<MatrixView<T>> unfold(const TensorView<T>& view, Unfold how, const std::string& name) {
  const auto& extent = view.extents;
  const auto& stride = view.strides;
  const std::size_t n = view.dimensions();
  const auto count = text(static_cast<Index>(n));
  if (n == 0) refuse("tensor " + quote(name) + " has 0 dimensions; at least 1 is needed");
  if (how == Unfold::batch) {
    if (n != 3)
      refuse("tensor " + quote(name) + " has " + count + " dimensions; Unfold::batch needs 3, [count, rows, cols]");
    std::vector<MatrixView<T>> matrices;
    for (Index e = 0; e < extent[0]; ++e)
      matrices.push_back(
          {view.data == nullptr ? nullptr : view.data + e * stride[0], extent[1], extent[2], stride[1], stride[2]});
    return matrices;
  }
  if (n > 2 && how == Unfold::none)
    refuse("tensor " + quote(name) + " has " + count +
           " dimensions, more than 2: state Unfold::rest or Unfold::batch (docs/adapters.md)");
  if (n == 1) return {{view.data, extent[0], 1, stride[0], 1}};
  Index cols = extent[n - 1];
  Index inner = stride[n - 1];
  for (std::size_t k = n - 1; k-- > 1;) {
    if (cols != 1 && extent[k] != 1 && stride[k] != inner * cols)
      refuse("tensor " + quote(name) + ": dimensions " + text(static_cast<Index>(k)) + " and after do not collapse " +
             "to one stride, so Unfold::rest would need a copy");
    if (cols == 1) inner = stride[k];
    cols *= extent[k];
  }
  return {{view.data, extent[0], cols, stride[0], inner}};
}

/// Splits a fused matrix (query, key, value in one) into blocks of stated heights, top to bottom.
/// Error: heights that do not add up to the rows of the view, or one that is not positive.
template <class T>
std::vector<MatrixView<T>> split_rows(const MatrixView<T>& view, const std::vector<Index>& heights,
                                      const std::string& name) {
  std::vector<MatrixView<T>> blocks;
  Index first = 0;
  for (const Index height : heights) {
    if (height <= 0) refuse("tensor " + quote(name) + ": a block of " + text(height) + " rows; at least 1 is needed");
    blocks.push_back(view.middle_rows(first, height));
    first += height;
  }
  if (first != view.rows)
    refuse("tensor " + quote(name) + ": blocks of " + text(first) + " rows in all do not tile its " + text(view.rows));
  return blocks;
}

}  // namespace apollo
