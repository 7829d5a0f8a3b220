// SPDX-License-Identifier: Apache-2.0
// doctest's runner and main, compiled once and linked into every test.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
