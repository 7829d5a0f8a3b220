# SPDX-License-Identifier: Apache-2.0
# An overlay port of the clone that it lies in. In a registry vcpkg_from_github, with a tag and its hash, says where the source is.
get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
set(VCPKG_BUILD_TYPE release)  # headers only

vcpkg_check_features(OUT_FEATURE_OPTIONS FEATURE_OPTIONS FEATURES eigen APOLLO_EIGEN)
vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS
    ${FEATURE_OPTIONS}
    -DAPOLLO_CUDA=OFF
    -DAPOLLO_TESTS=OFF
    -DAPOLLO_BENCH=OFF
    -DAPOLLO_EXAMPLES=OFF
    -DAPOLLO_INSTALL_CMAKEDIR=share/apollo)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup()
vcpkg_fixup_pkgconfig()

file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/share/doc")
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
