// SPDX-License-Identifier: Apache-2.0
// A tensor type of your own: the adapter is one type and two functions, and nothing is copied.
#include <apollo/apollo.hpp>
#include <cstddef>
#include <cstdio>
#include <vector>

// Some project's matrix; row-major, and it knows nothing of us.
struct Grid {
  int height, width;
  std::vector<float> cells;
  Grid(int height_, int width_, float value)
      : height(height_),
        width(width_),
        cells(static_cast<std::size_t>(height_) * static_cast<std::size_t>(width_), value) {}
};

template <>
struct apollo::TensorTraits<Grid> {
  using value_type = float;
  static MatrixView<float> view(Grid& t) { return row_major(t.cells.data(), t.height, t.width); }
  static MatrixView<const float> view(const Grid& t) { return row_major(t.cells.data(), t.height, t.width); }
};

int main() {
  Grid weight(48, 32, 0.0f), gradient(48, 32, 0.0f);
  apollo::ApolloMini<> optimizer(weight, {.lr = 1e-3});
  for (int step = 0; step <= 300; ++step) {
    double loss = 0;  // half the squared distance to a checkerboard
    for (std::size_t i = 0; i < weight.cells.size(); ++i) {
      const float target = (i / 32 + i % 32) % 2 == 0 ? 1.0f : -1.0f;
      gradient.cells[i] = weight.cells[i] - target;
      loss += 0.5 * gradient.cells[i] * gradient.cells[i];
    }
    optimizer.step(weight, gradient);
    if (step % 100 == 0) std::printf("step %3d: loss %.3f\n", step, loss);
  }
}
