// SPDX-License-Identifier: Apache-2.0
// The small kernels of a basis: what stands between the products and eigenvectors that basis.hpp orders. All in double.
#pragma once

#include <apollo/cuda/project.hpp>

namespace apollo::cuda {

/// Values that a block of the kernels here takes, and its threads' loop over them.
inline constexpr Index values_a_block = 16 * threads;
template <class Body>
APOLLO_INLINE void over_values(Index block, int t, Index size, Body&& body) {
  const Index end = min_of((block + 1) * values_a_block, size);
  for (Index at = block * values_a_block + t; at < end; at += threads) body(at);
}

/// Lines [first, first + count) of X or X^T as doubles, row-major; threads go along the gradient's memory.
template <class G>
struct OpenPanel {
  static constexpr const char* kernel = "OpenPanel";
  struct Shared {
    char none;
  };
  const G* from = nullptr;
  Index count = 0, length = 0;        ///< lines of the panel, and what each holds
  Index line_stride = 0, stride = 0;  ///< in the gradient's memory, one of which is 1
  double* to = nullptr;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    const bool along = stride == 1;
    context.last([&](int t) {
      over_values(context.block(), t, count * length, [&](Index at) {
        const Index outer = at / (along ? length : count), inner = at - outer * (along ? length : count);
        const Index line = along ? outer : inner, i = along ? inner : outer;
        to[line * length + i] = static_cast<double>(static_cast<float>(from[line * line_stride + i * stride]));
      });
    });
  }
};

/// A share of the sum of squares for each of `blocks`, at most most_blocks.
template <class V>
struct SquareSum {
  static constexpr const char* kernel = "SquareSum";
  static constexpr Index most_blocks = 1024;
  using Shared = SumMemory;
  const V* from = nullptr;
  Index size = 0, blocks = 0;
  double* to = nullptr;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    typename Context::template Each<double> sum;
    context.phase([&](int t) {
      for (Index at = context.block() * threads + t; at < size; at += blocks * threads) {
        const double value = opened(from[at]);
        sum[t] += value * value;
      }
    });
    const double total = block_sum(context, shared, sum);
    context.last([&](int t) {
      if (t == 0) to[context.block()] = total;
    });
  }

 private:
  APOLLO_HD static double opened(double value) { return value; }
  APOLLO_HD static double opened(float value) { return static_cast<double>(value); }
  APOLLO_HD static double opened(bfloat16 value) { return static_cast<double>(static_cast<float>(value)); }
};

/// Normal numbers: number i of the stream is the i-th.
struct DrawNormals {
  static constexpr const char* kernel = "DrawNormals";
  struct Shared {
    char none;
  };
  RandomStream stream;
  Index size = 0;
  double* to = nullptr;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    context.last([&](int t) {
      const Index first = context.block() * DenseDraw<Gaussian>::a_part + 4 * t;
      if (first >= size) return;
      float four[4];
      normal::one_block(stream, static_cast<std::uint64_t>(first) >> 2, four);
      for (int i = 0; i < 4 && first + i < size; ++i) to[first + i] = static_cast<double>(four[i]);
    });
  }
};

/// Every stride-th number: the diagonal of a matrix.
struct TakeDiagonal {
  static constexpr const char* kernel = "TakeDiagonal";
  struct Shared {
    char none;
  };
  const double* from = nullptr;
  Index size = 0, stride = 0;
  double* to = nullptr;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    context.last([&](int t) { over_values(context.block(), t, size, [&](Index i) { to[i] = from[i * stride]; }); });
  }
};

/// Lines divided by the roots of their values; zero where those are not above `least`.
struct ScaleLines {
  static constexpr const char* kernel = "ScaleLines";
  struct Shared {
    char none;
  };
  const double* from = nullptr;
  const double* value = nullptr;
  Index lines = 0, length = 0;
  double least = 0;
  double* to = nullptr;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    context.last([&](int t) {
      over_values(context.block(), t, lines * length, [&](Index at) {
        const double square = value[at / length];
        to[at] = square > least ? from[at] / __builtin_sqrt(square) : 0;
      });
    });
  }
};

/// to -= from.
struct SubtractLines {
  static constexpr const char* kernel = "SubtractLines";
  struct Shared {
    char none;
  };
  const double* from = nullptr;
  Index size = 0;
  double* to = nullptr;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    context.last([&](int t) { over_values(context.block(), t, size, [&](Index at) { to[at] -= from[at]; }); });
  }
};

/// (C - I) / 2, of n x n numbers.
struct HalfOfExcess {
  static constexpr const char* kernel = "HalfOfExcess";
  struct Shared {
    char none;
  };
  double* c = nullptr;
  Index n = 0;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    context.last([&](int t) {
      over_values(context.block(), t, n * n, [&](Index at) { c[at] = 0.5 * (c[at] - (at % (n + 1) == 0 ? 1 : 0)); });
    });
  }
};

/// The directions as they are kept, as doubles.
struct OpenDirections {
  static constexpr const char* kernel = "OpenDirections";
  struct Shared {
    char none;
  };
  const float* from = nullptr;
  Index size = 0;
  double* to = nullptr;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    context.last([&](int t) {
      over_values(context.block(), t, size, [&](Index at) { to[at] = static_cast<double>(from[at]); });
    });
  }
};

/// A packed basis as numbers, rank x removed.
template <class T>
struct OpenPacked {
  static constexpr const char* kernel = "OpenPacked";
  struct Shared {
    char none;
  };
  PackedBasis from;
  Index rank = 0, removed = 0;
  T* to = nullptr;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared&) const {
    context.last([&](int t) {
      over_values(context.block(), t, rank * removed, [&](Index at) {
        const Index k = at / removed, s = at - k * removed;
        to[at] = static_cast<T>(from.value(s * rank + k));
      });
    });
  }
};

/// The other way round: a group a block.
struct PackDirections {
  static constexpr const char* kernel = "PackDirections";
  struct Shared {
    float low[threads];
    float high[threads];
  };
  static_assert(PackedBasis::group == threads);
  const float* from = nullptr;
  Index rank = 0, removed = 0;
  PackedBasis to;

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const Index number = context.block(), first = number * PackedBasis::group;
    const int count = PackedBasis::count_of(number, rank * removed);
    context.phase([&](int t) { shared.low[t] = shared.high[t] = value(first + (t < count ? t : 0)); });
    for (int half = threads / 2; half > 0; half /= 2)
      context.phase([&](int t) {
        if (t >= half) return;
        if (shared.low[t + half] < shared.low[t]) shared.low[t] = shared.low[t + half];
        if (shared.high[t + half] > shared.high[t]) shared.high[t] = shared.high[t + half];
      });
    context.last([&](int t) {
      const PackedBasis::Packer packer(shared.low[0], shared.high[0]);
      const int i = 2 * t;
      if (t == 0) to.ranges[number] = packer.range;
      if (i < count)
        to.codes[(first + i) / 2] =
            PackedBasis::both(packer.code(value(first + i)), i + 1 < count ? packer.code(value(first + i + 1)) : 0u);
    });
  }

 private:
  APOLLO_HD float value(Index i) const {
    const Index s = i / rank, k = i - s * rank;
    return from[k * removed + s];
  }
};

/// A block a direction: the lines from the last on become P, with the largest entry of each positive (see basis::fix_signs);
/// what P was goes to `old`, if there is such memory.
struct StoreDirections {
  static constexpr const char* kernel = "StoreDirections";
  struct Shared {
    double largest[threads];
    std::int64_t at[threads];
  };
  const double* last = nullptr;
  Index removed = 0;
  float* to = nullptr;
  float* old = nullptr;
  Progress* progress = nullptr;  ///< which is told that the basis is new

  template <class Context>
  APOLLO_HD void operator()(const Context& context, Shared& shared) const {
    const double* from = last - context.block() * removed;
    float* direction = to + context.block() * removed;
    context.phase([&](int t) {
      double largest = 0;
      Index at = 0;
      for (Index s = t; s < removed; s += threads)
        if (absolute(from[s]) > absolute(largest)) largest = from[s], at = s;
      shared.largest[t] = largest, shared.at[t] = at;
    });
    for (int half = threads / 2; half > 0; half /= 2)
      context.phase([&](int t) {
        if (t >= half) return;
        const double mine = absolute(shared.largest[t]), other = absolute(shared.largest[t + half]);
        if (other > mine || (other == mine && shared.at[t + half] < shared.at[t]))
          shared.largest[t] = shared.largest[t + half], shared.at[t] = shared.at[t + half];
      });
    const double sign = shared.largest[0] < 0 ? -1 : 1;
    context.last([&](int t) {
      if (t == 0 && context.block() == 0) progress->fresh = 1;
      for (Index s = t; s < removed; s += threads) {
        if (old != nullptr) old[context.block() * removed + s] = direction[s];
        direction[s] = static_cast<float>(sign * from[s]);
      }
    });
  }

 private:
  APOLLO_HD static double absolute(double x) { return x < 0 ? -x : x; }
};

}  // namespace apollo::cuda
