// SPDX-License-Identifier: Apache-2.0
// EigenBackend: the CPU production backend. Tiles over channels, runs inside a tile, products and eigenvalues by Eigen.
#pragma once

#include <memory>
#include <vector>

#include <apollo/eigen/eigenvalues.hpp>
#include <apollo/eigen/executor.hpp>
#include <apollo/eigen/gemm.hpp>
#include <apollo/eigen/runs.hpp>
#include <apollo/step/coefficients.hpp>
#include <apollo/step/workspace.hpp>

namespace apollo {

template <class T, class Policies>
class EigenSession;

/// Threads: by default as many as OpenMP offers, one in a program without it. The results have the same bits for any number.
class EigenBackend {
 public:
  template <class T>
  using Buffer = HostBuffer<T>;
  template <class T, class Policies>
  using Session = EigenSession<T, Policies>;

  EigenBackend() : EigenBackend(executor::default_lanes()) {}
  /// OpenMP with this many threads. Error: fewer than 1.
  explicit EigenBackend(int threads) : pool_{threads, nullptr, &executor::openmp} {
    if (threads < 1) refuse("threads = " + text(Index{threads}) + " must be at least 1");
  }
  /// A pool of the caller's, which must outlive the backend and all its copies.
  explicit EigenBackend(const Executor& pool) : pool_(pool) {
    if (pool.lanes < 1 || pool.run == nullptr)
      refuse("an executor of " + text(Index{pool.lanes}) + " lanes must have at least 1, and a run function");
  }

  const Executor& pool() const { return pool_; }
  int lanes() const { return pool_.lanes; }
  /// This backend on one of its lanes.
  EigenBackend lane() const { return EigenBackend(1); }
  /// Calls body(index, lane) for every index below count, on all lanes at once.
  template <class Body>
  void deal(Index count, Body&& body) const {
    executor::deal(pool_, count, body);
  }

  /// Eigenvalue solvers, one a size, kept because Eigen's allocate when they are made.
  class Tools {
   public:
    Index bytes() const {
      Index sum = 0;
      for (const auto& solver : solvers_) sum += SymmetricSolver<double>::bytes(solver->size());
      return sum;
    }
    SymmetricSolver<double>& solver(Index n) {
      for (const auto& kept : solvers_)
        if (kept->size() == n) return *kept;
      solvers_.push_back(std::unique_ptr<SymmetricSolver<double>>(new SymmetricSolver<double>(n)));
      return *solvers_.back();
    }

   private:
    std::vector<std::unique_ptr<SymmetricSolver<double>>> solvers_;
  };

  template <class T, class Policies>
  void prepare(Tools& tools, const Plan& plan, const Settings& settings) const {
    if constexpr (computes_basis<typename Policies::Projection>)
      tools.solver(BasisScratch<T>::gram_side(plan, settings.svd));
  }

  /// Bytes of what prepare() adds to empty tools.
  template <class T, class Policies>
  Index tools_bytes(const Plan& plan, const Settings& settings) const {
    if constexpr (computes_basis<typename Policies::Projection>)
      return SymmetricSolver<double>::bytes(BasisScratch<T>::gram_side(plan, settings.svd));
    return 0;
  }

  template <class T, class Policies>
  Index scratch_bytes(const Plan& plan) const;

 private:
  Executor pool_;
};

/// What a lane needs where channels are adjacent in memory: as many values as a tile has channels.
template <class T>
struct EigenLines {
  static constexpr int at_once = 8;
  T* squares = nullptr;
  double* norms = nullptr;
  T* converted = nullptr;  ///< `at_once` lines

  static EigenLines carve(Carver& carver, Index tile) {
    EigenLines lines;
    lines.squares = carver.take<T>(tile);
    lines.norms = carver.take<double>(tile);
    lines.converted = carver.take<T>(at_once * tile);
    return lines;
  }
};

/// A sparse projection the other way round: the inputs of bucket b are inputs[first[b]] ... inputs[first[b + 1] - 1], with
/// coefficients +-1. Buckets below `first_map` are those of the first map.
template <class T>
struct SparseLines {
  std::int32_t* first = nullptr;
  std::int32_t* inputs = nullptr;
  T* coefficients = nullptr;
  Index first_map = 0;

  static SparseLines carve(Carver& carver, const Plan& plan, int nonzeros) {
    SparseLines lines;
    lines.first = carver.take<std::int32_t>(plan.rank + 1);
    lines.inputs = carver.take<std::int32_t>(nonzeros * plan.removed);
    lines.coefficients = carver.take<T>(nonzeros * plan.removed);
    return lines;
  }

  /// Cost: three passes over the tables of P.
  void invert(const SparseDirections& p) {
    first_map = p.rank / p.nonzeros;
    for (Index b = 0; b <= p.rank; ++b) first[b] = 0;
    const auto over = [&](auto&& body) {
      for (int h = 0; h < p.nonzeros; ++h)
        for (Index s = 0; s < p.removed; ++s) body(p.bucket_of(h, s), h, s);
    };
    over([&](Index bucket, int, Index) { ++first[bucket + 1]; });
    for (Index b = 0; b < p.rank; ++b) first[b + 1] += first[b];
    over([&](Index bucket, int h, Index s) {  // first[b] runs to where b + 1 begins
      const std::int32_t at = first[bucket]++;
      inputs[at] = static_cast<std::int32_t>(s);
      coefficients[at] = p.sign[h * p.removed + s] != 0 ? T(-1) : T(1);
    });
    for (Index b = p.rank; b > 0; --b) first[b] = first[b - 1];
    first[0] = 0;
  }
};

/// Scratch of one step: a summary for each tile, and what each lane needs. Products are needed where something is projected,
/// products in double where a basis is computed.
template <class T, class Policies>
struct EigenScratch {
  struct Lane {
    gemm::Scratch<T> product;
    gemm::Scratch<double> product_double;
    T* rows = nullptr;  ///< tile x rank sums of a sparse projection, or tile x 256 of a lift
    EigenLines<T> lines;
  };
  GradientSummary* tiles = nullptr;
  SparseLines<T> sparse;
  std::byte* lanes = nullptr;
  Index lane_bytes = 0;

  static Lane carve_lane(Carver& carver, const Plan& plan) {
    Lane lane;
    if constexpr (Policies::Projection::projects) {
      const Index slice = plan.removed < runs::length ? plan.removed : runs::length;
      lane.product = gemm::Scratch<T>::carve(carver);
      lane.rows = carver.take<T>(plan.tile * (plan.rank > slice ? plan.rank : slice));
      lane.lines = EigenLines<T>::carve(carver, plan.tile);
    }
    if constexpr (Policies::Projection::stores_basis) lane.product_double = gemm::Scratch<double>::carve(carver);
    return lane;
  }

  static EigenScratch carve(Carver& carver, const Plan& plan, int lanes) {
    EigenScratch scratch;
    Carver counter;
    carve_lane(counter, plan);
    scratch.tiles = carver.take<GradientSummary>(plan.tiles);
    if constexpr (Policies::Projection::random)
      if constexpr (!Policies::Projection::Sketch::dense)
        scratch.sparse = SparseLines<T>::carve(carver, plan, Policies::Projection::Sketch::nonzeros);
    scratch.lane_bytes = counter.used();
    scratch.lanes = carver.take<std::byte>(counter.used() * lanes);
    return scratch;
  }

  Lane lane(const Plan& plan, int number) const {
    Carver carver(lanes + number * lane_bytes);
    return carve_lane(carver, plan);
  }
};

template <class T, class Policies>
Index EigenBackend::scratch_bytes(const Plan& plan) const {
  Carver counter;
  EigenScratch<T, Policies>::carve(counter, plan, pool_.lanes);
  return counter.used();
}

}  // namespace apollo
