// SPDX-License-Identifier: Apache-2.0
#include "groups.hpp"

#include <type_traits>

namespace llama {
namespace {

template <class Group>
void add(apollo::eigen::Optimizer& optimizer, Group group, const Placed& placed) {
  const Parameter& p = placed.parameter;
  const auto gradient = apollo::row_major(placed.gradient, p.rows, p.cols);
  if (placed.int8 != nullptr)
    optimizer.add(group, p.name, *placed.int8, gradient);
  else
    optimizer.add(group, p.name, apollo::row_major(placed.weight, p.rows, p.cols), gradient);
}

}  // namespace

void add_matrices(apollo::eigen::Optimizer& optimizer, std::string_view name, double lr, const MatrixOptions& asked,
                  std::uint64_t seed, const Config& model, const std::vector<Placed>& parameters) {
  with_member(name, [&]<class Member>(std::type_identity<Member>, auto options) {
    options.lr = lr;
    if constexpr (requires { options.seed; }) options.seed = seed;
    set(options, asked);
    const auto group = optimizer.add_group<Member>(options);
    if constexpr (requires { options.block; }) {  // Adam-mini: a head of queries or keys shares a second moment
      options.block = model.head_size();
      const auto heads = optimizer.add_group<Member>(options);
      for (const Placed& each : parameters)
        if (each.parameter.kind == Kind::matrix) add(optimizer, each.parameter.by_head ? heads : group, each);
    } else {
      for (const Placed& each : parameters)
        if (each.parameter.kind == Kind::matrix) add(optimizer, group, each);
    }
  });
}

void add_others(apollo::eigen::Optimizer& optimizer, std::string_view name, double lr, const MatrixOptions& asked,
                std::uint64_t seed, const std::vector<Placed>& parameters) {
  const apollo::AdamWOptions options{
      .lr = lr, .beta1 = asked.beta1, .beta2 = asked.beta2, .weight_decay = 0, .seed = seed};
  const auto group = optimizer.add_group(options);
  const auto add_tables = [&](auto tables) {
    for (const Placed& each : parameters)
      if (each.parameter.kind == Kind::norm)
        add(optimizer, group, each);
      else if (each.parameter.kind != Kind::matrix)
        add(optimizer, tables, each);
  };
  if (name.substr(0, 2) == "q-" || name == "adamw-8bit")
    add_tables(optimizer.add_group<apollo::AdamW8bit<apollo::StochasticWeights>>(options));
  else
    add_tables(group);
}

}  // namespace llama
