// SPDX-License-Identifier: Apache-2.0
// Small files, whole: text and JSON.
#pragma once

#include <cstddef>
#include <filesystem>
#include <stdexcept>
#include <string>

#include <nlohmann/json.hpp>

#include <apollo/optimizer/file.hpp>

namespace llama {

inline void write_whole(const std::string& path, const std::string& text) {
  apollo::AtomicFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

inline std::string read_whole(const std::string& path) {
  const apollo::InputFile file(path);
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read(text.data(), text.size(), 0);
  return text;
}

inline nlohmann::json read_json(const std::filesystem::path& path) {
  try {
    return nlohmann::json::parse(read_whole(path.string()));
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error("cannot read '" + path.string() + "': " + error.what());
  }
}

}  // namespace llama
