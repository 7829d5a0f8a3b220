// SPDX-License-Identifier: Apache-2.0
// A model whose weights and gradients are Thrust's vectors and whose optimizer's memory comes from one of Thrust's pools, on any
// device. The same by nvcc on a GPU (thrust.cu) and by any compiler on the emulated device (tests/adapters/thrust.cpp).
#pragma once

#include <thrust/copy.h>
#include <thrust/device_vector.h>
#include <thrust/host_vector.h>
#include <thrust/mr/allocator.h>
#include <thrust/mr/disjoint_pool.h>
#include <thrust/mr/new.h>
#include <thrust/transform.h>

#include <apollo/cuda.hpp>
#include <apollo/cuda/resource.hpp>
#include <apollo/cuda/thrust.hpp>

#include "vectors.hpp"

namespace vectors {

/// On a device, in memory of `memory`, one of Thrust's resources of device_ptr.
template <class Device, class Memory>
Weights stepped(const Device& device, Memory& memory) {
  using Vector = thrust::device_vector<float, thrust::mr::allocator<float, Memory>>;
  const thrust::mr::allocator<float, Memory> here(&memory);
  const std::vector<float> from = start();
  std::vector<Vector> weights, gradients;
  for (int i = 0; i < 3; ++i) {
    weights.emplace_back(from.begin(), from.end(), here);
    gradients.emplace_back(from.size(), 0.0f, here);
  }

  using Books = thrust::mr::new_delete_resource;  // a pool's own notes stay on the host
  using Pool = thrust::mr::disjoint_unsynchronized_pool_resource<Memory, Books>;
  auto options = Pool::get_default_options();
  options.alignment = 256;
  options.smallest_block_size = 256;
  Pool pool(&memory, thrust::mr::get_global_resource<Books>(), options);
  const apollo::cuda::ResourceDevice pooled(device, pool);
  apollo::cuda::BasicOptimizer optimizer(pooled);
  const auto matrices = optimizer.add_group(apollo::ApolloOptions{.lr = lr, .rank = 8});
  const auto others = optimizer.add_group(apollo::AdamWOptions{.lr = lr});
  const Vector& read_only = gradients[0];
  using apollo::cuda::column_major, apollo::cuda::row_major, apollo::cuda::vector;
  optimizer.add(matrices, "by rows", row_major(weights[0], rows, cols), row_major(read_only, rows, cols));
  optimizer.add(matrices, "by columns", column_major(weights[1], rows, cols),
                column_major(gradients[1].data(), rows, cols));
  optimizer.add(others, "vector", vector(weights[2]), vector(gradients[2]));
  for (int step = 0; step < steps; ++step) {
    for (std::size_t i = 0; i < 3; ++i)
      thrust::transform(weights[i].begin(), weights[i].end(), gradients[i].begin(), Slope());
    optimizer.step();
  }
  Weights result;
  for (const Vector& w : weights) {
    result.emplace_back(w.size());
    thrust::copy(w.begin(), w.end(), result.back().begin());
  }
  return result;
}

}  // namespace vectors
