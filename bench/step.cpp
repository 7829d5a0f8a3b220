// SPDX-License-Identifier: Apache-2.0
// Step times of every optimizer on the Eigen backend, and the roofline they are held against.
#include <apollo/eigen.hpp>

#include "harness.hpp"

namespace {

using apollo::Index;
using apollo::Shape;

struct Matrix {
  Shape shape;
  Index rank;  ///< a quarter of the model's width, as published
};
/// Attention and feed-forward matrices of LLaMA-60M (width 512), a feed-forward matrix of LLaMA-130M (width 768).
constexpr Matrix matrices[] = {{{512, 512}, 128}, {{1376, 512}, 128}, {{512, 1376}, 128}, {{768, 2048}, 192}};
constexpr int thread_counts[] = {1, 2};
constexpr Index never = Index{1} << 40;

void add_roofline(Shape shape, int threads) {
  bench::add_case(bench::name_of("roofline/adamw", shape, 0, threads),
                  [=](benchmark::State& state, const std::string&) {
                    std::vector<bench::Seconds> times;
                    for (auto _ : state) {
                      const auto matrix = static_cast<Index>(times.size()) % bench::Model::matrices(shape);
                      times.push_back(bench::roofline_adamw(shape, matrix, threads));
                      state.SetIterationTime(times.back());
                    }
                    bench::set_figures(state, shape, times, {});
                    state.SetBytesProcessed(state.iterations() * 28 * shape.rows * shape.cols);
                  });
  bench::add_case(bench::name_of("roofline/axpy", shape, 0, threads), [=](benchmark::State& state, const std::string&) {
    std::vector<bench::Seconds> times;
    bench::Model& model = bench::Model::roofline();
    for (auto _ : state) {
      const auto matrix = static_cast<Index>(times.size()) % bench::Model::matrices(shape);
      times.push_back(bench::time_of([&] {
        roofline::axpy(model.array(0, shape, matrix), model.array(1, shape, matrix), shape.rows * shape.cols, threads);
      }));
      state.SetIterationTime(times.back());
    }
    bench::set_figures(state, shape, times, {});
    state.SetBytesProcessed(state.iterations() * 12 * shape.rows * shape.cols);
  });
}

void add_steps(const Matrix& matrix, int threads) {
  const auto [shape, rank] = matrix;
  const apollo::EigenBackend backend(threads);
  const auto name = [&](const char* member, Index r) {
    return bench::name_of(std::string("step/") + member, matrix.shape, r, threads);
  };
  namespace on = apollo::eigen;
  // Learning rates near zero: thousands of steps along one gradient must leave ordinary numbers.
  bench::add_step<on::AdamW<>>(name("adamw", 0), shape, threads, {.lr = 1e-6}, backend);
  bench::add_step<on::AdamW<>>(name("adamw_unchecked", 0), shape, threads, {.lr = 1e-6, .check_finite = false},
                               backend);
  bench::add_step<on::SgdMomentum<>>(name("sgd_momentum", 0), shape, threads, {.lr = 1e-6}, backend);
  bench::add_step<on::Apollo<>>(name("apollo_sparse", rank), shape, threads, {.lr = 1e-6, .rank = rank}, backend);
  bench::add_step<on::Apollo<apollo::RandomProjection<apollo::Gaussian>>>(name("apollo_gaussian", rank), shape, threads,
                                                                          {.lr = 1e-6, .rank = rank}, backend);
  bench::add_step<on::ApolloMini<>>(name("apollo_mini", 1), shape, threads, {.lr = 1e-6}, backend);
  const apollo::GaLoreOptions plain{.lr = 1e-6, .rank = rank, .update_proj_gap = never};
  const apollo::GaLoreOptions refreshing{.lr = 1e-6, .rank = rank, .update_proj_gap = 1};
  bench::add_step<on::GaLore<>>(name("galore", rank), shape, threads, plain, backend);
  bench::add_amortised_step<on::GaLore<>>(name("galore_gap200", rank), shape, threads, plain, refreshing, 200, backend);
}

}  // namespace

int main(int argc, char** argv) {
  for (const int threads : thread_counts)
    for (const Matrix& matrix : matrices) {
      add_roofline(matrix.shape, threads);
      add_steps(matrix, threads);
    }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
