// SPDX-License-Identifier: Apache-2.0
// The object behind <apollo/bridge/c.h>: this file, compiled once as C++20, is all that a program of C needs to be linked with.
#include <apollo/eigen.hpp>

#include <apollo/bridge/c.hpp>

APOLLO_DEFINE_C_API(apollo::EigenBackend)
