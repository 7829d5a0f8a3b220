// SPDX-License-Identifier: Apache-2.0
// One member on the emulated device, and the same gradients on the reference backend in the same or in double precision.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include <apollo/cuda.hpp>

#include "support.hpp"

namespace emulated {

using apollo::bfloat16;
using apollo::Index;
using apollo::Order2D;
using apollo::cuda::EmulatedOptimizer;
using apollo::cuda::Emulation;
using apollo::cuda::Emulator;
using apollo::cuda::Math;
using support::Matrix;

/// A matrix on a device.
template <class T>
class Array {
 public:
  Array(const Emulator& device, const Matrix& from, Order2D order = Order2D::row_major, Index offset = 0)
      : device_(device),
        memory_(device, (from.rows * from.cols + offset) * static_cast<Index>(sizeof(T)), {}, "a test"),
        view_(order == Order2D::row_major ? apollo::row_major(memory_.as<T>() + offset, from.rows, from.cols)
                                          : apollo::column_major(memory_.as<T>() + offset, from.rows, from.cols)) {
    set(from);
  }
  void set(const Matrix& from) {
    for (Index i = 0; i < from.rows; ++i)
      for (Index j = 0; j < from.cols; ++j) view_(i, j) = support::stored<T>(from(i, j));
  }
  Matrix get() const {
    Matrix to(view_.rows, view_.cols);
    for (Index i = 0; i < to.rows; ++i)
      for (Index j = 0; j < to.cols; ++j) to(i, j) = support::opened(view_(i, j));
    return to;
  }
  const apollo::MatrixView<T>& view() const { return view_; }

 private:
  Emulator device_;
  apollo::cuda::Memory<Emulator> memory_;
  apollo::MatrixView<T> view_;
};

struct Leaf {
  Index rows = 0, cols = 0;
  Order2D order = Order2D::row_major;
  Index offset = 0;  ///< of the first value from 256 bytes
};

inline std::string leaf_name(std::size_t i) { return "tensor " + std::to_string(i); }

/// One direction that stays and one that changes, of norms that grow: updates grow by more than a limiter allows.
inline Matrix gradient(const Leaf& leaf, std::size_t number, int step) {
  Matrix g = support::uniform_matrix(leaf.rows, leaf.cols, 11 + number, 1000);
  const Matrix own = support::uniform_matrix(leaf.rows, leaf.cols, 11 + number, static_cast<std::uint64_t>(step));
  for (std::size_t i = 0; i < g.values.size(); ++i) g.values[i] += 0.5 * own.values[i];
  return support::scaled(g, 0.01 * std::pow(1.5, step));
}
inline Matrix start(const Leaf& leaf, std::size_t number) {
  return support::uniform_matrix(leaf.rows, leaf.cols, 3 + number);
}

struct Result {
  std::vector<Matrix> weights;
  std::vector<std::vector<unsigned char>> moments;  ///< two for each tensor
  std::vector<apollo::cuda::TensorStatus> status;
  std::set<std::string> kernels;
  Index launches_a_step = 0;
};

template <class Member, class W, class G>
Result run(const std::vector<Leaf>& leaves, const typename Member::Options& options, int steps,
           const Emulation& how = {}, std::optional<Math> math = {}, double clip = 0) {
  EmulatedOptimizer optimizer{Emulator(how)};
  optimizer.clip_global_norm(clip);
  if (math) optimizer.math(*math);
  const auto group = optimizer.add_group<Member>(options);
  std::vector<Array<W>> weights;
  std::vector<Array<G>> gradients;
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const Leaf& leaf = leaves[i];
    weights.emplace_back(optimizer.device(), start(leaf, i), leaf.order, leaf.offset);
    gradients.emplace_back(optimizer.device(), gradient(leaf, i, 0), leaf.order, leaf.offset);
    optimizer.add(group, leaf_name(i), weights[i].view(), gradients[i].view());
  }
  Result result;
  for (int step = 0; step < steps; ++step) {
    for (std::size_t i = 0; i < leaves.size(); ++i) gradients[i].set(gradient(leaves[i], i, step));
    const Index before = optimizer.device().launches();
    optimizer.step();
    result.launches_a_step = optimizer.device().launches() - before;
  }
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    result.weights.push_back(weights[i].get());
    result.status.push_back(optimizer.status(leaf_name(i)));
    for (int b = 0; b < Member::Policies::Moments::buffers; ++b) {
      result.moments.emplace_back(static_cast<std::size_t>(optimizer.moment_bytes(leaf_name(i))));
      optimizer.read_moment(leaf_name(i), b, result.moments.back().data());
    }
  }
  result.kernels = optimizer.device().launched();
  return result;
}

/// The same on the reference backend, with weights of W and gradients rounded as G has them.
template <class Member, class W, class G>
Result reference(const std::vector<Leaf>& leaves, const typename Member::Options& options, int steps) {
  using Value = std::conditional_t<std::is_same_v<W, double>, double, G>;
  apollo::Optimizer optimizer;
  const auto group = optimizer.add_group<Member>(options);
  std::vector<std::unique_ptr<support::Tensor<W>>> weights;
  std::vector<std::unique_ptr<support::Tensor<Value>>> gradients;
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const auto layout =
        leaves[i].order == Order2D::row_major ? support::Layout::row_major : support::Layout::column_major;
    weights.push_back(std::make_unique<support::Tensor<W>>(support::rounded<float>(start(leaves[i], i)), layout));
    gradients.push_back(std::make_unique<support::Tensor<Value>>(start(leaves[i], i), layout));
    optimizer.add(group, leaf_name(i), weights[i]->view, gradients[i]->view);
  }
  Result result;
  for (int step = 0; step < steps; ++step) {
    for (std::size_t i = 0; i < leaves.size(); ++i)
      gradients[i]->set(support::rounded<G>(gradient(leaves[i], i, step)));
    const apollo::StepReport report = optimizer.step();
    result.status.clear();
    for (const apollo::TensorReport& tensor : report.tensors)
      result.status.push_back({0, 0, tensor.gradient_norm, tensor.update_norm, tensor.limiter});
  }
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    result.weights.push_back(weights[i]->get());
    result.status[i].steps = optimizer.steps(leaf_name(i));
  }
  return result;
}

inline bool same_bits(const Result& a, const Result& b) {
  bool same = a.moments == b.moments && a.weights.size() == b.weights.size();
  for (std::size_t i = 0; same && i < a.weights.size(); ++i) same = a.weights[i].values == b.weights[i].values;
  return same;
}

/// The largest error of any element, relative to it or to the root mean square of its matrix.
inline double worst_error(const Result& a, const Result& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.weights.size(); ++i)
    support::raise(worst, support::relative_error(a.weights[i], b.weights[i]));
  return worst;
}

/// The same of what the steps have changed.
inline double worst_change_error(const Result& a, const Result& b, const std::vector<Leaf>& leaves) {
  double worst = 0;
  for (std::size_t i = 0; i < a.weights.size(); ++i) {
    const Matrix from = support::rounded<float>(start(leaves[i], i));
    const Matrix expected = support::difference(b.weights[i], from);
    const Matrix change = support::difference(a.weights[i], from);
    support::raise(worst, support::norm(support::difference(change, expected)) / support::norm(expected));
  }
  return worst;
}

/// A run goes on from a checkpoint to the bit, and the host reads and writes the same file.
template <class Member>
void check_checkpoint(const typename Member::Options& options, Leaf leaf) {
  EmulatedOptimizer one, two;
  Array<float> w(one.device(), start(leaf, 0), leaf.order), g(one.device(), gradient(leaf, 0, 0), leaf.order);
  Array<float> v(two.device(), start(leaf, 0), leaf.order), h(two.device(), gradient(leaf, 0, 0), leaf.order);
  one.add(one.add_group<Member>(options), "w", w.view(), g.view());
  two.add(two.add_group<Member>(options), "w", v.view(), h.view());
  CHECK(one.state_bytes() == Member::state_bytes({leaf.rows, leaf.cols}, options));
  one.step(), one.step();
  one.save("one.safetensors");
  apollo::Optimizer host;
  support::Tensor<float> x(w.get(), support::Layout::column_major), y(w.get(), support::Layout::column_major);
  host.add(host.add_group<Member>(options), "w", x.view, y.view);
  apollo::load(host, "one.safetensors");
  apollo::save(host, "two.safetensors");
  two.load("two.safetensors");
  v.set(w.get());
  for (int step = 2; step < 5; ++step) {
    g.set(gradient(leaf, 0, step)), h.set(gradient(leaf, 0, step));
    y.set(support::rounded<float>(gradient(leaf, 0, step)));
    one.step(), two.step(), host.step();
    CHECK(w.get().values == v.get().values);
  }
  CHECK(support::relative_error(w.get(), x.get()) <= 1e-6);
}

/// Weights of which share of all differ at all.
inline double share_different(const Result& a, const Result& b) {
  double different = 0, all = 0;
  for (std::size_t i = 0; i < a.weights.size(); ++i)
    for (std::size_t k = 0; k < a.weights[i].values.size(); ++k) {
      different += a.weights[i].values[k] == b.weights[i].values[k] ? 0 : 1;
      ++all;
    }
  return different / all;
}

}  // namespace emulated
