// SPDX-License-Identifier: Apache-2.0
// What calls on a model may not follow each other: refusals in the words that optimizers on the host and on a device share.
// `tick` is the open one, as text.
#pragma once

#include <string>

#include <apollo/step/settings.hpp>

namespace apollo::rules {

[[noreturn]] inline void step_while_open(const std::string& tick) {
  refuse_now("step() while tick " + tick + " is open layer by layer; call end_tick() first");
}
[[noreturn]] inline void accumulate_while_open(const std::string& tick) {
  refuse_now("accumulate() while tick " + tick + " is open layer by layer; use accumulate(name)");
}
[[noreturn]] inline void accumulate_after_step(std::string_view name, const std::string& tick) {
  refuse_now("tensor " + quote(name) + ": accumulate() after its step in tick " + tick + "; call end_tick() first");
}
[[noreturn]] inline void begin_while_open(const std::string& tick) {
  refuse_now("begin_tick() while tick " + tick + " is open; call end_tick() first");
}
[[noreturn]] inline void second_step(std::string_view name, const std::string& tick) {
  refuse_now("tensor " + quote(name) + ": a second step in tick " + tick + "; call end_tick() first");
}
[[noreturn]] inline void end_without_tick() {
  refuse_now("end_tick() without a tick that step(name) or begin_tick() opened");
}
[[noreturn]] inline void add_while_open(std::string_view name, const std::string& tick) {
  Check{name}.fail("tensors cannot be added while tick " + tick + " is open");
}
[[noreturn]] inline void layers_while_clipping(double clip) {
  refuse_now("layer-wise steps cannot clip by global norm = " + text(clip) +
             ", which needs every gradient at once; use step(), or clip_global_norm(0)");
}
/// Norms of gradients cannot be had from sums of R.
[[noreturn]] inline void clip_of_projected_sum(std::string_view name, double clip) {
  refuse_now("tensor " + quote(name) + " accumulates in its projected space, which has no norm for " +
             "clip_global_norm = " + text(clip) + "; sum its gradients yourself, or clip_global_norm(0)");
}
[[noreturn]] inline void spread_after_add(std::size_t tensors) {
  refuse_now("spread_refreshes() after " + text(static_cast<Index>(tensors)) +
             " tensors were added; call it before add()");
}
[[noreturn]] inline void save_while_open(const std::string& tick) {
  refuse_now("save() while tick " + tick + " is open; call end_tick() first");
}
[[noreturn]] inline void load_while_open(const std::string& tick) {
  refuse_now("load() while tick " + tick + " is open; call end_tick() first");
}
[[noreturn]] inline void save_while_accumulating() {
  refuse_now(
      "save() while accumulated gradients wait for a step, which no checkpoint holds; step or discard them first");
}
[[noreturn]] inline void load_while_accumulating() {
  refuse_now("load() while accumulated gradients wait for a step; step or discard them first");
}

/// At the end of a tick: the tensors that were not stepped, though they had a gradient.
class Missing {
 public:
  void add(std::string_view name) {
    if (++count_ <= 5) names_ += (count_ > 1 ? ", " : "") + quote(name);
  }
  bool any() const { return count_ > 0; }
  [[noreturn]] void refuse(std::size_t tensors, const std::string& tick) const {
    refuse_now("end_tick(): " + text(count_) + " of " + text(static_cast<Index>(tensors)) +
               " tensors were not stepped in tick " + tick + ": " + names_ + (count_ > 5 ? ", ..." : "") +
               "; step them, or rebind them with no_gradient");
  }

 private:
  std::string names_;
  Index count_ = 0;
};

}  // namespace apollo::rules
