// SPDX-License-Identifier: Apache-2.0
// The algorithms once more, in plain double arithmetic, written from their equations and without a look at the library's loops.
#pragma once

#include <cmath>
#include <cstdint>

#include <apollo/core.hpp>

#include "support.hpp"

namespace support {

/// Hyper-parameters of all of them.
struct Hyper {
  double lr = 0x1p-6;
  double momentum = 0.9;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-6;
  double weight_decay = 0;
  bool torch_order = false;
  bool coupled = false;  ///< SGD's decay is added to the gradient
  double scale = 1;      ///< under a root for structured updates, GaLore's alpha as it is
  bool limiter = false;
  double gamma = 1.01;
  double floor = 0.5;
};

/// sqrt(1 - beta2^t) / (1 - beta1^t)
inline double bias_correction(const Hyper& h, std::int64_t t) {
  const auto n = static_cast<double>(t);
  return std::sqrt(1 - std::pow(h.beta2, n)) / (1 - std::pow(h.beta1, n));
}

/// W after W <- W - step with the decay before or behind it.
inline void apply(const Hyper& h, Matrix& w, const Matrix& step) {
  const double keep = 1 - h.lr * h.weight_decay;
  for (std::size_t i = 0; i < w.values.size(); ++i) {
    if (h.torch_order)
      w.values[i] = keep * w.values[i] - step.values[i];
    else
      w.values[i] = keep * (w.values[i] - step.values[i]);
  }
}

struct AdamWOracle {
  Hyper h;
  Matrix m = {}, v = {};
  std::int64_t t = 0;

  void step(Matrix& w, const Matrix& g) {
    if (t == 0) m = v = Matrix(g.rows, g.cols);
    ++t;
    const auto n = static_cast<double>(t);
    Matrix update(g.rows, g.cols);
    for (std::size_t i = 0; i < g.values.size(); ++i) {
      const double x = g.values[i];
      m.values[i] = h.beta1 * m.values[i] + (1 - h.beta1) * x;
      v.values[i] = h.beta2 * v.values[i] + (1 - h.beta2) * x * x;
      if (h.torch_order) {
        const double mhat = m.values[i] / (1 - std::pow(h.beta1, n));
        const double vhat = v.values[i] / (1 - std::pow(h.beta2, n));
        update.values[i] = h.lr * mhat / (std::sqrt(vhat) + h.eps);
      } else {
        update.values[i] = h.lr * bias_correction(h, t) * m.values[i] / (std::sqrt(v.values[i]) + h.eps);
      }
    }
    apply(h, w, update);
  }
};

/// Momentum 0 is SGD without memory.
struct SgdOracle {
  Hyper h;
  Matrix m = {};

  void step(Matrix& w, const Matrix& g) {
    if (m.values.empty()) m = Matrix(g.rows, g.cols);
    for (std::size_t i = 0; i < g.values.size(); ++i) {
      const double x = g.values[i] + (h.coupled ? h.weight_decay * w.values[i] : 0);
      m.values[i] = h.momentum * m.values[i] + x;
      const double keep = h.coupled ? 1 : 1 - h.lr * h.weight_decay;
      w.values[i] = keep * w.values[i] - h.lr * m.values[i];
    }
  }
};

/// Fira's norm-growth limiter with APOLLO's memory and our floor.
struct LimiterOracle {
  double previous = -1;  ///< nothing remembered yet

  /// What a norm is divided by.
  double divisor(const Hyper& h, double length) {
    if (!h.limiter) return 1;
    const bool published = h.floor <= 0;
    if (!published && length <= 0) return 1;
    double l = 1;
    if (published ? previous >= 0 : previous > 0) {
      l = length / (previous + 1e-8);
      l = (l > h.gamma ? l : h.gamma) / h.gamma;
    }
    const double least = previous > 0 ? h.floor * previous : 0;
    previous = length / l > least ? length / l : least;
    return l;
  }
};

/// Adam's moments of R = X P^T, or of X where nothing is projected.
struct ProjectedMoments {
  Matrix m, v;
  std::int64_t clock = 0;

  void update(const Hyper& h, const Matrix& r, Matrix& n) {
    if (m.values.empty()) m = v = Matrix(r.rows, r.cols);
    ++clock;
    n = Matrix(r.rows, r.cols);
    for (std::size_t i = 0; i < r.values.size(); ++i) {
      m.values[i] = h.beta1 * m.values[i] + (1 - h.beta1) * r.values[i];
      v.values[i] = h.beta2 * v.values[i] + (1 - h.beta2) * r.values[i] * r.values[i];
      n.values[i] = m.values[i] / (std::sqrt(v.values[i]) + h.eps);
    }
  }

  void refresh(apollo::OnRefresh how, const Matrix& old_p, const Matrix& new_p) {
    if (how == apollo::OnRefresh::keep || m.values.empty()) return;
    if (how == apollo::OnRefresh::reset) {
      m = v = Matrix(m.rows, m.cols);
      clock = 0;
      return;
    }
    Matrix q = product(new_p, transposed(old_p));
    m = product(m, transposed(q));
    for (double& x : q.values) x *= x;
    v = product(v, transposed(q));
  }
};

/// APOLLO (per channel), APOLLO-Mini (one scale for the tensor) and structured AdamW (p == nullptr).
struct ScaledOracle {
  Hyper h;
  bool per_channel = true;
  bool keeps_rows = true;
  ProjectedMoments moments = {};
  LimiterOracle limiter = {};
  double update_norm = 0, divisor = 1;

  void step(Matrix& w, const Matrix& g, const Matrix* p) {
    const Matrix x = keeps_rows ? g : transposed(g);
    const Matrix r = p == nullptr ? x : product(x, transposed(*p));
    Matrix n;
    moments.update(h, r, n);
    Matrix u = x;
    for (Index j = 0; j < x.rows; ++j) {
      const double s = per_channel ? row_norm(n, j) / (row_norm(r, j) + 1e-8) : norm(n) / (norm(r) + 1e-8);
      for (Index k = 0; k < x.cols; ++k) u(j, k) *= s;
    }
    divisor = limiter.divisor(h, norm(u));
    update_norm = norm(u) / divisor;
    u = scaled(u, h.lr * bias_correction(h, moments.clock) * std::sqrt(h.scale) / divisor);
    apply(h, w, keeps_rows ? u : transposed(u));
  }
};

struct GaLoreOracle {
  Hyper h;
  bool keeps_rows = true;
  ProjectedMoments moments = {};

  void step(Matrix& w, const Matrix& g, const Matrix& p) {
    const Matrix x = keeps_rows ? g : transposed(g);
    Matrix n;
    moments.update(h, product(x, transposed(p)), n);
    const Matrix u = scaled(product(n, p), h.lr * bias_correction(h, moments.clock) * h.scale);
    apply(h, w, keeps_rows ? u : transposed(u));
  }
};

/// True if the projection removes columns, so that rows are kept.
inline bool removes_columns(Index rows, Index cols, apollo::ProjType type) {
  if (type == apollo::ProjType::right) return true;
  if (type == apollo::ProjType::left) return false;
  if (rows == cols) return type == apollo::ProjType::std;
  return type == apollo::ProjType::std ? cols < rows : cols > rows;
}

inline constexpr apollo::ProjType all_proj_types[] = {apollo::ProjType::std, apollo::ProjType::reverse_std,
                                                      apollo::ProjType::right, apollo::ProjType::left};

}  // namespace support
