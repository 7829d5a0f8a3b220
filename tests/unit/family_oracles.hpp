// SPDX-License-Identifier: Apache-2.0
// More of the family in plain double arithmetic: Fira, Flora, Adam-mini, GaLore with Adafactor, SCALE and the sketches.
// Written from the papers' equations, without a look at the library's loops. X is L x S, P is r x S, R = X P^T.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <apollo/core.hpp>

#include "oracles.hpp"
#include "support.hpp"

namespace support {

/// Fira (arXiv:2410.01623, norm-based scaling and norm-growth limiter), with N as in GaLore:
///   phi_j = |N_j| / (|R_j| + 1e-8),  E = phi o (X - R P),  W <- W - eta c_t (alpha N P + E / l)
/// l is the limiter's divisor for |E|: the term alpha N P is never limited. alpha is h.scale, not under a root.
/// The published code takes E = phi o (X - alpha R P); for alpha = 1 the two are one.
struct FiraOracle {
  Hyper h;
  bool keeps_rows = true;
  bool published_residual = false;
  ProjectedMoments moments = {};
  LimiterOracle limiter = {};
  double residual_norm = 0;  ///< |E / l|
  double divisor = 1;        ///< l

  void step(Matrix& w, const Matrix& g, const Matrix& p) {
    const Matrix x = keeps_rows ? g : transposed(g);
    const Matrix r = product(x, transposed(p));
    Matrix n;
    moments.update(h, r, n);
    Matrix e = difference(x, scaled(product(r, p), published_residual ? h.scale : 1));
    for (Index j = 0; j < x.rows; ++j) {
      const double phi = row_norm(n, j) / (row_norm(r, j) + 1e-8);
      for (Index k = 0; k < x.cols; ++k) e(j, k) *= phi;
    }
    divisor = limiter.divisor(h, norm(e));
    residual_norm = norm(e) / divisor;
    Matrix u = scaled(product(n, p), h.scale);
    for (std::size_t i = 0; i < u.values.size(); ++i) u.values[i] += e.values[i] / divisor;
    u = scaled(u, h.lr * bias_correction(h, moments.clock));
    apply(h, w, keeps_rows ? u : transposed(u));
  }

  /// The limiter's memory is a norm and stays, whatever happens to the moments.
  void refresh(apollo::OnRefresh how, const Matrix& old_p, const Matrix& new_p) { moments.refresh(how, old_p, new_p); }
};

/// Flora's momentum (arXiv:2402.03293, algorithm 2) with compressed accumulation (algorithm 1, but a sum):
///   R = sum over micro-batches of X P^T,  M <- b1 M + (1 - b1) R,  W <- W - eta sqrt(scale) M P
/// No second moment and no bias correction. At a refresh, before the step: M <- M P_old P_new^T.
/// One P serves all micro-batches of a step.
struct FloraOracle {
  Hyper h;
  bool keeps_rows = true;
  Matrix m = {};
  Matrix sum = {};  ///< of the micro-batches' R since the last step

  void accumulate(const Matrix& g, const Matrix& p) {
    const Matrix r = product(keeps_rows ? g : transposed(g), transposed(p));
    if (sum.values.empty()) sum = Matrix(r.rows, r.cols);
    for (std::size_t i = 0; i < r.values.size(); ++i) sum.values[i] += r.values[i];
  }

  void step_accumulated(Matrix& w, const Matrix& p) {
    if (m.values.empty()) m = Matrix(sum.rows, sum.cols);
    for (std::size_t i = 0; i < m.values.size(); ++i)
      m.values[i] = h.beta1 * m.values[i] + (1 - h.beta1) * sum.values[i];
    sum = Matrix();
    const Matrix u = scaled(product(m, p), h.lr * std::sqrt(h.scale));
    apply(h, w, keeps_rows ? u : transposed(u));
  }

  void step(Matrix& w, const Matrix& g, const Matrix& p) {
    accumulate(g, p);
    step_accumulated(w, p);
  }

  void refresh(const Matrix& old_p, const Matrix& new_p) {
    if (!m.values.empty()) m = product(product(m, old_p), transposed(new_p));
  }
};

/// Adafactor's decay of the second moments (arXiv:1804.04235, section 7.2): 0 at t = 1, so nothing is left to correct.
inline double adafactor_decay(std::int64_t t) { return 1 - std::pow(static_cast<double>(t), -0.8); }

/// Flora on top of Adafactor's factored second moment (arXiv:2402.03293; arXiv:1804.04235, sections 3 and 7.2):
///   d = 1 - t^-.8
///   a_j <- d a_j + (1 - d) mean over k of (X_jk^2 + 1e-30)     (rows of X, the kept side)
///   b_k <- d b_k + (1 - d) mean over j of (X_jk^2 + 1e-30)     (columns of X, the removed side)
///   D_L = diag( (a_j / mean a)^-1/2 ),  D_S = diag( b_k^-1/2 ),  Y = D_L X D_S
///   R = Y P^T = D_L X (P D_S)^T,  M <- b1 M + (1 - b1) R,  W <- W - eta sqrt(scale) M P
/// Dividing by the overall mean is Adafactor's normalisation: a_j b_k / mean a is the estimate of X_jk^2. As mean a =
/// mean b, either side may carry it. M lives in P's coordinates: it is lifted by P alone, without D_S, and rotates as
/// in FloraOracle. No update clipping, no relative step, no bias correction.
struct FloraFactoredOracle {
  Hyper h;
  bool keeps_rows = true;
  Matrix a = {};  ///< L x 1
  Matrix b = {};  ///< S x 1
  Matrix m = {};  ///< L x r
  std::int64_t t = 0;

  void step(Matrix& w, const Matrix& g, const Matrix& p) {
    const Matrix x = keeps_rows ? g : transposed(g);
    const auto kept = static_cast<double>(x.rows), removed = static_cast<double>(x.cols);
    if (t == 0) {
      a = Matrix(x.rows, 1);
      b = Matrix(x.cols, 1);
      m = Matrix(x.rows, p.rows);
    }
    ++t;
    const double d = adafactor_decay(t);
    a = scaled(a, d);
    b = scaled(b, d);
    for (Index j = 0; j < x.rows; ++j)
      for (Index k = 0; k < x.cols; ++k) {
        const double square = x(j, k) * x(j, k) + 1e-30;
        a(j, 0) += (1 - d) * square / removed;
        b(k, 0) += (1 - d) * square / kept;
      }
    double mean = 0;
    for (Index j = 0; j < x.rows; ++j) mean += a(j, 0) / kept;
    Matrix y = x;
    for (Index j = 0; j < x.rows; ++j)
      for (Index k = 0; k < x.cols; ++k) y(j, k) = x(j, k) / std::sqrt(a(j, 0) / mean) / std::sqrt(b(k, 0));
    const Matrix r = product(y, transposed(p));
    for (std::size_t i = 0; i < m.values.size(); ++i) m.values[i] = h.beta1 * m.values[i] + (1 - h.beta1) * r.values[i];
    const Matrix u = scaled(product(m, p), h.lr * std::sqrt(h.scale));
    apply(h, w, keeps_rows ? u : transposed(u));
  }

  void refresh(const Matrix& old_p, const Matrix& new_p) {
    if (t > 0) m = product(product(m, old_p), transposed(new_p));
  }
};

/// A rectangle of indices.
struct Block {
  Index row = 0, rows = 0, col = 0, cols = 0;
};

/// Blocks of `rows_each` whole rows: 1 is one block per row, the head dimension one per head, `rows` the whole tensor.
inline std::vector<Block> row_blocks(Index rows, Index cols, Index rows_each) {
  std::vector<Block> blocks;
  for (Index i = 0; i < rows; i += rows_each) blocks.push_back({i, std::min(rows_each, rows - i), 0, cols});
  return blocks;
}

/// True if every element of the matrix lies in exactly one of the blocks.
inline bool tiles(const std::vector<Block>& blocks, Index rows, Index cols) {
  Matrix hits(rows, cols);
  for (const Block& b : blocks) {
    if (b.row < 0 || b.col < 0 || b.row + b.rows > rows || b.col + b.cols > cols) return false;
    for (Index i = b.row; i < b.row + b.rows; ++i)
      for (Index j = b.col; j < b.col + b.cols; ++j) hits(i, j) += 1;
  }
  return std::all_of(hits.values.begin(), hits.values.end(), [](double n) { return n > 0.5 && n < 1.5; });
}

/// Adam-mini (arXiv:2406.16793, algorithm 1), one second moment per block B, always in torch order:
///   W *= 1 - eta lambda,  M <- b1 M + (1 - b1) G,  v_B <- b2 v_B + (1 - b2) mean of G^2 over B
///   W_B <- W_B - eta (M_B / (1 - b1^t)) / (sqrt(v_B / (1 - b2^t)) + eps)
/// The blocks must tile the matrix.
struct AdamMiniOracle {
  Hyper h;
  std::vector<Block> blocks = {};
  Matrix m = {};
  std::vector<double> v = {};
  std::int64_t t = 0;

  void step(Matrix& w, const Matrix& g) {
    if (t == 0) {
      m = Matrix(g.rows, g.cols);
      v.assign(blocks.size(), 0.0);
    }
    ++t;
    const auto time = static_cast<double>(t);
    const double keep = 1 - h.lr * h.weight_decay;
    for (std::size_t k = 0; k < blocks.size(); ++k) {
      const Block& b = blocks[k];
      double sum = 0;
      for (Index i = b.row; i < b.row + b.rows; ++i)
        for (Index j = b.col; j < b.col + b.cols; ++j) sum += g(i, j) * g(i, j);
      v[k] = h.beta2 * v[k] + (1 - h.beta2) * sum / static_cast<double>(b.rows * b.cols);
      const double vhat = v[k] / (1 - std::pow(h.beta2, time));
      for (Index i = b.row; i < b.row + b.rows; ++i)
        for (Index j = b.col; j < b.col + b.cols; ++j) {
          m(i, j) = h.beta1 * m(i, j) + (1 - h.beta1) * g(i, j);
          const double mhat = m(i, j) / (1 - std::pow(h.beta1, time));
          w(i, j) = keep * w(i, j) - h.lr * mhat / (std::sqrt(vhat) + h.eps);
        }
    }
  }
};

/// GaLore with Adafactor's second moment (arXiv:2403.03507; arXiv:1804.04235, section 3 for the factors, section 6 for
/// the clipping, section 7.2 for the decay):
///   d = 1 - t^-.8
///   a_j <- d a_j + (1 - d) mean over i of (R_ji^2 + 1e-30),  b_i <- d b_i + (1 - d) mean over j of (R_ji^2 + 1e-30)
///   u = R / sqrt(a_j b_i / mean a),  u <- u / max(1, rms(u)),  W <- W - eta alpha u P,  then decay
/// A fixed learning rate and no first moment; alpha is h.scale. The decay follows `h.torch_order`; false is this one.
struct GaLoreAdafactorOracle {
  Hyper h;
  bool keeps_rows = true;
  Matrix a = {};  ///< L x 1
  Matrix b = {};  ///< r x 1
  std::int64_t t = 0;

  void step(Matrix& w, const Matrix& g, const Matrix& p) {
    const Matrix r = product(keeps_rows ? g : transposed(g), transposed(p));
    const auto channels = static_cast<double>(r.rows), rank = static_cast<double>(r.cols);
    if (t == 0) {
      a = Matrix(r.rows, 1);
      b = Matrix(r.cols, 1);
    }
    ++t;
    const double d = adafactor_decay(t);
    for (Index j = 0; j < r.rows; ++j) {
      double row = 0;
      for (Index i = 0; i < r.cols; ++i) row += (r(j, i) * r(j, i) + 1e-30) / rank;
      a(j, 0) = d * a(j, 0) + (1 - d) * row;
    }
    for (Index i = 0; i < r.cols; ++i) {
      double column = 0;
      for (Index j = 0; j < r.rows; ++j) column += (r(j, i) * r(j, i) + 1e-30) / channels;
      b(i, 0) = d * b(i, 0) + (1 - d) * column;
    }
    double mean = 0;
    for (const double x : a.values) mean += x / channels;
    Matrix u = r;
    for (Index j = 0; j < r.rows; ++j)
      for (Index i = 0; i < r.cols; ++i) u(j, i) /= std::sqrt(a(j, 0) * (b(i, 0) / mean));
    const double rms = norm(u) / std::sqrt(channels * rank);
    u = scaled(product(u, p), h.lr * h.scale / std::max(1.0, rms));
    apply(h, w, keeps_rows ? u : transposed(u));
  }

  /// The rules of ProjectedMoments for V = a b^T / mean a: with Q = P_new P_old^T, V (Q o Q)^T keeps a and turns b.
  void refresh(apollo::OnRefresh how, const Matrix& old_p, const Matrix& new_p) {
    if (how == apollo::OnRefresh::keep || t == 0) return;
    if (how == apollo::OnRefresh::reset) {
      a = Matrix(a.rows, 1);
      b = Matrix(b.rows, 1);
      t = 0;
      return;
    }
    Matrix q = product(new_p, transposed(old_p));
    for (double& x : q.values) x *= x;
    b = product(q, b);
  }
};

/// SCALE (arXiv:2506.16659, algorithm 1), with Z = G, or for the output head the EMA Z = M:
///   M <- b1 M + (1 - b1) G,  W_j <- W_j - eta sqrt(scale) Z_j / (|Z_j| + 1e-8)
/// j runs over the columns of the paper's layout, d_in x d_out: one channel per output. A torch weight is stored
/// d_out x d_in, so its channels are rows: `keeps_rows`. A zero column gives no update. No bias correction, which
/// normalising would cancel. The published code divides by the column's rms instead: that is scale = d_in.
struct ScaleOracle {
  Hyper h;
  bool momentum = false;    ///< the output head
  bool keeps_rows = false;  ///< the channels are rows
  Matrix m = {};

  void step(Matrix& w, const Matrix& g) {
    if (m.values.empty()) m = Matrix(g.rows, g.cols);
    for (std::size_t i = 0; i < g.values.size(); ++i)
      m.values[i] = momentum ? h.beta1 * m.values[i] + (1 - h.beta1) * g.values[i] : g.values[i];
    Matrix u = keeps_rows ? m : transposed(m);
    for (Index j = 0; j < u.rows; ++j) {
      const double s = 1 / (row_norm(u, j) + 1e-8);
      for (Index k = 0; k < u.cols; ++k) u(j, k) *= s;
    }
    u = scaled(u, h.lr * std::sqrt(h.scale));
    apply(h, w, keeps_rows ? u : transposed(u));
  }
};

// --- sketches: P from explicit random choices

/// Sparse sign, r x S: input s goes to the k distinct buckets[s], with P(bucket, s) = sign / sqrt(k). Every column has
/// norm 1, and with independent signs E|P x|^2 = |x|^2.
inline Matrix sparse_sign_sketch(Index r, const std::vector<std::vector<Index>>& buckets,
                                 const std::vector<std::vector<double>>& signs) {
  Matrix p(r, static_cast<Index>(buckets.size()));
  for (std::size_t s = 0; s < buckets.size(); ++s)
    for (std::size_t i = 0; i < buckets[s].size(); ++i)
      p(buckets[s][i], static_cast<Index>(s)) = signs[s][i] / std::sqrt(static_cast<double>(buckets[s].size()));
  return p;
}

/// The least power of two that is not below `size`.
inline Index next_power_of_two(Index size) {
  Index n = 1;
  while (n < size) n *= 2;
  return n;
}

/// Subsampled randomised Hadamard transform, r x S (arXiv:1011.1595):
///   P = sqrt(N / r) * rows `sample` of H * (the S inputs, each times its sign, then N - S zeros)
/// H(i, s) = (-1)^popcount(i and s) / sqrt(N), natural order, N the next power of two. With a uniform sample of H's N
/// rows E|P x|^2 = |x|^2; it is N and not S that stands under the root, and every element is +-1 / sqrt(r).
/// P P^T = (S / r) I for distinct rows if S = N.
inline Matrix srht_sketch(const std::vector<Index>& sample, const std::vector<double>& signs) {
  const auto r = static_cast<Index>(sample.size()), inputs = static_cast<Index>(signs.size());
  const auto n = static_cast<double>(next_power_of_two(inputs));
  Matrix p(r, inputs);
  for (Index i = 0; i < r; ++i)
    for (Index s = 0; s < inputs; ++s) {
      double hadamard = 1 / std::sqrt(n);
      for (Index bits = sample[static_cast<std::size_t>(i)] & s; bits > 0; bits /= 2)
        if (bits % 2 == 1) hadamard = -hadamard;
      p(i, s) = std::sqrt(n / static_cast<double>(r)) * hadamard * signs[static_cast<std::size_t>(s)];
    }
  return p;
}

/// Subsampled randomised cosine transform, r x S, for any S:
///   P = sqrt(S / r) * rows `sample` of D * diag(signs)
///   D(k, s) = sqrt((k == 0 ? 1 : 2) / S) cos(pi k (2 s + 1) / (2 S)), the orthonormal DCT-II
/// With a uniform sample of D's S rows E|P x|^2 = |x|^2. P P^T = (S / r) I for distinct rows.
inline Matrix dct_sketch(const std::vector<Index>& sample, const std::vector<double>& signs) {
  const auto r = static_cast<Index>(sample.size()), inputs = static_cast<Index>(signs.size());
  const auto n = static_cast<double>(inputs);
  Matrix p(r, inputs);
  for (Index i = 0; i < r; ++i)
    for (Index s = 0; s < inputs; ++s) {
      const auto k = static_cast<double>(sample[static_cast<std::size_t>(i)]);
      const double angle = 3.14159265358979323846 * k * (2 * static_cast<double>(s) + 1) / (2 * n);
      const double cosine = std::sqrt((k < 0.5 ? 1 : 2) / n) * std::cos(angle);
      p(i, s) = std::sqrt(n / static_cast<double>(r)) * cosine * signs[static_cast<std::size_t>(s)];
    }
  return p;
}

}  // namespace support
