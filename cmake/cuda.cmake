# SPDX-License-Identifier: Apache-2.0
# The language CUDA, for the tests and the example of apollo::cuda; APOLLO_CUDA=ON asks for them. The architectures must be known
# before, and never be `native`, which is an error where there is no GPU.
include_guard(GLOBAL)
find_package(CUDAToolkit REQUIRED)
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES "80-real;90")
endif()
if(NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  set(CMAKE_CUDA_COMPILER "${CUDAToolkit_NVCC_EXECUTABLE}")  # often not on PATH
endif()
enable_language(CUDA)
