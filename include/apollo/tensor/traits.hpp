// SPDX-License-Identifier: Apache-2.0
// TensorTraits: the adapter between a user's tensor type and MatrixView.
#pragma once

#include <string>
#include <type_traits>
#include <utility>

#include <apollo/base/error.hpp>
#include <apollo/tensor/number.hpp>
#include <apollo/tensor/structural.hpp>
#include <apollo/tensor/view.hpp>

namespace apollo {

/// Specialise this for a tensor type of your own (docs/adapters.md):
///
///     template <> struct apollo::TensorTraits<MyTensor> {
///       using value_type = float;
///       static apollo::MatrixView<float> view(MyTensor& t);
///       static apollo::MatrixView<const float> view(const MyTensor& t);
///     };
///
/// The views point into the tensor; nothing is copied. A specialisation always goes before the structural rules, which are
/// the primary template. The second template parameter is for specialisations of a family of types by std::enable_if.
template <class Tensor, class Enable = void>
struct TensorTraits : adapter::Structural<Tensor> {};

template <class T>
struct TensorTraits<MatrixView<T>> {
  using value_type = std::remove_const_t<T>;
  static constexpr MatrixView<T> view(const MatrixView<T>& tensor) { return tensor; }
};

namespace adapter {

template <class T>
concept HasValueType = requires {
  typename TensorTraits<T>::value_type;
};

template <class T>
concept HasView = requires(T& t) {
  TensorTraits<std::remove_const_t<T>>::view(t);
};

template <class T>
constexpr bool stores_our_numbers() {
  if constexpr (HasValueType<T>) return is_storage_type<std::remove_const_t<typename TensorTraits<T>::value_type>>;
  return true;
}
template <class T>
constexpr bool has_views() {
  if constexpr (HasValueType<T>) return HasView<T> && HasView<const T>;
  return true;
}
template <class T>
constexpr bool views_are_ours() {
  if constexpr (HasValueType<T> && HasView<T> && HasView<const T>) {
    using Value = std::remove_const_t<typename TensorTraits<T>::value_type>;
    using View = decltype(TensorTraits<T>::view(std::declval<T&>()));
    using ConstantView = decltype(TensorTraits<T>::view(std::declval<const T&>()));
    return (std::is_same_v<View, MatrixView<Value>> || std::is_same_v<View, MatrixView<const Value>>)&&(
        std::is_same_v<ConstantView, MatrixView<Value>> || std::is_same_v<ConstantView, MatrixView<const Value>>);
  }
  return true;
}

template <class T>
inline constexpr bool fine = HasValueType<T>&& stores_our_numbers<T>() && has_views<T>() && views_are_ours<T>();

/// What a wrong adapter is told. A function: its body is instantiated once and after everything that calls it, so that each
/// type is told once and no declaration on the way turns invalid, which clang would report as well.
template <class T>
void diagnose() {
  // Only where no adapter was written is it the type's own shape that is wrong.
  constexpr Refusal why = std::is_base_of_v<Structural<T>, TensorTraits<T>> ? refusal<T>() : Refusal::unknown;
  static_assert(
      why != Refusal::two_rules,
      "apollo: this type looks like the tensors of two libraries at once. Specialise apollo::TensorTraits for "
      "it; docs/adapters.md shows how.");
  static_assert(
      why != Refusal::pointer,
      "apollo: a pointer has no shape. Hand over apollo::row_major(pointer, rows, cols), column_major, strided "
      "or vector; see docs/adapters.md.");
  static_assert(why != Refusal::type_at_run_time,
                "apollo: the value type of a DLTensor is known at run time only. Hand it to apollo::dlpack::add and "
                "rebind of <apollo/bridge/dlpack.hpp>; see docs/adapters.md.");
  static_assert(why != Refusal::rows_apart,
                "apollo: the rows of a container of containers lie apart, so a view of it would need a copy. Keep one "
                "container and hand over apollo::row_major(container, rows, cols); see docs/adapters.md.");
  static_assert(
      why != Refusal::dimensions,
      "apollo: this tensor has not one or two dimensions, and how it becomes matrices is not guessed. Hand over "
      "an apollo::TensorView of its memory with Unfold::rest or Unfold::batch; see docs/adapters.md.");
  static_assert(
      why != Refusal::no_strides,
      "apollo: this is an expression, or has no pointer and strides that we can see, so a view of it would need "
      "a copy. Evaluate it into a tensor that you keep, or specialise apollo::TensorTraits; see "
      "docs/adapters.md.");
  static_assert(why != Refusal::unknown || HasValueType<T>,
                "apollo: this type is not a tensor to us. Specialise apollo::TensorTraits for it with value_type and "
                "view(); docs/adapters.md shows how.");
  static_assert(why != Refusal::unknown || stores_our_numbers<T>(),
                "apollo: TensorTraits<...>::value_type must be float, double, apollo::bfloat16 or apollo::float16; "
                "see docs/adapters.md.");
  static_assert(why != Refusal::unknown || has_views<T>(),
                "apollo: TensorTraits<...>::view(tensor) is missing for this tensor (did you provide it for a "
                "constant tensor too?); see docs/adapters.md.");
  static_assert(why != Refusal::unknown || views_are_ours<T>(),
                "apollo: TensorTraits<...>::view(tensor) must return apollo::MatrixView of value_type; see "
                "docs/adapters.md.");
}
template <class Element>
void diagnose_weight() {
  static_assert(!std::is_const_v<Element>,
                "apollo: a weight must be mutable; this tensor's view is of constant elements. See docs/adapters.md.");
}
/// What is stored must not be gone with the statement. Tensor is deduced from an argument: no reference if that is a temporary.
template <class Tensor>
constexpr void check_lifetime() {
  if constexpr (!std::is_reference_v<Tensor> && requires { TensorTraits<std::remove_const_t<Tensor>>::owns; })
    static_assert(
        !TensorTraits<std::remove_const_t<Tensor>>::owns,
        "apollo: a temporary that owns its memory cannot be registered, since only a view of it is kept. Give "
        "the tensor a name that lives as long as the optimizer; see docs/adapters.md.");
}

/// False where a tensor whose rank is known at run time only is neither vector nor matrix, which view() refuses.
template <class Tensor>
constexpr bool is_matrix([[maybe_unused]] const Tensor& tensor) {
  if constexpr (requires { TensorTraits<Tensor>::Rule::is_matrix(tensor); })
    return TensorTraits<Tensor>::Rule::is_matrix(tensor);
  return true;
}

/// A flat container of `size` elements seen as a matrix must have as many as it.
constexpr void check_size(Index size, Shape shape) {
  if (size != shape.rows * shape.cols)
    refuse("a container of " + text(size) + " elements cannot be a " + text(shape) + " matrix of " +
           text(shape.rows * shape.cols));
}

}  // namespace adapter

/// The view of any tensor that has an adapter. Exactly one plain-English error where there is none.
template <class Tensor>
constexpr auto view_of(Tensor&& tensor) {
  using Plain = std::remove_cvref_t<Tensor>;
  if constexpr (adapter::fine<Plain>) {
    return TensorTraits<Plain>::view(tensor);
  } else {
    adapter::diagnose<Plain>();
    return MatrixView<float>();
  }
}

/// The view of a tensor that is updated.
template <class Tensor>
constexpr auto weight_view_of(Tensor&& tensor) {
  using View = decltype(view_of(tensor));
  using Element = std::remove_pointer_t<decltype(View::data)>;
  if constexpr (std::is_const_v<Element>) {
    adapter::diagnose_weight<Element>();
    return MatrixView<typename View::value_type>();
  } else {
    return view_of(tensor);
  }
}

/// The view of a tensor that is only read: a gradient, a projection.
template <class Tensor>
constexpr auto constant_view_of(const Tensor& tensor) {
  const auto view = view_of(tensor);
  return MatrixView<const typename decltype(view)::value_type>(view);
}

/// A flat container as a matrix; its size must be rows * cols.
template <class Container>
  requires(adapter::Contiguous<std::remove_cvref_t<Container>>)
constexpr auto row_major(Container&& container, Index rows, Index cols) {
  adapter::check_size(static_cast<Index>(container.size()), {rows, cols});
  return row_major(container.data(), rows, cols);
}

}  // namespace apollo
