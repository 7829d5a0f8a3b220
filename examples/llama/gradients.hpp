// SPDX-License-Identifier: Apache-2.0
// Gradients of the matrices at chosen steps of a run, as safetensors files: what a basis is judged by
// (bench/refresh.cpp).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <apollo/optimizer/file.hpp>
#include <apollo/optimizer/safetensors.hpp>

#include "trainer.hpp"

namespace llama {

/// Writes the gradients of all matrices as F32, under the names of their weights, and the step as metadata; the file
/// appears whole. Shapes: those of the weights.
template <class Model>
void save_gradients(Model& model, std::int64_t step, const std::string& path) {
  std::vector<apollo::safetensors::Tensor> tensors;
  for (const Parameter& p : model.parameters())
    if (p.kind == Kind::matrix) tensors.push_back({p.name, apollo::safetensors::Type::F32, {p.rows, p.cols}, 0, 0});
  const std::string header = apollo::safetensors::serialize(tensors, {{"step", std::to_string(step)}});
  apollo::AtomicFile file(path);
  file.write(header.data(), header.size());
  for (const Parameter& p : model.parameters())
    if (p.kind == Kind::matrix)
      file.write(model.gradient(p).data(), static_cast<std::size_t>(p.size()) * sizeof(float));
  file.commit();
}

/// What --save-gradients and --save-gradients-at ask for.
struct GradientFiles {
  std::filesystem::path folder;     ///< empty: none
  std::vector<std::int64_t> steps;  ///< in any order

  /// Makes the folder. Errors: no folder or no steps where the other is given, more runs than one, gradients of which
  /// only one layer's are in memory, a step that the run does not take, a folder that cannot be made.
  void prepare(const TrainerSettings& s, std::size_t runs, std::int64_t stop_after) const {
    if (folder.empty() && steps.empty()) return;
    if (folder.empty() || steps.empty())
      throw std::invalid_argument("save-gradients names the folder, save-gradients-at the steps: both are needed");
    if (runs > 1)
      throw std::invalid_argument("save-gradients: " + std::to_string(runs) +
                                  " runs would write the same files; make it one optimizer, learning rate and seed");
    if (s.layerwise)
      throw std::invalid_argument("save-gradients with layerwise: only one layer's gradients are in memory at a time");
    const std::int64_t last = stop_after > 0 ? std::min(stop_after, s.steps) : s.steps;
    for (const std::int64_t step : steps)
      if (step < 1 || step > last)
        throw std::invalid_argument("save-gradients-at: step " + std::to_string(step) + " must be from 1 to " +
                                    std::to_string(last) + ", the last one of the run");
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error)
      throw std::runtime_error("save-gradients: cannot make the folder '" + folder.string() + "': " + error.message());
  }

  /// Errors: a run that is resumed after one of the steps.
  void check_start(std::int64_t step_number) const {
    for (const std::int64_t step : steps)
      if (step <= step_number)
        throw std::invalid_argument("save-gradients-at: step " + std::to_string(step) +
                                    " is past, the run goes on from step " + std::to_string(step_number));
  }

  std::string path(std::int64_t step) const {
    return (folder / ("step_" + std::to_string(step) + ".safetensors")).string();
  }

  /// After a step, while its gradients are still there.
  template <class Model>
  void save(Model& model, std::int64_t step) const {
    if (std::find(steps.begin(), steps.end(), step) != steps.end()) save_gradients(model, step, path(step));
  }
};

}  // namespace llama
