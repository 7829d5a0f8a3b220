// SPDX-License-Identifier: Apache-2.0
// Every member on a device: a few steps of tensors of all kinds, and a hash of what they left. The same on a GPU (members.cu)
// and on the emulated device (emulated.cpp), which a translation unit each sees alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <apollo/cuda.hpp>

namespace suite {

struct Outcome {
  std::string name;
  std::uint64_t hash = 0;
};

inline float value_of(std::uint64_t number) {
  number = (number + 0x9E3779B97F4A7C15u) * 0xBF58476D1CE4E5B9u;
  number = (number ^ (number >> 29)) * 0x94D049BB133111EBu;
  return static_cast<float>(static_cast<std::int32_t>(number >> 40) - (1 << 23)) * 0x1p-23f;
}

template <class Device>
class Suite {
 public:
  explicit Suite(const Device& device) : device_(device) {}

  /// Steps Member with weights of W and gradients of G; with a bound of the global norm all that a model has is asked for.
  template <class Member, class W, class G>
  void run(const char* name, const typename Member::Options& options, double clip = 0) {
    struct Leaf {
      apollo::Index rows, cols;
      apollo::Order2D order;
    };
    using enum apollo::Order2D;
    const Leaf leaves[] = {{300, 64, row_major},
                           {64, 300, row_major},
                           {70, 1032, row_major},
                           {90, 37, column_major},
                           {513, 1, column_major}};
    apollo::cuda::BasicOptimizer<Device> optimizer(device_);
    const auto group = optimizer.template add_group<Member>(options);
    if (clip > 0) {
      optimizer.clip_global_norm(clip);
      optimizer.schedule(apollo::Linear{.warmup = 2, .total = 9});  // quotients alone: no function of a library
    }
    std::vector<apollo::cuda::Memory<Device>> weights, gradients;
    std::vector<apollo::Index> sizes;
    for (const Leaf& leaf : leaves) {
      const apollo::Index size = leaf.rows * leaf.cols;
      const std::size_t i = sizes.size();
      if constexpr (apollo::is_grouped<W>)
        weights.push_back(make_groups(leaf.rows, leaf.cols, i));
      else
        weights.push_back(make<W>(size, i, 1));
      gradients.push_back(make<G>(size, 100 + i, 0.01f));
      sizes.push_back(size);
      const auto view = [&](auto* data) {
        return leaf.order == row_major || apollo::is_grouped<W> ? apollo::row_major(data, leaf.rows, leaf.cols)
                                                                : apollo::column_major(data, leaf.rows, leaf.cols);
      };
      const std::string tensor = "tensor " + std::to_string(i);
      if constexpr (apollo::is_grouped<W>) {
        apollo::MatrixView<W> groups;
        groups.data = weights[i].template as<std::uint8_t>();
        groups.rows = leaf.rows, groups.cols = groups.row_stride = leaf.cols, groups.col_stride = 1;
        groups.ranges = reinterpret_cast<apollo::GroupRange*>(groups.data + apollo::cuda::up_to_16(size));
        groups.group_size = 128;
        optimizer.add(group, tensor, groups, view(gradients[i].template as<G>()));
      } else {
        optimizer.add(group, tensor, view(weights[i].template as<W>()), view(gradients[i].template as<G>()));
      }
    }
    for (std::uint64_t step = 0; step < 5; ++step) {
      for (std::size_t i = 0; i < sizes.size(); ++i)
        write<G>(gradients[i], sizes[i], 1000 * (step + 1) + i, 0.01f * static_cast<float>(step + 1));
      if (clip > 0) optimizer.accumulate();
      optimizer.step();
    }
    std::uint64_t hash = 14695981039346656037u;
    const auto take = [&](const std::vector<unsigned char>& bytes) {
      for (const unsigned char byte : bytes) hash = (hash ^ byte) * 1099511628211u;
    };
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      std::vector<unsigned char> bytes(static_cast<std::size_t>(weights[i].bytes()));
      device_.read(bytes.data(), weights[i].template as<void>(), weights[i].bytes(), {});
      take(bytes);
      const std::string tensor = "tensor " + std::to_string(i);
      for (int b = 0; b < Member::Policies::Moments::buffers; ++b) {
        bytes.resize(static_cast<std::size_t>(optimizer.moment_bytes(tensor)));
        optimizer.read_moment(tensor, b, bytes.data());
        take(bytes);
      }
    }
    outcomes.push_back({name, hash});
  }

  std::vector<Outcome> outcomes;

 private:
  /// Codes, and from the next multiple of 16 on their ranges.
  apollo::cuda::Memory<Device> make_groups(apollo::Index rows, apollo::Index cols, std::uint64_t seed) {
    std::vector<float> values(static_cast<std::size_t>(rows * cols));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = value_of((seed << 32) + i);
    apollo::Int8Matrix matrix(rows, cols);
    matrix.quantize(0, rows, values.data());
    const apollo::Index codes = apollo::cuda::up_to_16(rows * cols);
    apollo::cuda::Memory<Device> memory(device_, codes + matrix.bytes() - rows * cols, {}, "a test");
    auto* begin = memory.template as<std::uint8_t>();
    device_.clear(begin, memory.bytes(), {});
    device_.write(begin, matrix.codes().data(), rows * cols, {});
    device_.write(begin + codes, matrix.ranges().data(), matrix.bytes() - rows * cols, {});
    return memory;
  }
  template <class T>
  apollo::cuda::Memory<Device> make(apollo::Index size, std::uint64_t seed, float scale) {
    apollo::cuda::Memory<Device> memory(device_, size * static_cast<apollo::Index>(sizeof(T)), {}, "a test");
    write<T>(memory, size, seed, scale);
    return memory;
  }
  template <class T>
  void write(const apollo::cuda::Memory<Device>& memory, apollo::Index size, std::uint64_t seed, float scale) {
    std::vector<T> values(static_cast<std::size_t>(size));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<T>(scale * value_of((seed << 32) + i));
    device_.write(memory.template as<T>(), values.data(), memory.bytes(), {});
  }

  Device device_;
};

template <class Device>
std::vector<Outcome> run_members(const Device& device) {
  using namespace apollo;
  using Half = AdamMoments<bfloat16>;
  Suite<Device> suite(device);
  suite.template run<AdamW<>, float, float>("AdamW, fp32", {.lr = 0.01});
  suite.template run<AdamW<>, bfloat16, bfloat16>("AdamW, bf16", {.lr = 0.01});
  suite.template run<AdamW<Half, StochasticWeights>, bfloat16, bfloat16>("AdamW, bf16, all stochastic", {.lr = 0.01});
  suite.template run<AdamW<Half>, float, bfloat16>("AdamW, fp32, bf16 moments and gradients", {.lr = 0.01});
  suite.template run<AdamW<AdamMoments<Int8Linear>>, float, float>("AdamW, moments in 8 bits", {.lr = 0.01});
  suite.template run<AdamW<AdamMoments<Int4>, StochasticWeights>, bfloat16, bfloat16>("AdamW, moments in 4 bits, bf16",
                                                                                      {.lr = 0.01});
  suite.template run<ApolloMini<>, float, float>("APOLLO-Mini, fp32", {.lr = 0.01});
  suite.template run<ApolloMini<Half, StochasticWeights>, bfloat16, bfloat16>("APOLLO-Mini, bf16, all stochastic",
                                                                              {.lr = 0.01});
  suite.template run<Apollo<>, float, float>("APOLLO by sparse signs, fp32", {.lr = 0.01, .rank = 16});
  suite.template run<Apollo<>, bfloat16, bfloat16>("APOLLO by sparse signs, bf16", {.lr = 0.01, .rank = 16});
  suite.template run<Apollo<Half, StochasticWeights>, bfloat16, bfloat16>("APOLLO by sparse signs, all stochastic",
                                                                          {.lr = 0.01, .rank = 16});
  suite.template run<Apollo<RandomProjection<Gaussian>>, float, float>("APOLLO by normals, fp32",
                                                                       {.lr = 0.01, .rank = 6});
  suite.template run<Apollo<RandomProjection<Rademacher>>, bfloat16, bfloat16>("APOLLO by signs, bf16",
                                                                               {.lr = 0.01, .rank = 6});
  suite.template run<Flora<>, float, float>("Flora by normals, fp32", {.lr = 0.01, .rank = 6, .update_proj_gap = 2});
  suite.template run<Flora<RandomProjection<SparseSign>, MeanMoments<bfloat16>, StochasticWeights>, bfloat16, bfloat16>(
      "Flora by sparse signs, all stochastic", {.lr = 0.01, .rank = 16, .update_proj_gap = 2});
  suite.template run<Flora<RandomProjection<HadamardTransform>>, float, float>(
      "Flora by a Hadamard transform, fp32", {.lr = 0.01, .rank = 6, .update_proj_gap = 2});
  suite.template run<Apollo<RandomProjection<CosineTransform>>, float, float>("APOLLO by a cosine transform, fp32",
                                                                              {.lr = 0.01, .rank = 6});
  suite.template run<FloraFactored<>, float, float>("Flora on factored moments, fp32",
                                                    {.lr = 0.01, .rank = 6, .update_proj_gap = 2});
  suite.template run<FloraFactored<FactoredMeanMoments<bfloat16>, StochasticWeights>, bfloat16, bfloat16>(
      "Flora on factored moments, all stochastic", {.lr = 0.01, .rank = 6, .update_proj_gap = 2});
  suite.template run<StructuredOptimizer<AdafactorMoments>, float, bfloat16>("Adafactor's moments, fp32",
                                                                             {.lr = 0.01, .eps = 1e-12});
  suite.template run<Apollo<>, bfloat16, bfloat16>("APOLLO, accumulated, clipped, on a schedule",
                                                   {.lr = 0.01, .rank = 16}, 0.5);
  suite.template run<Apollo<AdamMoments<Int8Linear>, SplitWeights>, bfloat16, bfloat16>(
      "APOLLO by sparse signs, moments in 8 bits, split weights", {.lr = 0.01, .rank = 16});
  suite.template run<Flora<MeanMoments<Int8Dynamic>, SplitWeights>, bfloat16, bfloat16>(
      "Flora by normals, momentum in 8 bits, split weights", {.lr = 0.01, .rank = 6, .update_proj_gap = 2});
  suite.template run<StructuredAdamW<>, float, float>("structured AdamW, fp32", {.lr = 0.01});
  suite.template run<StructuredAdamW<Half, StochasticWeights>, bfloat16, bfloat16>("structured AdamW, all stochastic",
                                                                                   {.lr = 0.01});
  suite.template run<ColumnNormalizedSgd<>, float, bfloat16>("SCALE, fp32, bf16 gradients", {.lr = 0.01});
  suite.template run<ColumnNormalizedSgd<MeanMoments<>>, bfloat16, bfloat16>("SCALE with momentum, bf16", {.lr = 0.01});
  suite.template run<ColumnNormalizedSgd<MeanMoments<bfloat16>>, float, float>("SCALE with bf16 momentum, fp32",
                                                                               {.lr = 0.01});
  suite.template run<AdamMini<>, float, float>("Adam-mini, fp32", {.lr = 0.01});
  suite.template run<AdamMini<BlockAdamMoments<bfloat16>, StochasticWeights>, bfloat16, bfloat16>(
      "Adam-mini, all stochastic", {.lr = 0.01, .block = 0});
  suite.template run<AdamMini<BlockAdamMoments<Int4>, StochasticWeights>, bfloat16, bfloat16>(
      "Adam-mini, moments in 4 bits", {.lr = 0.01, .block = 0});
  suite.template run<AdamW8bit<StochasticWeights>, int8_groups, float>("AdamW8bit, weights in 8 bits", {.lr = 0.01});
  suite.template run<QApollo<>, int8_groups, float>("QApollo, weights in 8 bits", {.lr = 0.01, .rank = 16});
  suite.template run<Flora<StochasticWeights>, int8_groups, bfloat16>("Flora by normals, weights in 8 bits",
                                                                      {.lr = 0.01, .rank = 6, .update_proj_gap = 2});
  suite.template run<Sgd<>, float, float>("SGD, fp32", {.lr = 0.1});
  suite.template run<SgdMomentum<>, bfloat16, float>("SGD with momentum, bf16", {.lr = 0.1});
  return suite.outcomes;
}

/// On the emulated device; in emulated.cpp.
std::vector<Outcome> run_emulated();

}  // namespace suite
