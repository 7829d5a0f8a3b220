// SPDX-License-Identifier: Apache-2.0
// Which views a device steps: of which types, where in memory, laid out how. Errors name the tensor and change nothing.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>

#include <apollo/step/settings.hpp>
#include <apollo/tensor/int8.hpp>
#include <apollo/tensor/number.hpp>
#include <apollo/tensor/view.hpp>

namespace apollo::cuda {

template <class W, class Gradient>
constexpr void check_types() {
  static_assert(
      std::is_same_v<W, float> || std::is_same_v<W, bfloat16> || is_grouped<W>,
      "apollo: apollo::cuda steps weights of float, apollo::bfloat16 or apollo::int8_groups; see docs/cuda.md.");
  static_assert(std::is_same_v<Gradient, float> || std::is_same_v<Gradient, bfloat16>,
                "apollo: apollo::cuda takes gradients of float or apollo::bfloat16; see docs/cuda.md.");
}

/// Where a processor reads a number from any address, a GPU stops all that is enqueued.
template <class T>
void check_aligned(const Check& check, const char* what, const T* data) {
  if (reinterpret_cast<std::uintptr_t>(data) % alignof(T) != 0)
    check.fail(std::string("the ") + what + " begins at an address that is no multiple of " +
               text(static_cast<Index>(alignof(T))) + ", as its values must");
}

template <class Device>
void check_ranges(const Device& device, const Check& check, const MatrixView<int8_groups>& view) {
  if (!is_group_size(view.group_size))
    check.fail("group_size = " + text(view.group_size) + " must be 32, 64, 128 or 256");
  if (view.row_stride != view.cols || view.col_stride != 1)
    check.fail("a weight in 8-bit groups must be row-major, its rows adjacent");
  if (view.ranges == nullptr) check.fail("the weight has no ranges of its groups");
  check_aligned(check, "array of the weight's ranges", view.ranges);
  const Index groups = BlockedLines::of(view.rows, view.cols).count(view.group_size);
  const std::string refused = device.refuses(view.ranges, groups * static_cast<Index>(sizeof(GroupRange)));
  if (!refused.empty()) check.fail("the array of the weight's ranges " + refused);
}

template <class Device, class T>
void check_view(const Device& device, const Check& check, const char* what, const MatrixView<T>& view) {
  if (view.rows < 1 || view.cols < 1) return;  // make_plan tells
  if (view.data == nullptr) check.fail(std::string("the ") + what + " has no data");
  check_aligned(check, what, view.data);
  const bool rows = memory_order(view) == Order2D::row_major;
  const Index lines = rows ? view.rows : view.cols, length = rows ? view.cols : view.rows;
  if ((length > 1 && (rows ? view.col_stride : view.row_stride) != 1) ||
      (lines > 1 && (rows ? view.row_stride : view.col_stride) != length))
    check.fail(std::string("the ") + what + " of shape " + text(view.shape()) + " and strides " +
               text(view.row_stride) + ", " + text(view.col_stride) +
               " has gaps; apollo::cuda steps row- or column-major matrices without");
  const std::string refused = device.refuses(view.data, view.size() * static_cast<Index>(sizeof(T)));
  if (!refused.empty()) check.fail(std::string("the ") + what + " " + refused);
  if constexpr (is_grouped<T>) check_ranges(device, check, view);
}

/// Of a tensor of this shape and order of memory; one without data is none.
template <class Device, class G>
void check_gradient(const Device& device, const Check& check, Shape shape, Order2D order,
                    const MatrixView<const G>& gradient) {
  if (gradient.data == nullptr) return;
  if (!(gradient.shape() == shape))
    check.fail("a gradient of shape " + text(gradient.shape()) + " must be " + text(shape));
  check_view(device, check, "gradient", gradient);
  if (memory_order(gradient) != order) check.fail("weight and gradient must be ordered by the same index in memory");
}

}  // namespace apollo::cuda
