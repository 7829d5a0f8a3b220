// SPDX-License-Identifier: Apache-2.0
// Steps of every algorithm against plain double arithmetic, over shapes, layouts, sides, ranks, number types and gradients that
// vanish, grow and shrink.
// also: optimised-sanitizers
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include <apollo/optimizer/named.hpp>

#include "oracles.hpp"
#include "sketches.hpp"
#include "support.hpp"

namespace {

using apollo::Index;
using apollo::Order;
using apollo::ProjType;
using apollo::Shape;
using support::Hyper;
using support::Layout;
using support::Matrix;
using support::raise;
using support::Tensor;

/// Types of weight and gradient.
template <class WeightType, class GradientType>
struct Types {
  using W = WeightType;
  using G = GradientType;
  using T = apollo::arithmetic_t<W>;
};

#define ALL_TYPES                                                                                              \
  Types<float, float>, Types<double, double>, Types<apollo::bfloat16, apollo::bfloat16>,                       \
      Types<apollo::float16, apollo::float16>, Types<float, apollo::bfloat16>, Types<apollo::bfloat16, float>, \
      Types<float, double>, Types<double, float>

/// How far a weight may be from the oracle's after a few steps and after many, in the metric of relative_error.
template <class T>
struct Tolerance;
template <>
struct Tolerance<float> {
  static constexpr double first = 1e-6, last = 4e-6, norms = 2e-5;
};
template <>
struct Tolerance<double> {
  static constexpr double first = 1e-13, last = 1e-12, norms = 1e-12;
};

inline constexpr Shape shapes[] = {{12, 7}, {7, 12}, {9, 9}, {2, 11}, {11, 2}, {37, 23}};

struct Layouts {
  Layout weight, gradient;
};
inline constexpr Layouts layouts[] = {{Layout::row_major, Layout::row_major},
                                      {Layout::column_major, Layout::column_major},
                                      {Layout::row_major, Layout::column_major},
                                      {Layout::column_major, Layout::row_major},
                                      {Layout::padded_rows, Layout::padded_columns},
                                      {Layout::gaps, Layout::reversed},
                                      {Layout::reversed, Layout::gaps}};

enum class Course {
  steady,    ///< of one size
  eventful,  ///< zero at steps 1 and 9, sixteen times larger from step 14, then 1/64 of that from step 22
};

double size_at(Course course, int step) {
  if (course == Course::steady) return 1;
  if (step == 1 || step == 9) return 0;
  return step < 14 ? 1 : step < 22 ? 16 : 0.25;
}

/// Gradient number `step`, as G stores it.
template <class G>
Matrix gradient_at(Shape shape, Course course, int step) {
  const auto number = static_cast<std::uint64_t>(step);
  const Matrix g = support::uniform_matrix(shape.rows, shape.cols, 77, number);
  return support::rounded<G>(support::scaled(g, size_at(course, step)));
}

/// What went wrong on the way.
struct Errors {
  double first = 0;  ///< weights after the first step that moves them
  double last = 0;   ///< weights at the end
  double norms = 0;  ///< what the report says about norms
  bool stepped = true;
  bool gaps = true;  ///< neither the gradient nor what lies between elements was written
};

/// Moves W by the gradient of this number as the equations say.
using Oracle = std::function<void(Matrix& w, const Matrix& g, int step)>;
/// How far off a step's report is.
using Reports = std::function<double(const apollo::TensorReport&)>;
template <class W, class G>
using Step = std::function<apollo::TensorReport(const apollo::MatrixView<W>&, const apollo::MatrixView<const G>&)>;

/// Steps `optimizer` and `oracle(W, G, step)` side by side. Weights of 16 bits are compared after each step with what
/// rounding to nearest makes of the oracle's step from the same weights, since single roundings cannot be predicted. `step_of` is
/// the optimizer's step(): compiled once for each Kind, not for each optimizer and test.
template <class W, class G>
Errors follow_step(const Step<W, G>& step_of, Shape shape, Layouts layout, Course course, int steps,
                   const Oracle& oracle, const Reports& reports) {
  constexpr bool narrow = sizeof(W) == 2;
  Errors errors;
  Matrix expected = support::rounded<W>(support::uniform_matrix(shape.rows, shape.cols, 78));
  Tensor<W> w(expected, layout.weight);
  Tensor<G> g(Matrix(shape.rows, shape.cols), layout.gradient);
  for (int step = 1; step <= steps; ++step) {
    const Matrix gradient = gradient_at<G>(shape, course, step);
    g.set(gradient);
    if (narrow) expected = w.get();
    oracle(expected, gradient, step);
    const apollo::TensorReport report = step_of(w.view, g.view);
    errors.stepped = errors.stepped && report.stepped && report.reason == apollo::Skip::none;
    if (report.gradient_norm != apollo::not_measured) {
      const double length = support::norm(gradient);
      raise(errors.norms, length > 0 ? std::fabs(report.gradient_norm / length - 1) : std::fabs(report.gradient_norm));
    }
    if (reports) raise(errors.norms, reports(report));
    if (!narrow && step > 2 && step < steps) continue;
    const Matrix got = w.get();
    double error = 0;
    if (narrow) {
      const double rms = support::norm(expected) / std::sqrt(static_cast<double>(expected.values.size()));
      for (std::size_t i = 0; i < expected.values.size(); ++i) {
        const double off = std::fabs(got.values[i] - expected.values[i]);
        const double beyond = off - support::half_ulp<W>(expected.values[i]);
        raise(error, beyond > 0 ? beyond / rms : beyond <= 0 ? 0 : 1e300);
      }
    } else {
      error = support::relative_error(got, expected);
    }
    if (step <= 2) raise(errors.first, error);
    if (narrow || step == steps) raise(errors.last, error);
    if (step == steps) errors.gaps = g.get().values == gradient.values;  // gradients are only read
  }
  errors.gaps = errors.gaps && w.gaps_untouched() && g.gaps_untouched();
  return errors;
}

template <class Kind, class Optimizer>
Errors follow(Optimizer& optimizer, Shape shape, Layouts layout, Course course, int steps, const Oracle& oracle,
              const Reports& reports = nullptr) {
  using W = typename Kind::W;
  using G = typename Kind::G;
  const auto step = [&](const apollo::MatrixView<W>& w, const apollo::MatrixView<const G>& g) {
    return optimizer.step(w, g);
  };
  return follow_step<W, G>(step, shape, layout, course, steps, oracle, reports);
}

/// Worst errors of many runs, so that a test has a handful of checks and says which run was worst.
struct Worst {
  double first = 0, last = 0, norms = 0;
  bool stepped = true, gaps = true;
  std::string where_first, where_last, where_norms;

  void add(const Errors& e, const std::string& where) {
    if (!(e.first <= first)) first = e.first, where_first = where;
    if (!(e.last <= last)) last = e.last, where_last = where;
    if (!(e.norms <= norms)) norms = e.norms, where_norms = where;
    stepped = stepped && e.stepped;
    gaps = gaps && e.gaps;
  }
};

/// A function rather than a macro: one for all instances of the tests.
void check_worst(const Worst& worst, double first_bound, double last_bound, double norms_bound) {
  CAPTURE(worst.where_first);
  CAPTURE(worst.where_last);
  CAPTURE(worst.where_norms);
  CHECK(worst.first <= first_bound);
  CHECK(worst.last <= last_bound);
  CHECK(worst.norms <= norms_bound);
  CHECK(worst.stepped);
  CHECK(worst.gaps);
}

std::string describe(Shape shape, Layouts layout, const char* more, Index number = 0, int flag = 0) {
  return apollo::text(shape) + " layouts " + std::to_string(static_cast<int>(layout.weight)) + "/" +
         std::to_string(static_cast<int>(layout.gradient)) + " " + more + " " + std::to_string(number) + " " +
         std::to_string(flag);
}

/// A P of no special structure, r x S.
template <class T>
Matrix fixed_directions(Index rank, Index removed, std::uint64_t number = 0) {
  return support::rounded<T>(
      support::scaled(support::uniform_matrix(rank, removed, 79, number), 1.7 / std::sqrt(static_cast<double>(rank))));
}

template <class T, class Optimizer>
void set_directions(Optimizer& optimizer, const Matrix& p, Layout layout) {
  const Tensor<T> tensor(p, layout);
  optimizer.set_projection(tensor.view);
}

/// P of a random projection for one refresh index, from its published definition: entry (k, s) is number s r + k.
template <class Sketch>
Matrix drawn_directions(std::uint64_t seed, std::string_view name, std::uint64_t refresh, Index rank, Index removed) {
  const apollo::RandomStream stream{seed, apollo::tensor_id(name), apollo::Stream::projection, refresh};
  Matrix p(rank, removed);
  if constexpr (std::is_same_v<Sketch, apollo::Gaussian>) {
    std::vector<float> values(static_cast<std::size_t>(rank * removed));
    apollo::fill_normals(stream, 0, values.size(), values.data());
    for (Index s = 0; s < removed; ++s)
      for (Index k = 0; k < rank; ++k)
        p(k, s) =
            static_cast<double>(values[static_cast<std::size_t>(s * rank + k)]) / std::sqrt(static_cast<double>(rank));
  } else if constexpr (std::is_same_v<Sketch, apollo::Rademacher>) {
    for (Index s = 0; s < removed; ++s)
      for (Index k = 0; k < rank; ++k)
        p(k, s) =
            (stream.bit(static_cast<std::uint64_t>(s * rank + k)) ? -1 : 1) / std::sqrt(static_cast<double>(rank));
  } else {
    p = support::directions<Sketch>(stream, rank, removed);
  }
  return p;
}

/// |x / y - 1|, and 0 where both are nothing.
double off(double x, double y) { return std::fabs(y) <= 0 ? std::fabs(x) : std::fabs(x / y - 1); }

}  // namespace

TEST_CASE_TEMPLATE("AdamW in both orders", Kind, ALL_TYPES) {
  using T = typename Kind::T;
  Worst worst;
  for (const Shape shape : {Shape{12, 7}, {7, 12}, {9, 9}, {1, 5}, {6, 1}, {1, 1}, {19, 33}})
    for (const Layouts layout : layouts)
      for (const Order order : {Order::torch, Order::huggingface})
        for (const double decay : {0.0, 0.125})
          for (const Course course : {Course::steady, Course::eventful}) {
            Hyper h;
            h.weight_decay = decay, h.torch_order = order == Order::torch;
            h.eps = order == Order::torch ? 1e-8 : 1e-6;
            apollo::AdamW<T> optimizer(shape, {.lr = h.lr, .weight_decay = decay, .order = order});
            support::AdamWOracle oracle{h};
            worst.add(follow<Kind>(optimizer, shape, layout, course, 30,
                                   [&](Matrix& w, const Matrix& g, int) { oracle.step(w, g); }),
                      describe(shape, layout, "order", static_cast<Index>(order), static_cast<int>(course)));
          }
  check_worst(worst, Tolerance<T>::first, Tolerance<T>::last, Tolerance<T>::norms);
}

TEST_CASE_TEMPLATE("SGD, decay decoupled and coupled", Kind, ALL_TYPES) {
  using T = typename Kind::T;
  Worst worst;
  for (const Shape shape : shapes)
    for (const Layouts layout : layouts)
      for (const auto decay : {apollo::Decay::decoupled, apollo::Decay::coupled})
        for (const double amount : {0.0, 0.25}) {
          Hyper h;
          h.momentum = 0, h.weight_decay = amount, h.coupled = decay == apollo::Decay::coupled;
          apollo::Sgd<T> optimizer(shape, {.lr = h.lr, .weight_decay = amount, .decay = decay});
          support::SgdOracle oracle{h};
          worst.add(follow<Kind>(optimizer, shape, layout, Course::eventful, 30,
                                 [&](Matrix& w, const Matrix& g, int) { oracle.step(w, g); }),
                    describe(shape, layout, "decay", static_cast<Index>(decay)));
          CHECK(optimizer.state_bytes() == 0);
        }
  check_worst(worst, Tolerance<T>::first, Tolerance<T>::last, Tolerance<T>::norms);
}

TEST_CASE_TEMPLATE("SGD with momentum: M = mu M + G without a factor 1 - mu", Kind, ALL_TYPES) {
  using T = typename Kind::T;
  Worst worst;
  for (const Shape shape : shapes)
    for (const Layouts layout : layouts)
      for (const auto decay : {apollo::Decay::decoupled, apollo::Decay::coupled})
        for (const double mu : {0.0, 0.75, 0.9}) {
          Hyper h;
          h.momentum = mu, h.weight_decay = 0.25, h.coupled = decay == apollo::Decay::coupled, h.lr = 0x1p-8;
          apollo::SgdMomentum<T> optimizer(shape, {.lr = h.lr, .momentum = mu, .weight_decay = 0.25, .decay = decay});
          support::SgdOracle oracle{h};
          worst.add(follow<Kind>(optimizer, shape, layout, Course::eventful, 30,
                                 [&](Matrix& w, const Matrix& g, int) { oracle.step(w, g); }),
                    describe(shape, layout, "decay", static_cast<Index>(decay)));
        }
  check_worst(worst, Tolerance<T>::first, Tolerance<T>::last, Tolerance<T>::norms);
}

TEST_CASE_TEMPLATE("APOLLO with a given projection: every side, rank and limiter", Kind, ALL_TYPES) {
  using T = typename Kind::T;
  Worst free, limited;
  for (const Shape shape : shapes)
    for (const Layouts layout : layouts)
      for (const ProjType type : support::all_proj_types)
        for (const double floor : {-1.0, 0.0, 0.5}) {  // negative: no limiter
          const bool keeps_rows = support::removes_columns(shape.rows, shape.cols, type);
          const Index removed = keeps_rows ? shape.cols : shape.rows;
          for (const Index rank : {Index{2}, removed}) {
            Hyper h;
            h.weight_decay = rank == 2 ? 0.125 : 0, h.scale = 0.5, h.limiter = floor >= 0, h.floor = floor;
            h.torch_order = floor > 0 && rank == 2;
            const Order order = h.torch_order ? Order::torch : Order::huggingface;
            const Matrix p = fixed_directions<T>(rank, removed);
            support::ScaledOracle oracle{h, true, keeps_rows};
            const auto step = [&](Matrix& w, const Matrix& g, int) { oracle.step(w, g, &p); };
            const auto reports = [&](const apollo::TensorReport& report) {
              const double length = off(report.update_norm, oracle.update_norm);
              const double divisor = off(report.limiter, oracle.divisor);
              return length > divisor ? length : divisor;
            };
            const std::string where = describe(shape, layout, "rank", rank, static_cast<int>(type));
            if (h.limiter) {
              apollo::Apollo<T, apollo::FixedProjection> optimizer(shape, {.lr = h.lr,
                                                                           .rank = rank,
                                                                           .scale = h.scale,
                                                                           .proj_type = type,
                                                                           .weight_decay = h.weight_decay,
                                                                           .order = order,
                                                                           .limiter_floor = floor});
              set_directions<T>(optimizer, p, layout.gradient);
              limited.add(follow<Kind>(optimizer, shape, layout, Course::eventful, 30, step, reports), where);
            } else {
              apollo::Apollo<T, apollo::FixedProjection, apollo::NoLimiter> optimizer(shape,
                                                                                      {.lr = h.lr,
                                                                                       .rank = rank,
                                                                                       .scale = h.scale,
                                                                                       .proj_type = type,
                                                                                       .weight_decay = h.weight_decay,
                                                                                       .order = order});
              set_directions<T>(optimizer, p, layout.gradient);
              free.add(follow<Kind>(optimizer, shape, layout, Course::eventful, 30, step, reports), where);
            }
          }
        }
  check_worst(free, Tolerance<T>::first, Tolerance<T>::last, Tolerance<T>::norms);
  // The limiter remembers a norm in single precision, whatever the weights.
  check_worst(limited, std::fmax(Tolerance<T>::first, 1e-7), std::fmax(Tolerance<T>::last, 1e-6),
              std::fmax(Tolerance<T>::norms, 1e-6));
}

TEST_CASE_TEMPLATE("APOLLO-Mini with a given projection: one scale for the tensor", Kind, ALL_TYPES) {
  using T = typename Kind::T;
  Worst worst;
  for (const Shape shape : shapes)
    for (const Layouts layout : layouts)
      for (const ProjType type : support::all_proj_types)
        for (const double floor : {0.0, 0.5}) {
          const bool keeps_rows = support::removes_columns(shape.rows, shape.cols, type);
          const Index removed = keeps_rows ? shape.cols : shape.rows;
          Hyper h;
          h.weight_decay = 0.125, h.scale = 128, h.limiter = true, h.floor = floor, h.lr = 0x1p-9;
          const Matrix p = fixed_directions<T>(1, removed);
          support::ScaledOracle oracle{h, false, keeps_rows};
          apollo::ApolloMini<T, apollo::FixedProjection> optimizer(
              shape, {.lr = h.lr, .proj_type = type, .weight_decay = h.weight_decay, .limiter_floor = floor});
          set_directions<T>(optimizer, p, layout.weight);
          const auto reports = [&](const apollo::TensorReport& report) {
            const double length = off(report.update_norm, oracle.update_norm);
            const double divisor = off(report.limiter, oracle.divisor);
            return length > divisor ? length : divisor;
          };
          worst.add(follow<Kind>(
                        optimizer, shape, layout, Course::eventful, 30,
                        [&](Matrix& w, const Matrix& g, int) { oracle.step(w, g, &p); }, reports),
                    describe(shape, layout, "type", static_cast<Index>(type)));
        }
  check_worst(worst, std::fmax(Tolerance<T>::first, 1e-6), std::fmax(Tolerance<T>::last, 1e-6),
              std::fmax(Tolerance<T>::norms, 1e-6));
}

TEST_CASE_TEMPLATE("GaLore with a given projection: alpha is not under a root", Kind, ALL_TYPES) {
  using T = typename Kind::T;
  Worst worst;
  for (const Shape shape : shapes)
    for (const Layouts layout : layouts)
      for (const ProjType type : support::all_proj_types)
        for (const Order order : {Order::torch, Order::huggingface}) {
          const bool keeps_rows = support::removes_columns(shape.rows, shape.cols, type);
          const Index removed = keeps_rows ? shape.cols : shape.rows;
          for (const Index rank : {Index{1}, Index{2}, removed}) {
            Hyper h;
            h.weight_decay = 0.125, h.scale = 0.25, h.torch_order = order == Order::torch;
            const Matrix p = fixed_directions<T>(rank, removed);
            support::GaLoreOracle oracle{h, keeps_rows};
            apollo::GaLore<T, apollo::FixedProjection> optimizer(
                shape, {.lr = h.lr, .rank = rank, .proj_type = type, .weight_decay = h.weight_decay, .order = order});
            set_directions<T>(optimizer, p, layout.weight);
            worst.add(follow<Kind>(optimizer, shape, layout, Course::eventful, 30,
                                   [&](Matrix& w, const Matrix& g, int) { oracle.step(w, g, p); }),
                      describe(shape, layout, "rank", rank, static_cast<int>(type)));
          }
        }
  check_worst(worst, Tolerance<T>::first, Tolerance<T>::last, Tolerance<T>::norms);
}

TEST_CASE_TEMPLATE("structured AdamW: nothing projected, the channels an option", Kind, ALL_TYPES) {
  using T = typename Kind::T;
  using apollo::ChannelAxis;
  Worst worst;
  for (const Shape shape : {Shape{12, 7}, {7, 12}, {9, 9}, {1, 6}, {6, 1}, {37, 23}})
    for (const Layouts layout : layouts)
      for (const ChannelAxis axis : {ChannelAxis::longer, ChannelAxis::rows, ChannelAxis::cols}) {
        const bool keeps_rows = axis == ChannelAxis::longer ? shape.rows >= shape.cols : axis == ChannelAxis::rows;
        Hyper h;
        h.weight_decay = 0.125, h.scale = 0.5;
        support::ScaledOracle oracle{h, true, keeps_rows};
        apollo::StructuredOptimizer<T, apollo::ChannelScaling, apollo::AdamMoments<>> optimizer(
            shape, {.lr = h.lr, .weight_decay = h.weight_decay, .scale = h.scale, .channel_axis = axis});
        worst.add(follow<Kind>(
                      optimizer, shape, layout, Course::eventful, 30,
                      [&](Matrix& w, const Matrix& g, int) { oracle.step(w, g, nullptr); },
                      [&](const apollo::TensorReport& r) { return off(r.update_norm, oracle.update_norm); }),
                  describe(shape, layout, "axis", static_cast<Index>(axis)));
        if (axis != ChannelAxis::longer) continue;
        h.limiter = true;
        support::ScaledOracle whole{h, false, keeps_rows};
        apollo::StructuredOptimizer<apollo::NormGrowthLimiter, T, apollo::AdamMoments<>, apollo::TensorScaling> tensor(
            shape, {.lr = h.lr, .weight_decay = h.weight_decay, .scale = h.scale});
        worst.add(follow<Kind>(
                      tensor, shape, layout, Course::eventful, 30,
                      [&](Matrix& w, const Matrix& g, int) { whole.step(w, g, nullptr); },
                      [&](const apollo::TensorReport& r) { return off(r.update_norm, whole.update_norm); }),
                  describe(shape, layout, "tensor"));
      }
  check_worst(worst, std::fmax(Tolerance<T>::first, 1e-7), std::fmax(Tolerance<T>::last, 1e-6),
              std::fmax(Tolerance<T>::norms, 1e-6));
}

TEST_CASE_TEMPLATE("a random projection is what its stream says, drawn anew every update_proj_gap steps", Sketch,
                   apollo::Gaussian, apollo::Rademacher, apollo::SparseSign, apollo::SparseSigns<2>) {
  using Kind = Types<float, float>;
  using Double = Types<double, double>;
  Worst worst, exact;
  const std::uint64_t seed = 0x1234567890u;
  const char* name = "layers.3.mlp.up";
  for (const Shape shape : {Shape{12, 7}, {7, 12}, {9, 9}, {40, 24}, {24, 61}, {200, 300}})
    for (const ProjType type : {ProjType::std, ProjType::reverse_std})
      for (const auto on_refresh : {apollo::OnRefresh::keep, apollo::OnRefresh::reset, apollo::OnRefresh::rotate}) {
        const bool keeps_rows = support::removes_columns(shape.rows, shape.cols, type);
        const Index removed = keeps_rows ? shape.cols : shape.rows;
        for (const Index rank : {Index{3}, Index{removed >= 24 ? 16 : 5}}) {
          const int gap = 4, steps = shape.rows > 100 ? 6 : 18;
          Hyper h;
          h.limiter = true;
          const apollo::ApolloOptions options{.lr = h.lr,
                                              .rank = rank,
                                              .update_proj_gap = gap,
                                              .proj_type = type,
                                              .on_refresh = on_refresh,
                                              .seed = seed};
          const auto run = [&](auto kind, auto& optimizer, Worst& into) {
            support::ScaledOracle oracle{h, true, keeps_rows};
            Matrix p;
            int refreshes = 0;
            const auto step = [&](Matrix& w, const Matrix& g, int t) {
              if ((t - 1) % gap == 0) {
                const auto refresh = static_cast<std::uint64_t>((t - 1) / gap);
                const Matrix next = drawn_directions<Sketch>(seed, name, refresh, rank, removed);
                if (t > 1) oracle.moments.refresh(on_refresh, p, next);
                p = next;
              }
              oracle.step(w, g, &p);
            };
            int t = 0;
            const auto reports = [&](const apollo::TensorReport& report) {
              ++t;
              refreshes += report.refreshed == ((t - 1) % gap == 0) ? 0 : 1;
              return off(report.update_norm, oracle.update_norm);
            };
            const Layouts layout{Layout::row_major, Layout::column_major};
            const Errors errors =
                follow<decltype(kind)>(optimizer, shape, layout, Course::steady, steps, step, reports);
            into.add(errors, describe(shape, layout, "rank", rank, static_cast<int>(on_refresh)));
            CHECK(refreshes == 0);
          };
          apollo::Apollo<apollo::RandomProjection<Sketch>> single(shape, options, name);
          run(Kind{}, single, worst);
          apollo::Apollo<double, apollo::RandomProjection<Sketch>> twice(shape, options, name);
          run(Double{}, twice, exact);
        }
      }
  check_worst(worst, 2e-6, 1e-5, 1e-4);
  check_worst(exact, 1e-7, 1e-6, 1e-6);
}

TEST_CASE_TEMPLATE("APOLLO-Mini and GaLore's lift with a random projection", T, float, double) {
  using Kind = Types<T, T>;
  Worst mini, lifted;
  for (const Shape shape : {Shape{12, 7}, {7, 12}, {130, 70}})
    for (const Layouts layout : layouts) {
      const bool keeps_rows = shape.rows >= shape.cols;
      const Index removed = keeps_rows ? shape.cols : shape.rows;
      Hyper h;
      h.scale = 128, h.limiter = true, h.lr = 0x1p-9;
      support::ScaledOracle oracle{h, false, keeps_rows};
      apollo::ApolloMini<T> optimizer(shape, {.lr = h.lr, .update_proj_gap = 5, .seed = 3}, "m");
      Matrix p;
      mini.add(follow<Kind>(optimizer, shape, layout, Course::eventful, 30,
                            [&](Matrix& w, const Matrix& g, int t) {
                              if ((t - 1) % 5 == 0)
                                p = drawn_directions<apollo::Gaussian>(3, "m", static_cast<std::uint64_t>(t - 1) / 5, 1,
                                                                       removed);
                              oracle.step(w, g, &p);
                            }),
               describe(shape, layout, "mini"));
      Hyper l;
      l.scale = 0.25;
      support::GaLoreOracle lift{l, keeps_rows};
      apollo::GaLore<T, apollo::RandomProjection<>> other(
          shape, {.lr = l.lr, .rank = 3, .update_proj_gap = 7, .seed = 9}, "g");
      lifted.add(follow<Kind>(other, shape, layout, Course::steady, 30,
                              [&](Matrix& w, const Matrix& g, int t) {
                                if ((t - 1) % 7 == 0)
                                  p = drawn_directions<apollo::Gaussian>(9, "g", static_cast<std::uint64_t>(t - 1) / 7,
                                                                         3, removed);
                                lift.step(w, g, p);
                              }),
                 describe(shape, layout, "lift"));
    }
  check_worst(mini, 2e-6, 1e-5, 1e-5);
  check_worst(lifted, std::fmax(Tolerance<T>::first, 1e-6), 1e-5, 1e-5);
}

TEST_CASE("shapes of several tiles, on either side") {
  using Kind = Types<float, float>;
  Worst worst;
  for (const Shape shape : {Shape{700, 130}, {130, 700}, {5000, 9}, {9, 5000}})
    for (const Layouts layout : {layouts[0], layouts[1], layouts[2], layouts[5]})
      for (const ProjType type : {ProjType::std, ProjType::reverse_std}) {
        const bool keeps_rows = support::removes_columns(shape.rows, shape.cols, type);
        const Index removed = keeps_rows ? shape.cols : shape.rows;
        Hyper h;
        h.limiter = true, h.weight_decay = 0.125;
        const Matrix p = support::rounded<float>(fixed_directions<float>(5, removed));
        support::ScaledOracle oracle{h, true, keeps_rows};
        apollo::Apollo<apollo::FixedProjection> optimizer(
            shape, {.lr = h.lr, .rank = 5, .proj_type = type, .weight_decay = h.weight_decay});
        set_directions<float>(optimizer, p, Layout::row_major);
        worst.add(follow<Kind>(
                      optimizer, shape, layout, Course::steady, 2,
                      [&](Matrix& w, const Matrix& g, int) { oracle.step(w, g, &p); },
                      [&](const apollo::TensorReport& r) { return off(r.update_norm, oracle.update_norm); }),
                  describe(shape, layout, "apollo"));
        support::GaLoreOracle lift{h, keeps_rows};
        apollo::GaLore<apollo::FixedProjection> other(
            shape, {.lr = h.lr, .rank = 5, .scale = 1, .proj_type = type, .weight_decay = h.weight_decay});
        set_directions<float>(other, p, Layout::row_major);
        worst.add(follow<Kind>(other, shape, layout, Course::steady, 2,
                               [&](Matrix& w, const Matrix& g, int) { lift.step(w, g, p); }),
                  describe(shape, layout, "galore"));
        Hyper a;
        support::AdamWOracle adam{a};
        apollo::AdamW<> dense(shape, {.lr = a.lr, .order = Order::huggingface});
        worst.add(follow<Kind>(dense, shape, layout, Course::steady, 2,
                               [&](Matrix& w, const Matrix& g, int) { adam.step(w, g); }),
                  describe(shape, layout, "adamw"));
      }
  check_worst(worst, 2e-6, 2e-6, 2e-5);
}

TEST_CASE_TEMPLATE("the layout of a weight changes no bit of its steps", T, float, double) {
  const auto run = [](auto make, Shape shape, Layout weight_layout, Layout gradient_layout) {
    const Matrix start = support::uniform_matrix(shape.rows, shape.cols, 78);
    Tensor<T> w(start, weight_layout);
    Tensor<T> g(start, gradient_layout);
    auto optimizer = make(w.view);
    for (int step = 1; step <= 12; ++step) {
      g.set(gradient_at<T>(shape, Course::eventful, step + 3));
      CHECK(optimizer.step(w.view, g.view).stepped);
    }
    return w.get();
  };
  const auto compare = [&](auto make) {
    for (const Shape shape : {Shape{12, 7}, {7, 12}, {9, 9}, {130, 70}}) {
      const Matrix expected = run(make, shape, Layout::row_major, Layout::row_major);
      for (const Layout layout : support::all_layouts) {
        CAPTURE(static_cast<int>(layout));
        CAPTURE(shape.rows);
        CHECK(run(make, shape, layout, Layout::row_major).values == expected.values);
        CHECK(run(make, shape, Layout::row_major, layout).values == expected.values);
        CHECK(run(make, shape, layout, layout).values == expected.values);
      }
    }
  };
  SUBCASE("AdamW") {
    compare([](const auto& w) { return apollo::AdamW<T>(w); });
  }
  SUBCASE("SGD") {
    compare([](const auto& w) { return apollo::Sgd<T>(w, {.weight_decay = 0.1}); });
  }
  SUBCASE("SGD with momentum") {
    compare([](const auto& w) { return apollo::SgdMomentum<T>(w); });
  }
  SUBCASE("APOLLO") {
    compare([](const auto& w) { return apollo::Apollo<T>(w, {.rank = 4, .update_proj_gap = 5}); });
  }
  SUBCASE("APOLLO-Mini") {
    compare([](const auto& w) { return apollo::ApolloMini<T>(w, {.update_proj_gap = 5}); });
  }
  SUBCASE("GaLore") {
    compare([](const auto& w) { return apollo::GaLore<T>(w, {.rank = 3, .update_proj_gap = 5}); });
  }
  SUBCASE("structured AdamW") {
    compare([](const auto& w) {
      return apollo::StructuredOptimizer<T, apollo::ChannelScaling, apollo::AdamMoments<>, apollo::NormGrowthLimiter>(
          w);
    });
  }
}

TEST_CASE("moments of bfloat16 follow those of float") {
  // Each stored value is within a unit in the last place (1/128); the update's norm is an average over all of them.
  const Shape shape{64, 40};
  const auto run = [&](auto& optimizer) {
    const Matrix start = support::uniform_matrix(shape.rows, shape.cols, 78);
    Tensor<float> w(start, Layout::row_major);
    Tensor<float> g(start, Layout::row_major);
    for (int step = 1; step <= 30; ++step) {
      g.set(gradient_at<float>(shape, Course::steady, step));
      CHECK(optimizer.step(w.view, g.view).stepped);
    }
    return support::difference(w.get(), start);
  };
  const auto compare = [](const Matrix& narrow, const Matrix& wide) {
    const double error = support::norm(support::difference(narrow, wide)) / support::norm(wide);
    CHECK(error <= 0.02);
    CHECK(error >= 1e-5);
  };
  using Brain = apollo::AdamMoments<apollo::bfloat16>;
  {
    apollo::AdamW<Brain> narrow(shape, {.lr = 0.01});
    apollo::AdamW<> wide(shape, {.lr = 0.01});
    compare(run(narrow), run(wide));
    CHECK(2 * narrow.state_bytes() == wide.state_bytes());
  }
  {
    apollo::Apollo<Brain> narrow(shape, {.rank = 8});
    apollo::Apollo<> wide(shape, {.rank = 8});
    compare(run(narrow), run(wide));
    CHECK(2 * narrow.state_bytes() == wide.state_bytes());
  }
  {
    apollo::SgdMomentum<apollo::MomentumMoments<apollo::bfloat16>> narrow(shape, {.lr = 0.01});
    apollo::SgdMomentum<> wide(shape, {.lr = 0.01});
    compare(run(narrow), run(wide));
    CHECK(2 * narrow.state_bytes() == wide.state_bytes());
  }
}

TEST_CASE("a gradient's scale multiplies it before anything else") {
  const Shape shape{12, 7};
  const auto run = [&](auto&& optimizer, double size, double factor) {
    const Matrix start = support::uniform_matrix(shape.rows, shape.cols, 78);
    Tensor<float> w(start, Layout::row_major);
    Tensor<float> g(start, Layout::row_major);
    optimizer.set_gradient_scale(factor);
    double length = 0;
    for (int step = 1; step <= 10; ++step) {
      g.set(support::scaled(gradient_at<float>(shape, Course::eventful, step + 3), size));
      length = optimizer.step(w.view, g.view).gradient_norm;
    }
    Matrix all = w.get();
    all.values.push_back(length);
    all.rows = 1, all.cols = static_cast<Index>(all.values.size());
    return all;
  };
  const auto compare = [&](auto make) {
    CHECK(support::relative_error(run(make(), 1024, 0x1p-10), run(make(), 1, 1)) <= 2e-6);
    CHECK(support::relative_error(run(make(), 1, 1024), run(make(), 1024, 1)) <= 2e-6);
  };
  compare([&] { return apollo::AdamW<>(shape, {.lr = 0.01}); });
  compare([&] { return apollo::Sgd<>(shape, {.lr = 1e-5, .weight_decay = 0.1}); });
  compare([&] { return apollo::Sgd<>(shape, {.lr = 1e-5, .weight_decay = 0.1, .decay = apollo::Decay::coupled}); });
  compare(
      [&] { return apollo::SgdMomentum<>(shape, {.lr = 1e-5, .weight_decay = 0.1, .decay = apollo::Decay::coupled}); });
  compare([&] { return apollo::Apollo<>(shape, {.rank = 4}); });
  compare([&] { return apollo::ApolloMini<>(shape); });
  compare([&] { return apollo::GaLore<>(shape, {.rank = 3, .svd = apollo::SvdMethod::exact}); });
}

TEST_CASE("the learning rate is that of the step, and zero leaves the weight alone while moments go on") {
  const Shape shape{12, 7};
  const Matrix start = support::uniform_matrix(shape.rows, shape.cols, 78);
  Hyper h;
  support::AdamWOracle oracle{h};
  apollo::AdamW<double> optimizer(shape, {.lr = 1, .order = Order::huggingface});
  Tensor<double> w(start, Layout::row_major), g(start, Layout::row_major);
  Matrix expected = start;
  for (int step = 1; step <= 12; ++step) {
    oracle.h.lr = step % 3 == 0 ? 0 : 0.01 * step;
    optimizer.set_lr(oracle.h.lr);
    CHECK(optimizer.lr() == oracle.h.lr);
    const Matrix before = w.get(), gradient = gradient_at<double>(shape, Course::steady, step);
    g.set(gradient);
    oracle.step(expected, gradient);
    CHECK(optimizer.step(w.view, g.view).stepped);
    if (step % 3 == 0) CHECK(w.get().values == before.values);
    CHECK(support::relative_error(w.get(), expected) <= 1e-12);
    CHECK(optimizer.steps() == step);
  }
}

TEST_CASE("a step that cannot be taken says why and changes nothing") {
  const Shape shape{6, 5};
  const Matrix start = support::uniform_matrix(6, 5, 78);
  Tensor<float> w(start, Layout::row_major), g(start, Layout::row_major);
  const Tensor<float> turned(support::transposed(start), Layout::row_major);
  apollo::Apollo<> optimizer(shape, {.rank = 3}, "w");
  CHECK(optimizer.step(w.view, g.view).stepped);
  const auto weights = w.memory;
  const auto state = support::state_of(optimizer).bytes;
  const auto refused = [&](const apollo::TensorReport& report, apollo::Skip reason) {
    CHECK_FALSE(report.stepped);
    CHECK(report.reason == reason);
    CHECK(report.name == "w");
    CHECK(w.same_bits(weights));
    CHECK(support::state_of(optimizer).bytes == state);
    CHECK(optimizer.steps() == 1);
  };
  refused(optimizer.step(w.view, turned.view), apollo::Skip::wrong_shape);
  refused(optimizer.step(w.view, g.view.middle_rows(0, 5)), apollo::Skip::wrong_shape);
  refused(optimizer.step(w.view.transposed(), turned.view), apollo::Skip::wrong_shape);
  refused(optimizer.step(w.view, w.view), apollo::Skip::overlap);
  refused(optimizer.step(w.view, apollo::MatrixView<float>(nullptr, 6, 5, 5, 1)), apollo::Skip::null_data);
  refused(optimizer.step(apollo::MatrixView<float>(nullptr, 6, 5, 5, 1), g.view), apollo::Skip::null_data);
  refused(optimizer.step(apollo::strided(w.memory.data(), 6, 5, 1, 1), g.view), apollo::Skip::overlap);
  CHECK(optimizer.step(w.view, g.view).stepped);
  CHECK(optimizer.steps() == 2);

  apollo::Apollo<apollo::FixedProjection> fixed(shape, {.rank = 3}, "w");
  const auto before = w.memory;
  const apollo::TensorReport report = fixed.step(w.view, g.view);
  CHECK(report.reason == apollo::Skip::no_projection);
  CHECK_FALSE(report.stepped);
  CHECK(w.same_bits(before));
  CHECK(fixed.steps() == 0);
}

TEST_CASE("a weight and a gradient interleaved in one buffer are stepped") {
  const Shape shape{6, 5};
  const Matrix start = support::uniform_matrix(6, 5, 78), gradient = gradient_at<float>(shape, Course::steady, 1);
  std::vector<float> memory(60);
  const auto w = apollo::strided(memory.data(), 6, 5, 10, 2), g = apollo::strided(memory.data() + 1, 6, 5, 10, 2);
  Tensor<float> other(start, Layout::row_major), other_gradient(gradient, Layout::row_major);
  for (Index i = 0; i < 6; ++i)
    for (Index j = 0; j < 5; ++j)
      w(i, j) = static_cast<float>(start(i, j)), g(i, j) = static_cast<float>(gradient(i, j));
  apollo::Apollo<> one(shape, {.rank = 3}), two(shape, {.rank = 3});
  CHECK(one.step(w, g).stepped);
  CHECK(two.step(other.view, other_gradient.view).stepped);
  int wrong = 0;
  for (Index i = 0; i < 6; ++i)
    for (Index j = 0; j < 5; ++j) {
      wrong += !(w(i, j) == other.view(i, j));
      wrong += !(g(i, j) == other_gradient.view(i, j));
    }
  CHECK(wrong == 0);
}

TEST_CASE("policies may be listed in any order and the first of a kind wins") {
  using namespace apollo;
  using A = StructuredOptimizer<RandomProjection<SparseSign>, ChannelScaling, AdamMoments<bfloat16>, double>;
  using B = StructuredOptimizer<double, AdamMoments<bfloat16>, RandomProjection<SparseSign>, ChannelScaling>;
  static_assert(std::is_same_v<A, B>);
  static_assert(std::is_same_v<Apollo<FixedProjection>::Policies::Projection, FixedProjection>);
  static_assert(std::is_same_v<Apollo<>::Policies::Projection, RandomProjection<SparseSign>>);
  static_assert(std::is_same_v<Apollo<double>::Scalar, double>);
  static_assert(std::is_same_v<Apollo<>::Scalar, float>);
  static_assert(std::is_same_v<Apollo<NoLimiter>::Policies::Limiter, NoLimiter>);
  CHECK(true);
}
