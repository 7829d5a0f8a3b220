# SPDX-License-Identifier: Apache-2.0
# llama_products(TARGET)  has the trainer's float products done by oneDNN, where it is found and generates code for the processor
# (multiply.hpp). -D LLAMA_ONEDNN=OFF leaves them to Eigen.
include_guard(GLOBAL)
option(LLAMA_ONEDNN "Matrix products of examples/llama by oneDNN, where it is found" ON)

if(LLAMA_ONEDNN AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  # Not find_package(dnnl): Debian's also wants OpenCL's headers, which a CPU has no use for.
  find_path(LLAMA_ONEDNN_INCLUDE_DIR dnnl.h)
  find_library(LLAMA_ONEDNN_LIBRARY dnnl)
  mark_as_advanced(LLAMA_ONEDNN_INCLUDE_DIR LLAMA_ONEDNN_LIBRARY)
endif()

function(llama_products target)
  if(LLAMA_ONEDNN AND LLAMA_ONEDNN_INCLUDE_DIR AND LLAMA_ONEDNN_LIBRARY)
    target_compile_definitions(${target} PRIVATE LLAMA_ONEDNN)
    target_include_directories(${target} SYSTEM PRIVATE "${LLAMA_ONEDNN_INCLUDE_DIR}")
    target_link_libraries(${target} PRIVATE "${LLAMA_ONEDNN_LIBRARY}")
  endif()
endfunction()
