// SPDX-License-Identifier: Apache-2.0
// Forward and backward of the model `nano` of examples/llama, to be compared with the same in torch (nano_torch.py):
//   nano dump FILE             one batch's loss and gradients, with the weights and tokens they came from, as safetensors
//   nano time THREADS SECONDS  median seconds of one forward and backward
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <random>
#include <string>
#include <vector>

#include <apollo/optimizer/file.hpp>
#include <apollo/optimizer/safetensors.hpp>

#include "llama/model.hpp"

namespace {

using Clock = std::chrono::steady_clock;
namespace st = apollo::safetensors;

constexpr llama::Index sequences = 8, length = 128;  // as in nano_torch.py
constexpr int vocabulary = 256;

llama::Batch random_batch() {
  std::mt19937_64 random(7);
  llama::Batch batch{sequences, length, {}, {}};
  for (std::vector<int>* tokens : {&batch.tokens, &batch.targets})
    for (llama::Index i = 0; i < batch.size(); ++i) tokens->push_back(static_cast<int>(random() % vocabulary));
  return batch;
}

/// Gains of the norms are 1 at first, and a gain that was forgotten somewhere would not show.
void vary_gains(llama::Llama<float>& model) {
  std::mt19937_64 random(8);
  for (const llama::Parameter& p : model.parameters()) {
    if (p.kind != llama::Kind::norm) continue;
    auto gain = model.weight(p);
    for (llama::Index i = 0; i < p.cols; ++i) gain(0, i) = 0.75F + 0.5F * static_cast<float>(random() % 1024) / 1024;
  }
}

/// A safetensors file in the making: the header must be written before the first tensor.
class Dump {
 public:
  void add(std::string name, st::Type type, std::vector<apollo::Index> shape, const void* data) {
    tensors_.push_back({std::move(name), type, std::move(shape)});
    data_.push_back(data);
  }
  void write(const std::string& path) const {
    apollo::AtomicFile file(path);
    const std::string header = st::serialize(tensors_);
    file.write(header.data(), header.size());
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      std::uint64_t bytes = 0;
      st::byte_count(tensors_[i].type, tensors_[i].shape, bytes);
      file.write(data_[i], static_cast<std::size_t>(bytes));
    }
    file.commit();
  }

 private:
  std::vector<st::Tensor> tensors_;
  std::vector<const void*> data_;
};

void dump(const std::string& path) {
  llama::Llama<float> model({}, 1);
  vary_gains(model);
  const llama::Batch batch = random_batch();
  const double loss = model.loss_and_gradients(batch);
  Dump out;
  out.add("loss", st::Type::F64, {}, &loss);
  out.add("tokens", st::Type::I32, {sequences, length}, batch.tokens.data());
  out.add("targets", st::Type::I32, {sequences, length}, batch.targets.data());
  for (const llama::Parameter& p : model.parameters()) {
    const std::vector<apollo::Index> shape =
        p.kind == llama::Kind::norm ? std::vector<apollo::Index>{p.cols} : std::vector<apollo::Index>{p.rows, p.cols};
    out.add("weight:" + p.name, st::Type::F32, shape, model.weight(p).data());
    out.add("gradient:" + p.name, st::Type::F32, shape, model.gradient(p).data());
  }
  out.write(path);
}

/// The first fifth of the time is for caches, threads and the clock to settle.
double median_seconds(int threads, double seconds) {
  llama::Llama<float> model({}, 1, threads);
  const llama::Batch batch = random_batch();
  std::vector<double> steps;
  const auto since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  const Clock::time_point start = Clock::now();
  while (since(start) < 1.2 * seconds || steps.empty()) {
    const Clock::time_point step = Clock::now();
    model.loss_and_gradients(batch);
    if (since(start) > 0.2 * seconds) steps.push_back(since(step));
  }
  const auto middle = steps.begin() + static_cast<std::ptrdiff_t>(steps.size() / 2);
  std::nth_element(steps.begin(), middle, steps.end());
  return *middle;
}

}  // namespace

int main(int count, char** arguments) {
  const std::vector<std::string> words(arguments + 1, arguments + count);
  try {
    if (words.size() == 2 && words[0] == "dump") {
      dump(words[1]);
      return 0;
    }
    if (words.size() == 3 && words[0] == "time") {
      std::printf("%.9f\n", median_seconds(std::stoi(words[1]), std::stod(words[2])));
      return 0;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "nano: %s\n", error.what());
    return 1;
  }
  std::fprintf(stderr, "usage: nano dump FILE | nano time THREADS SECONDS\n");
  return 2;
}
