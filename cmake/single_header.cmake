# SPDX-License-Identifier: Apache-2.0
# The target apollo_single_header: apollo_single.hpp, and apollo_single_eigen.hpp where there is apollo::eigen, in the build folder's single/.
# It is built when it is asked for, or by APOLLO_SINGLE_HEADER, which installs it as well. Python's standard library is all it takes.
if(APOLLO_SINGLE_HEADER)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
else()
  find_package(Python3 QUIET COMPONENTS Interpreter)
endif()
if(NOT Python3_Interpreter_FOUND)
  return()
endif()

# apollo_single_header_file(NAME HEADER TARGET...)  writes HEADER and what it includes, headers of these targets, to single/NAME.
function(apollo_single_header_file name header)
  set(folders)
  set(headers)
  foreach(target IN LISTS ARGN)
    get_target_property(base ${target} HEADER_DIRS)
    get_target_property(files ${target} HEADER_SET)
    list(APPEND folders -I "${base}")
    list(APPEND headers ${files})
  endforeach()
  set(output "${PROJECT_BINARY_DIR}/single/${name}")
  add_custom_command(OUTPUT "${output}"
    COMMAND Python3::Interpreter "${PROJECT_SOURCE_DIR}/cmake/single_header.py" ${folders} --output "${output}" ${header}
    DEPENDS "${PROJECT_SOURCE_DIR}/cmake/single_header.py" ${headers}
    COMMENT "Writing ${name}"
    VERBATIM)
  set(apollo_single_headers ${apollo_single_headers} "${output}" PARENT_SCOPE)
endfunction()

apollo_single_header_file(apollo_single.hpp apollo/apollo.hpp apollo)
if(TARGET apollo_eigen)
  apollo_single_header_file(apollo_single_eigen.hpp apollo/eigen.hpp apollo apollo_eigen)
endif()

if(APOLLO_SINGLE_HEADER)
  add_custom_target(apollo_single_header ALL DEPENDS ${apollo_single_headers})
else()
  add_custom_target(apollo_single_header DEPENDS ${apollo_single_headers})
endif()
if(APOLLO_SINGLE_HEADER AND APOLLO_INSTALL)
  install(FILES ${apollo_single_headers} DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
endif()
