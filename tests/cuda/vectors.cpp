// SPDX-License-Identifier: Apache-2.0
#include "vectors.hpp"

#include <apollo/apollo.hpp>

vectors::Weights vectors::expected() {
  const std::vector<float> from = start();
  Weights weights(3, from), gradients(3, from);
  apollo::Optimizer optimizer;
  const auto matrices = optimizer.add_group(apollo::ApolloOptions{.lr = lr, .rank = 8});
  const auto others = optimizer.add_group(apollo::AdamWOptions{.lr = lr});
  optimizer.add(matrices, "by rows", apollo::row_major(weights[0].data(), rows, cols),
                apollo::row_major(gradients[0].data(), rows, cols));
  optimizer.add(matrices, "by columns", apollo::column_major(weights[1].data(), rows, cols),
                apollo::column_major(gradients[1].data(), rows, cols));
  optimizer.add(others, "vector", weights[2], gradients[2]);
  for (int step = 0; step < steps; ++step) {
    for (std::size_t i = 0; i < 3; ++i)
      for (std::size_t k = 0; k < from.size(); ++k) gradients[i][k] = Slope()(weights[i][k]);
    optimizer.step();
  }
  return weights;
}
