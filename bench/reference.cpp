// SPDX-License-Identifier: Apache-2.0
// Step times of the reference backend: plain loops that are meant to be read, timed so that nobody has to guess.
#include "harness.hpp"

int main(int argc, char** argv) {
  constexpr apollo::Shape shape{512, 512};
  constexpr apollo::Index rank = 128;
  const apollo::Reference backend;
  const auto name = [&](const char* member, apollo::Index r) {
    return bench::name_of(std::string("reference/") + member, shape, r, 1);
  };
  bench::add_step<apollo::AdamW<>>(name("adamw", 0), shape, 1, {.lr = 1e-6}, backend);
  bench::add_step<apollo::SgdMomentum<>>(name("sgd_momentum", 0), shape, 1, {.lr = 1e-6}, backend);
  bench::add_step<apollo::Apollo<>>(name("apollo_sparse", rank), shape, 1, {.lr = 1e-6, .rank = rank}, backend);
  bench::add_step<apollo::Apollo<apollo::RandomProjection<apollo::Gaussian>>>(name("apollo_gaussian", rank), shape, 1,
                                                                              {.lr = 1e-6, .rank = rank}, backend);
  bench::add_step<apollo::ApolloMini<>>(name("apollo_mini", 1), shape, 1, {.lr = 1e-6}, backend);
  bench::add_step<apollo::GaLore<>>(name("galore", rank), shape, 1,
                                    {.lr = 1e-6, .rank = rank, .update_proj_gap = apollo::Index{1} << 40}, backend);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
