// SPDX-License-Identifier: Apache-2.0
// libtorch: a torch::optim::Optimizer that steps a module's parameters by members of this family, on the processor.
#pragma once

#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>
#include <torch/serialize/archive.h>
#include <torch/types.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <apollo/apollo.hpp>

namespace apollo::libtorch {

template <class Value>
inline constexpr auto scalar_type_of = torch::kFloat;
template <>
inline constexpr auto scalar_type_of<double> = torch::kDouble;
template <>
inline constexpr auto scalar_type_of<bfloat16> = torch::kBFloat16;
template <>
inline constexpr auto scalar_type_of<float16> = torch::kHalf;

/// Steps parameters in place of torch::optim::AdamW. Every group of parameters has a member of its own, its lr where torch's
/// schedulers look for it, and is made by group(); of the other options what a group was made with holds. A parameter of more
/// than two dimensions is the matrix first x rest (Unfold::rest). Views are taken anew in every step, so gradients may be
/// undefined (that parameter is skipped), move, or lie in any strides; one of more than two dimensions that is not contiguous
/// is copied for the step. `Values` are the types parameters may have: float unless named, since each costs compile time.
///
/// Identity: a module's name for a parameter, or "group.number" where it came without. State is in inner(), not in state().
/// Cost beside the step: a few allocations a parameter. Errors: those of BasicOptimizer; a parameter of another type, on
/// another device or without strides; a group with options of torch's.
template <class Backend = Reference, class Value = float, class... Values>
class Optimizer : public torch::optim::Optimizer {
 public:
  using Inner = BasicOptimizer<Backend>;
  using ParamGroup = torch::optim::OptimizerParamGroup;

  /// All parameters under one member; vectors among them have its moments densely, if it projects.
  template <class Options>
  Optimizer(std::vector<torch::Tensor> parameters, const Options& options, const Backend& backend = Backend())
      : Optimizer(std::vector<ParamGroup>{ParamGroup(std::move(parameters))}, options, backend) {}

  /// Groups made by group(); one without options takes `defaults`, as what is added later does.
  template <class Options>
  Optimizer(std::vector<ParamGroup> groups, const Options& defaults, const Backend& backend = Backend())
      : Optimizer(Named{std::move(groups), {}}, erase<MemberOfOptions<Options>>(defaults), backend) {}

  /// A module: parameters of two dimensions or more under `matrices`, all others and those that `dense` names under `others`.
  /// Error also: a name in `dense` that no parameter has.
  template <class Matrices, class Others>
  Optimizer(const torch::nn::Module& module, const Matrices& matrices, const Others& others,
            const std::vector<std::string>& dense = {}, const Backend& backend = Backend())
      : Optimizer(
            split(module, erase<MemberOfOptions<Matrices>>(matrices), erase<MemberOfOptions<Others>>(others), dense),
            erase<MemberOfOptions<Others>>(others), backend) {}

  /// A group of parameters under the member that the options stand for, or, with its name, under any composition.
  template <class Options>
  static ParamGroup group(std::vector<torch::Tensor> parameters, const Options& options) {
    return group<MemberOfOptions<Options>>(std::move(parameters), options);
  }
  template <class Member>
  static ParamGroup group(std::vector<torch::Tensor> parameters, const typename Member::Options& options) {
    return ParamGroup(std::move(parameters), erase<Member>(options));
  }

  /// One tick: every parameter that has a gradient. The closure, if there is one, computes them and returns the loss.
  torch::Tensor step(LossClosure closure = nullptr) override {
    torch::Tensor loss;
    if (closure) {
      const torch::AutoGradMode with_gradients(true);
      loss = closure();
    }
    const torch::NoGradGuard without_gradients;
    attach();
    State& state = *state_;
    for (std::size_t g = 0; g < state.groups.size(); ++g)
      state.groups[g]->set_lr(state.inner, param_groups_[g].options().get_lr());
    std::vector<torch::Tensor> copies;
    for (const Entry& entry : state.entries) bind(entry, copies);
    state.report = state.inner.step();
    for (std::size_t i = 0; i < state.entries.size(); ++i)  // autograd must know that they have changed
      if (state.report.tensors[i].stepped) tensor(state.entries[i]).unsafeGetTensorImpl()->bump_version();
    return loss;
  }

  /// What the last step did, parameter by parameter; valid until the next.
  const StepReport& report() const { return state_->report; }
  /// For state_bytes(), clip_global_norm(), gradient_scale() and their like. What is registered with it is this class's.
  Inner& inner() { return state_->inner; }
  const Inner& inner() const { return state_->inner; }

  /// torch::save(optimizer, path): the bytes of apollo::save() and the groups' lr.
  void save(torch::serialize::OutputArchive& archive) const override {
    attach();
    std::vector<std::byte> bytes = save_bytes(state_->inner);
    std::vector<double> lr;
    for (const ParamGroup& group : param_groups_) lr.push_back(group.options().get_lr());
    archive.write("apollo",
                  torch::from_blob(bytes.data(), static_cast<std::int64_t>(bytes.size()), torch::kByte).clone(), true);
    archive.write("lr", torch::tensor(lr, torch::kDouble), true);
  }

  /// torch::load(optimizer, path), into an optimizer of the same groups. Errors, before anything is changed: those of
  /// apollo::load(); an archive of something else; another number of groups.
  void load(torch::serialize::InputArchive& archive) override {
    attach();
    torch::Tensor bytes, lr;
    if (!archive.try_read("apollo", bytes, true) || !archive.try_read("lr", lr, true) ||
        bytes.scalar_type() != torch::kByte || lr.scalar_type() != torch::kDouble)
      refuse_file("the archive holds no optimizer of apollo's");
    const auto groups = static_cast<Index>(param_groups_.size());
    if (lr.numel() != groups)
      refuse_file("the archive holds " + text(static_cast<Index>(lr.numel())) + " groups, the optimizer has " +
                  text(groups));
    bytes = bytes.cpu().contiguous();
    load_bytes(state_->inner,
               {static_cast<const std::byte*>(bytes.data_ptr()), static_cast<std::size_t>(bytes.numel())}, "archive");
    for (Index g = 0; g < groups; ++g)
      param_groups_[static_cast<std::size_t>(g)].options().set_lr(lr[g].template item<double>());
  }

 private:
  template <class Options>
  using MemberOfOptions = typename MemberOf<Options>::type;

  /// A group as the inner optimizer knows it.
  struct Group {
    virtual ~Group() = default;
    virtual void set_lr(Inner& inner, double lr) const = 0;
    virtual void add(Inner& inner, const std::string& name, const torch::Tensor& parameter) const = 0;
    std::size_t count = 0;  ///< of parameters that are registered
  };
  template <class Policies>
  struct TypedGroup final : Group {
    explicit TypedGroup(apollo::Group<Policies> g) : handle(g) {}
    void set_lr(Inner& inner, double lr) const override { inner.set_lr(handle, lr); }
    void add(Inner& inner, const std::string& name, const torch::Tensor& parameter) const override {
      with_view(parameter, name, "parameter",
                [&](const auto& weight) { inner.add(handle, name, weight, no_gradient); });
    }
    apollo::Group<Policies> handle;
  };

  /// What torch keeps beside a group of parameters.
  class GroupOptions : public torch::optim::OptimizerOptions {
   public:
    double get_lr() const override { return lr_; }
    void set_lr(const double lr) override { lr_ = lr; }
    virtual std::unique_ptr<Group> open(Inner& inner) const = 0;

   protected:
    explicit GroupOptions(double lr) : lr_(lr) {}

   private:
    double lr_;
  };
  template <class Member>
  class TypedOptions final : public GroupOptions {
   public:
    explicit TypedOptions(const typename Member::Options& options) : GroupOptions(options.lr), options_(options) {}
    std::unique_ptr<torch::optim::OptimizerOptions> clone() const override {
      return std::make_unique<TypedOptions>(*this);
    }
    std::unique_ptr<Group> open(Inner& inner) const override {
      return std::make_unique<TypedGroup<typename Member::Policies>>(inner.template add_group<Member>(options_));
    }

   private:
    typename Member::Options options_;
  };

  template <class Member>
  static std::unique_ptr<GroupOptions> erase(const typename Member::Options& options) {
    return std::make_unique<TypedOptions<Member>>(options);
  }

  struct Named {
    std::vector<ParamGroup> groups;
    std::vector<std::vector<std::string>> names;
  };
  /// A parameter in order of registration, by its place among the groups: torch owns it.
  struct Entry {
    std::size_t group;
    std::size_t number;
    std::string name;
  };
  struct State {
    Inner inner;
    std::vector<std::unique_ptr<Group>> groups;
    std::vector<Entry> entries;
    std::vector<std::vector<std::string>> names;  ///< those that are known
    StepReport report;
  };

  Optimizer(Named named, std::unique_ptr<GroupOptions> defaults, const Backend& backend)
      : torch::optim::Optimizer(std::move(named.groups), std::move(defaults)),
        state_(new State{Inner(backend), {}, {}, std::move(named.names), {}}) {
    attach();
  }

  static Named split(const torch::nn::Module& module, std::unique_ptr<GroupOptions> matrices,
                     std::unique_ptr<GroupOptions> others, const std::vector<std::string>& dense) {
    std::vector<torch::Tensor> tensors[2];
    std::vector<std::string> names[2];
    std::size_t found = 0;
    for (const auto& item : module.named_parameters()) {
      bool named = false;
      for (const std::string& name : dense) named = named || name == item.key();
      found += named ? 1 : 0;
      const std::size_t to = item.value().dim() >= 2 && !named ? 0 : 1;
      tensors[to].push_back(item.value());
      names[to].push_back(item.key());
    }
    if (found != dense.size())
      refuse(text(static_cast<Index>(dense.size() - found)) + " of the " + text(static_cast<Index>(dense.size())) +
             " names given as dense are no parameter's; the module's names are those of named_parameters()");
    Named result;
    for (const std::size_t i : {0u, 1u}) {
      if (tensors[i].empty()) continue;
      result.groups.emplace_back(std::move(tensors[i]), std::move(i == 0 ? matrices : others));
      result.names.push_back(std::move(names[i]));
    }
    return result;
  }

  /// Registers what torch's add_param_group() and add_parameters() have brought since the last time.
  void attach() const {
    State& state = *state_;
    for (std::size_t g = 0; g < param_groups_.size(); ++g) {
      if (g == state.groups.size()) {
        const auto* options =
            param_groups_[g].has_options() ? dynamic_cast<const GroupOptions*>(&param_groups_[g].options()) : nullptr;
        if (options == nullptr)
          refuse("group " + text(static_cast<Index>(g)) + " has options of another optimizer; make it by group()");
        state.groups.push_back(options->open(state.inner));
      }
      Group& group = *state.groups[g];
      for (const auto& parameters = param_groups_[g].params(); group.count < parameters.size(); ++group.count) {
        const std::size_t i = group.count;
        std::string name = g < state.names.size() && i < state.names[g].size()
                               ? state.names[g][i]
                               : std::to_string(g) + "." + std::to_string(i);
        group.add(state.inner, name, parameters[i]);
        state.entries.push_back({g, i, std::move(name)});
      }
    }
  }

  const torch::Tensor& tensor(const Entry& entry) const { return param_groups_[entry.group].params().at(entry.number); }

  void bind(const Entry& entry, std::vector<torch::Tensor>& copies) {
    const torch::Tensor& parameter = tensor(entry);
    torch::Tensor gradient = parameter.grad();
    with_view(parameter, entry.name, "parameter", [&](const auto& weight) {
      if (!gradient.defined()) return state_->inner.rebind(entry.name, weight, no_gradient);
      if (gradient.layout() == torch::kStrided && gradient.dim() > 2 && !gradient.is_contiguous())
        gradient = copies.emplace_back(gradient.contiguous());
      with_view(gradient, entry.name, "gradient",
                [&](const auto& view) { state_->inner.rebind(entry.name, weight, view); });
    });
  }

  /// Calls body(MatrixView<V>) with the tensor's memory.
  template <class Body>
  static void with_view(const torch::Tensor& tensor, const std::string& name, const char* what, Body&& body) {
    const Check check{name};
    if (!tensor.defined()) check.fail(std::string(what) + " is undefined");
    if (!tensor.device().is_cpu() || tensor.layout() != torch::kStrided)
      check.fail(std::string(what) + " of " + tensor.toString() + " must be strided and on the CPU");
    const bool known = (call_if<Value>(tensor, name, body) || ... || call_if<Values>(tensor, name, body));
    if (!known)
      check.fail(std::string(what) + " of type " + c10::toString(tensor.scalar_type()) +
                 " is none of those this apollo::libtorch::Optimizer<Backend, types...> was given");
  }
  template <class V, class Body>
  static bool call_if(const torch::Tensor& tensor, const std::string& name, Body&& body) {
    if (tensor.scalar_type() != scalar_type_of<V>) return false;
    auto* data = static_cast<V*>(tensor.data_ptr());
    if (tensor.dim() == 0) {
      body(vector(data, 1));
    } else {
      const TensorView<V> whole(data, {tensor.sizes().begin(), tensor.sizes().end()},
                                {tensor.strides().begin(), tensor.strides().end()});
      body(unfold(whole, Unfold::rest, name).front());
    }
    return true;
  }

  std::unique_ptr<State> state_;
};

}  // namespace apollo::libtorch
