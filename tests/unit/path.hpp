// SPDX-License-Identifier: Apache-2.0
// A file for a test. POSIX, like the checkpoints that are written to it.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <string>

namespace support {

/// A file of this process, removed in the end. In memory where the system has a place for that: save() waits for the disk, and
/// thousands of saves would take minutes.
struct Path {
  std::string path;
  explicit Path(const std::string& name) : path(name) {
    if (::access("/dev/shm", W_OK) == 0) path = "/dev/shm/apollo-test-" + std::to_string(::getpid()) + "-" + name;
    std::remove(path.c_str());
  }
  Path(const Path&) = delete;
  ~Path() { std::remove(path.c_str()); }
  operator const std::string&() const { return path; }
};

}  // namespace support
