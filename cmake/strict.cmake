# SPDX-License-Identifier: Apache-2.0
# apollo_strict: the warnings that everything compiled in this repository keeps to. Never exported, so users keep their own.
include_guard(GLOBAL)

add_library(apollo_strict INTERFACE)
if(MSVC)
  target_compile_options(apollo_strict INTERFACE /W4 /WX)
else()
  target_compile_options(apollo_strict INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror)
endif()
