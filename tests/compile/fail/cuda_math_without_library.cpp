// SPDX-License-Identifier: Apache-2.0
// EXPECT: the arithmetic of matrix products on a GPU needs #include <apollo/cuda/blas.hpp>
#include <apollo/cuda.hpp>

struct Device : apollo::cuda::Emulator {};
template <>
struct apollo::cuda::ProductsOf<Device> {
  using type = void;  // as on a GPU: nobody has said who multiplies there
};

int main() {
  apollo::cuda::BasicOptimizer<Device> optimizer;
  optimizer.math(apollo::cuda::Math::tf32);
}
