// SPDX-License-Identifier: Apache-2.0
// The cases on the emulated device: what they print is what a GPU would, but for the times.
#include "benchmark.hpp"

std::vector<std::string> bench::cuda::member_names() { return all_member_names(); }

int bench::cuda::run(const Arguments& arguments) { return Benchmark<apollo::cuda::Emulator>(arguments).run() ? 0 : 1; }
