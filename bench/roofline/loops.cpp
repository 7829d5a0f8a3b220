// SPDX-License-Identifier: Apache-2.0
// The roofline loops. -fno-math-errno (bench/CMakeLists.txt) is what lets a compiler turn the square root into a vector
// instruction: a sqrtf that may set errno has to be called one element at a time. Nothing else is relaxed.
#include "loops.hpp"

namespace roofline {

namespace {

/// Calls body(begin, end) for one equal share of [0, count) a thread.
template <class Body>
void spread(std::int64_t count, int threads, const Body& body) {
  // Whole cache lines, so that no two threads write to one.
  const std::int64_t share = ((count + threads - 1) / threads + 15) / 16 * 16;
#if defined(_OPENMP)
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1)
#endif
  for (int thread = 0; thread < threads; ++thread) {
    const std::int64_t begin = thread * share < count ? thread * share : count;
    const std::int64_t end = begin + share < count ? begin + share : count;
    body(begin, end);
  }
}

void adamw_share(float* __restrict__ w, const float* __restrict__ g, float* __restrict__ m, float* __restrict__ v,
                 std::int64_t count) {
  constexpr float beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f, decay = 1 - 1e-8f, step = 1e-6f, second_factor = 1.25f;
  for (std::int64_t i = 0; i < count; ++i) {
    m[i] = beta1 * m[i] + (1 - beta1) * g[i];
    v[i] = beta2 * v[i] + (1 - beta2) * (g[i] * g[i]);
    w[i] = decay * w[i] - step * (m[i] / (second_factor * __builtin_sqrtf(v[i]) + eps));
  }
}

void axpy_share(float* __restrict__ y, const float* __restrict__ x, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) y[i] += 1e-6f * x[i];
}

}  // namespace

void adamw(float* w, const float* g, float* m, float* v, std::int64_t count, int threads) {
  spread(count, threads, [=](std::int64_t begin, std::int64_t end) {
    adamw_share(w + begin, g + begin, m + begin, v + begin, end - begin);
  });
}

void axpy(float* y, const float* x, std::int64_t count, int threads) {
  spread(count, threads, [=](std::int64_t begin, std::int64_t end) { axpy_share(y + begin, x + begin, end - begin); });
}

}  // namespace roofline
