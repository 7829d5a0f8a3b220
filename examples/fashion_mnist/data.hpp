// SPDX-License-Identifier: Apache-2.0
// Reads Fashion-MNIST (IDX files, gzipped or not) and gathers batches of normalised pixels.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <zlib.h>
#include <Eigen/Core>

namespace example {

using Images = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;  // one image per row

inline constexpr std::size_t pixels = 28 * 28;
inline constexpr int classes = 10;

/// Images stay bytes (47 MB for the training set); they become floats batch by batch.
struct Dataset {
  std::vector<std::uint8_t> images;  // size() x pixels
  std::vector<std::uint8_t> labels;  // size(), each below `classes`

  std::size_t size() const { return labels.size(); }

  /// Copies the images numbered `chosen` into the rows of `batch`, centred and scaled by the training set's statistics.
  void gather(std::span<const std::size_t> chosen, Images& batch, std::vector<int>& batch_labels) const {
    constexpr float mean = 0.2860f, deviation = 0.3530f;  // of all training pixels, as fractions of 255
    batch.resize(static_cast<Eigen::Index>(chosen.size()), pixels);
    batch_labels.resize(chosen.size());
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      const Eigen::Map<const Eigen::Array<std::uint8_t, 1, pixels>> source(&images[chosen[i] * pixels]);
      batch.row(static_cast<Eigen::Index>(i)) = (source.cast<float>() / 255.0f - mean) / deviation;
      batch_labels[i] = labels[chosen[i]];
    }
  }
};

/// One IDX file: a big-endian magic number and extents, then bytes. zlib passes files that are not compressed through.
template <std::size_t Dimensions>
std::vector<std::uint8_t> read_idx(const std::filesystem::path& folder, const std::string& name,
                                   const std::array<std::size_t, Dimensions>& extents) {
  const std::filesystem::path packed = folder / (name + ".gz");
  const std::filesystem::path path = std::filesystem::exists(packed) ? packed : folder / name;
  const auto fail = [&path](const std::string& what) {
    throw std::runtime_error(path.string() + ": " + what +
                             " (name the folder of the four Fashion-MNIST files with --data DIR; "
                             "Debian's package is dataset-fashion-mnist)");
  };

  const gzFile file = gzopen(path.string().c_str(), "rb");
  if (file == nullptr) fail("cannot be opened");
  std::size_t count = 1;
  for (const std::size_t extent : extents) count *= extent;
  std::vector<std::uint8_t> bytes(4 * (1 + Dimensions) + count + 1);  // one more than expected, to notice a longer file
  const int got = gzread(file, bytes.data(), static_cast<unsigned>(bytes.size()));
  gzclose(file);
  if (got < 0 || static_cast<std::size_t>(got) + 1 != bytes.size()) fail("is cut short, too long or damaged");

  const auto word = [&bytes](std::size_t i) {
    return std::size_t{bytes[4 * i]} << 24 | std::size_t{bytes[4 * i + 1]} << 16 | std::size_t{bytes[4 * i + 2]} << 8 |
           std::size_t{bytes[4 * i + 3]};
  };
  constexpr std::size_t bytes_type = 0x08;
  if (word(0) != (bytes_type << 8 | Dimensions)) fail("is not an IDX file of bytes");
  for (std::size_t d = 0; d < Dimensions; ++d) {
    if (word(1 + d) != extents[d]) fail("has other extents than Fashion-MNIST");
  }
  return {bytes.begin() + 4 * (1 + Dimensions), bytes.end() - 1};
}

/// `prefix` is "train" (60000 images) or "t10k" (10000).
inline Dataset read_dataset(const std::filesystem::path& folder, const std::string& prefix, std::size_t size) {
  Dataset set{.images = read_idx<3>(folder, prefix + "-images-idx3-ubyte", {size, 28, 28}),
              .labels = read_idx<1>(folder, prefix + "-labels-idx1-ubyte", {size})};
  for (const std::uint8_t label : set.labels) {
    if (label >= classes) throw std::runtime_error(prefix + " labels: class " + std::to_string(label) + " of 10");
  }
  return set;
}

/// Fisher and Yates' shuffle. std::shuffle may differ between standard libraries; a seed should mean one order
/// everywhere.
inline void shuffle(std::vector<std::size_t>& order, std::mt19937_64& random) {
  for (std::size_t left = order.size(); left > 1; --left) std::swap(order[left - 1], order[random() % left]);
}

}  // namespace example
