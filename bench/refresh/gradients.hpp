// SPDX-License-Identifier: Apache-2.0
// Gradients for a refresh: flat ones that turn slowly, and those that examples/llama --save-gradients wrote.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include <apollo/apollo.hpp>

namespace bench {

/// Gaussian noise, which has no directions to be found. From one to the next the whole turns by an angle: the cosine of
/// it stays, the rest is new, and every gradient has the same law.
class TurningGradient {
 public:
  explicit TurningGradient(apollo::Shape shape) : values_(static_cast<std::size_t>(shape.rows * shape.cols)) {
    draw(values_);
  }

  const std::vector<float>& values() const { return values_; }
  void turn(double angle) {
    std::vector<float> fresh(values_.size());
    draw(fresh);
    const auto keep = static_cast<float>(std::cos(angle)), add = static_cast<float>(std::sin(angle));
    for (std::size_t i = 0; i < values_.size(); ++i) values_[i] = keep * values_[i] + add * fresh[i];
  }

 private:
  void draw(std::vector<float>& to) {
    apollo::fill_normals({0, 2, apollo::Stream::start, draws_++}, 0, to.size(), to.data());
  }

  std::vector<float> values_;
  std::uint64_t draws_ = 0;
};

struct Gradient {
  std::string name;
  apollo::Shape shape;
  std::vector<float> values;  ///< row-major
};

/// Every matrix of a safetensors file, in order of name. Errors: what is no such file, no matrix in it, or one that is
/// not F32.
inline std::vector<Gradient> read_gradients(const std::string& path) {
  namespace safetensors = apollo::safetensors;
  const apollo::InputFile file(path);
  std::string head(static_cast<std::size_t>(std::min<std::uint64_t>(8, file.size())), '\0');
  file.read(head.data(), head.size(), 0);
  head.resize(static_cast<std::size_t>(safetensors::header_end(head, file.size(), path)));
  file.read(head.data(), head.size(), 0);
  const safetensors::Header header = safetensors::parse(head, file.size(), path);
  std::vector<Gradient> gradients;
  for (const std::size_t i : header.by_name) {
    const safetensors::Tensor& tensor = header.tensors[i];
    if (tensor.shape.size() != 2) continue;
    if (tensor.type != safetensors::Type::F32)
      throw std::runtime_error(path + ": " + tensor.name + " is " + std::string(safetensors::type_name(tensor.type)) +
                               ", must be F32");
    Gradient& gradient = gradients.emplace_back();
    gradient.name = tensor.name;
    gradient.shape = {tensor.shape[0], tensor.shape[1]};
    gradient.values.resize(static_cast<std::size_t>(tensor.shape[0] * tensor.shape[1]));
    file.read(gradient.values.data(), gradient.values.size() * sizeof(float), header.data_offset + tensor.begin);
  }
  if (gradients.empty()) throw std::runtime_error(path + " holds no matrices");
  return gradients;
}

}  // namespace bench
