// SPDX-License-Identifier: Apache-2.0
// The planner's workspace is that of Eigen's backend on one thread, where singular bases keep solvers beside the arena.
// not: optimised
#include <doctest/doctest.h>

#include <memory>
#include <string>

#include <apollo/eigen.hpp>

#include "plan/bytes.hpp"

TEST_CASE("the workspace of every member is that of a model on one thread") {
  using plan::Role;
  const apollo::EigenBackend backend(1);
  // Keys are narrower than the rank, so their singular bases have solvers of another size.
  const plan::Model narrow = plan::model_of("narrow", {.vocabulary = 301,
                                                       .hidden = 64,
                                                       .layers = 1,
                                                       .heads = 8,
                                                       .key_value_heads = 1,
                                                       .head_size = 8,
                                                       .intermediate = 91});
  for (const plan::Model& model : {narrow, plan::model_of_preset("nano")})
    plan::for_each_member<apollo::Native>(
        model.rank, [&]<class MemberSteps>(const char* name, const MemberSteps& steps) {
          CAPTURE(model.name);
          CAPTURE(std::string(name));
          const std::unique_ptr<float[]> weights(new float[static_cast<std::size_t>(model.parameters)]);
          apollo::eigen::Optimizer optimizer(backend);
          const auto others = optimizer.add_group<typename MemberSteps::Others>(steps.other_options);
          float* at = weights.get();
          for (const plan::Tensor& t : model.tensors) {
            const auto weight = apollo::row_major(at, t.shape.rows, t.shape.cols);
            at += t.size();
            if (t.role == Role::matrix)
              optimizer.add(optimizer.add_group<typename MemberSteps::Member>(plan::options_for(t, steps.options)),
                            t.name, weight, apollo::no_gradient);
            else
              optimizer.add(others, t.name, weight, apollo::no_gradient);
          }
          const plan::Bytes planned = plan::state_bytes(model, steps, backend);
          CHECK(planned.workspace == optimizer.workspace_bytes());
          CHECK(planned.states() == optimizer.state_bytes());
          CHECK(planned.records == optimizer.record_bytes());
        });
}
