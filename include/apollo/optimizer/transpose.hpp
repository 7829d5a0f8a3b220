// SPDX-License-Identifier: Apache-2.0
// Rows of an array in whatever order, copied into a buffer row by row or back: how checkpoints turn a state that lies column by
// column.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include <apollo/step/state_visitor.hpp>

namespace apollo::checkpoint {

/// Elements on a side of the squares that are turned at a time: at least a line of the cache.
template <std::size_t Size>
inline constexpr Index turned_side = Size >= 4 ? 16 : 64 / static_cast<Index>(Size);

#if defined(__GNUC__)
template <std::size_t Size>
struct SixteenBytes {
  using Word = std::conditional_t<
      Size == 1, std::uint8_t,
      std::conditional_t<Size == 2, std::uint16_t, std::conditional_t<Size == 4, std::uint32_t, std::uint64_t>>>;
  typedef Word type __attribute__((vector_size(16)));
};

/// The first halves of two vectors in turns (f = 0), or their second halves (f = count / 2). Packs of numbers would say it for any
/// count, but nvcc loses them on the way to the host's compiler.
template <int count, int f, class V>
V interleave(V a, V b) {
  if constexpr (count == 2)
    return __builtin_shufflevector(a, b, f, f + 2);
  else if constexpr (count == 4)
    return __builtin_shufflevector(a, b, f, f + 4, f + 1, f + 5);
  else if constexpr (count == 8)
    return __builtin_shufflevector(a, b, f, f + 8, f + 1, f + 9, f + 2, f + 10, f + 3, f + 11);
  else
    return __builtin_shufflevector(a, b, f, f + 16, f + 1, f + 17, f + 2, f + 18, f + 3, f + 19, f + 4, f + 20, f + 5,
                                   f + 21, f + 6, f + 22, f + 7, f + 23);
}

/// A transposition in log2(count) rounds, each of which interleaves vectors i and i + count / 2. `left` is 2^rounds still to go.
template <int left, class V, int count, int... i>
void transpose(V (&a)[count], std::integer_sequence<int, i...> half) {
  if constexpr (left > 1) {
    V b[count];
    ((b[2 * i] = interleave<count, 0>(a[i], a[i + count / 2]),
      b[2 * i + 1] = interleave<count, count / 2>(a[i], a[i + count / 2])),
     ...);
    transpose<left / 2>(b, half);
    ((a[2 * i] = b[2 * i], a[2 * i + 1] = b[2 * i + 1]), ...);
  }
}

/// A square whose lines are 16 bytes.
template <std::size_t Size>
void turn_block(const std::byte* from, Index from_stride, std::byte* to, Index to_stride) {
  constexpr int count = 16 / static_cast<int>(Size);
  typename SixteenBytes<Size>::type lines[count];
  for (int i = 0; i < count; ++i) std::memcpy(&lines[i], from + i * from_stride, 16);
  transpose<count>(lines, std::make_integer_sequence<int, count / 2>());
  for (int i = 0; i < count; ++i) std::memcpy(to + i * to_stride, &lines[i], 16);
}
#else
template <std::size_t Size>
void turn_block(const std::byte* from, Index from_stride, std::byte* to, Index to_stride) {
  constexpr Index size = Size, count = 16 / size;
  for (Index i = 0; i < count; ++i)
    for (Index j = 0; j < count; ++j)
      std::memcpy(to + j * to_stride + i * size, from + i * from_stride + j * size, Size);
}
#endif

/// A square of turned_side lines, strides in bytes. Lines of `to` are written whole, one block of them after the other.
template <std::size_t Size>
void turn_square(const std::byte* from, Index from_stride, std::byte* to, Index to_stride) {
  constexpr Index size = Size, count = 16 / size;
  for (Index j = 0; j < turned_side<Size>; j += count)
    for (Index i = 0; i < turned_side<Size>; i += count)
      turn_block<Size>(from + i * from_stride + j * size, from_stride, to + j * to_stride + i * size, to_stride);
}

/// Copies `count` rows of an array, from `first` on, into a buffer, or back where `store` says so. Squares of an array whose
/// columns are adjacent are turned in registers, down its columns: so its memory is met in order, and of each line of the cache
/// all is used at once. What is left at the edges, and other arrays, are copied value by value.
template <std::size_t Size>
void copy_rows(const AnyView& v, Index first, Index count, std::byte* buffer, bool store) {
  constexpr Index size = Size, side = turned_side<Size>;
  const Index down = v.row_stride * size, across = v.col_stride * size, line = v.cols * size;
  std::byte* base = static_cast<std::byte*>(const_cast<void*>(v.data)) + first * down;
  for (Index j0 = 0; j0 < v.cols; j0 += side) {
    const Index cols = v.cols - j0 < side ? v.cols - j0 : side;
    for (Index i0 = 0; i0 < count; i0 += side) {
      const Index rows = count - i0 < side ? count - i0 : side;
      std::byte* array = base + i0 * down + j0 * across;
      std::byte* copy = buffer + i0 * line + j0 * size;
      if (rows == side && cols == side && v.row_stride == 1) {
#if defined(__GNUC__)
        if (i0 + 3 * side <= count)  // the square after the next: too far apart for the processor to guess
          for (Index j = 0; j < side; ++j) __builtin_prefetch(array + 2 * side * size + j * across);
#endif
        if (store)
          turn_square<Size>(copy, line, array, across);
        else
          turn_square<Size>(array, across, copy, line);
      } else {
        for (Index j = 0; j < cols; ++j)
          for (Index i = 0; i < rows; ++i) {
            std::byte* element = array + i * down + j * across;
            std::byte* slot = copy + i * line + j * size;
            std::memcpy(store ? element : slot, store ? slot : element, Size);
          }
      }
    }
  }
}

}  // namespace apollo::checkpoint
