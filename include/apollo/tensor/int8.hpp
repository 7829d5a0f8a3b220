// SPDX-License-Identifier: Apache-2.0
// Weights of 8 bits: codes in groups that share a minimum and a scale, as a view and as a matrix of its own.
#pragma once

#include <type_traits>
#include <vector>

#include <apollo/base/error.hpp>
#include <apollo/random/rounding.hpp>
#include <apollo/tensor/blocks.hpp>
#include <apollo/tensor/number.hpp>
#include <apollo/tensor/traits.hpp>

namespace apollo {

/// What a group of codes stands for: code q is the number minimum + q * scale.
struct GroupRange {
  float minimum = 0;
  float scale = 0;
};

/// The element type of matrices of 8-bit codes in groups. Groups are BlockedLines of rows: they follow each row, the last of
/// it shorter where the size does not divide it, or the whole matrix where rows have less than 256 values.
/// State: 1 byte a value and 8 a group. Source: the uniform quantization of Q-GaLore (arXiv:2407.08296) sec. 3.4, with the
/// minimum itself in place of an integer zero point, which could not hold a group of one sign.
struct int8_groups {};
template <class T>
inline constexpr bool is_grouped = std::is_same_v<std::remove_const_t<T>, int8_groups>;
template <>
inline constexpr const char* type_name<int8_groups> = "uint8 in groups";
template <>
inline constexpr bool is_storage_type<int8_groups> = true;

/// A row-major matrix of codes that somebody else owns, or its transpose. Strides tell the two apart.
template <class Code, class Range>
struct GroupedView {
  using value_type = int8_groups;

  Code* data = nullptr;
  Index rows = 0;
  Index cols = 0;
  Index row_stride = 0;
  Index col_stride = 0;
  Range* ranges = nullptr;
  Index group_size = 0;

  constexpr Shape shape() const { return {rows, cols}; }
  constexpr Index size() const { return rows * cols; }
};
template <>
struct MatrixView<int8_groups> : GroupedView<std::uint8_t, GroupRange> {
  constexpr MatrixView transposed() const { return {{data, cols, rows, col_stride, row_stride, ranges, group_size}}; }
};
template <>
struct MatrixView<const int8_groups> : GroupedView<const std::uint8_t, const GroupRange> {
  constexpr MatrixView() = default;
  constexpr MatrixView(const GroupedView<const std::uint8_t, const GroupRange>& view)
      : GroupedView<const std::uint8_t, const GroupRange>(view) {}
  constexpr MatrixView(const MatrixView<int8_groups>& view)
      : GroupedView<const std::uint8_t, const GroupRange>{view.data,       view.rows,   view.cols,      view.row_stride,
                                                          view.col_stride, view.ranges, view.group_size} {}
};

/// Sizes a group may have.
constexpr bool is_group_size(Index size) { return size == 32 || size == 64 || size == 128 || size == 256; }

namespace int8 {

inline constexpr int part = 32;  ///< loops of constant length become vectors at -O2
/// A group of equal values has this range, so that nothing is divided by zero.
inline constexpr float least_range = 1e-5f;

/// What one value gets: what its code stands for, and from the least and the largest value of its group the group's range and
/// its code; for loops over values and for who has a thread for each.
APOLLO_INLINE float value_of(std::uint8_t code, const GroupRange& range) {
  return range.minimum + range.scale * static_cast<float>(code);
}
APOLLO_INLINE float width(float low, float high) { return high - low > least_range ? high - low : least_range; }
APOLLO_INLINE GroupRange range_of(float low, float high) { return {low, width(low, high) / 255.0f}; }
/// By what a value's distance from the least is multiplied before it is rounded with 16 random bits, or rounding::half.
APOLLO_INLINE float factor(float low, float high) { return 255.0f * 65536.0f / width(low, high); }
APOLLO_INLINE std::uint8_t code_of(float value, float low, float factor, std::uint16_t random) {
  return static_cast<std::uint8_t>(rounding::code((value - low) * factor + 0.5f, random));
}

/// values = minimum + code scale
APOLLO_INLINE void open(const std::uint8_t* codes, const GroupRange& range, int count, float* values) {
  const GroupRange r = range;
  int i = 0;
  for (; i + part <= count; i += part)
    for (int l = 0; l < part; ++l) values[i + l] = value_of(codes[i + l], r);
  for (; i < count; ++i) values[i] = value_of(codes[i], r);
}

/// Codes of a group of at most 256 values, and their range. With `random` bytes it rounds stochastically, without to nearest.
APOLLO_INLINE void close(const float* values, int count, std::uint8_t* codes, GroupRange& range,
                         const std::uint8_t* random) {
  float low[part], high[part];
  for (int l = 0; l < part; ++l) low[l] = high[l] = values[0];
  int i = 0;
  for (; i + part <= count; i += part)
    for (int l = 0; l < part; ++l) {
      const float value = values[i + l];
      low[l] = value < low[l] ? value : low[l];
      high[l] = value > high[l] ? value : high[l];
    }
  for (int l = 0; i + l < count; ++l) {
    const float value = values[i + l];
    low[l] = value < low[l] ? value : low[l];
    high[l] = value > high[l] ? value : high[l];
  }
  for (int l = 1; l < part; ++l) {
    low[0] = low[l] < low[0] ? low[l] : low[0];
    high[0] = high[l] > high[0] ? high[l] : high[0];
  }
  const float least = low[0], per_value = factor(low[0], high[0]);
  for (i = 0; i < count; ++i) {
    const std::uint16_t bits = random != nullptr ? rounding::bits_of(random, i) : rounding::half;
    codes[i] = code_of(values[i], least, per_value, bits);
  }
  range = range_of(low[0], high[0]);
}

}  // namespace int8

/// A matrix of 8-bit weights that owns its memory: what a trainer keeps in place of floats.
class Int8Matrix {
 public:
  Int8Matrix() = default;
  /// All zero. Errors: a negative extent; a group size other than 32, 64, 128 and 256.
  Int8Matrix(Index rows, Index cols, Index group_size = 128)
      : rows_(rows), cols_(cols), group_size_(group_size), lines_(BlockedLines::of(rows, cols)) {
    if (rows < 0 || cols < 0) refuse("a matrix of shape " + text(Shape{rows, cols}) + " cannot be");
    if (!is_group_size(group_size)) refuse("group_size = " + text(group_size) + " must be 32, 64, 128 or 256");
    codes_.resize(static_cast<std::size_t>(rows * cols));
    if (!codes_.empty()) ranges_.resize(static_cast<std::size_t>(lines_.count(group_size)));
  }

  Index rows() const { return rows_; }
  Index cols() const { return cols_; }
  Index group_size() const { return group_size_; }
  /// Bytes of codes and ranges.
  Index bytes() const {
    return static_cast<Index>(codes_.size()) + static_cast<Index>(ranges_.size() * sizeof(GroupRange));
  }
  std::vector<std::uint8_t>& codes() { return codes_; }
  const std::vector<std::uint8_t>& codes() const { return codes_; }
  std::vector<GroupRange>& ranges() { return ranges_; }
  const std::vector<GroupRange>& ranges() const { return ranges_; }

  MatrixView<int8_groups> view() { return {{codes_.data(), rows_, cols_, cols_, 1, ranges_.data(), group_size_}}; }
  MatrixView<const int8_groups> view() const {
    return GroupedView<const std::uint8_t, const GroupRange>{codes_.data(),  rows_,      cols_, cols_, 1,
                                                             ranges_.data(), group_size_};
  }

  /// `count` rows from `first` on, row-major. Cost: at the speed of memory.
  void dequantize(Index first, Index count, float* to) const {
    check_rows(first, count);
    for_groups(first * cols_, (first + count) * cols_, [&](Index value, Index group, int size) {
      const Index skipped =
          first * cols_ > value ? first * cols_ - value : 0;  // of a group that begins in an earlier row
      const Index last = (first + count) * cols_ < value + size ? (first + count) * cols_ : value + size;
      const auto at = static_cast<std::size_t>(value + skipped);
      int8::open(codes_.data() + at, ranges_[static_cast<std::size_t>(group)], static_cast<int>(last - value - skipped),
                 to + (value + skipped - first * cols_));
    });
  }

  /// Rows from `first` on, each value to its nearest code: at most half a scale away. Error: rows that begin or end within
  /// a group, which only those of less than 256 values do.
  void quantize(Index first, Index count, const float* from) {
    check_rows(first, count);
    const Index begin = first * cols_, end = begin + count * cols_;
    if (cols_ < storage_block && (begin % group_size_ != 0 || (end % group_size_ != 0 && first + count != rows_)))
      refuse("rows " + text(first) + " to " + text(first + count) + " of " + text(cols_) +
             " values begin or end within a group of " + text(group_size_));
    for_groups(begin, end, [&](Index value, Index group, int size) {
      int8::close(from + (value - begin), size, codes_.data() + value, ranges_[static_cast<std::size_t>(group)],
                  nullptr);
    });
  }

 private:
  void check_rows(Index first, Index count) const {
    if (first < 0 || count < 0 || first + count > rows_)
      refuse("rows " + text(first) + " to " + text(first + count) + " are not within 0 to " + text(rows_));
  }

  /// Calls body(first value, number, size) for the groups that have a value in [begin, end).
  template <class Body>
  void for_groups(Index begin, Index end, Body&& body) const {
    for (Index value = begin; value < end;) {
      const Index line = value / lines_.length, at = (value - line * lines_.length) / group_size_ * group_size_;
      const Index left = lines_.length - at, size = left < group_size_ ? left : group_size_;
      body(line * lines_.length + at, line * lines_.in_line(group_size_) + at / group_size_, static_cast<int>(size));
      value = line * lines_.length + at + size;
    }
  }

  Index rows_ = 0, cols_ = 0, group_size_ = 128;
  BlockedLines lines_;
  std::vector<std::uint8_t> codes_;
  std::vector<GroupRange> ranges_;
};

template <>
struct TensorTraits<Int8Matrix> {
  using value_type = int8_groups;
  static MatrixView<int8_groups> view(Int8Matrix& matrix) { return matrix.view(); }
  static MatrixView<const int8_groups> view(const Int8Matrix& matrix) { return matrix.view(); }
};

}  // namespace apollo
