// SPDX-License-Identifier: Apache-2.0
// A list of tensors on a device, and an optimizer of it.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "../models/values.hpp"
#include "machine.hpp"
#include "members.hpp"

namespace bench::cuda {

template <class Device>
using Memory = apollo::cuda::Memory<Device>;

template <class T>
constexpr Index bytes_of(Index count) {
  return count * static_cast<Index>(sizeof(T));
}

/// Copies within the device's memory, beside which steps are timed: a copy reads as many bytes as it writes. What it reads are
/// the numbers that weights and gradients were filled with last.
template <class Device>
class Copies {
 public:
  /// Takes a sixteenth of what is free, a GiB for each side at most. Errors: hardly any is.
  explicit Copies(const Machine<Device>& machine)
      : machine_(machine),
        bytes_(std::min(Index{1} << 30, machine.free_bytes() / 32) / 256 * 256),
        from_(machine.device(), bytes_, std::string_view(), "what is copied"),
        to_(machine.device(), bytes_, std::string_view(), "copies") {
    if (bytes_ == 0) throw std::runtime_error("there is too little memory to copy anything");
    machine.device().clear(from_.template as<void>(), bytes_, machine.stream());
  }

  /// Fills memory with a pool of numbers of this spread, over and over. Waits.
  template <class T>
  void fill(const std::vector<Memory<Device>>& memories, float spread) const {
    const Index count = std::min(pool_size, bytes_ / bytes_of<T>(1));
    const apollo::HostBuffer<float> pool = normals(0, count);
    std::vector<T> values(static_cast<std::size_t>(count));
    for (Index i = 0; i < count; ++i) values[static_cast<std::size_t>(i)] = static_cast<T>(spread * pool.data()[i]);
    machine_.device().write(from_.template as<T>(), values.data(), bytes_of<T>(count), machine_.stream());
    Index next = 0;
    for (const Memory<Device>& memory : memories) {
      const Index size = memory.bytes() / bytes_of<T>(1);
      for (Index done = 0, part = 0; done < size; done += part) {
        part = std::min(size - done, count - next);
        machine_.copy(memory.template as<T>() + done, from_.template as<T>() + next, bytes_of<T>(part));
        next = (next + part) % count;
      }
    }
    machine_.wait();
  }

  /// Enqueues copies that read and write so many bytes together, and returns how many it is to 16.
  Index run(Index bytes) const {
    const Index one_way = std::max<Index>(bytes / 2, 16);
    const Index count = (one_way + bytes_ - 1) / bytes_;
    const Index each = one_way / count / 16 * 16;
    for (Index i = 0; i < count; ++i) machine_.copy(to_.template as<void>(), from_.template as<void>(), each);
    return 2 * count * each;
  }

 private:
  const Machine<Device>& machine_;
  Index bytes_;
  Memory<Device> from_, to_;
};

/// Weights and gradients of a list, each tensor in memory of its own, as in training. Not filled yet.
template <class Device, class T>
class Values {
 public:
  Values(const Machine<Device>& machine, const List& list) {
    for (const Tensor& tensor : list.tensors) {
      weights_.emplace_back(machine.device(), bytes_of<T>(tensor.size()), tensor.name, "weights");
      gradients_.emplace_back(machine.device(), bytes_of<T>(tensor.size()), tensor.name, "gradients");
    }
  }

  void fill(const Copies<Device>& copies) const {
    copies.template fill<T>(weights_, weight_spread);
    copies.template fill<T>(gradients_, gradient_spread);
  }

  T* weight(std::size_t tensor) const { return weights_[tensor].template as<T>(); }
  const T* gradient(std::size_t tensor) const { return gradients_[tensor].template as<T>(); }
  Index bytes() const {
    Index sum = 0;
    for (const auto* memories : {&weights_, &gradients_})
      for (const Memory<Device>& memory : *memories) sum += memory.bytes();
    return sum;
  }

 private:
  std::vector<Memory<Device>> weights_, gradients_;
};

/// An optimizer of a list: the member steps the matrices of attention and MLP, AdamW the other tensors.
template <class Device, class T>
class Subject {
 public:
  Subject(const Machine<Device>& machine, const List& list, const Values<Device, T>& values, std::string_view member,
          Index rank)
      : machine_(machine), list_(list), values_(values), optimizer_(machine.device()), wanted_(member) {
    if constexpr (has_solver)
      if (in_tf32(member)) optimizer_.math(apollo::cuda::Math::tf32);
    each_member<T>(rank, *this);
    if (bytes_ == 0) throw std::invalid_argument("there is no member '" + std::string(member) + "' of this type");
    optimizer_.prepare(machine_.stream());
  }

  /// Enqueues a step.
  void step() { optimizer_.step(machine_.stream()); }

  /// Waits. Errors: a tensor that has not taken so many steps.
  void check_steps(std::int64_t count) const {
    for (const Tensor& tensor : list_.tensors) {
      const apollo::cuda::TensorStatus status = optimizer_.status(tensor.name, machine_.stream());
      if (status.steps != count || status.skipped != 0)
        throw std::runtime_error("tensor " + tensor.name + " has taken " + std::to_string(status.steps) +
                                 " steps and skipped " + std::to_string(status.skipped) + ", not taken " +
                                 std::to_string(count));
    }
  }

  /// What a step has to move where caches keep nothing between two reads: gradients as often as the member needs them,
  /// weights and moments in and out, a basis in. Kernels may move more.
  Index step_bytes() const { return bytes_; }
  Index state_bytes() const { return optimizer_.state_bytes(); }
  Index workspace_bytes() const { return optimizer_.workspace_bytes(); }

  /// Called by each_member.
  template <class Member>
  void member(std::string_view name, int gradient_reads, const typename Member::Options& options) {
    if (name != wanted_) return;
    const auto others = optimizer_.add_group(apollo::AdamWOptions{.lr = 1e-6, .check_finite = options.check_finite});
    const auto matrices = optimizer_.template add_group<Member>(options);
    for (std::size_t i = 0; i < list_.tensors.size(); ++i) {
      const Tensor& tensor = list_.tensors[i];
      const auto [rows, cols] = tensor.shape;
      const auto w = apollo::row_major(values_.weight(i), rows, cols);
      const auto g = apollo::row_major(values_.gradient(i), rows, cols);
      if (tensor.low_rank)
        optimizer_.add(matrices, tensor.name, w, g, machine_.stream());
      else
        optimizer_.add(others, tensor.name, w, g, machine_.stream());
      const int dense_reads = options.check_finite ? 2 : 1;
      bytes_ += tensor.step_bytes(tensor.low_rank ? gradient_reads : dense_reads, sizeof(T));
      if constexpr (requires { options.rank; })
        if (Member::Policies::Projection::stores_basis && tensor.low_rank)
          bytes_ -= bytes_of<float>(options.rank * std::min(rows, cols));
    }
    bytes_ += 2 * optimizer_.state_bytes();
  }

 private:
  const Machine<Device>& machine_;
  const List& list_;
  const Values<Device, T>& values_;
  apollo::cuda::BasicOptimizer<Device> optimizer_;
  std::string_view wanted_;
  Index bytes_ = 0;
};

}  // namespace bench::cuda
