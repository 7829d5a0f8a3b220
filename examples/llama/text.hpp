// SPDX-License-Identifier: Apache-2.0
// The text to learn: a file's bytes, split by position, as batches for training and windows for validation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <apollo/optimizer/file.hpp>
#include <apollo/random/stream.hpp>

#include "model.hpp"

namespace llama {

/// The last 5 % of the bytes validate, what stands before them trains. A token is a byte.
class Text {
 public:
  /// Reads a file. Errors: whatever the file system says; a text too short for one window of `length` tokens in each part.
  Text(const std::string& path, Index length) : Text(read(path), path, length) {}

  Text(std::vector<std::uint8_t> bytes, const std::string& name, Index length)
      : bytes_(std::move(bytes)), name_(name), training_(bytes_.size() - bytes_.size() / 20) {
    require(length);
    for (const std::uint8_t byte : bytes_) hash_ = (hash_ ^ byte) * 1099511628211u;
  }

  /// Refuses sequences of this length if the text is too short for one in each part.
  void require(Index length) const {
    const std::size_t least = 20 * (static_cast<std::size_t>(length) + 1);
    if (bytes_.size() < least)
      throw std::invalid_argument("text '" + name_ + "' has " + std::to_string(bytes_.size()) +
                                  " bytes, must have at least " + std::to_string(least) +
                                  ": its last twentieth must hold a sequence of " + std::to_string(length) +
                                  " tokens and the byte after it");
  }

  std::size_t size() const { return bytes_.size(); }
  std::size_t training_size() const { return training_; }

  /// 64-bit FNV-1a of all bytes: by it a checkpoint knows its text again.
  std::uint64_t hash() const { return hash_; }

  /// Sequences first ... first + count - 1 of those that `step` trains on, at random places: a function of (seed, step, number)
  /// alone, so every optimizer meets the same data, in one batch or several, and a resumed run goes on with it.
  Batch sample(std::uint64_t seed, std::int64_t step, Index first, Index count, Index length) const {
    const apollo::RandomStream random{.seed = seed ^ data_seed, .counter = static_cast<std::uint64_t>(step)};
    const std::size_t places = training_ - static_cast<std::size_t>(length);
    Batch batch{count, length, {}, {}};
    for (Index i = 0; i < count; ++i) {
      const apollo::PhiloxCounter bits = random.block(static_cast<std::uint64_t>(first + i));
      append(batch, (std::uint64_t{bits.word[0]} << 32 | bits.word[1]) % places);
    }
    return batch;
  }

  /// Windows of the validation part that follow each other without overlap; the rest shorter than one is left out.
  Index windows(Index length) const {
    return static_cast<Index>((bytes_.size() - training_ - 1) / static_cast<std::size_t>(length));
  }
  /// Every `stride`-th window, from `first`.
  Batch validation(Index first, Index count, Index stride, Index length) const {
    Batch batch{count, length, {}, {}};
    for (Index i = 0; i < count; ++i)
      append(batch, training_ + static_cast<std::size_t>((first + i * stride) * length));
    return batch;
  }

 private:
  static std::vector<std::uint8_t> read(const std::string& path) {
    const apollo::InputFile file(path);
    std::vector<std::uint8_t> bytes(file.size());
    file.read(bytes.data(), bytes.size(), 0);
    return bytes;
  }

  void append(Batch& batch, std::size_t start) const {
    for (std::size_t i = start; i < start + static_cast<std::size_t>(batch.length); ++i) {
      batch.tokens.push_back(bytes_[i]);
      batch.targets.push_back(bytes_[i + 1]);
    }
  }

  static constexpr std::uint64_t data_seed = 0x64617461;  // apart from the draws of weights and optimizers

  std::vector<std::uint8_t> bytes_;
  std::string name_;
  std::size_t training_;
  std::uint64_t hash_ = 14695981039346656037u;
};

}  // namespace llama
