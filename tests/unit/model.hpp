// SPDX-License-Identifier: Apache-2.0
// What the tests of whole models share: tensors with reproducible gradients, a list of optimizers to run over, and snapshots
// that show whether anything has changed.
#pragma once

#include <cstdint>
#include <cstring>
#include <deque>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <apollo/apollo.hpp>

#include "support.hpp"

namespace model {

using apollo::Index;
using support::Layout;
using support::Matrix;

// --- tensors ------------------------------------------------------------------------------------------------------------

/// A weight and its gradient. Their values depend on the name, the shape and the step, and on nothing else.
template <class T>
struct Leaf {
  std::string name;
  support::Tensor<T> w;
  support::Tensor<T> g;

  Leaf(std::string_view name_, Index rows, Index cols, Layout layout = Layout::row_major)
      : name(name_), w(support::uniform_matrix(rows, cols, key(name_)), layout), g(Matrix(rows, cols), layout) {
    feed(1);
  }

  /// The gradient of step number `step`.
  Matrix gradient(std::int64_t step) const {
    return support::uniform_matrix(g.view.rows, g.view.cols, key(name), static_cast<std::uint64_t>(step));
  }
  void feed(std::int64_t step, double factor = 1) { g.set(support::scaled(gradient(step), factor)); }

  static std::uint64_t key(std::string_view text) {
    std::uint64_t hash = 14695981039346656037u;
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
    return hash;
  }
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// --- snapshots ----------------------------------------------------------------------------------------------------------

/// Every array and number of an optimizer's state, byte by byte in the order of its rows.
class Bytes final : public apollo::StateVisitor {
 public:
  std::string all;

  void array(const apollo::StateArray& array) override {
    all += array.field;
    const auto* base = static_cast<const char*>(array.view.data);
    const auto size = static_cast<std::size_t>(array.element_bytes);
    for (Index i = 0; i < array.view.rows; ++i)
      for (Index j = 0; j < array.view.cols; ++j)
        all.append(base + (i * array.view.row_stride + j * array.view.col_stride) * array.element_bytes, size);
  }
  void integer(std::string_view field, std::int64_t& value) override { number(field, &value, sizeof value); }
  void real(std::string_view field, float& value) override { number(field, &value, sizeof value); }

  void number(std::string_view field, const void* value, std::size_t size) {
    all += field;
    all.append(static_cast<const char*>(value), size);
  }
};

/// How many bytes an optimizer's state has.
class Sizes final : public apollo::StateVisitor {
 public:
  Index arrays = 0, numbers = 0;

  void array(const apollo::StateArray& array) override {
    arrays += array.view.rows * array.view.cols * array.element_bytes;
  }
  void integer(std::string_view, std::int64_t& value) override { numbers += static_cast<Index>(sizeof value); }
  void real(std::string_view, float& value) override { numbers += static_cast<Index>(sizeof value); }
};

/// State of one tensor.
template <class Backend>
std::string state_of(const apollo::BasicOptimizer<Backend>& optimizer, std::string_view name) {
  Bytes bytes;
  for (const auto& parameter : optimizer.parameters())
    if (parameter->name() == name) parameter->visit_state(bytes);
  return bytes.all;
}

/// Everything an optimizer tells about itself.
template <class Backend>
std::string snapshot(const apollo::BasicOptimizer<Backend>& optimizer) {
  Bytes bytes;
  for (const auto& parameter : optimizer.parameters()) {
    bytes.all += parameter->name() + "/" + parameter->fingerprint() + "/" + std::to_string(parameter->id()) + "/" +
                 std::to_string(parameter->group) + "/" + std::to_string(parameter->tick) + "/" +
                 std::to_string(parameter->has_gradient()) + "/" + apollo::text(parameter->shape()) + "/";
    parameter->visit_state(bytes);
  }
  bytes.all += "tick " + std::to_string(optimizer.tick()) + (optimizer.tick_open() ? " open " : " closed ") +
               std::to_string(optimizer.state_bytes()) + " " + std::to_string(optimizer.record_bytes()) + " factor " +
               std::to_string(optimizer.schedule_factor());
  return bytes.all;
}

/// Comparing in a function keeps a failing test from printing the bytes.
inline bool same(const std::string& a, const std::string& b) { return a == b; }

/// True if all of `parts` occur in `text`.
template <class... Parts>
bool mentions(std::string_view text, const Parts&... parts) {
  return ((text.find(parts) != std::string_view::npos) && ...);
}

#if defined(__cpp_exceptions)
/// The message of the `Error` that `call` throws; "nothing was thrown" or the message of another type otherwise.
template <class Error, class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const std::exception& error) {
    // logic_error is the base of invalid_argument: the type itself is compared.
    if (typeid(error) == typeid(Error)) return error.what();
    return std::string("of another type: ") + error.what();
  }
  return "nothing was thrown";
}
#endif

// --- optimizers ---------------------------------------------------------------------------------------------------------

/// Structured AdamW (channels without a projection) and two compositions of one's own.
template <class... Overrides>
using StructuredAdamW = apollo::StructuredOptimizer<Overrides..., apollo::StructuredOptions, apollo::ChannelScaling,
                                                    apollo::AdamMoments<>, apollo::NormGrowthLimiter>;
template <class... Overrides>
using StructuredTensor =
    apollo::StructuredOptimizer<Overrides..., apollo::StructuredOptions, apollo::TensorScaling, apollo::AdamMoments<>>;
template <class... Overrides>
using SvdChannels = apollo::StructuredOptimizer<Overrides..., apollo::StructuredOptions, apollo::SvdProjection,
                                                apollo::ChannelScaling, apollo::MomentumMoments<>>;

template <class Member>
struct Tag {
  using type = Member;
};

/// Calls visit(name, Tag<Member>, options) for optimizers without a projection. Overrides: double, a backend.
template <class... O, class Visit>
void for_each_dense(Visit&& visit, double eps = 1e-6) {
  using namespace apollo;
  using B = bfloat16;
  visit("AdamW, torch", Tag<AdamW<O...>>(), AdamWOptions{.lr = 0.01, .eps = eps, .weight_decay = 0.1});
  visit("AdamW, huggingface", Tag<AdamW<O...>>(),
        AdamWOptions{.lr = 0.01, .eps = eps, .weight_decay = 0.1, .order = Order::huggingface});
  visit("AdamW, bfloat16 moments", Tag<AdamW<AdamMoments<B>, O...>>(), AdamWOptions{.lr = 0.01, .eps = eps, .seed = 9});
  visit("Sgd", Tag<Sgd<O...>>(), SgdOptions{.lr = 0.01, .weight_decay = 0.1});
  visit("Sgd, coupled", Tag<Sgd<O...>>(), SgdOptions{.lr = 0.01, .weight_decay = 0.1, .decay = Decay::coupled});
  visit("SgdMomentum", Tag<SgdMomentum<O...>>(), SgdMomentumOptions{.lr = 0.01, .weight_decay = 0.1});
  visit("SgdMomentum, coupled", Tag<SgdMomentum<O...>>(),
        SgdMomentumOptions{.lr = 0.01, .weight_decay = 0.1, .decay = Decay::coupled});
  visit("SgdMomentum, bfloat16", Tag<SgdMomentum<MomentumMoments<B>, O...>>(), SgdMomentumOptions{.lr = 0.01});
  visit("structured AdamW", Tag<StructuredAdamW<O...>>(),
        StructuredOptions{.lr = 0.01, .eps = eps, .weight_decay = 0.1});
  visit("StructuredAdamW", Tag<apollo::StructuredAdamW<O...>>(),
        StructuredAdamWOptions{.lr = 0.01, .channel_axis = ChannelAxis::cols, .eps = eps});
  visit("AdamMini, rows", Tag<AdamMini<O...>>(), AdamMiniOptions{.lr = 0.01, .eps = eps, .weight_decay = 0.1});
  visit("AdamMini, one block", Tag<AdamMini<O...>>(),
        AdamMiniOptions{.lr = 0.01, .block = 0, .channel_axis = ChannelAxis::cols, .eps = eps});
  visit("AdamMini, bfloat16", Tag<AdamMini<BlockAdamMoments<B>, O...>>(), AdamMiniOptions{.lr = 0.01, .eps = eps});
  visit("SCALE", Tag<ColumnNormalizedSgd<O...>>(), ColumnNormalizedSgdOptions{.lr = 0.01, .weight_decay = 0.1});
  visit("SCALE, head", Tag<ColumnNormalizedSgd<MeanMoments<>, O...>>(),
        ColumnNormalizedSgdOptions{.lr = 0.01, .channel_axis = ChannelAxis::cols});
  visit("Adafactor", Tag<StructuredOptimizer<StructuredOptions, AdafactorMoments, O...>>(),
        StructuredOptions{.lr = 0.01});
  visit("Adafactor with a mean", Tag<StructuredOptimizer<StructuredOptions, FactoredMeanMoments<>, O...>>(),
        StructuredOptions{.lr = 0.01, .decay_rate = 0.7});
  visit("structured by tensor", Tag<StructuredTensor<O...>>(), StructuredOptions{.lr = 0.01, .eps = eps});
}

/// ... for optimizers with a projection. The options have this rank, gap and proj_type.
template <class... O, class Visit>
void for_each_projected(Index rank, Index gap, apollo::ProjType type, Visit&& visit, double eps = 1e-6) {
  using namespace apollo;
  using B = bfloat16;
  ApolloOptions a{.lr = 0.01, .rank = rank, .update_proj_gap = gap, .proj_type = type, .eps = eps};
  a.weight_decay = 0.1, a.allow_rank_1 = true, a.seed = 11;
  visit("Apollo", Tag<Apollo<O...>>(), a);
  visit("Apollo, Rademacher", Tag<Apollo<RandomProjection<Rademacher>, O...>>(), a);
  visit("Apollo, Gaussian", Tag<Apollo<RandomProjection<Gaussian>, O...>>(), a);
  if (rank >= 2) visit("Apollo, two signs", Tag<Apollo<RandomProjection<SparseSigns<2>>, O...>>(), a);
  visit("Apollo, bfloat16 moments", Tag<Apollo<AdamMoments<B>, O...>>(), a);
  for (const auto how : {OnRefresh::reset, OnRefresh::rotate}) {
    a.on_refresh = how;
    visit(how == OnRefresh::reset ? "Apollo, reset" : "Apollo, rotate", Tag<Apollo<O...>>(), a);
  }
  visit("Apollo, Gaussian, rotate", Tag<Apollo<RandomProjection<Gaussian>, O...>>(), a);
  ApolloMiniOptions m{.lr = 0.01, .scale = 4, .update_proj_gap = gap, .proj_type = type, .eps = eps};
  visit("ApolloMini", Tag<ApolloMini<O...>>(), m);
  GaLoreOptions g{.lr = 0.01, .rank = rank, .update_proj_gap = gap, .proj_type = type, .eps = eps};
  g.weight_decay = 0.1, g.seed = 12;
  for (const auto svd : {SvdMethod::subspace, SvdMethod::exact})
    for (const auto how : {OnRefresh::keep, OnRefresh::reset, OnRefresh::rotate}) {
      g.svd = svd, g.on_refresh = how;
      const std::string name = std::string("GaLore, ") + (svd == SvdMethod::exact ? "exact" : "subspace") +
                               (how == OnRefresh::keep    ? ", keep"
                                : how == OnRefresh::reset ? ", reset"
                                                          : ", rotate");
      visit(name.c_str(), Tag<GaLore<O...>>(), g);
    }
  visit("GaLore, bfloat16 moments, rotate", Tag<GaLore<AdamMoments<B>, O...>>(), g);
  FiraOptions f{.lr = 0.01, .rank = rank, .scale = 0.5, .update_proj_gap = gap, .proj_type = type, .eps = eps};
  f.weight_decay = 0.1, f.seed = 13;
  visit("Fira, keep", Tag<Fira<O...>>(), f);
  f.on_refresh = OnRefresh::rotate, f.residual = FiraResidual::code;
  visit("Fira, rotate", Tag<Fira<O...>>(), f);
  visit("Flora", Tag<Flora<O...>>(),
        FloraOptions{.lr = 0.01, .rank = rank, .update_proj_gap = gap, .proj_type = type, .weight_decay = 0.1});
  FloraFactoredOptions k{.lr = 0.01, .rank = rank, .update_proj_gap = gap, .proj_type = type, .weight_decay = 0.1};
  visit("FloraFactored", Tag<FloraFactored<O...>>(), k);
  k.on_refresh = OnRefresh::reset;
  visit("FloraFactored, bfloat16, reset", Tag<FloraFactored<FactoredMeanMoments<B>, O...>>(), k);
  GaLoreAdafactorOptions d{.lr = 0.01, .rank = rank, .update_proj_gap = gap, .proj_type = type};
  visit("GaLoreAdafactor, keep", Tag<GaLoreAdafactor<O...>>(), d);
  d.on_refresh = OnRefresh::rotate, d.weight_decay = 0.1;
  visit("GaLoreAdafactor, rotate", Tag<GaLoreAdafactor<O...>>(), d);
  StructuredOptions s{.lr = 0.01, .rank = rank, .update_proj_gap = gap, .proj_type = type};
  s.allow_rank_1 = true;
  visit("channels of singular vectors", Tag<SvdChannels<O...>>(), s);
}

/// The same policies on another scalar type and backend.
template <class Member>
struct Rewrap;
template <class Policies, class Options, class T, class Backend>
struct Rewrap<apollo::TensorOptimizer<Policies, Options, T, Backend>> {
  template <class Scalar, class Other>
  using with = apollo::TensorOptimizer<Policies, Options, Scalar, Other>;
};

}  // namespace model
