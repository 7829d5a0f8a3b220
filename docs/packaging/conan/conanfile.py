# SPDX-License-Identifier: Apache-2.0
"""Conan 2: conan create docs/packaging/conan. The version is read from the headers; see docs/packaging/README.md."""
import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.files import copy, load
from conan.tools.gnu import PkgConfig
from conan.tools.layout import basic_layout

required_conan_version = ">=2"


class ApolloConan(ConanFile):
    name = "apollo"
    description = "Memory-efficient optimizers: APOLLO, APOLLO-Mini, GaLore, AdamW, SGD"
    license = "Apache-2.0"
    topics = ("optimizer", "machine-learning", "header-only", "apollo", "galore", "adamw")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    # What apollo::eigen stands on: nothing, so that it is not in the package; the machine's Eigen, by pkg-config; or Conan's.
    options = {"eigen": ["off", "system", "conan"]}
    default_options = {"eigen": "off"}
    no_copy_source = True

    @property
    def _root(self):
        return os.path.normpath(os.path.join(self.recipe_folder, "..", "..", ".."))

    def set_version(self):
        header = load(self, os.path.join(self._root, "include", "apollo", "base", "config.hpp"))
        parts = (re.search(rf"^#define APOLLO_VERSION_{part} (\d+)$", header, re.M) for part in ("MAJOR", "MINOR", "PATCH"))
        self.version = ".".join(part.group(1) for part in parts)

    def export_sources(self):
        for pattern in ("LICENSE", "include/*.hpp", "backends/eigen/include/*.hpp"):
            copy(self, pattern, self._root, self.export_sources_folder)

    def layout(self):
        basic_layout(self, src_folder=".")

    def requirements(self):
        if self.options.eigen == "conan":
            self.requires("eigen/3.4.0", transitive_headers=True)

    def validate(self):
        check_min_cppstd(self, 20)

    def package_id(self):
        self.info.settings.clear()

    def package(self):
        include = os.path.join(self.package_folder, "include")
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        copy(self, "*.hpp", os.path.join(self.source_folder, "include"), include)
        if self.options.eigen != "off":
            copy(self, "*.hpp", os.path.join(self.source_folder, "backends", "eigen", "include"), include)

    def package_info(self):
        self.cpp_info.set_property("cmake_file_name", "apollo")
        core = self.cpp_info.components["core"]
        core.set_property("cmake_target_name", "apollo::apollo")
        core.set_property("pkg_config_name", "apollo")
        core.bindirs = core.libdirs = []
        if self.options.eigen == "off":
            return
        eigen = self.cpp_info.components["eigen"]
        eigen.set_property("cmake_target_name", "apollo::eigen")
        eigen.set_property("pkg_config_name", "apollo-eigen")
        eigen.requires = ["core"]
        if self.options.eigen == "conan":
            eigen.requires.append("eigen::eigen")
        else:
            PkgConfig(self, "eigen3").fill_cpp_info(eigen, is_system=True)
            eigen.includedirs = ["include", *eigen.includedirs]
        eigen.bindirs = eigen.libdirs = []
