// SPDX-License-Identifier: Apache-2.0
// Settings: every hyper-parameter a step can read, resolved and checked. The option types of floor 4 turn into it.
#pragma once

#include <string>
#include <string_view>

#include <apollo/base/error.hpp>
#include <apollo/policy/granularity.hpp>
#include <apollo/policy/projection.hpp>
#include <apollo/tensor/number.hpp>

namespace apollo {

/// Where weight decay and eps stand.
enum class Order : std::uint8_t {
  torch,        ///< decay first, then the update; AdamW's eps is added to the bias-corrected sqrt(V)
  huggingface,  ///< the update, then decay; eps is added to sqrt(V) as stored, so it acts like eps / sqrt(1 - beta2^t)
};

/// Decoupled decay shrinks the weight; coupled decay adds weight_decay * W to the gradient (torch.optim.SGD).
enum class Decay : std::uint8_t { decoupled, coupled };

struct Automatic {};
/// `scale = automatic`: a structured step as long as AdamW's, so that an AdamW learning rate carries over.
inline constexpr Automatic automatic{};

/// A number or `automatic`.
struct Scale {
  double value = 1;
  bool is_automatic = false;
  constexpr Scale(double number) : value(number) {}
  constexpr Scale(Automatic) : is_automatic(true) {}
};

/// What Fira takes for the part of the gradient that the projection left.
enum class FiraResidual : std::uint8_t {
  paper,  ///< X - lift(R)
  code,   ///< X - scale lift(R), as the published code; the same at scale 1
};

struct Settings {
  double lr = 1e-3;
  double momentum = 0.9;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  Order order = Order::torch;
  Decay decay = Decay::decoupled;
  Index rank = 0;
  Scale scale = 1;
  Index update_proj_gap = 200;
  Index refresh_phase = 0;  ///< refreshes come where steps + phase is a multiple of the gap
  ProjType proj_type = ProjType::std;
  SvdMethod svd = SvdMethod::subspace;
  OnRefresh on_refresh = OnRefresh::keep;
  double similarity_threshold = 0.4;
  ChannelAxis channel_axis = ChannelAxis::longer;
  double limiter_gamma = 1.01;
  double limiter_floor = 0.5;
  Index block = 1;
  double decay_rate = 0.8;
  double clip_threshold = 1;
  FiraResidual residual = FiraResidual::paper;
  bool allow_rank_1 = false;
  bool check_finite = true;
  std::uint64_t seed = 0;
};

/// Collects nothing and repairs nothing: the first value out of bounds is refused with its name, bound and tensor.
/// Comparisons are written so that NaN fails them; finiteness looks at bits, for -ffast-math.
struct Check {
  std::string_view tensor;

  [[noreturn]] void fail(const std::string& what) const {
    refuse(tensor.empty() ? what : "tensor " + quote(tensor) + ": " + what);
  }
  void at_least(const char* name, double value, double bound) const {
    if (!bits::finite(value) || !(value >= bound))
      fail(std::string(name) + " = " + text(value) + " must be finite and at least " + text(bound));
  }
  void above(const char* name, double value, double bound) const {
    if (!bits::finite(value) || !(value > bound))
      fail(std::string(name) + " = " + text(value) + " must be finite and greater than " + text(bound));
  }
  void fraction(const char* name, double value) const {
    if (!bits::finite(value) || !(value >= 0 && value < 1))
      fail(std::string(name) + " = " + text(value) + " must be at least 0 and below 1");
  }
};

/// Bounds that concern neither shape nor policy.
inline void check_settings(const Settings& s, std::string_view tensor) {
  const Check check{tensor};
  check.at_least("lr", s.lr, 0);
  check.fraction("momentum", s.momentum);
  check.fraction("beta1", s.beta1);
  check.fraction("beta2", s.beta2);
  check.at_least("eps", s.eps, 1e-30);  // below that it is zero in float
  check.at_least("weight_decay", s.weight_decay, 0);
  if (!s.scale.is_automatic) check.above("scale", s.scale.value, 0);
  if (s.update_proj_gap < 1) check.fail("update_proj_gap = " + text(s.update_proj_gap) + " must be at least 1");
  check.above("similarity_threshold", s.similarity_threshold, 0);
  check.at_least("limiter_gamma", s.limiter_gamma, 1);
  if (!bits::finite(s.limiter_floor) || !(s.limiter_floor >= 0 && s.limiter_floor <= 1))
    check.fail("limiter_floor = " + text(s.limiter_floor) + " must be between 0 and 1");
  if (s.block < 0) check.fail("block = " + text(s.block) + " must be at least 0");
  check.above("decay_rate", s.decay_rate, 0);
  check.above("clip_threshold", s.clip_threshold, 0);
}

}  // namespace apollo
