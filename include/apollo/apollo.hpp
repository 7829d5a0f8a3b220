// SPDX-License-Identifier: Apache-2.0
// The umbrella: everything but the bridges and the backends.
#pragma once

#include <apollo/core.hpp>
#include <apollo/optimizer/checkpoint.hpp>
#include <apollo/optimizer/named.hpp>
#include <apollo/optimizer/optimizer.hpp>
