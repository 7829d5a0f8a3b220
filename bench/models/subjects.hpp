// SPDX-License-Identifier: Apache-2.0
// What is timed on a list of tensors: an optimizer's step, the roofline loops, and the bare products of a projection.
#pragma once

#include <Eigen/Core>

#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <apollo/eigen.hpp>

#include "../roofline/loops.hpp"
#include "../timing.hpp"
#include "lists.hpp"
#include "members.hpp"
#include "values.hpp"

namespace bench {

/// Fills any number of values with the pool's normals, over and over.
template <class T>
void fill(T* values, Index count, float spread) {
  static const apollo::HostBuffer<float> pool = normals(0, pool_size);
  static Index next = 0;
  for (Index i = 0; i < count; ++i) {
    values[i] = static_cast<T>(spread * pool.data()[next]);
    if (++next == pool_size) next = 0;
  }
}

/// Weights and gradients of a list, each tensor in memory of its own, as in training.
template <class T>
class Values {
 public:
  explicit Values(const List& list) {
    for (const Tensor& tensor : list.tensors) {
      fill(weights_.emplace_back(tensor.size()).data(), tensor.size(), weight_spread);
      fill(gradients_.emplace_back(tensor.size()).data(), tensor.size(), gradient_spread);
    }
  }
  T* weight(std::size_t tensor) { return weights_[tensor].data(); }
  T* gradient(std::size_t tensor) { return gradients_[tensor].data(); }

 private:
  std::vector<apollo::HostBuffer<T>> weights_, gradients_;
};

/// An optimizer of a list: the member steps the matrices of attention and MLP, dense AdamW the other tensors.
template <class T>
class Subject {
 public:
  Subject(const List& list, Values<T>& values, const Member& member, Index rank, int threads)
      : optimizer_(apollo::EigenBackend(threads)) {
    const bool unchecked = member.name == "adamw_unchecked";
    const auto others = optimizer_.add_group(apollo::AdamWOptions{.lr = 1e-6, .check_finite = !unchecked});
    with_member(member.name, rank, [&]<class Optimizer, class Options>(std::type_identity<Optimizer>, Options options) {
      const auto matrices = optimizer_.template add_group<Optimizer>(options);
      auto heads = matrices;
      if constexpr (requires { options.block; }) {
        options.block = list.head_size;
        heads = optimizer_.template add_group<Optimizer>(options);
      }
      using Projection = typename Optimizer::Policies::Projection;
      for (std::size_t i = 0; i < list.tensors.size(); ++i) {
        const Tensor& tensor = list.tensors[i];
        const auto [rows, cols] = tensor.shape;
        const auto w = apollo::row_major(values.weight(i), rows, cols);
        const auto g = apollo::row_major(static_cast<const T*>(values.gradient(i)), rows, cols);
        if (tensor.low_rank)
          optimizer_.add(tensor.by_heads ? heads : matrices, tensor.name, w, g);
        else
          optimizer_.add(others, tensor.name, w, g);
        const int gradient_reads = tensor.low_rank ? member.gradient_reads : (unchecked ? 1 : 2);
        // Moments are read and written, a basis is only read.
        bytes_ += tensor.step_bytes(gradient_reads, sizeof(T)) + 2 * optimizer_.state_bytes(tensor.name);
        if (Projection::stores_basis && tensor.low_rank)
          bytes_ -= rank * std::min(rows, cols) * static_cast<Index>(sizeof(float));
      }
    });
  }

  Seconds step() {
    Index skipped = 0;
    const Seconds seconds = time_of([&] { skipped = optimizer_.step().skipped; });
    if (skipped > 0) throw std::runtime_error(std::to_string(skipped) + " tensors were not stepped");
    return seconds;
  }

  Index state_bytes() const { return optimizer_.state_bytes(); }
  /// What a step moves where caches keep nothing between two reads: gradients as often as the member reads them, weights
  /// and moments in and out.
  Index step_bytes() const { return bytes_; }

 private:
  apollo::eigen::Optimizer optimizer_;
  Index bytes_ = 0;
};

/// The plain loops over as many parameters as a list has, in one stretch and in memory of their own.
class Roofline {
 public:
  static constexpr Index adamw_bytes = 28;
  static constexpr Index axpy_bytes = 12;

  explicit Roofline(Index parameters)
      : parameters_(parameters), w_(parameters), g_(parameters), m_(parameters), v_(parameters) {
    fill(w_.data(), parameters, weight_spread);
    fill(g_.data(), parameters, gradient_spread);
  }
  Seconds adamw(int threads) {
    return time_of([&] { roofline::adamw(w_.data(), g_.data(), m_.data(), v_.data(), parameters_, threads); });
  }
  Seconds axpy(int threads) {
    return time_of([&] { roofline::axpy(w_.data(), g_.data(), parameters_, threads); });
  }

 private:
  Index parameters_;
  apollo::HostBuffer<float> w_, g_, m_, v_;
};

/// R = X P^T of every matrix by Eigen's public product: the arithmetic that no dense projection can do without.
class BareProduct {
 public:
  BareProduct(const List& list, Values<float>& values, Index rank) : rank_(rank) {
    Index largest = 0;
    for (std::size_t i = 0; i < list.tensors.size(); ++i) {
      const Tensor& tensor = list.tensors[i];
      if (!tensor.low_rank) continue;
      const auto [rows, cols] = tensor.shape;
      factors_.push_back({values.gradient(i), rows, cols});
      const Index removed = std::min(rows, cols);
      if (!directions_.contains(removed)) directions_.emplace(removed, normals(1, removed * rank));
      largest = std::max(largest, std::max(rows, cols) * rank);
      flops_ += 2 * tensor.size() * rank;
    }
    projected_ = apollo::HostBuffer<float>(largest);
  }

  Seconds run(int threads) {
    Eigen::setNbThreads(threads);
    return time_of([&] {
      for (const auto& [data, rows, cols] : factors_) {
        const Matrix g(data, rows, cols);
        const Matrix p(directions_.at(std::min(rows, cols)).data(), std::min(rows, cols), rank_);
        Matrix r(projected_.data(), std::max(rows, cols), rank_);
        if (rows >= cols)
          r.noalias() = g * p;
        else
          r.noalias() = g.transpose() * p;
      }
    });
  }
  Index flops() const { return flops_; }

 private:
  using Matrix = Eigen::Map<Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;
  struct Factor {
    float* data;
    Index rows, cols;
  };
  Index rank_;
  std::vector<Factor> factors_;
  std::map<Index, apollo::HostBuffer<float>> directions_;  ///< by the removed side; removed x rank
  apollo::HostBuffer<float> projected_;
  Index flops_ = 0;
};

}  // namespace bench
