# SPDX-License-Identifier: Apache-2.0
# Installs the headers, the CMake package (find_package(apollo [COMPONENTS eigen cuda])) and the pkg-config files.
# Everything is independent of the architecture, so it lies under share/.
include(CMakePackageConfigHelpers)
set(APOLLO_INSTALL_CMAKEDIR "" CACHE STRING "Where the CMake package is installed (default: cmake/apollo in the data folder)")
mark_as_advanced(APOLLO_INSTALL_CMAKEDIR)
set(apollo_cmake_dir "${CMAKE_INSTALL_DATADIR}/cmake/apollo")
if(APOLLO_INSTALL_CMAKEDIR)
  set(apollo_cmake_dir "${APOLLO_INSTALL_CMAKEDIR}")
endif()
set(apollo_pkgconfig_dir "${CMAKE_INSTALL_DATADIR}/pkgconfig")

install(TARGETS apollo EXPORT apolloTargets
  FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
  FILE_SET bridges DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT apolloTargets NAMESPACE apollo:: DESTINATION "${apollo_cmake_dir}")
if(TARGET apollo_eigen)
  # An export of its own: the core's targets must load on a machine without Eigen.
  install(TARGETS apollo_eigen EXPORT apolloEigenTargets FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
  install(EXPORT apolloEigenTargets NAMESPACE apollo:: DESTINATION "${apollo_cmake_dir}")
endif()
if(TARGET apollo_cuda)
  install(TARGETS apollo_cuda EXPORT apolloCudaTargets FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
  foreach(target IN ITEMS apollo_cuda_blas apollo_cuda_solver)
    if(TARGET ${target})
      install(TARGETS ${target} EXPORT apolloCudaTargets)
    endif()
  endforeach()
  install(EXPORT apolloCudaTargets NAMESPACE apollo:: DESTINATION "${apollo_cmake_dir}")
endif()

configure_package_config_file(cmake/apolloConfig.cmake.in "${PROJECT_BINARY_DIR}/cmake/apolloConfig.cmake"
  INSTALL_DESTINATION "${apollo_cmake_dir}" NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/cmake/apolloConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES
  "${PROJECT_BINARY_DIR}/cmake/apolloConfig.cmake"
  "${PROJECT_BINARY_DIR}/cmake/apolloConfigVersion.cmake"
  DESTINATION "${apollo_cmake_dir}")

# pkg-config: paths relative to the .pc file keep the prefix movable.
if(IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}" OR IS_ABSOLUTE "${CMAKE_INSTALL_DATADIR}")
  set(apollo_pc_prefix "${CMAKE_INSTALL_PREFIX}")
  set(apollo_pc_includedir "${CMAKE_INSTALL_FULL_INCLUDEDIR}")
else()
  file(RELATIVE_PATH apollo_pc_up "/prefix/${apollo_pkgconfig_dir}" "/prefix")
  string(REGEX REPLACE "/$" "" apollo_pc_up "${apollo_pc_up}")
  set(apollo_pc_prefix "\${pcfiledir}/${apollo_pc_up}")
  set(apollo_pc_includedir "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
configure_file(cmake/apollo.pc.in "${PROJECT_BINARY_DIR}/cmake/apollo.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/cmake/apollo.pc" DESTINATION "${apollo_pkgconfig_dir}")
if(TARGET apollo_eigen)
  get_property(apollo_pc_openmp DIRECTORY backends/eigen PROPERTY apollo_openmp_flags)
  configure_file(cmake/apollo-eigen.pc.in "${PROJECT_BINARY_DIR}/cmake/apollo-eigen.pc" @ONLY)
  install(FILES "${PROJECT_BINARY_DIR}/cmake/apollo-eigen.pc" DESTINATION "${apollo_pkgconfig_dir}")
endif()

install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}")
