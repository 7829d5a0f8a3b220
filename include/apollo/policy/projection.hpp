// SPDX-License-Identifier: Apache-2.0
// The projection axis: which r directions of the removed side the moments see. R = X P^T, P is r x S (L kept, S removed).
#pragma once

#include <type_traits>

#include <apollo/random/normal.hpp>

namespace apollo {

/// Which side of the matrix a projection removes.
enum class ProjType : std::uint8_t {
  std,          ///< the shorter side; columns where both are equal
  reverse_std,  ///< the longer side; rows where both are equal
  right,        ///< columns
  left,         ///< rows
};

/// What happens to the moments, which live in the old directions, when the directions change.
enum class OnRefresh : std::uint8_t {
  keep,    ///< nothing: exact enough for norms under a random P, stale for directions
  reset,   ///< moments start again from zero, and so does the bias correction
  rotate,  ///< M <- M Q^T, V <- V (Q o Q)^T with Q = P_new P_old^T
};

/// How a singular basis is computed.
enum class SvdMethod : std::uint8_t {
  subspace,  ///< subspace iteration, started from the previous basis
  exact,     ///< eigenvectors of the Gram matrix in double precision
};

struct ProjectionRole {};

/// Nothing is projected: R = X. State: none.
struct IdentityProjection {
  using role = ProjectionRole;
  static constexpr const char* name = "identity";
  static constexpr bool projects = false;
  static constexpr bool random = false;
  static constexpr bool stores_basis = false;
};

/// Entries drawn from N(0, 1/r). Error: channel norms keep their mean, variance 2/r. Cost: r S normals a refresh index.
struct Gaussian {
  static constexpr bool dense = true;
  static constexpr const char* name = "gaussian";
};

/// Entries +-1/sqrt(r). Cost: r S random bits. Source: Achlioptas, JCSS 2003.
struct Rademacher {
  static constexpr bool dense = true;
  static constexpr const char* name = "rademacher";
};

/// Each of the S inputs goes to `nonzeros` of the r buckets, with a random sign and weight 1/sqrt(nonzeros).
/// Cost: `nonzeros` additions per element of X, whatever the rank. Source: Nelson and Nguyen, FOCS 2013 (block construction).
template <int count>
struct SparseSigns {
  static_assert(count >= 1, "apollo: SparseSigns<n> needs n of at least 1; see docs/compose.md.");
  static constexpr bool dense = false;
  static constexpr int nonzeros = count;
  static constexpr const char* name = "sparse_sign";
};
using SparseSign = SparseSigns<1>;

/// Subsampled randomised Hadamard transform: random signs, the orthonormal Hadamard transform over the next power of two
/// (inputs beyond the removed side are zero), and one frequency drawn from each of r equal parts of the spectrum, weighted
/// so that E |P x|^2 = |x|^2. Here as a matrix of entries +-1/sqrt(r), or nearly where r does not divide the power of two.
/// Cost: r S bit counts a step. Source: Ailon and Chazelle, SIAM J. Comput. 39 (2009); Tropp, arXiv:1011.1595.
struct HadamardTransform {
  static constexpr bool dense = true;
  static constexpr const char* name = "hadamard";
};

/// The same with the orthonormal cosine transform (DCT-II), over the removed side itself. Cost: r S cosines a step.
/// Source: Avron, Maymounkov and Toledo, SIAM J. Sci. Comput. 32 (2010), sec. 3.
struct CosineTransform {
  static constexpr bool dense = true;
  static constexpr const char* name = "cosine";
};

/// A random projection that is drawn again from (seed, tensor, refresh index) in every step. State: none.
/// Source: APOLLO (arXiv:2412.05270) sec. 4, Algorithm 1.
template <class SketchType = Gaussian>
struct RandomProjection {
  using role = ProjectionRole;
  using Sketch = SketchType;
  static constexpr const char* name = Sketch::name;
  static constexpr bool projects = true;
  static constexpr bool random = true;
  static constexpr bool stores_basis = false;
};

/// The top r singular vectors of the gradient on the removed side, recomputed every `update_proj_gap` steps.
/// State: r S values. Source: GaLore (arXiv:2403.03507) sec. 4.
struct SvdProjection {
  using role = ProjectionRole;
  static constexpr const char* name = "svd";
  static constexpr bool projects = true;
  static constexpr bool random = false;
  static constexpr bool stores_basis = true;
};

/// The same with P in 4 bits, and recomputed ever less often where it changes little: when the last five bases kept, in the
/// mean, `similarity_threshold` of the one before each, |P_new P_old^T|_F^2 / r, the tensor's own gap doubles.
/// State: r S / 2 bytes and 8 for 256 values. Source: Q-GaLore (arXiv:2407.08296) sec. 3.2 and 3.3, with a measure that knows
/// no order or sign of the vectors.
struct Int4SvdProjection {
  using role = ProjectionRole;
  static constexpr const char* name = "svd_int4";
  static constexpr bool projects = true;
  static constexpr bool random = false;
  static constexpr bool stores_basis = true;
};

/// A matrix the caller sets, for parity tests and research. State: r S values. Steps are skipped until it is set.
struct FixedProjection {
  using role = ProjectionRole;
  static constexpr const char* name = "fixed";
  static constexpr bool projects = true;
  static constexpr bool random = false;
  static constexpr bool stores_basis = true;
};

/// Whether singular vectors of the gradient are computed.
template <class Projection>
inline constexpr bool computes_basis =
    std::is_same_v<Projection, SvdProjection> || std::is_same_v<Projection, Int4SvdProjection>;
/// Whether the basis is kept as a PackedBasis, and refreshed when the tensor's own record says.
template <class Projection>
inline constexpr bool packs_basis = std::is_same_v<Projection, Int4SvdProjection>;

/// P as the backends see it where it is dense: S rows of r adjacent values, row s holding P(0..r-1, s).
template <class T>
struct DenseDirections {
  const T* data = nullptr;
  Index rank = 0;
  Index removed = 0;
};

/// Whether a projection is random and dense. The sketch is looked at only where that is `asked`: it may be one that fails.
template <class Projection, bool asked>
constexpr bool is_drawn_as_matrix() {
  if constexpr (asked && Projection::random)
    return Projection::Sketch::dense;
  else
    return false;
}

/// P as the backends see it where it is sparse. Inputs come in groups of `lanes`, 1 or 8; in map h of `nonzeros`, input
/// s = lanes * q + l goes to bucket_of(h, s) = bucket[h * map_size + q] ^ l with sign[h * removed + s] (the sign bit of
/// a float): a group of eight inputs goes to eight adjacent buckets, its order turned by the three lowest bits.
struct SparseDirections {
  const std::int32_t* bucket = nullptr;
  const std::uint32_t* sign = nullptr;
  Index rank = 0;
  Index removed = 0;
  Index map_size = 0;
  int lanes = 1;
  int nonzeros = 1;

  Index bucket_of(int h, Index s) const {
    return bucket[h * map_size + s / lanes] ^ static_cast<std::int32_t>(s % lanes);
  }
};

/// Draws rows [first, first + count) of a dense random projection (values P(0..r-1, s)) that removes a side of length
/// `removed`. Of Gaussian and Rademacher, P(k, s) is draw number s r + k.
template <class T>
inline void draw(Gaussian, const RandomStream& stream, Index rank, Index, Index first, Index count, T* rows) {
  const T spread = T(1) / static_cast<T>(__builtin_sqrt(static_cast<double>(rank)));
  float buffer[512];
  for (Index done = 0, all = rank * count; done < all;) {
    const Index take = all - done < 512 ? all - done : 512;
    fill_normals(stream, static_cast<std::uint64_t>(rank * first + done), static_cast<std::uint64_t>(take), buffer);
    for (Index i = 0; i < take; ++i) rows[done + i] = spread * static_cast<T>(buffer[i]);
    done += take;
  }
}

template <class T>
inline void draw(Rademacher, const RandomStream& stream, Index rank, Index, Index first, Index count, T* rows) {
  const T spread = T(1) / static_cast<T>(__builtin_sqrt(static_cast<double>(rank)));
  const auto begin = static_cast<std::uint64_t>(rank * first);
  const auto end = begin + static_cast<std::uint64_t>(rank * count);
  for (std::uint64_t element = begin; element < end;) {
    const PhiloxCounter bits = stream.block(element >> 7);
    for (; element < end; ++element) {
      const bool negative = ((bits.word[(element >> 5) & 3u] >> (element & 31u)) & 1u) != 0;
      rows[element - begin] = negative ? -spread : spread;
      if ((element & 127u) == 127u) {
        ++element;
        break;
      }
    }
  }
}

/// The frequency that direction k of a subsampled transform takes, drawn from its own part [k n / r, (k + 1) n / r) of the n
/// there are: word k of the hash stream. `weight` is sqrt(part), which makes up for those left out.
struct Frequency {
  std::uint64_t number = 0;
  double weight = 0;

  APOLLO_HD Frequency(RandomStream stream, Index k, Index rank, Index n) {
    stream.stream = Stream::hash;
    const Index begin = k * n / rank, part = (k + 1) * n / rank - begin;
    const std::uint64_t random = stream.word(static_cast<std::uint64_t>(k));
    number = static_cast<std::uint64_t>(begin) + ((static_cast<std::uint64_t>(part) * random) >> 32);
    weight = __builtin_sqrt(static_cast<double>(part));
  }
};

/// Direction k of a subsampled Hadamard transform, but for the signs of its inputs: entries of one size, some of them negative.
struct HadamardDirection {
  Frequency frequency;
  double size = 0;

  APOLLO_HD HadamardDirection(const RandomStream& stream, Index k, Index rank, Index removed)
      : frequency(stream, k, rank, transform_size(removed)) {
    size = frequency.weight / __builtin_sqrt(static_cast<double>(transform_size(removed)));
  }
  /// Whether an odd number of the frequency's bits are set in s.
  APOLLO_HD bool negative(Index s) const {
    std::uint64_t bits = frequency.number & static_cast<std::uint64_t>(s);
    for (int half = 32; half > 0; half /= 2) bits ^= bits >> half;
    return (bits & 1u) != 0;
  }

 private:
  APOLLO_HD static Index transform_size(Index removed) {
    Index power = 1;
    while (power < removed) power *= 2;
    return power;
  }
};

/// Direction k of a subsampled cosine transform likewise: `size` times cosines of turns, of which 2^32 are a circle.
struct CosineDirection {
  Frequency frequency;
  double size = 0;
  std::uint64_t circle = 0;  ///< cos(pi f (2 s + 1) / (2 S)) is that of one of 4 S points on a circle

  APOLLO_HD CosineDirection(const RandomStream& stream, Index k, Index rank, Index removed)
      : frequency(stream, k, rank, removed), circle(4 * static_cast<std::uint64_t>(removed)) {
    size = frequency.weight * __builtin_sqrt((frequency.number == 0 ? 1.0 : 2.0) / static_cast<double>(removed));
  }
  APOLLO_HD std::uint32_t turn(Index s) const {
    const std::uint64_t point = frequency.number * (2 * static_cast<std::uint64_t>(s) + 1) % circle;
    return static_cast<std::uint32_t>((point << 32) / circle);
  }
};

/// Sign bits of inputs [first, first + count) of a subsampled transform: bit s of the sign stream.
template <class Body>
inline void for_signs(RandomStream stream, Index first, Index count, Body&& body) {
  stream.stream = Stream::signs;
  PhiloxCounter bits;
  for (Index i = 0; i < count; ++i) {
    const auto s = static_cast<std::uint64_t>(first + i);
    if (i == 0 || (s & 127u) == 0) bits = stream.block(s >> 7);
    body(i, ((bits.word[(s >> 5) & 3u] >> (s & 31u)) & 1u) != 0);
  }
}

template <class T>
inline void draw(HadamardTransform, const RandomStream& stream, Index rank, Index removed, Index first, Index count,
                 T* rows) {
  for (Index k = 0; k < rank; ++k) {
    const HadamardDirection direction(stream, k, rank, removed);
    const auto entry = static_cast<T>(direction.size);
    for (Index i = 0; i < count; ++i) rows[i * rank + k] = direction.negative(first + i) ? -entry : entry;
  }
  for_signs(stream, first, count, [&](Index i, bool negative) {
    if (negative)
      for (Index k = 0; k < rank; ++k) rows[i * rank + k] = -rows[i * rank + k];
  });
}

template <class T>
inline void draw(CosineTransform, const RandomStream& stream, Index rank, Index removed, Index first, Index count,
                 T* rows) {
  for (Index k = 0; k < rank; ++k) {
    const CosineDirection direction(stream, k, rank, removed);
    const auto entry = static_cast<T>(direction.size);
    std::uint32_t turn[64];
    float cosine[64];
    for (Index done = 0; done < count; done += 64) {
      const int take = static_cast<int>(count - done < 64 ? count - done : 64);
      for (int i = 0; i < take; ++i) turn[i] = direction.turn(first + done + i);
      fill_cosines(turn, take, cosine);
      for (int i = 0; i < take; ++i) rows[(done + i) * rank + k] = entry * static_cast<T>(cosine[i]);
    }
  }
  for_signs(stream, first, count, [&](Index i, bool negative) {
    if (negative)
      for (Index k = 0; k < rank; ++k) rows[i * rank + k] = -rows[i * rank + k];
  });
}

/// Sizes of the tables of a sparse projection. A map is drawn in whole windows, so its table may reach past the groups.
APOLLO_HD constexpr int sparse_lanes(Index rank, int nonzeros) { return rank % (8 * Index{nonzeros}) == 0 ? 8 : 1; }
APOLLO_HD constexpr Index sparse_groups(Index removed, int lanes) { return (removed + lanes - 1) / lanes; }
APOLLO_HD constexpr Index sparse_map_size(Index rank, Index removed, int nonzeros) {
  const int lanes = sparse_lanes(rank, nonzeros);
  return sparse_groups(removed, lanes) + rank / lanes;
}

/// The map of one window of groups, from `window` on in map h: each of `buckets` groups of buckets, the first of them at
/// bucket `first`, once. `map` is the window's; word `number` of the hash stream shuffles its first group.
APOLLO_HD inline void draw_sparse_window(const RandomStream& hash, std::uint64_t number, Index buckets,
                                         std::int32_t first, int lanes, std::int32_t* map) {
  for (Index i = 0; i < buckets; ++i) {  // Fisher-Yates from the inside out
    const std::uint64_t random = hash.word(number + static_cast<std::uint64_t>(i));
    const auto pick = static_cast<Index>((static_cast<std::uint64_t>(i + 1) * random) >> 32);
    map[i] = map[pick];
    const auto turn = static_cast<std::int32_t>(random & static_cast<std::uint64_t>(lanes - 1));
    map[pick] = (first + lanes * static_cast<std::int32_t>(i)) | turn;
  }
}

/// Draws the tables of a sparse sign projection: a balanced random map from groups of inputs to groups of buckets (every
/// bucket group is hit once before any is hit twice), one map for each of `nonzeros` equal blocks of buckets, and a sign
/// for every input and map. With m = sparse_map_size, word h m + q of the hash stream shuffles group q of map h, and bit
/// h S + s of the sign stream is the sign of input s in map h.
/// Where 8 * nonzeros divides the rank, eight adjacent inputs go to eight adjacent buckets, so that a vector unit moves
/// them together, in an order that the lowest three bits of the word turn: any two inputs then meet in a bucket of a
/// map with a chance of nonzeros / rank at most. Otherwise every input is a group of its own.
inline SparseDirections draw_sparse(RandomStream stream, Index rank, Index removed, int nonzeros, std::int32_t* bucket,
                                    std::uint32_t* sign) {
  const int lanes = sparse_lanes(rank, nonzeros);
  const Index groups = sparse_groups(removed, lanes);
  const Index map_size = sparse_map_size(rank, removed, nonzeros);
  stream.stream = Stream::hash;
  for (int h = 0; h < nonzeros; ++h) {
    const auto first = static_cast<std::int32_t>(rank * h / nonzeros);
    const Index buckets = (static_cast<std::int32_t>(rank * (h + 1) / nonzeros) - first) / lanes;
    std::int32_t* map = bucket + h * map_size;
    for (Index window = 0; window < groups; window += buckets)
      draw_sparse_window(stream, static_cast<std::uint64_t>(h * map_size + window), buckets, first, lanes,
                         map + window);
  }
  stream.stream = Stream::signs;
  const auto signs = static_cast<std::uint64_t>(removed) * static_cast<std::uint64_t>(nonzeros);
  for (std::uint64_t begin = 0; begin < signs; begin += 128) {
    const PhiloxCounter bits = stream.block(begin >> 7);
    for (std::uint64_t i = 0; i < 128 && begin + i < signs; ++i)
      sign[begin + i] = ((bits.word[i >> 5] >> (i & 31u)) & 1u) << 31;
  }
  return {bucket, sign, rank, removed, map_size, lanes, nonzeros};
}

}  // namespace apollo
