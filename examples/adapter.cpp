// SPDX-License-Identifier: Apache-2.0
// A tensor type of your own: its adapter is a type and two functions, and nothing is ever copied.
#include <cstddef>
#include <cstdio>
#include <vector>

#include <apollo/apollo.hpp>

// Some project's matrix, row by row. It knows nothing of us.
struct Grid {
  int height, width;
  std::vector<float> cells;
  Grid(int h, int w) : height(h), width(w), cells(static_cast<std::size_t>(h) * static_cast<std::size_t>(w)) {}
};

template <>
struct apollo::TensorTraits<Grid> {
  using value_type = float;
  static MatrixView<float> view(Grid& t) { return row_major(t.cells.data(), t.height, t.width); }
  static MatrixView<const float> view(const Grid& t) { return row_major(t.cells.data(), t.height, t.width); }
};

int main() {
  Grid weight(48, 32), gradient(48, 32);
  apollo::Apollo<> optimizer(weight, {.lr = 3e-2, .rank = 8});
  double loss = 0;
  for (int step = 0; step <= 200; ++step) {
    loss = 0;  // the mean squared distance to a checkerboard
    for (std::size_t i = 0; i < weight.cells.size(); ++i) {
      const float target = (i / 32 + i % 32) % 2 == 0 ? 1.0f : -1.0f;
      gradient.cells[i] = weight.cells[i] - target;
      loss += static_cast<double>(gradient.cells[i] * gradient.cells[i]) / static_cast<double>(weight.cells.size());
    }
    if (step % 50 == 0) std::printf("step %3d: loss %.5f\n", step, loss);
    optimizer.step(weight, gradient);
  }
  return loss < 1e-2 ? 0 : 1;
}
