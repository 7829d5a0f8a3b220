// SPDX-License-Identifier: Apache-2.0
// Views of device memory as programs in CUDA hold it: thrust::device_vector and universal_vector, thrust::device_ptr, values of
// __nv_bfloat16. Nothing of theirs is included: a vector is whatever has data() and size() and no shape, and Thrust's pointers have
// get().
#pragma once

#include <concepts>
#include <type_traits>
#include <utility>

#include <apollo/tensor/traits.hpp>

struct __nv_bfloat16;  // of <cuda_bf16.h>

namespace apollo::cuda {

namespace detail {

/// Thrust's pointers: they say what they are made of.
template <class P>
concept FancyPointer = requires(const P& pointer) {
  typename P::raw_pointer;
  { pointer.get() } -> std::same_as<typename P::raw_pointer>;
};
/// Raw, or one of Thrust's.
template <class P>
concept Pointer = std::is_pointer_v<P> || FancyPointer<P>;

/// A vector without a shape of its own.
template <class V>
concept Vector = requires(V& vector) {
  typename V::value_type;
  vector.size();
  { vector.data() } -> Pointer;
}
&&!adapter::HasShape<V>;

/// The address, as a pointer to numbers of ours.
template <Pointer P>
auto address(const P& pointer) {
  if constexpr (FancyPointer<P>) {
    return address(pointer.get());
  } else {
    using Element = std::remove_pointer_t<P>;
    using Number = std::remove_const_t<Element>;
    using Ours =
        std::conditional_t<std::is_same_v<Number, __nv_bfloat16>, bfloat16, typename adapter::Ours<Number>::type>;
    if constexpr (std::is_same_v<Number, Ours>)
      return pointer;
    else
      return reinterpret_cast<std::conditional_t<std::is_const_v<Element>, const Ours, Ours>*>(pointer);
  }
}

/// Only a view is kept, so the memory must stay: no temporary that owns it. An owner's constant objects give constant elements.
template <class V>
auto address_of(V&& vector) {
  using Plain = std::remove_cvref_t<V>;
  using Element = std::remove_pointer_t<decltype(address(std::declval<Plain&>().data()))>;
  using OfConstant = std::remove_pointer_t<decltype(address(std::declval<const Plain&>().data()))>;
  static_assert(
      std::is_lvalue_reference_v<V> || std::is_const_v<Element> || !std::is_const_v<OfConstant>,
      "apollo: a temporary that owns its memory cannot be registered, since only a view of it is kept. Give the "
      "vector a name that lives as long as the optimizer; see docs/cuda.md.");
  return address(vector.data());
}

}  // namespace detail

/// A vector as a matrix of rows x cols, or as a column; for add() and rebind() of apollo::cuda's optimizer. A constant vector
/// gives a gradient's view. The view is valid until the vector grows, moves or ends. Errors: a size other than rows * cols.
template <class V>
  requires(detail::Vector<std::remove_cvref_t<V>>)
auto row_major(V&& vector, Index rows, Index cols) {
  adapter::check_size(static_cast<Index>(vector.size()), {rows, cols});
  return apollo::row_major(detail::address_of(std::forward<V>(vector)), rows, cols);
}
template <class V>
  requires(detail::Vector<std::remove_cvref_t<V>>)
auto column_major(V&& vector, Index rows, Index cols) {
  adapter::check_size(static_cast<Index>(vector.size()), {rows, cols});
  return apollo::column_major(detail::address_of(std::forward<V>(vector)), rows, cols);
}
template <class V>
  requires(detail::Vector<std::remove_cvref_t<V>>)
auto vector(V&& values) {
  const auto size = static_cast<Index>(values.size());
  return apollo::vector(detail::address_of(std::forward<V>(values)), size);
}

/// The same of memory whose size is the caller's word: thrust::device_ptr and universal_ptr, pointers to __nv_bfloat16.
template <detail::Pointer P>
auto row_major(const P& pointer, Index rows, Index cols) {
  return apollo::row_major(detail::address(pointer), rows, cols);
}
template <detail::Pointer P>
auto column_major(const P& pointer, Index rows, Index cols) {
  return apollo::column_major(detail::address(pointer), rows, cols);
}
template <detail::Pointer P>
auto vector(const P& pointer, Index size) {
  return apollo::vector(detail::address(pointer), size);
}

}  // namespace apollo::cuda
