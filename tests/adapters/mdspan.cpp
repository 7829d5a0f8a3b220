// SPDX-License-Identifier: Apache-2.0
// mdspan, as in libcu++ (<cuda/std/mdspan>), which host compilers read as well: every layout, extents known early or late.
#include <cuda/std/array>
#include <cuda/std/mdspan>

#include "layouts.hpp"

using namespace adapters;
using apollo::adapter::MdspanRule;
using apollo::adapter::Refusal;
namespace md = cuda::std;

namespace {

template <class T>
void check_span(const T& span) {
  static_assert(goes_by<T, MdspanRule>);
  check_view(
      span, static_cast<Index>(span.extent(0)), static_cast<Index>(span.extent(1)), [&](Index i, Index j) -> auto& {
        return span(static_cast<typename T::index_type>(i), static_cast<typename T::index_type>(j));
      });
}

/// Elements are handed out by value, so there is nothing to point to.
struct Halved {
  using element_type = float;
  using reference = float;
  using data_handle_type = float*;
  using offset_policy = Halved;
  constexpr reference access(data_handle_type p, std::size_t i) const { return p[i] / 2; }
  constexpr data_handle_type offset(data_handle_type p, std::size_t i) const { return p + i; }
};

}  // namespace

TEST_CASE("right, left and strided layouts") {
  std::vector<float> memory(60), other(60);
  const md::mdspan<float, md::dextents<int, 2>> right(memory.data(), 5, 3);
  const md::mdspan<float, md::extents<long, 5, md::dynamic_extent>, md::layout_left> left(other.data(), 3);
  using Extents = md::dextents<std::size_t, 2>;
  const md::layout_stride::mapping<Extents> mapping(Extents(5, 3), md::array<std::size_t, 2>{2, 11});
  const md::mdspan<float, Extents, md::layout_stride> strided(other.data(), mapping);
  check_span(right);
  check_span(left);
  check_span(strided);
  check_step(right, left);
  check_step(strided, right);
  const md::mdspan<const double, md::extents<int, 2, 2>> constant(nullptr);
  static_assert(std::is_same_v<decltype(apollo::view_of(constant)), apollo::MatrixView<const double>>);
  CHECK(apollo::view_of(constant).data == nullptr);
}

TEST_CASE("one dimension is a vector") {
  std::vector<float> memory(9);
  const md::mdspan<float, md::dextents<int, 1>> span(memory.data(), 9);
  check_view(
      span, 9, 1, [&](Index i, Index) -> auto& { return span(static_cast<int>(i)); });
}

TEST_CASE("what is refused") {
  static_assert(is_refused_for<md::mdspan<float, md::dextents<int, 3>>>(Refusal::dimensions));
  static_assert(is_refused_for<md::mdspan<float, md::extents<int>>>(Refusal::dimensions));
  using Computed = md::mdspan<float, md::dextents<int, 2>, md::layout_right, Halved>;
  static_assert(is_refused_for<Computed>(Refusal::no_strides));
  static_assert(!apollo::TensorTraits<md::mdspan<float, md::dextents<int, 2>>>::owns);
}
