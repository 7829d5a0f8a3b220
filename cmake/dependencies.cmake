# SPDX-License-Identifier: Apache-2.0
# Third parties: an installed package comes first, the network only for what is missing. Functions, so that asking costs
# nothing and nothing is declared that is not used.
include_guard(GLOBAL)
include(FetchContent)

# Eigen's own CMake project would add its tests and documentation; the headers alone are enough.
macro(apollo_require_eigen)
  FetchContent_Declare(Eigen3
    URL https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.gz
    URL_HASH SHA256=8586084f71f9bde545ee7fa6d00288b264a2b7ac3607b974e54d13e7162c1c72
    SOURCE_SUBDIR headers-only
    FIND_PACKAGE_ARGS 3.4 NO_MODULE)
  FetchContent_MakeAvailable(Eigen3)
  if(NOT TARGET Eigen3::Eigen)
    add_library(Eigen3::Eigen INTERFACE IMPORTED GLOBAL)
    set_target_properties(Eigen3::Eigen PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${eigen3_SOURCE_DIR}")
  endif()
endmacro()

macro(apollo_require_doctest)
  FetchContent_Declare(doctest
    URL https://github.com/doctest/doctest/archive/refs/tags/v2.4.11.tar.gz
    URL_HASH SHA256=632ed2c05a7f53fa961381497bf8069093f0d6628c5f26286161fbd32a560186
    SOURCE_SUBDIR headers-only
    FIND_PACKAGE_ARGS 2.4 NO_MODULE)
  FetchContent_MakeAvailable(doctest)
  if(NOT TARGET doctest::doctest)
    add_library(doctest::doctest INTERFACE IMPORTED GLOBAL)
    set_target_properties(doctest::doctest PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${doctest_SOURCE_DIR}")
  endif()
endmacro()

macro(apollo_require_benchmark)
  set(BENCHMARK_ENABLE_TESTING OFF)
  set(BENCHMARK_ENABLE_INSTALL OFF)
  FetchContent_Declare(benchmark
    URL https://github.com/google/benchmark/archive/refs/tags/v1.8.3.tar.gz
    URL_HASH SHA256=6bc180a57d23d4d9515519f92b0c83d61b05b5bab188961f36ac7b06b0d9e9ce
    FIND_PACKAGE_ARGS 1.7 NO_MODULE)
  FetchContent_MakeAvailable(benchmark)
endmacro()
