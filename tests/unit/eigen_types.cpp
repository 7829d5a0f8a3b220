// SPDX-License-Identifier: Apache-2.0
// EigenBackend against the reference: value types. Every optimizer is compiled for double, one of each kind for the two types of
// 16 bits, of which bfloat16 is met again in eigen_low_bit.
// not: sanitizers
// not: optimised
#include <doctest/doctest.h>

#include "eigen_compare.hpp"

using namespace compare_backends;

namespace {

template <class Visit>
void in_mixed_layouts(Visit&& visit) {
  for (const auto& [w, g] :
       {std::pair(Layout::row_major, Layout::row_major), std::pair(Layout::column_major, Layout::row_major),
        std::pair(Layout::padded_rows, Layout::padded_columns), std::pair(Layout::reversed, Layout::gaps)}) {
    visit(Setting{.rows = 19, .cols = 12, .rank = 3, .weight = w, .gradient = g});
    visit(Setting{.rows = 11, .cols = 17, .rank = 2, .weight = w, .gradient = g});
  }
}

}  // namespace

TEST_CASE("double: every optimizer in mixed layouts") {
  in_mixed_layouts([](const Setting& s) { every_optimizer<double>(s, 2); });
}

TEST_CASE_TEMPLATE("16 bits: one optimizer of each kind in mixed layouts", T, apollo::bfloat16, apollo::float16) {
  in_mixed_layouts([](const Setting& s) {
    const auto run = [&](auto tag, const auto& options) {
      compare<T, model::Rewrap<typename decltype(tag)::type>::template with>(s, options);
    };
    run(model::Tag<apollo::AdamW<>>(), apollo::AdamWOptions{.lr = 0.01, .eps = eps});
    run(model::Tag<apollo::SgdMomentum<>>(), apollo::SgdMomentumOptions{.lr = 0.01});
    const apollo::ApolloOptions options{.lr = 0.01, .rank = s.rank, .update_proj_gap = 2, .eps = eps};
    run(model::Tag<apollo::Apollo<>>(), options);
    run(model::Tag<apollo::Apollo<apollo::RandomProjection<apollo::Gaussian>>>(), options);
    run(model::Tag<apollo::ApolloMini<>>(), apollo::ApolloMiniOptions{.lr = 0.01, .update_proj_gap = 2, .eps = eps});
    run(model::Tag<apollo::GaLore<>>(), apollo::GaLoreOptions{.rank = s.rank, .update_proj_gap = 2, .eps = eps});
    run(model::Tag<apollo::Fira<>>(), apollo::FiraOptions{.rank = s.rank, .update_proj_gap = 2, .eps = eps});
    run(model::Tag<apollo::AdamMini<>>(), apollo::AdamMiniOptions{.lr = 0.01, .eps = eps});
  });
}
