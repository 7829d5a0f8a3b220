// SPDX-License-Identifier: Apache-2.0
// What LLaMA computes between its matrix products, forward and backward: RMSNorm, rotary embeddings, causal attention, SwiGLU,
// cross-entropy. Each works on a block of rows, or on one head of one sequence, on the calling thread.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <type_traits>
#include <vector>

#include "parallel.hpp"

namespace llama {

// --- RMSNorm: y = x g / sqrt(mean(x^2) + eps). Source: Zhang and Sennrich, arXiv:1910.07467, eq. 4 -----------------------------

/// Writes `rows` rows of y; `inverse` receives 1 / sqrt(mean(x^2) + eps) of each, unless it is null.
template <class Scalar>
void norm_forward(const View<Scalar>& x, const VectorView<Scalar>& gain, double eps, View<Scalar>& y, Scalar* inverse,
                  Index first, Index rows) {
  for (Index i = first; i < first + rows; ++i) {
    const Scalar mean = x.row(i).squaredNorm() / static_cast<Scalar>(x.cols());
    const Scalar factor = 1 / std::sqrt(mean + static_cast<Scalar>(eps));
    y.row(i) = (x.row(i) * factor).cwiseProduct(gain);
    if (inverse != nullptr) inverse[i] = factor;
  }
}

/// Adds the gradient of x to dx and that of the gain, over these rows, to `dgain`.
template <class Scalar>
void norm_backward(const View<Scalar>& x, const VectorView<Scalar>& gain, const Scalar* inverse, const View<Scalar>& dy,
                   View<Scalar>& dx, VectorView<Scalar> dgain, Index first, Index rows) {
  for (Index i = first; i < first + rows; ++i) {
    const Scalar factor = inverse[i];
    const Scalar along = (dy.row(i).cwiseProduct(gain)).dot(x.row(i)) * factor * factor / static_cast<Scalar>(x.cols());
    dgain += dy.row(i).cwiseProduct(x.row(i)) * factor;
    dx.row(i) += factor * (dy.row(i).cwiseProduct(gain) - x.row(i) * along);
  }
}

// --- Rotary embeddings. Source: Su et al., arXiv:2104.09864, sec. 3.4; pairs are (i, i + half), as in Hugging Face's weights -----

template <class Scalar>
class Rotary {
 public:
  Rotary() = default;
  Rotary(Index positions, Index head_size, double base) : cosine_(positions, head_size / 2), sine_(cosine_) {
    for (Index t = 0; t < positions; ++t)
      for (Index i = 0; i < head_size / 2; ++i) {
        const double angle =
            static_cast<double>(t) * std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(head_size));
        cosine_(t, i) = static_cast<Scalar>(std::cos(angle));
        sine_(t, i) = static_cast<Scalar>(std::sin(angle));
      }
  }

  Index positions() const { return cosine_.rows(); }

  /// Turns every head of row `row`, which stands at `position`; back, where `direction` is -1.
  void turn(Scalar* row, Index heads, Index position, Scalar direction) const {
    const Index half = cosine_.cols();
    const Scalar* c = cosine_.row(position).data();
    const Scalar* s = sine_.row(position).data();
    for (Index h = 0; h < heads; ++h, row += 2 * half)
      for (Index i = 0; i < half; ++i) {
        const Scalar a = row[i], b = row[i + half], sine = direction * s[i];
        row[i] = a * c[i] - b * sine;
        row[i + half] = b * c[i] + a * sine;
      }
  }

 private:
  Matrix<Scalar> cosine_, sine_;  // positions x half a head
};

// --- Causal attention of one head of one sequence ---------------------------------------------------------------------------

/// Rows of scores that are in memory at once: scratch is attention_block x length, twice. Nothing of length^2 is kept; the
/// backward pass computes the probabilities again. Source: Dao et al., arXiv:2205.14135, algorithm 4.
inline constexpr Index attention_block = 32;

/// Memory at Eigen's alignment. Elsewhere its loops would start with single values up to the first aligned one, whose exp has
/// other last bits than a vector's: results would depend on addresses.
template <class Scalar>
using Aligned = std::vector<Scalar, Eigen::aligned_allocator<Scalar>>;

/// `count` or a little more, but not more than `most`: exp of whole vectors is cheaper than of single values behind them.
inline Index whole_vectors(Index count, Index most) { return std::min((count + 15) / 16 * 16, most); }

/// Scores q k^T / sqrt(head size) of rows [first, first + rows) against the keys up to each.
template <class Scalar, class Queries, class Keys>
auto attention_scores(const Queries& q, const Keys& k, Index first, Index rows, Aligned<Scalar>& scratch) {
  const Index seen = first + rows;
  scratch.resize(static_cast<std::size_t>(attention_block * k.rows()));
  auto scores = view(scratch.data(), rows, seen);
  multiply(Transposed::right, 1 / std::sqrt(static_cast<Scalar>(q.cols())), q.middleRows(first, rows), k.topRows(seen),
           false, scores);
  return scores;
}

/// `normaliser` receives log(sum(exp(scores))) of every row, for the backward pass.
template <class Scalar>
void attention_forward(const ConstView<Scalar>& q, const ConstView<Scalar>& k, const ConstView<Scalar>& v,
                       View<Scalar> out, Scalar* normaliser) {
  thread_local Aligned<Scalar> scratch;
  for (Index first = 0; first < q.rows(); first += attention_block) {
    const Index rows = std::min(attention_block, q.rows() - first);
    auto scores = attention_scores(q, k, first, rows, scratch);
    for (Index i = 0; i < rows; ++i) {
      const Index own = first + i + 1;  // keys that this row sees
      auto row = scores.row(i).head(whole_vectors(own, scores.cols())).array();
      const Scalar largest = row.head(own).maxCoeff();  // taken off first, so that exp cannot overflow
      row = (row - largest).exp();
      scores.row(i).tail(scores.cols() - own).setZero();
      const Scalar sum = row.sum();
      row *= 1 / sum;
      normaliser[first + i] = largest + std::log(sum);
    }
    multiply(Transposed::none, Scalar(1), scores, v.topRows(scores.cols()), false, out.middleRows(first, rows));
  }
}

/// Writes the gradients of q, k, v from that of the output.
template <class Scalar>
void attention_backward(const ConstView<Scalar>& q, const ConstView<Scalar>& k, const ConstView<Scalar>& v,
                        const ConstView<Scalar>& out, const Scalar* normaliser, const ConstView<Scalar>& dout,
                        View<Scalar> dq, View<Scalar> dk, View<Scalar> dv) {
  thread_local Aligned<Scalar> scratch, second_scratch;
  second_scratch.resize(static_cast<std::size_t>(attention_block * k.rows()));
  const Scalar scale = 1 / std::sqrt(static_cast<Scalar>(q.cols()));
  dk.setZero();
  dv.setZero();
  for (Index first = 0; first < q.rows(); first += attention_block) {
    const Index rows = std::min(attention_block, q.rows() - first), seen = first + rows;
    auto p = attention_scores(q, k, first, rows, scratch);
    for (Index i = 0; i < rows; ++i) {
      const Index own = first + i + 1;
      auto row = p.row(i).head(whole_vectors(own, seen)).array();
      row = (row - normaliser[first + i]).exp();
      p.row(i).tail(seen - own).setZero();
    }
    multiply(Transposed::left, Scalar(1), p, dout.middleRows(first, rows), true, dv.topRows(seen));
    auto dp = view(second_scratch.data(), rows, seen);
    multiply(Transposed::right, Scalar(1), dout.middleRows(first, rows), v.topRows(seen), false, dp);
    for (Index i = 0; i < rows; ++i) {
      const Scalar mean = dout.row(first + i).dot(out.row(first + i));
      dp.row(i).array() = p.row(i).array() * (dp.row(i).array() - mean) * scale;
    }
    multiply(Transposed::none, Scalar(1), dp, k.topRows(seen), false, dq.middleRows(first, rows));
    multiply(Transposed::left, Scalar(1), dp, q.middleRows(first, rows), true, dk.topRows(seen));
  }
}

// --- SwiGLU: silu(gate) up. Source: Shazeer, arXiv:2002.05202, eq. 6 ------------------------------------------------------------

/// Each row of `gate_up` holds the gate, then up.
template <class Scalar>
void swiglu_forward(const View<Scalar>& gate_up, View<Scalar>& out, Index first, Index rows) {
  const Index width = out.cols();
  for (Index i = first; i < first + rows; ++i) {
    const auto gate = gate_up.row(i).head(width).array();
    out.row(i).array() = gate / (1 + (-gate).exp()) * gate_up.row(i).tail(width).array();
  }
}

/// Writes the output again, which the gradient of `down` needs, and turns gate_up into its gradient.
template <class Scalar>
void swiglu_backward(View<Scalar>& gate_up, View<Scalar>& out, const View<Scalar>& dout, Index first, Index rows) {
  const Index width = out.cols();
  for (Index i = first; i < first + rows; ++i) {
    const Scalar* dy = dout.row(i).data();
    Scalar* gate = gate_up.row(i).data();
    Scalar* up = gate + width;
    Scalar* y = out.row(i).data();
    using Chunk = Eigen::Array<Scalar, 1, Eigen::Dynamic, Eigen::RowMajor, 1, 256>;
    for (Index at = 0; at < width; at += 256) {  // in pieces that stay in the first cache
      const Index count = std::min<Index>(256, width - at);
      const auto piece = [&](auto* p) {
        return Eigen::Map<
            std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(p)>>,
                               const Eigen::Array<Scalar, 1, Eigen::Dynamic>, Eigen::Array<Scalar, 1, Eigen::Dynamic>>>(
            p + at, count);
      };
      auto g = piece(gate);
      auto u = piece(up);
      const auto d = piece(dy);
      const Chunk sigmoid = 1 / (1 + (-g).exp());
      const Chunk silu = g * sigmoid;
      piece(y) = silu * u;
      g = d * u * sigmoid * (1 + g - silu);
      u = d * silu;
    }
  }
}

// --- Cross-entropy ----------------------------------------------------------------------------------------------------------

/// Sum of -log softmax(logits)[target] over these rows, in double. With `factor` not 0 the logits become factor times their
/// gradient, factor (softmax - one hot).
template <class Scalar>
double cross_entropy(View<Scalar>& logits, const int* targets, Scalar factor, Index first, Index rows) {
  double loss = 0;
  for (Index i = first; i < first + rows; ++i) {
    auto row = logits.row(i).array();
    const Index target = targets[i];
    const Scalar largest = row.maxCoeff();
    const Scalar chosen = row(target) - largest;
    row = (row - largest).exp();
    const Scalar sum = row.sum();
    loss += std::log(static_cast<double>(sum)) - static_cast<double>(chosen);
    if (factor == 0) continue;
    row *= factor / sum;
    row(target) -= factor;
  }
  return loss;
}

}  // namespace llama
