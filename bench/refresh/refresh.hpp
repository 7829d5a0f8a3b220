// SPDX-License-Identifier: Apache-2.0
// What is timed: a refresh of GaLore's basis and nothing else; and how much of a gradient a basis sees.
#pragma once

#include <Eigen/Core>

#include <stdexcept>
#include <string>
#include <vector>

#include <apollo/eigen.hpp>

#include "../timing.hpp"
#include "lapack.hpp"

namespace bench {

using apollo::Index;
using apollo::Shape;

/// The basis of one matrix, as a step of GaLore refreshes it (Pipeline::refresh_basis), without the step around it.
class Refresh {
 public:
  Refresh(Shape shape, Index rank, int threads)
      : backend_(threads),
        settings_(apollo::GaLoreOptions{.rank = rank}.settings()),
        plan_(apollo::eigen::GaLore<>(shape, {.rank = rank}, "refresh", backend_).plan()),
        arena_(apollo::arena_bytes<Policies, float>(backend_, plan_, settings_)),
        basis_(plan_.removed * plan_.rank) {
    backend_.prepare<float, Policies>(tools_, plan_, settings_);
  }

  const apollo::Plan& plan() const { return plan_; }

  /// The basis of `gradient` (row-major, of the shape given), from a random start or from the basis that is there.
  Seconds run(const std::vector<float>& gradient, bool warm) {
    const auto x = plan_.orient(apollo::row_major(gradient.data(), plan_.shape.rows, plan_.shape.cols));
    const apollo::RandomStream stream{0, 1, apollo::Stream::projection, refreshes_++};
    bool finite = false;
    const Seconds seconds = time_of([&] {
      apollo::Carver carver(arena_.data());
      const auto scratch = apollo::Scratch<Policies, float>::carve(carver, plan_, settings_,
                                                                   backend_.scratch_bytes<float, Policies>(plan_));
      const apollo::EigenSession<float, Policies> session(backend_, plan_, scratch.backend, tools_);
      finite = session.inspect(plan_, x, nullptr).finite;
      apollo::basis::subspace(session, plan_, x, warm, stream, basis_.data(), scratch.basis);
      apollo::basis::fix_signs(basis_.data(), plan_.removed, plan_.rank);
    });
    if (!finite) throw std::runtime_error("a gradient of shape " + apollo::text(plan_.shape) + " is not finite");
    return seconds;
  }

  /// |X P^T|^2. Errors: a basis that is not orthonormal, whose energy would mean nothing.
  double energy(const std::vector<float>& gradient) const {
    const Eigen::Map<const RowMajor> g(gradient.data(), plan_.shape.rows, plan_.shape.cols);
    const Eigen::MatrixXd p = Eigen::Map<const RowMajor>(basis_.data(), plan_.removed, plan_.rank).cast<double>();
    const double error = (p.transpose() * p - Eigen::MatrixXd::Identity(p.cols(), p.cols())).cwiseAbs().maxCoeff();
    if (!(error <= 1e-4))
      throw std::runtime_error("a basis of shape " + apollo::text(plan_.shape) + " is " + apollo::text(error) +
                               " from orthonormal");
    const Eigen::MatrixXd x = g.cast<double>();
    return plan_.transposed ? (x.transpose() * p).squaredNorm() : (x * p).squaredNorm();
  }

 private:
  using Policies = apollo::eigen::GaLore<>::Policies;
  using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

  apollo::EigenBackend backend_;
  apollo::Settings settings_;
  apollo::Plan plan_;
  apollo::EigenBackend::Tools tools_;
  apollo::HostBuffer<std::byte> arena_;
  apollo::HostBuffer<float> basis_;  ///< removed x rank
  std::uint64_t refreshes_ = 0;
};

/// sgesdd of a row-major matrix, laid out so that LAPACK sees its longer side as rows, which is the faster way round:
/// sgesdd then starts by QR and is left with a square.
class Decomposition {
 public:
  explicit Decomposition(Shape shape)
      : shape_(shape), lapack_(longer(shape), static_cast<int>(shape.rows < shape.cols ? shape.rows : shape.cols)) {}

  Seconds run(const std::vector<float>& gradient, int threads) {
    if (shape_.rows < shape_.cols) {
      lapack_.set(gradient);  // a row-major matrix is its transposed one, column-major
    } else {
      std::vector<float> turned(gradient.size());
      const auto from = apollo::row_major(gradient.data(), shape_.rows, shape_.cols);
      const auto to = apollo::column_major(turned.data(), shape_.rows, shape_.cols);
      for (Index i = 0; i < shape_.rows; ++i)
        for (Index j = 0; j < shape_.cols; ++j) to(i, j) = from(i, j);
      lapack_.set(turned);
    }
    return time_of([&] { lapack_.decompose(threads); });
  }

  /// Of the exact basis of this rank.
  double energy(Index rank) const { return lapack_.energy(rank); }

 private:
  static int longer(Shape shape) { return static_cast<int>(shape.rows < shape.cols ? shape.cols : shape.rows); }

  Shape shape_;
  Lapack lapack_;
};

}  // namespace bench
