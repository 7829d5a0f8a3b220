// SPDX-License-Identifier: Apache-2.0
// The cases of bench_cuda: which fit, how they are timed, what is printed of them.
#pragma once

#include <cstdio>
#include <exception>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "arguments.hpp"
#include "model.hpp"

namespace bench::cuda {

/// What each_member knows, with or without a rank.
struct Names {
  std::vector<std::string> all;
  std::set<std::string> ranked;

  template <class Member>
  void member(const char* name, int, const typename Member::Options& options) {
    if (std::find(all.begin(), all.end(), name) == all.end()) all.emplace_back(name);
    if constexpr (requires { options.rank; }) ranked.insert(name);
  }
};
template <class T>
Names names_of_members() {
  Names names;
  each_member<T>(1, names);
  return names;
}

inline std::vector<std::string> all_member_names() {
  Names names;
  each_member<float>(1, names);
  each_member<apollo::bfloat16>(1, names);
  return names.all;
}

template <class Device>
class Benchmark {
 public:
  explicit Benchmark(const Arguments& arguments)
      : arguments_(arguments), machine_(arguments.memory), copies_(machine_) {}

  /// Whether every case could be run.
  bool run() {
    machine_.describe(figures_);
    for (const std::string& name : arguments_.lists)
      for (const Scope scope : arguments_.scopes) run_model(model_named(name), scope);
    if (!arguments_.json.empty()) figures_.write(arguments_.json);
    return !failed_;
  }

 private:
  using Recording = typename Machine<Device>::Recording;

  struct Case {
    std::string name;
    std::string member;
    Index asked_rank;
    bool is_float;
  };

  /// Calls body(type_identity of weights and gradients).
  template <class Body>
  static auto with_type(bool is_float, Body&& body) {
    return is_float ? body(std::type_identity<float>{}) : body(std::type_identity<apollo::bfloat16>{});
  }

  std::vector<Case> cases_of(const List& list) const {
    std::vector<Case> cases;
    for (const std::string& type : arguments_.types) {
      const bool is_float = type == "float";
      const Names known = is_float ? names_of_members<float>() : names_of_members<apollo::bfloat16>();
      for (const std::string& member : known.all) {
        if (std::count(arguments_.members.begin(), arguments_.members.end(), member) == 0) continue;
        const bool ranked = known.ranked.count(member) > 0;
        for (const Index asked : arguments_.ranks) {
          if (!ranked && asked != arguments_.ranks.front()) continue;
          const std::string rank = ranked ? "/r" + std::to_string(rank_of(list, asked)) : "";
          const std::string name = prefix(list) + member + "/" + list.name + rank + "/" + type;
          if (arguments_.wanted(name)) cases.push_back({name, member, asked, is_float});
        }
      }
    }
    return cases;
  }
  static std::string prefix(const List& list) { return std::string("cuda/") + name_of(list.scope) + "/"; }

  void run_model(const Llama& model, Scope scope) {
    std::vector<Case> cases = cases_of(make_list(model, scope));
    const Index layers = keep_fitting(cases, model, scope);
    if (cases.empty()) return;
    const List list = make_list(model, scope, layers);
    figures_.add(prefix(list) + "layers/" + list.name, static_cast<double>(layers), "1");
    figures_.add(prefix(list) + "parameters/" + list.name, static_cast<double>(list.parameters()), "1");
    for (const bool is_float : {true, false})
      with_type(is_float, [&]<class T>(std::type_identity<T>) {
        std::optional<Values<Device, T>> values;
        for (const Case& one : cases)
          if (one.is_float == is_float) guarded(one.name, [&] { run_case<T>(list, values, one); });
      });
  }

  /// What one case allocates beside the copies, by count: bytes of a model with so many layers.
  Index bytes_of_case(const Llama& model, Scope scope, Index layers, const Case& one) const {
    const List list = make_list(model, scope, layers);
    return with_type(one.is_float, [&]<class T>(std::type_identity<T>) {
      const Values<Device, T> values(machine_, list);
      const Subject<Device, T> subject(machine_, list, values, one.member, rank_of(list, one.asked_rank));
      return values.bytes() + subject.state_bytes() + subject.workspace_bytes();
    });
  }

  /// As many layers as every case has room for: one number, so that members are compared on the same tensors. Bytes grow by the
  /// same with each layer; a sixteenth is left for what allocations are rounded up to, and for libraries. Cases that cannot be
  /// made with one layer are told and dropped.
  Index keep_fitting(std::vector<Case>& cases, const Llama& model, Scope scope) {
    Index layers = model.layers;
    const Index budget = machine_.free_bytes() / 16 * 15;
    std::erase_if(cases, [&](const Case& one) {
      return !guarded(one.name, [&] {
        const Index first = bytes_of_case(model, scope, 1, one);
        if (first > budget)
          throw std::runtime_error("one layer takes " + std::to_string(first) + " bytes, and there are " +
                                   std::to_string(budget));
        if (layers > 1) layers = std::min(layers, layers_of(model, scope, one, first, budget));
      });
    });
    return layers;
  }

  Index layers_of(const Llama& model, Scope scope, const Case& one, Index first, Index budget) const {
    try {
      return 1 + (budget - first) / (bytes_of_case(model, scope, 2, one) - first);
    } catch (const std::runtime_error&) {
      return 1;  // there is no room for two; whatever else is wrong, the case itself will meet
    }
  }

  template <class T>
  void run_case(const List& list, std::optional<Values<Device, T>>& values, const Case& one) {
    if (!values) values.emplace(machine_, list);
    values->fill(copies_);
    Subject<Device, T> subject(machine_, list, *values, one.member, rank_of(list, one.asked_rank));
    std::int64_t steps = 0;
    const auto eager = [&] { subject.step(), ++steps; };
    for (int i = 0; i < 3; ++i) eager();  // a first basis, if there is one, and a look for the next
    Recording recording(machine_, [&] { subject.step(); });
    const auto replay = [&] { recording.replay(), ++steps; };
    measure(one.name + "/graph", list, subject.step_bytes(), replay);
    const auto parameters = static_cast<double>(list.parameters());
    const auto add = [&](const char* what, Index bytes) {
      figures_.add(one.name + "/graph/" + what, static_cast<double>(bytes) / parameters, "B");
    };
    add("bytes_per_parameter", subject.step_bytes());
    add("state_bytes_per_parameter", subject.state_bytes());
    add("workspace_bytes_per_parameter", subject.workspace_bytes());
    figures_.add(one.name + "/graph/kernels", static_cast<double>(recording.kernels()), "1");
    measure(one.name + "/eager", list, subject.step_bytes(), eager);
    subject.check_steps(steps);
  }

  /// Times steps in turns with copies of as many bytes. Everything is enqueued before anything is waited for, so that the device
  /// never waits for the host, unless the host is slower.
  template <class Step>
  void measure(const std::string& name, const List& list, Index step_bytes, const Step& step) {
    Index copied = 0;
    const auto pairs = [&](int count) {
      machine_.mark();
      for (int i = 0; i < count; ++i) {
        copied = copies_.run(step_bytes);
        machine_.mark();
        step();
        machine_.mark();
      }
      return machine_.between_marks();
    };
    pairs(1);  // to warm up
    const std::vector<Seconds> probe = pairs(1);
    const double affordable = arguments_.seconds / (probe[0] + probe[1]);
    const int repetitions = affordable < arguments_.repetitions ? std::max(3, static_cast<int>(affordable))
                                                                : std::max(1, arguments_.repetitions);
    const std::vector<Seconds> times = pairs(repetitions);
    std::vector<double> milliseconds, per_parameter, rates, copy_rates;
    for (std::size_t i = 0; i < times.size(); i += 2) {
      const Seconds copy = times[i], taken = times[i + 1];
      milliseconds.push_back(1e3 * taken);
      per_parameter.push_back(1e9 * taken / static_cast<double>(list.parameters()));
      rates.push_back(1e-9 * static_cast<double>(step_bytes) / taken);
      copy_rates.push_back(1e-9 * static_cast<double>(copied) / copy);
    }
    figures_.add_quartiles(name, milliseconds, "ms");
    figures_.add(name + "/ns_per_parameter", median(per_parameter), "ns");
    figures_.add(name + "/bandwidth", median(rates), "GB/s");
    figures_.add(name + "/copy_bandwidth", median(copy_rates), "GB/s");
    figures_.add_ratio(name + "/of_copy", rates, copy_rates);
    figures_.add(name + "/repetitions", repetitions, "1");
  }

  /// Whether it could be done; what could not is told, and the other cases go on.
  template <class Body>
  bool guarded(const std::string& name, const Body& body) {
    try {
      body();
      return true;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s: not run: %s\n", name.c_str(), error.what());
      failed_ = true;
      return false;
    }
  }

  const Arguments& arguments_;
  Machine<Device> machine_;
  Copies<Device> copies_;
  Figures figures_;
  bool failed_ = false;
};

}  // namespace bench::cuda
