// SPDX-License-Identifier: Apache-2.0
#include "suite.hpp"

std::vector<suite::Outcome> suite::run_emulated() { return run_members(apollo::cuda::Emulator()); }
