// SPDX-License-Identifier: Apache-2.0
// A sketch as the matrix it is.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <apollo/core.hpp>

#include "support.hpp"

namespace support {

/// P (r x S) of a sketch for one refresh index, dense.
template <class Sketch>
Matrix directions(apollo::RandomStream stream, Index rank, Index removed) {
  Matrix p(rank, removed);
  if constexpr (Sketch::dense) {
    std::vector<double> rows(static_cast<std::size_t>(rank * removed));
    apollo::draw(Sketch{}, stream, rank, removed, 0, removed, rows.data());
    for (Index s = 0; s < removed; ++s)
      for (Index k = 0; k < rank; ++k) p(k, s) = rows[static_cast<std::size_t>(s * rank + k)];
  } else {
    const int nonzeros = Sketch::nonzeros;
    std::vector<std::int32_t> bucket(
        static_cast<std::size_t>(nonzeros * apollo::sparse_map_size(rank, removed, nonzeros)));
    std::vector<std::uint32_t> sign(static_cast<std::size_t>(nonzeros * removed));
    const auto d = apollo::draw_sparse(stream, rank, removed, nonzeros, bucket.data(), sign.data());
    for (Index h = 0; h < nonzeros; ++h)
      for (Index s = 0; s < removed; ++s) {
        const Index to = d.bucket[h * d.map_size + s / d.lanes] ^ static_cast<std::int32_t>(s % d.lanes);
        const bool negative = d.sign[h * removed + s] != 0;
        p(to, s) += (negative ? -1 : 1) / std::sqrt(static_cast<double>(nonzeros));
      }
  }
  return p;
}

}  // namespace support
