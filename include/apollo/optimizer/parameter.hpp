// SPDX-License-Identifier: Apache-2.0
// The one seam of type erasure: a tensor registered with an Optimizer, whatever its policies and value types.
#pragma once

#include <string>

#include <apollo/optimizer/structured.hpp>

namespace apollo {

template <class Backend>
class Parameter {
 public:
  Parameter(std::string_view name, std::size_t group_number) : group(group_number), name_(name) {}
  Parameter(const Parameter&) = delete;
  Parameter& operator=(const Parameter&) = delete;
  virtual ~Parameter() = default;

  const std::string& name() const { return name_; }
  virtual TensorId id() const = 0;
  virtual Shape shape() const = 0;
  virtual std::int64_t steps() const = 0;
  virtual Index state_bytes() const = 0;
  virtual Index record_bytes() const = 0;
  virtual std::string fingerprint() const = 0;
  virtual void reserve(const Backend& backend, Workspace<Backend>& workspace) const = 0;
  virtual void reserve_lanes(const Backend& backend, Workspace<Backend>& workspace) const = 0;
  virtual Index workspace_bytes(const Backend& backend) const = 0;
  virtual TensorReport step(const Backend& backend, const WorkspacePart<Backend>& workspace, const StepInput& input,
                            double clip) = 0;
  virtual GradientSummary inspect_gradient(const Backend& backend, const WorkspacePart<Backend>& workspace,
                                           double factor) = 0;
  virtual TensorReport accumulate(const Backend& backend, const WorkspacePart<Backend>& workspace, double factor) = 0;
  virtual bool pending() const = 0;
  virtual bool accumulates_whole() const = 0;
  virtual Index accumulation_bytes() const = 0;
  virtual void discard_accumulated() = 0;
  virtual void visit_state(StateVisitor& visitor) = 0;

  /// Refuses views that this parameter cannot step on; changes nothing.
  virtual void check(const AnyView& weight, const AnyView& gradient, bool with_gradient) const = 0;

  void bind(const AnyView& weight, const AnyView& gradient, bool with_gradient) {
    check(weight, gradient, with_gradient);
    weight_ = weight;
    gradient_ = gradient;
    has_gradient_ = with_gradient;
  }
  bool has_gradient() const { return has_gradient_; }
  /// Whether this tick has something for it: a gradient now, or earlier ones.
  bool wants_step() const { return has_gradient_ || pending(); }

  std::size_t group;
  std::int64_t tick = 0;  ///< of its last step or skip

 protected:
  AnyView weight_;
  AnyView gradient_;
  bool has_gradient_ = false;

 private:
  std::string name_;
};

template <class Policies, class T, class Backend, class W, class G>
class TypedParameter final : public Parameter<Backend> {
 public:
  TypedParameter(std::string_view name, std::size_t group_number, TensorId id, const Settings& settings,
                 const AnyView& weight)
      : Parameter<Backend>(name, group_number),
        core_({weight.rows, weight.cols}, settings, name, id, memory_order(weight.as<W>())) {}

  TensorId id() const override { return core_.id(); }
  Shape shape() const override { return core_.plan().shape; }
  std::int64_t steps() const override { return core_.steps(); }
  Index state_bytes() const override { return core_.state_bytes(); }
  Index record_bytes() const override { return core_.record_bytes(); }
  std::string fingerprint() const override { return core_.fingerprint(); }
  void reserve(const Backend& backend, Workspace<Backend>& workspace) const override {
    core_.reserve(backend, workspace);
  }
  void reserve_lanes(const Backend& backend, Workspace<Backend>& workspace) const override {
    core_.reserve_lanes(backend, workspace);
  }

  Index workspace_bytes(const Backend& backend) const override { return core_.workspace_bytes(backend); }

  TensorReport step(const Backend& backend, const WorkspacePart<Backend>& workspace, const StepInput& input,
                    double clip) override {
    return core_.step(backend, workspace, this->weight_.template as<W>(), gradient(), input, clip);
  }

  GradientSummary inspect_gradient(const Backend& backend, const WorkspacePart<Backend>& workspace,
                                   double factor) override {
    return core_.inspect(backend, workspace, gradient(), factor);
  }

  TensorReport accumulate(const Backend& backend, const WorkspacePart<Backend>& workspace, double factor) override {
    return core_.accumulate(backend, workspace, gradient(), factor);
  }
  bool pending() const override { return core_.pending(); }
  bool accumulates_whole() const override { return core_.accumulates_whole(); }
  Index accumulation_bytes() const override { return core_.accumulation_bytes(); }
  void discard_accumulated() override { core_.discard_accumulated(); }

  void check(const AnyView& weight, const AnyView& gradient, bool with_gradient) const override {
    const Check check{this->name()};
    check_view<W>(check, "weight", weight);
    const auto w = weight.as<W>();
    if (overlaps_itself(w)) check.fail("elements of the weight overlap each other, so it cannot be updated");
    if (!with_gradient) return;
    check_view<G>(check, "gradient", gradient);
    if (overlap(w, gradient.as<const G>())) check.fail("weight and gradient overlap in memory");
  }

  void visit_state(StateVisitor& visitor) override { core_.visit_state(VisitState{visitor}); }

 private:
  /// Without memory if there is none this tick.
  MatrixView<const G> gradient() const {
    if (this->has_gradient_) return this->gradient_.template as<const G>();
    const Shape shape = core_.plan().shape;
    return row_major(static_cast<const G*>(nullptr), shape.rows, shape.cols);
  }

  template <class V>
  void check_view(const Check& check, const char* what, const AnyView& view) const {
    const Shape planned = core_.plan().shape;
    if (Shape{view.rows, view.cols} != planned)
      check.fail(std::string(what) + " of shape " + text(Shape{view.rows, view.cols}) + " must be " + text(planned));
    if (std::string_view(view.type) != type_name<V>)
      check.fail(std::string(what) + " of type " + view.type + " must be " + type_name<V> + ", as registered");
    if (view.data == nullptr) check.fail(std::string(what) + " has no data (a null pointer)");
    if constexpr (is_grouped<V>) {
      if (view.ranges == nullptr) check.fail(std::string(what) + " has no ranges of its groups (a null pointer)");
      if (!is_group_size(view.group_size))
        check.fail("group_size = " + text(view.group_size) + " must be 32, 64, 128 or 256");
      if (view.row_stride != view.cols || view.col_stride != 1)
        check.fail(std::string(what) + " in 8-bit groups must be row-major, its rows adjacent");
    }
  }

  TensorCore<Policies, T, Backend> core_;
};

}  // namespace apollo
