// SPDX-License-Identifier: Apache-2.0
// The planner's counts are what an allocator sees when the optimizer is really built, for every member.
// not: optimised
#include <doctest/doctest.h>

#include <memory>
#include <string>
#include <vector>

#include <apollo/apollo.hpp>

#include "aligned_memory.hpp"
#include "plan/bytes.hpp"

namespace {

using aligned_memory::in_use;
using apollo::Index;
using plan::Bytes;
using plan::Model;
using plan::Role;
using plan::Tensor;

/// Builds the optimizer over weights that are never touched and compares it with the plan, tensor by tensor and in all.
template <class MemberSteps, class Backend>
void check_against_allocator(const Model& model, const MemberSteps& steps, const Backend& backend) {
  const std::unique_ptr<float[]> weights(new float[static_cast<std::size_t>(model.parameters)]);
  const Index before = in_use();
  apollo::BasicOptimizer<Backend> optimizer(backend);
  const auto others = optimizer.template add_group<typename MemberSteps::Others>(steps.other_options);
  Bytes built;
  float* at = weights.get();
  for (const Tensor& t : model.tensors) {
    const auto weight = apollo::row_major(at, t.shape.rows, t.shape.cols);
    at += t.size();
    if (t.role == Role::matrix)
      optimizer.add(optimizer.template add_group<typename MemberSteps::Member>(plan::options_for(t, steps.options)),
                    t.name, weight, apollo::no_gradient);
    else
      optimizer.add(others, t.name, weight, apollo::no_gradient);
    (t.role == Role::matrix      ? built.matrix_states
     : t.role == Role::embedding ? built.embedding_states
                                 : built.rest_states) += optimizer.state_bytes(t.name);
  }
  const Bytes planned = plan::state_bytes(model, steps, backend);
  CHECK(planned.matrix_states == built.matrix_states);
  CHECK(planned.embedding_states == built.embedding_states);
  CHECK(planned.rest_states == built.rest_states);
  CHECK(planned.records == optimizer.record_bytes());
  CHECK(planned.workspace == optimizer.workspace_bytes());
  CHECK(planned.states() == optimizer.state_bytes());
  CHECK(in_use() - before == planned.states() + planned.workspace);  // the reference backend has no tools
}

/// Queries of 2 heads share one of keys; sides that neither 256 nor the rank divides; biases; a tied head.
Model odd_model() {
  return plan::model_of("odd", {.vocabulary = 301,
                                .hidden = 40,
                                .layers = 2,
                                .heads = 4,
                                .key_value_heads = 2,
                                .head_size = 3,
                                .intermediate = 91,
                                .tied = true,
                                .attention_bias = true,
                                .mlp_bias = true});
}

}  // namespace

TEST_CASE("states, records and workspace are what an optimizer of every member allocates") {
  for (const Model& model : {odd_model(), plan::model_of_preset("nano"), plan::model_of_preset("60m")})
    plan::for_each_member<apollo::Native>(model.rank, [&](const char* name, const auto& steps) {
      CAPTURE(model.name);
      CAPTURE(std::string(name));
      check_against_allocator(model, steps, apollo::Reference());
    });
}

TEST_CASE("... of 130M parameters, for the members with most and least state") {
  const Model model = plan::model_of_preset("130m");
  plan::for_each_member<apollo::Native>(model.rank, [&](const std::string& name, const auto& steps) {
    if (name != "adamw" && name != "galore" && name != "apollo" && name != "apollo-mini") return;
    CAPTURE(name);
    check_against_allocator(model, steps, apollo::Reference());
  });
}

TEST_CASE("... with moments in bfloat16") {
  for (const Model& model : {odd_model(), plan::model_of_preset("nano")})
    plan::for_each_member<apollo::bfloat16>(model.rank, [&](const char* name, const auto& steps) {
      CAPTURE(std::string(name));
      check_against_allocator(model, steps, apollo::Reference());
    });
}

TEST_CASE("weights in 8 bits take what Int8Matrix allocates") {
  for (const apollo::Shape shape : {apollo::Shape{4, 40}, {40, 255}, {3, 256}, {7, 257}, {11, 300}, {688, 1000}}) {
    const Tensor matrix{"matrix", shape, Role::matrix};
    CHECK(plan::weight_bytes(matrix, plan::Number::int8) == apollo::Int8Matrix(shape.rows, shape.cols).bytes());
    const Tensor head{"head", shape, Role::embedding}, rest{"norm", shape, Role::rest};
    CHECK(plan::weight_bytes(head, plan::Number::int8) == plan::weight_bytes(matrix, plan::Number::int8));
    CHECK(plan::weight_bytes(rest, plan::Number::int8) == 4 * rest.size());
    CHECK(plan::weight_bytes(head, plan::Number::bf16) == 2 * head.size());
    CHECK(plan::weight_bytes(head, plan::Number::fp32) == 4 * head.size());
  }
}

TEST_CASE("gradients are those of everything, or of the largest unit as the example's model lays them out") {
  for (const bool tied : {false, true})
    for (const llama::Preset& preset : llama::presets()) {
      CAPTURE(std::string(preset.name));
      llama::Config c = preset.config;
      c.tied = tied;
      const Model model = plan::model_of("model", {.vocabulary = c.vocabulary,
                                                   .hidden = c.hidden,
                                                   .layers = c.layers,
                                                   .heads = c.heads,
                                                   .key_value_heads = c.heads,
                                                   .head_size = c.head_size(),
                                                   .intermediate = c.intermediate,
                                                   .tied = c.tied});
      std::vector<Index> units(static_cast<std::size_t>(c.layers) + 2, 0);
      for (const llama::Parameter& p : llama::parameters_of(c)) units[p.unit] += p.size();
      const Index largest = *std::max_element(units.begin() + 1, units.end());
      CHECK(plan::gradient_count(model, false) == llama::parameter_count(c));
      CHECK(plan::gradient_count(model, true) == (tied ? units[0] + largest : std::max(units[0], largest)));
    }
}
