# SPDX-License-Identifier: Apache-2.0
"""Builds and runs a program against the package, and a second one where the package has apollo::eigen."""
import os

from conan import ConanFile
from conan.tools.build import can_run
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout


class ApolloTestConan(ConanFile):
    settings = "os", "arch", "compiler", "build_type"
    generators = "CMakeDeps"

    def requirements(self):
        self.requires(self.tested_reference_str)

    def layout(self):
        cmake_layout(self)

    @property
    def _with_eigen(self):
        return self.dependencies["apollo"].options.eigen != "off"

    def generate(self):
        toolchain = CMakeToolchain(self)
        toolchain.user_presets_path = False
        toolchain.cache_variables["WITH_EIGEN"] = bool(self._with_eigen)
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def test(self):
        if not can_run(self):
            return
        for program in ["core"] + (["eigen"] if self._with_eigen else []):
            self.run(os.path.join(self.cpp.build.bindir, program), env="conanrun")
