// SPDX-License-Identifier: Apache-2.0
// What tensors of other libraries look like from outside: a rule for each kind, and the reasons why others are refused.
// Nothing of theirs is included; a rule asks for members, so it holds for every type of that shape.
#pragma once

#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include <apollo/base/error.hpp>
#include <apollo/tensor/number.hpp>
#include <apollo/tensor/view.hpp>

namespace apollo::adapter {

/// Our name for a number: foreign 16-bit floating-point types are told apart by the digits of their fraction.
template <class T>
struct Ours {
  using Limits = std::numeric_limits<std::conditional_t<std::is_array_v<T>, int, T>>;
  static constexpr bool foreign = !is_storage_type<T> && Limits::is_specialized && !Limits::is_integer &&
                                  sizeof(T) == 2 && std::is_trivially_copyable_v<T>;
  using type = std::conditional_t<foreign && Limits::digits == 11, float16,
                                  std::conditional_t<foreign && Limits::digits == 8, bfloat16, T>>;
};
template <class T>
struct Ours<const T> {
  using type = const typename Ours<T>::type;
};

template <class T, class Rows, class Cols, class RowStride, class ColStride>
constexpr auto matrix(T* data, Rows rows, Cols cols, RowStride row_stride, ColStride col_stride) {
  using Element = typename Ours<T>::type;
  Element* first = nullptr;
  if constexpr (std::is_same_v<Element, T>)
    first = data;
  else
    first = reinterpret_cast<Element*>(data);
  return MatrixView<Element>(first, static_cast<Index>(rows), static_cast<Index>(cols), static_cast<Index>(row_stride),
                             static_cast<Index>(col_stride));
}

template <class T>
using Element = std::remove_pointer_t<decltype(std::declval<T&>().data())>;

/// A type whose objects own what they give pointers to: constant objects give pointers to constants, others do not.
template <class T>
inline constexpr bool is_deeply_constant = std::is_const_v<Element<const T>> && !std::is_const_v<Element<T>>;

constexpr bool is_matrix_rank(Index rank) { return rank == 1 || rank == 2; }

// --- what tells each kind ---------------------------------------------------------------------------------------------------
// clang-format off

/// Eigen's Matrix, Array, Map, Ref, Block, Transpose, Diagonal: whatever has a pointer and two strides.
template <class T>
concept EigenMatrix = requires(T& t) { typename T::Scalar; t.data(); t.rows(); t.cols(); t.rowStride(); t.colStride(); };

/// Eigen's Tensor, TensorMap, TensorFixedSize: dense, in either order.
template <class T>
concept EigenTensorOfAnyRank = requires(T& t) { typename T::Scalar; T::Layout; T::NumIndices; t.data(); t.dimension(0); };
template <class T>
concept EigenTensor = EigenTensorOfAnyRank<T> && is_matrix_rank(static_cast<Index>(T::NumIndices));

/// Armadillo's Mat, Col, Row: column by column. Its Cube has slices.
template <class T>
concept ArmadilloCube = requires(T& t) { typename T::elem_type; t.n_rows; t.n_cols; t.n_slices; };
template <class T>
concept ArmadilloMatrix = requires(T& t) { typename T::elem_type; t.memptr(); t.n_rows; t.n_cols; } && !ArmadilloCube<T>;

/// Armadillo's subview, subview_col, subview_row: a rectangle of a matrix.
template <class T>
concept ArmadilloPart =
    requires(T& t) { typename T::elem_type; t.colptr(0); t.n_rows; t.n_cols; t.aux_row1; t.m.n_rows; };

/// xtensor's xarray, xtensor, xtensor_fixed, adaptors and strided views. The rank may be known at run time only.
template <class T>
concept XtensorOfAnyRank = requires(T& t) {
  typename T::value_type; t.data() + t.data_offset(); t.dimension(); t.shape()[0]; t.strides()[0];
};
template <class T>
concept KnowsItsRank = requires(T& t) { std::tuple_size<std::remove_cvref_t<decltype(t.strides())>>::value; };
template <class T>
concept Xtensor = XtensorOfAnyRank<T> && (!KnowsItsRank<T> ||
    is_matrix_rank(std::tuple_size<std::remove_cvref_t<decltype(std::declval<T&>().strides())>>::value));

/// std::mdspan and its implementations for older compilers. A view needs strides, and an accessor that gives plain references.
template <class T>
concept MdspanOfAnyLayout =
    requires(T& t) { typename T::accessor_type; t.data_handle(); t.extent(0); T::rank(); T::is_always_strided(); };
template <class T>
concept MdspanOfAnyRank = MdspanOfAnyLayout<T> && T::is_always_strided() &&
    std::is_same_v<typename T::accessor_type::reference, typename T::element_type&> &&
    std::is_convertible_v<typename T::data_handle_type, typename T::element_type*>;
template <class T>
concept Mdspan = MdspanOfAnyRank<T> && is_matrix_rank(static_cast<Index>(T::rank()));

/// Speaks of more than a length, in any library's words.
template <class T>
concept HasShape = requires(T& t) { t.rows(); } || requires(T& t) { t.n_rows; } || requires(T& t) { t.get_n_rows(); } ||
    requires(T& t) { t.shape(); } || requires(T& t) { t.extent(0); } || requires(T& t) { t.sizes(); } ||
    requires(T& t) { t.dimension(0); };

/// std::vector, std::array, std::span and their like: one column of adjacent elements.
template <class T>
concept Contiguous = requires(T& t) {
  typename T::value_type; t.size(); t[0]; requires std::is_pointer_v<decltype(t.data())>;
} && !HasShape<T>;

/// std::vector<std::array<float, n>> and its like: the rows of a matrix, adjacent.
template <class T>
concept RowsInPlace = Contiguous<T> && Contiguous<typename T::value_type> &&
    sizeof(typename T::value_type) == std::tuple_size<typename T::value_type>::value * sizeof(typename T::value_type::value_type);

/// float w[n] and float w[m][n].
template <class T>
concept Array = std::is_array_v<T> && is_matrix_rank(std::rank_v<T>);

// clang-format on
// --- and how each is seen as a matrix -----------------------------------------------------------------------------------------
//
// value: what it stores. owns: the memory goes with the object, so that a view of a temporary could not be kept.

struct EigenMatrixRule {
  template <class T>
  static constexpr bool fits = EigenMatrix<T>;
  template <class T>
  using value = typename T::Scalar;
  template <class T>
  static constexpr bool owns = requires {
    requires std::is_same_v<typename T::PlainObject, T>;
  };
  template <class T>
  static constexpr auto view(T& t) {
    return matrix(t.data(), t.rows(), t.cols(), t.rowStride(), t.colStride());
  }
};

struct EigenTensorRule {
  template <class T>
  static constexpr bool fits = EigenTensor<T>;
  template <class T>
  using value = typename T::Scalar;
  template <class T>
  static constexpr bool owns = is_deeply_constant<T>;
  template <class T>
  static constexpr auto view(T& t) {
    const auto rows = t.dimension(0);
    if constexpr (static_cast<int>(T::NumIndices) == 1)
      return matrix(t.data(), rows, 1, 1, 1);
    else if constexpr (static_cast<int>(T::Layout) == 0)  // the first index runs fastest
      return matrix(t.data(), rows, t.dimension(1), 1, rows);
    else
      return matrix(t.data(), rows, t.dimension(1), t.dimension(1), 1);
  }
};

struct ArmadilloMatrixRule {
  template <class T>
  static constexpr bool fits = ArmadilloMatrix<T>;
  template <class T>
  using value = typename T::elem_type;
  template <class T>
  static constexpr bool owns = true;
  template <class T>
  static constexpr auto view(T& t) {
    return matrix(t.memptr(), t.n_rows, t.n_cols, 1, t.n_rows);
  }
};

struct ArmadilloPartRule {
  template <class T>
  static constexpr bool fits = ArmadilloPart<T>;
  template <class T>
  using value = typename T::elem_type;
  template <class T>
  static constexpr bool owns = false;
  template <class T>
  static constexpr auto view(T& t) {
    return matrix(t.colptr(0), t.n_rows, t.n_cols, 1, t.m.n_rows);
  }
};

struct XtensorRule {
  template <class T>
  static constexpr bool fits = Xtensor<T>;
  template <class T>
  using value = typename T::value_type;
  template <class T>
  static constexpr bool owns = requires {
    requires std::is_same_v<typename T::temporary_type, T>;
  };
  template <class T>
  static bool is_matrix(T& t) {
    return is_matrix_rank(static_cast<Index>(t.dimension()));
  }
  template <class T>
  static auto view(T& t) {
    if (!is_matrix(t)) {
      std::string extents;
      for (const auto extent : t.shape()) extents += (extents.empty() ? "" : " x ") + text(static_cast<Index>(extent));
      refuse("a tensor of " + text(static_cast<Index>(t.dimension())) + " dimensions (" + extents +
             ") must have 1 or 2; for more, hand over an apollo::TensorView with Unfold::rest or Unfold::batch");
    }
    const bool is_vector = t.dimension() == 1;
    const auto extent = [&](std::size_t k) { return static_cast<Index>(t.shape()[k]); };
    // Its own strides of extents of 1 are 0.
    const auto stride = [&](std::size_t k) { return extent(k) == 1 ? Index{1} : static_cast<Index>(t.strides()[k]); };
    return matrix(t.data() + static_cast<std::ptrdiff_t>(t.data_offset()), extent(0), is_vector ? 1 : extent(1),
                  stride(0), is_vector ? 1 : stride(1));
  }
};

struct MdspanRule {
  template <class T>
  static constexpr bool fits = Mdspan<T>;
  template <class T>
  using value = typename T::element_type;
  template <class T>
  static constexpr bool owns = false;
  template <class T>
  static constexpr auto view(T& t) {
    typename T::element_type* data = t.data_handle();
    if constexpr (T::rank() == 1)
      return matrix(data, t.extent(0), 1, t.stride(0), 1);
    else
      return matrix(data, t.extent(0), t.extent(1), t.stride(0), t.stride(1));
  }
};

struct ContiguousRule {
  template <class T>
  static constexpr bool fits = Contiguous<T> && !RowsInPlace<T>;
  template <class T>
  using value = typename T::value_type;
  template <class T>
  static constexpr bool owns = is_deeply_constant<T>;
  template <class T>
  static constexpr auto view(T& t) {
    return matrix(t.data(), t.size(), 1, 1, 1);
  }
};

struct RowsInPlaceRule {
  template <class T>
  static constexpr bool fits = RowsInPlace<T>;
  template <class T>
  using value = typename T::value_type::value_type;
  template <class T>
  static constexpr bool owns = is_deeply_constant<T>;
  template <class T>
  static constexpr auto view(T& t) {
    constexpr std::size_t cols = std::tuple_size<typename T::value_type>::value;
    decltype(t.data()->data()) first = nullptr;
    if (t.size() > 0) first = t.data()->data();
    return matrix(first, t.size(), cols, cols, 1);
  }
};

struct ArrayRule {
  template <class T>
  static constexpr bool fits = Array<T>;
  template <class T>
  using value = std::remove_all_extents_t<T>;
  template <class T>
  static constexpr bool owns = false;
  template <class T>
  static constexpr auto view(T& t) {
    if constexpr (std::rank_v<T> == 1)
      return matrix(&t[0], std::extent_v<T>, 1, 1, 1);
    else
      return matrix(&t[0][0], std::extent_v<T>, std::extent_v<T, 1>, std::extent_v<T, 1>, 1);
  }
};

template <class... R>
struct RuleList {
  template <class T>
  static constexpr int fitting = (0 + ... + static_cast<int>(R::template fits<T>));
};
/// All of them; no type may fit two.
using Rules = RuleList<EigenMatrixRule, EigenTensorRule, ArmadilloMatrixRule, ArmadilloPartRule, XtensorRule,
                       MdspanRule, ContiguousRule, RowsInPlaceRule, ArrayRule>;

template <class T, class List>
struct RuleFor;
template <class T, class First, class... Rest>
struct RuleFor<T, RuleList<First, Rest...>> {
  using type = typename std::conditional_t<First::template fits<T>, std::type_identity<First>,
                                           RuleFor<T, RuleList<Rest...>>>::type;
};
template <class T>
struct RuleFor<T, RuleList<>> {
  using type = void;
};
template <class T>
using rule_for = typename RuleFor<T, Rules>::type;

/// What TensorTraits is of a type that fits one rule, and nothing of any other.
template <class T, bool recognised = Rules::fitting<T> == 1>
struct Structural {};
template <class T>
struct Structural<T, true> {
  using Rule = rule_for<T>;
  using value_type = typename Ours<std::remove_const_t<typename Rule::template value<T>>>::type;
  static constexpr bool owns = Rule::template owns<T>;
  template <class Self>
  static constexpr auto view(Self& tensor) {
    return Rule::view(tensor);
  }
};

// --- why a type fits none ------------------------------------------------------------------------------------------------------

enum class Refusal : std::uint8_t { unknown, two_rules, dimensions, no_strides, rows_apart, pointer, type_at_run_time };

// clang-format off
template <class T>
concept HasOtherRank = std::is_array_v<T> || EigenTensorOfAnyRank<T> || XtensorOfAnyRank<T> || MdspanOfAnyRank<T> ||
    ArmadilloCube<T>;
/// Speaks of a shape or, as expressions do, of what it would be made of, but gives no pointer with strides.
template <class T>
concept HasShapeAlone = HasShape<T> || requires { typename T::Scalar; typename T::Nested; } ||
    requires { typename T::elem_type; typename T::pod_type; };
template <class T>
concept RangeOfRanges = Contiguous<T> && Contiguous<typename T::value_type> && !RowsInPlace<T>;
template <class T>
concept DLTensorLike = requires(T& t) { t.data; t.dtype.lanes; t.shape; t.strides; t.byte_offset; };
// clang-format on

template <class T>
constexpr Refusal refusal() {
  constexpr int fitting = Rules::fitting<T>;
  if constexpr (fitting > 1) return Refusal::two_rules;
  if constexpr (std::is_pointer_v<T>) return Refusal::pointer;
  if constexpr (DLTensorLike<T>) return Refusal::type_at_run_time;
  if constexpr (RangeOfRanges<T>) return Refusal::rows_apart;
  if constexpr (fitting == 1) return Refusal::unknown;
  if constexpr (HasOtherRank<T>) return Refusal::dimensions;
  if constexpr (HasShapeAlone<T>) return Refusal::no_strides;
  return Refusal::unknown;
}

}  // namespace apollo::adapter
