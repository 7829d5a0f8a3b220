// SPDX-License-Identifier: Apache-2.0
// TensorTraits: the adapter between a user's tensor type and MatrixView, and the structural adapters that come with us.
#pragma once

#include <string>
#include <type_traits>
#include <utility>

#include <apollo/base/error.hpp>
#include <apollo/tensor/number.hpp>
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
/// The views point into the tensor; nothing is copied. The second template parameter lets structural adapters overlap
/// without a specialisation of yours ever becoming ambiguous.
template <class Tensor, class Enable = void>
struct TensorTraits;

namespace adapter {

template <class T>
concept HasValueType = requires {
  typename TensorTraits<T>::value_type;
};

template <class T>
concept HasView = requires(T& t) {
  TensorTraits<std::remove_const_t<T>>::view(t);
};

/// What Eigen's matrices, maps, references and blocks look like from outside, without including Eigen.
template <class T>
concept StridedMatrix = requires(T& t) {
  typename T::Scalar;
  t.data();
  t.rows();
  t.cols();
  t.rowStride();
  t.colStride();
};

/// std::vector, std::array, std::span and their like: one column of adjacent elements.
// clang-format off
template <class T>
concept Contiguous = !StridedMatrix<T> && requires(T& t) {
  typename T::value_type;
  t.data();
  t.size();
  t[0];
} && !requires(T& t) { t.rows(); };
// clang-format on

}  // namespace adapter

template <class T>
struct TensorTraits<MatrixView<T>> {
  using value_type = std::remove_const_t<T>;
  static constexpr MatrixView<T> view(const MatrixView<T>& tensor) { return tensor; }
};

template <class M>
struct TensorTraits<M, std::enable_if_t<adapter::StridedMatrix<M>>> {
  using value_type = typename M::Scalar;
  template <class Self>
  static auto view(Self& matrix) {
    using Element = std::remove_pointer_t<decltype(matrix.data())>;
    return MatrixView<Element>(matrix.data(), matrix.rows(), matrix.cols(), matrix.rowStride(), matrix.colStride());
  }
};

template <class C>
struct TensorTraits<C, std::enable_if_t<adapter::Contiguous<C>>> {
  using value_type = std::remove_const_t<typename C::value_type>;
  template <class Self>
  static auto view(Self& container) {
    return vector(container.data(), static_cast<Index>(container.size()));
  }
};

namespace adapter {

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
  static_assert(HasValueType<T>,
                "apollo: this type is not a tensor to us. Specialise apollo::TensorTraits for it with value_type and "
                "view(); docs/adapters.md shows how.");
  static_assert(stores_our_numbers<T>(),
                "apollo: TensorTraits<...>::value_type must be float, double, apollo::bfloat16 or apollo::float16; "
                "see docs/adapters.md.");
  static_assert(has_views<T>(),
                "apollo: TensorTraits<...>::view(tensor) is missing for this tensor (did you provide it for a "
                "constant tensor too?); see docs/adapters.md.");
  static_assert(views_are_ours<T>(),
                "apollo: TensorTraits<...>::view(tensor) must return apollo::MatrixView of value_type; see "
                "docs/adapters.md.");
}
template <class Element>
void diagnose_weight() {
  static_assert(!std::is_const_v<Element>,
                "apollo: a weight must be mutable; this tensor's view is of constant elements. See docs/adapters.md.");
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
  requires(adapter::Contiguous<std::remove_reference_t<Container>>)
constexpr auto row_major(Container&& container, Index rows, Index cols) {
  if (static_cast<Index>(container.size()) != rows * cols)
    refuse("a container of " + text(static_cast<Index>(container.size())) + " elements cannot be a " +
           text(Shape{rows, cols}) + " matrix of " + text(rows * cols));
  return row_major(container.data(), rows, cols);
}

}  // namespace apollo
