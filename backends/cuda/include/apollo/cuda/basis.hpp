// SPDX-License-Identifier: Apache-2.0
// The singular basis of one tensor's gradient on its device, the leading directions of the removed side: by subspace iteration or
// from the Gram matrix, in double. The host orders products, eigenvectors and the kernels of basis_kernels.hpp, and reads a few
// numbers in between: this is the one part of apollo::cuda that waits, and it is no part of a captured step.
#pragma once

#include <vector>

#include <apollo/cuda/algebra.hpp>
#include <apollo/cuda/allocation.hpp>
#include <apollo/cuda/basis_kernels.hpp>
#include <apollo/step/basis.hpp>

namespace apollo::cuda {

/// What computes bases on one device, in memory that the tensors of a batch share; kept in 4 bits where one `packs`.
template <class Device, bool packs = false>
class Basis {
  using Algebra = typename AlgebraOf<Device>::type;
  static_assert(
      !std::is_same_v<Algebra, void>,
      "apollo: a singular basis on a GPU needs #include <apollo/cuda/solver.hpp> before the tensors are added, and "
      "apollo::cuda_solver to be linked; see docs/cuda.md.");

 public:
  using Stream = typename Device::Stream;

  explicit Basis(const Device& device) : device_(device), algebra_(device) {}

  /// Makes room for a tensor of this plan. Errors: too little memory; nothing has been changed then.
  void reserve(const Plan& plan, SvdMethod method, std::string_view tensor) {
    Carver counter;
    (void)Arrays::carve(counter, plan, method);
    const Index work = algebra_.eigen_bytes(side(plan, method));
    Memory<Device> arrays, eigen;
    if (counter.used() > arrays_.bytes()) arrays = {device_, counter.used(), tensor, "scratch of its basis"};
    if (work > eigen_.bytes()) eigen = {device_, work, tensor, "scratch of its basis"};
    if (arrays.bytes() > 0) arrays_ = std::move(arrays);
    if (eigen.bytes() > 0) eigen_ = std::move(eigen);
  }
  Index bytes() const { return arrays_.bytes() + eigen_.bytes(); }

  /// What a refresh says: whether there is a new basis, and how much of the one before a packed one kept, see note_refresh().
  struct Outcome {
    bool computed = false;
    double kept = 0;
  };

  /// Computes P of the gradient that is there now, unless that is not finite. Waits for the stream.
  /// Cost: 8 kept removed (r + 8) flops an iteration; exact: 2 kept removed min and about 9 min^3. All in double.
  template <class G>
  Outcome refresh(const Entry& entry, bool warm, std::int64_t index, Progress* progress, Stream stream) const {
    const Plan& plan = entry.setup.plan;
    const SvdMethod method = entry.setup.settings.svd;
    Carver carver(arrays_.template as<std::byte>());
    Run<G> run{*this, entry, plan, Arrays::carve(carver, plan, method), progress, stream};
    const double energy = run.sum_of_squares(static_cast<const G*>(entry.gradient), entry.values());
    if (!bits::finite(energy) || energy > 1e70) return {};  // Begin skips it
    if constexpr (packs) run.open_packed(run.a.before);
    const RandomStream start{entry.setup.settings.seed, entry.setup.id, Stream_::start,
                             static_cast<std::uint64_t>(index)};
    if (method == SvdMethod::exact)
      run.exact(start);
    else
      run.subspace(start, warm, energy);
    if constexpr (packs) return {true, run.share_kept()};
    return {true};
  }

 private:
  using Stream_ = apollo::Stream;

  static Index side(const Plan& plan, SvdMethod method) { return BasisScratch<double>::gram_side(plan, method); }

  /// Vectors are lines.
  struct Arrays {
    Index count = 0;           ///< directions that are iterated, or the shorter side
    Index panel = 0;           ///< lines of X, or of X^T, that are opened at a time
    double* p = nullptr;       ///< count x removed; exact: rank x removed
    double* image = nullptr;   ///< count x kept
    double* turned = nullptr;  ///< what lines are turned into
    double* gram = nullptr;
    double* cross = nullptr;
    double* values = nullptr;
    double* opened = nullptr;
    double* before = nullptr;  ///< of a packed basis: rank x removed, and ...
    float* fresh = nullptr;    ///< ... the new one before it is packed

    static Arrays carve(Carver& carver, const Plan& plan, SvdMethod method) {
      constexpr Index at_once = Index{1} << 22;  // numbers of a panel: 32 MiB
      const bool iterates = method != SvdMethod::exact;
      const Index longer = plan.removed < plan.kept ? plan.kept : plan.removed;
      Arrays arrays;
      arrays.count = side(plan, method);
      const Index directions = iterates ? arrays.count : plan.rank, length = iterates ? longer : plan.removed;
      arrays.panel = min_of(longer, at_once / longer < 1 ? Index{1} : at_once / longer);
      arrays.p = carver.take<double>(directions * plan.removed);
      arrays.image = carver.take<double>(iterates ? arrays.count * plan.kept : 0);
      arrays.turned = carver.take<double>(directions * length);
      arrays.gram = carver.take<double>(arrays.count * arrays.count);
      arrays.cross = carver.take<double>(directions * directions);
      arrays.values = carver.take<double>(arrays.count < SquareSum<float>::most_blocks ? SquareSum<float>::most_blocks
                                                                                       : arrays.count);
      arrays.opened = carver.take<double>(arrays.panel * longer);
      if constexpr (packs) {
        arrays.before = carver.take<double>(plan.rank * plan.removed);
        arrays.fresh = carver.take<float>(plan.rank * plan.removed);
      }
      return arrays;
    }
  };

  /// One refresh.
  template <class G>
  struct Run {
    const Basis& basis;
    const Entry& entry;
    const Plan& plan;
    Arrays a;
    Progress* progress;
    Stream stream;

    static constexpr double dependent =
        1e-12;  ///< a part of the largest square: a line that the others span, or rounding

    template <class V>
    double sum_of_squares(const V* from, Index size) const {
      const Index count = min_of(SquareSum<V>::most_blocks, blocks(size));
      launch(SquareSum<V>{from, size, count, a.values}, count);
      double sum = 0;
      for (const double part : host(a.values, count)) sum += part;
      return sum;
    }

    /// Source: Halko, Martinsson, Tropp, SIAM Review 2011, Algorithms 4.4 and 5.1. When to stop: as step/basis.hpp.
    void subspace(const RandomStream& start, bool warm, double energy) const {
      const Index r = plan.rank, all = a.count, removed = plan.removed, known = warm ? r : 0;
      // Sums of rows of X with random weights, then the directions of before, largest last as everywhere.
      if (all > known) {
        draw(start, (all - known) * plan.kept, a.image);
        from_image(all - known);
        orthonormalise(a.p, all - known, removed);
      }
      if (warm) {
        double* to = a.p + (all - r) * removed;
        if constexpr (packs)
          open_packed(to);
        else
          launch(OpenDirections{entry.directions, r * removed, to}, blocks(r * removed));
      }
      double before = 0;
      std::vector<double> values;
      for (int number = 1;; ++number) {
        to_image(all);
        if (warm && number == 1) {
          gram(a.image, all, plan.kept);
          launch(TakeDiagonal{a.gram, all, all + 1, a.values}, blocks(all));
          before = sum_of_last(host(a.values, all), r);
        }
        orthonormalise(a.image, all, plan.kept);
        from_image(all);
        values = orthonormalise(a.p, all, removed);
        const double found = sum_of_last(values, r);
        if (number == basis::iterations_most) break;
        if (number >= (warm ? basis::iterations_warm : basis::iterations_cold) &&
            (found - before <= basis::little * found || sum_of_last(values, all) >= (1 - basis::little) * energy))
          break;
        before = found;
      }
      finish(start, values, all);
    }

    void exact(const RandomStream& start) const {
      const Index n = a.count, r = plan.rank, removed = plan.removed;
      const bool direct = removed <= plan.kept;
      over_panels(direct, [&](Index first, Index, const Block& lines) {
        product(lines.transpose(), lines, {a.gram, n, n, n}, first > 0);
      });
      eigen(n);
      const double* leading = a.gram + (n - r) * n;
      if (direct) {
        store(leading + (r - 1) * n);
        return;
      }
      over_panels(true, [&](Index first, Index count, const Block& lines) {
        product({const_cast<double*>(leading) + first, r, count, n}, lines, {a.p, r, removed, removed}, first > 0);
      });
      finish(start, orthonormalise(a.p, r, removed), r);
    }

    /// The basis that is kept in 4 bits, rank x removed.
    template <class T>
    void open_packed(T* to) const {
      launch(OpenPacked<T>{entry.packed, plan.rank, plan.removed, to}, blocks(plan.rank * plan.removed));
    }
    /// Of what is kept now: |P before^T|^2 / r.
    double share_kept() const {
      const Index r = plan.rank, removed = plan.removed;
      open_packed(a.p);
      product({a.p, r, removed, removed}, Block{a.before, r, removed, removed}.transpose(), {a.cross, r, r, r}, false);
      return sum_of_squares(a.cross, r * r) / static_cast<double>(r);
    }

   private:
    const G* gradient() const { return static_cast<const G*>(entry.gradient); }
    static Index blocks(Index values) { return ceil_divide(values, values_a_block); }
    template <class Body>
    void launch(const Body& body, Index count) const {
      basis.device_.launch(body, count, stream);
    }
    void product(const Block& x, const Block& y, const Block& z, bool add) const {
      basis.algebra_.product(x, y, z, add, stream);
    }
    std::vector<double> host(const double* from, Index count) const {
      std::vector<double> values(static_cast<std::size_t>(count));
      basis.device_.read(values.data(), from, count * static_cast<Index>(sizeof(double)), stream);
      return values;
    }
    void draw(const RandomStream& numbers, Index size, double* to) const {
      launch(DrawNormals{numbers, size, to}, ceil_divide(size, DenseDraw<Gaussian>::a_part));
    }
    static double sum_of_last(const std::vector<double>& values, Index count) {
      double sum = 0;
      for (std::size_t i = values.size() - static_cast<std::size_t>(count); i < values.size(); ++i) sum += values[i];
      return sum;
    }

    /// Calls body(first, count, lines) for panels of X, or else of X^T.
    template <class Body>
    void over_panels(bool of_x, Body&& body) const {
      const Index lines = of_x ? plan.kept : plan.removed, length = of_x ? plan.removed : plan.kept;
      const bool adjacent = entry.along == of_x;
      for (Index first = 0; first < lines; first += a.panel) {
        const Index count = min_of(a.panel, lines - first);
        const Index line_stride = adjacent ? length : 1, stride = adjacent ? 1 : lines;
        launch(OpenPanel<G>{gradient() + first * line_stride, count, length, line_stride, stride, a.opened},
               blocks(count * length));
        body(first, count, Block{a.opened, count, length, length});
      }
    }
    /// image = p X^T, and p = image X.
    void to_image(Index count) const {
      over_panels(true, [&](Index first, Index lines, const Block& x) {
        product({a.p, count, plan.removed, plan.removed}, x.transpose(), {a.image + first, count, lines, plan.kept},
                false);
      });
    }
    void from_image(Index count) const {
      over_panels(true, [&](Index first, Index lines, const Block& x) {
        product({a.image + first, count, lines, plan.kept}, x, {a.p, count, plan.removed, plan.removed}, first > 0);
      });
    }
    void gram(double* lines, Index count, Index length) const {
      const Block v{lines, count, length, length};
      product(v, v.transpose(), {a.gram, count, count, count}, false);
    }
    void eigen(Index n) const { basis.algebra_.symmetric_eigen(n, a.gram, a.values, basis.eigen_, stream); }

    /// Lines become orthonormal, in rising order of how much of them each holds; those that the others span become zero.
    /// Returns the squares. Error: of the least line, rounding times the largest square over its own.
    std::vector<double> orthonormalise(double* lines, Index count, Index length) const {
      gram(lines, count, length);
      eigen(count);
      product({a.gram, count, count, count}, {lines, count, length, length}, {a.turned, count, length, length}, false);
      const std::vector<double> values = host(a.values, count);
      launch(ScaleLines{a.turned, a.values, count, length, dependent * values.back(), lines}, blocks(count * length));
      return values;
    }

    /// Of the last `count` lines of p the last rank become P. They are made orthonormal once more, in place of those that X
    /// does not determine there are random ones.
    void finish(RandomStream start, const std::vector<double>& values, Index count) const {
      const Index r = plan.rank, removed = plan.removed;
      Index good = 0;
      while (good < r && values[static_cast<std::size_t>(count - 1 - good)] > dependent * values.back()) ++good;
      double* const known = a.p + (count - good) * removed;
      double* const open = a.p + (count - r) * removed;
      if (good > 0) straighten(known, good);
      const Index missing = r - good;
      if (missing > 0) {
        start.counter |= std::uint64_t{1} << 47;  // numbers of their own
        draw(start, missing * removed, open);
        for (int pass = 0; pass < 2; ++pass) {
          if (good > 0) {
            const Block q{known, good, removed, removed}, z{open, missing, removed, removed};
            product(z, q.transpose(), {a.cross, missing, good, good}, false);
            product({a.cross, missing, good, good}, q, {a.turned, missing, removed, removed}, false);
            launch(SubtractLines{a.turned, missing * removed, open}, blocks(missing * removed));
          }
          orthonormalise(open, missing, removed);
        }
      }
      store(a.p + (count - 1) * removed);
    }

    /// Lines from the last on become P.
    void store(const double* last) const {
      const Index r = plan.rank, removed = plan.removed;
      if constexpr (packs) {
        if (entry.old_directions != nullptr) open_packed(entry.old_directions);
        launch(StoreDirections{last, removed, a.fresh, nullptr, progress}, r);
        launch(PackDirections{a.fresh, r, removed, entry.packed}, PackedBasis::groups(r * removed));
      } else {
        launch(StoreDirections{last, removed, entry.directions, entry.old_directions, progress}, r);
      }
    }

    /// Lines that are orthonormal but for a small error E lose it without being turned: V - E V / 2.
    void straighten(double* lines, Index count) const {
      const Index removed = plan.removed;
      const Block v{lines, count, removed, removed};
      for (int pass = 0; pass < 2; ++pass) {
        product(v, v.transpose(), {a.cross, count, count, count}, false);
        launch(HalfOfExcess{a.cross, count}, blocks(count * count));
        product({a.cross, count, count, count}, v, {a.turned, count, removed, removed}, false);
        launch(SubtractLines{a.turned, count * removed, lines}, blocks(count * removed));
      }
    }
  };

  Device device_;
  Algebra algebra_;
  Memory<Device> arrays_, eigen_;
};

}  // namespace apollo::cuda
