// SPDX-License-Identifier: Apache-2.0
// A multilayer perceptron with ReLU and softmax cross-entropy: forward and backward pass written out on Eigen.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include <Eigen/Core>

namespace example {

template <class Scalar>
using RowMajor = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// result = left * right, in blocks of columns that share nothing: the same bits for any number of threads, which Eigen's
/// own parallel product does not promise.
template <class Result, class Left, class Right>
void multiply(Result& result, const Left& left, const Right& right) {
  constexpr Eigen::Index block = 128;
  result.resize(left.rows(), right.cols());
#if defined(_OPENMP)
#pragma omp parallel for schedule(dynamic)
#endif
  for (Eigen::Index first = 0; first < result.cols(); first += block) {
    const Eigen::Index count = std::min(block, result.cols() - first);
    result.middleCols(first, count).noalias() = left * right.middleCols(first, count);
  }
}

/// output = input * weight^T + bias. The parameters' owner: an optimizer sees these very arrays, so they never move.
template <class Scalar>
struct Linear {
  RowMajor<Scalar> weight, weight_gradient;                   // out x in, as torch stores them
  Eigen::Vector<Scalar, Eigen::Dynamic> bias, bias_gradient;  // out
  RowMajor<Scalar> output, output_gradient;                   // batch x out, kept for the backward pass

  /// He's initialisation: variance 2 / in keeps the signal's size through a ReLU.
  Linear(Eigen::Index in, Eigen::Index out, std::mt19937_64& random)
      : weight(out, in), weight_gradient(out, in), bias(out), bias_gradient(out) {
    std::normal_distribution<Scalar> normal(0, std::sqrt(Scalar(2) / static_cast<Scalar>(in)));
    weight = weight.unaryExpr([&](Scalar) { return normal(random); });
    bias.setZero();
  }

  void forward(const RowMajor<Scalar>& input) {
    multiply(output, input, weight.transpose());
    output.rowwise() += bias.transpose();
  }

  /// Expects output_gradient; writes the gradients of the parameters.
  void backward(const RowMajor<Scalar>& input) {
    multiply(weight_gradient, output_gradient.transpose(), input);
    bias_gradient = output_gradient.colwise().sum().transpose();
  }
};

template <class Scalar = float>
class Mlp {
 public:
  /// `widths` are the sizes from the input to the classes: {784, 512, 256, 10} has two hidden layers and the head.
  Mlp(std::span<const Eigen::Index> widths, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    layers_.reserve(widths.size() - 1);
    for (std::size_t i = 0; i + 1 < widths.size(); ++i) layers_.emplace_back(widths[i], widths[i + 1], random);
  }

  std::vector<Linear<Scalar>>& layers() { return layers_; }

  /// The logits, batch x classes.
  const RowMajor<Scalar>& forward(const RowMajor<Scalar>& images) {
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      layers_[i].forward(input_of(i, images));
      if (i + 1 < layers_.size()) layers_[i].output = layers_[i].output.cwiseMax(Scalar(0));
    }
    return layers_.back().output;
  }

  /// Forward and backward: fills every gradient and returns the batch's mean loss.
  Scalar loss_and_gradients(const RowMajor<Scalar>& images, std::span<const int> labels) {
    const RowMajor<Scalar>& logits = forward(images);
    const Scalar loss = cross_entropy(logits, labels, layers_.back().output_gradient);
    for (std::size_t i = layers_.size(); i-- > 0;) {
      layers_[i].backward(input_of(i, images));
      if (i == 0) break;
      Linear<Scalar>& below = layers_[i - 1];
      multiply(below.output_gradient, layers_[i].output_gradient, layers_[i].weight);
      // ReLU passes the gradient where it passed the value.
      below.output_gradient.array() *= (below.output.array() > Scalar(0)).template cast<Scalar>();
    }
    return loss;
  }

  /// Mean of -log softmax(logits)[label]; its gradient with respect to the logits is (softmax - one_hot) / batch.
  static Scalar cross_entropy(const RowMajor<Scalar>& logits, std::span<const int> labels, RowMajor<Scalar>& gradient) {
    const auto batch = static_cast<Scalar>(logits.rows());
    gradient.resize(logits.rows(), logits.cols());
    Scalar loss = 0;
    for (Eigen::Index i = 0; i < logits.rows(); ++i) {
      const Eigen::Index label = labels[static_cast<std::size_t>(i)];
      const Scalar largest = logits.row(i).maxCoeff();  // taken off first, so that exp cannot overflow
      gradient.row(i) = (logits.row(i).array() - largest).exp();
      const Scalar sum = gradient.row(i).sum();
      loss += std::log(sum) - (logits(i, label) - largest);
      gradient.row(i) /= sum * batch;
      gradient(i, label) -= 1 / batch;
    }
    return loss / batch;
  }

 private:
  const RowMajor<Scalar>& input_of(std::size_t layer, const RowMajor<Scalar>& images) const {
    return layer == 0 ? images : layers_[layer - 1].output;
  }

  std::vector<Linear<Scalar>> layers_;
};

}  // namespace example
