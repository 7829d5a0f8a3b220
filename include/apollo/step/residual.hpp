// SPDX-License-Identifier: Apache-2.0
// What an orthonormal projection leaves of a channel.
#pragma once

#include <apollo/policy/projection.hpp>
#include <apollo/step/plan.hpp>

namespace apollo {

namespace residual {

/// |factor x_j - share lift(R)_j|^2 from |x_j|^2 and |R_j|^2, P orthonormal. A difference below a thousandth of |x_j|^2 has lost
/// its digits in fp32: that channel is summed, at a cost of removed rank flops.
template <class T, class G>
double norm(const Plan& plan, const MatrixView<const G>& x, const DenseDirections<T>& p, double factor, double share,
            const T* r, double r_squared, double x_squared, Index j) {
  const double whole = factor * factor * x_squared;
  const double left = whole - (2 * share - share * share) * r_squared;
  if (left >= 1e-3 * whole) return left;
  double sum = 0;
  for (Index s = 0; s < plan.removed; ++s) {
    double lifted = 0;
    for (Index k = 0; k < plan.rank; ++k)
      lifted += static_cast<double>(r[j * plan.rank + k]) * static_cast<double>(p.data[s * plan.rank + k]);
    const double gap = factor * static_cast<double>(static_cast<T>(x(j, s))) - share * lifted;
    sum += gap * gap;
  }
  return sum;
}

}  // namespace residual

}  // namespace apollo
