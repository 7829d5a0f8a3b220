// SPDX-License-Identifier: Apache-2.0
#include "basis.hpp"
#include "products.hpp"
#include "suite.hpp"

std::vector<suite::Outcome> suite::run_emulated() { return run_members(apollo::cuda::Emulator()); }
std::vector<bases::Outcome> bases::run_emulated() { return run_members(apollo::cuda::Emulator()); }
std::vector<products::Outcome> products::run_emulated() { return run_members(apollo::cuda::Emulator()); }
