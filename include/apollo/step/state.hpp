// SPDX-License-Identifier: Apache-2.0
// State: what one tensor keeps between steps, and the one traversal of it that saving, loading and counting share.
#pragma once

#include <cstring>
#include <type_traits>

#include <apollo/policy/limiter.hpp>
#include <apollo/policy/moments.hpp>
#include <apollo/policy/storage.hpp>
#include <apollo/step/packed_basis.hpp>
#include <apollo/step/plan.hpp>

namespace apollo {

/// The few numbers every tensor keeps beside its arrays.
struct Record {
  std::int64_t steps = 0;           ///< t: steps really taken
  std::int64_t restart = 0;         ///< OnRefresh::reset: t when the bias correction last started again
  std::int64_t projection_set = 0;  ///< FixedProjection: 1 once the caller has set it
  float previous_norm = NormGrowthLimiter::no_norm;
  // Of a packed basis:
  static constexpr int similarities = 5;
  std::int64_t refreshes = 0;           ///< bases computed
  std::int64_t next_refresh = 0;        ///< t - 1 of the step that computes the next
  std::int64_t gap = 0;                 ///< steps between them; 0 before the first
  float similarity[similarities] = {};  ///< of the last bases to those before them, the newest first; 0 for none
};

/// Whether the next step takes another projection than the last did.
template <class Projection>
bool refresh_due(const TensorSetup& setup, const Record& record) {
  return packs_basis<Projection> ? record.steps >= record.next_refresh : setup.refresh_due(record.steps);
}

/// Says when to look again at a packed basis that was just computed, of which `kept`, |P_new P_old^T|_F^2 / r, was in the one
/// before; of the first there is none.
inline void note_refresh(const Settings& settings, double kept, Record& record) {
  if (record.refreshes == 0) {
    record.gap = settings.update_proj_gap;
    record.next_refresh = record.gap - settings.refresh_phase % record.gap;
  } else {
    for (int i = Record::similarities - 1; i > 0; --i) record.similarity[i] = record.similarity[i - 1];
    record.similarity[0] = static_cast<float>(kept);
    double sum = 0;
    for (const float similarity : record.similarity) sum += static_cast<double>(similarity);
    constexpr std::int64_t longest = std::int64_t{1} << 40;
    const bool similar = sum >= settings.similarity_threshold * Record::similarities;
    if (record.refreshes >= Record::similarities && similar && record.gap < longest) record.gap *= 2;
    record.next_refresh = record.steps + record.gap;
  }
  ++record.refreshes;
}

/// Moment buffers as the backends see them.
template <class Stored>
struct MomentPointers {
  std::conditional_t<is_block_format<Stored>, BlockPointer, Stored*> buffer[2] = {};
};

/// Closes a run of moments in plain loops; a backend takes roots of its own.
template <class Storage, class T>
void close_moments(T* values, typename Storage::Pointer stored, const StorageRun& run, int number,
                   const std::uint8_t* random) {
  if (Storage::takes_roots && number == 1)
    for (int i = 0; i < run.count; ++i) values[i] = static_cast<T>(__builtin_sqrt(static_cast<double>(values[i])));
  Storage::close(values, stored, run, number, random);
}

/// The runs of a moment buffer: those of a tensor that is not projected go along the lines of its weight's memory, so that
/// both are opened together; R is one line.
template <class Policies>
constexpr BlockedLines moment_lines(const Plan& plan) {
  if (Policies::moments_of_matrix) return {1, plan.moment_size()};
  return plan.state_order == Order2D::row_major ? BlockedLines::of(plan.kept, plan.removed)
                                                : BlockedLines::of(plan.removed, plan.kept);
}

/// The memory of one moment buffer.
template <class Stored, template <class> class Buffer>
class MomentArray {
 public:
  MomentArray() = default;
  explicit MomentArray(const BlockedLines& lines) : values_(lines.lines * lines.length) {}
  static constexpr Index bytes(const BlockedLines& lines) {
    return lines.lines * lines.length * static_cast<Index>(sizeof(Stored));
  }
  Stored* pointer() { return values_.data(); }
  void clear() { std::memset(static_cast<void*>(values_.data()), 0, static_cast<std::size_t>(values_.bytes())); }
  Stored* data() { return values_.data(); }
  const Stored* data() const { return values_.data(); }

 private:
  Buffer<Stored> values_;
};

template <class Format, template <class> class Buffer>
  requires(is_block_format<Format>)
class MomentArray<Format, Buffer> {
 public:
  MomentArray() = default;
  explicit MomentArray(const BlockedLines& lines)
      : codes_(lines.lines * code_bytes<Format>(lines.length)), scales_(lines.count(Format::block)) {}
  static constexpr Index bytes(const BlockedLines& lines) {
    return lines.lines * code_bytes<Format>(lines.length) +
           lines.count(Format::block) * static_cast<Index>(sizeof(float));
  }
  BlockPointer pointer() { return {codes_.data(), scales_.data()}; }
  void clear() {  // a scale of zero makes zeros of all codes
    std::memset(codes_.data(), 0, static_cast<std::size_t>(codes_.bytes()));
    std::memset(scales_.data(), 0, static_cast<std::size_t>(scales_.bytes()));
  }
  MatrixView<std::uint8_t> codes(Index lines) { return row_major(codes_.data(), lines, codes_.size() / lines); }
  MatrixView<float> scales(Index lines) { return row_major(scales_.data(), lines, scales_.size() / lines); }

 private:
  Buffer<std::uint8_t> codes_;
  Buffer<float> scales_;
};

/// Numbers in vector 0 or 1 of what elements share.
template <class Policies>
constexpr Index vector_size(const Plan& plan, int number) {
  if (Policies::by_block) return number == 0 ? plan.blocks() : 0;
  if (Policies::factored) return number == 0 ? plan.kept : plan.rank;
  if (Policies::factored_gradient) return number == 0 ? plan.kept : plan.removed;
  return 0;
}

/// Stands for a backend's memory where bytes are only counted.
template <class T>
struct NoMemory {};

/// Bytes of arrays alone: moments, the remainders of split weights, and the basis where it is stored. The record is counted by
/// record_bytes.
template <class Policies, class T>
constexpr Index state_bytes(const Plan& plan) {
  using Stored = stored_t<typename Policies::Moments, T>;
  Index bytes = Policies::Moments::buffers * MomentArray<Stored, NoMemory>::bytes(moment_lines<Policies>(plan));
  if (Policies::Weights::keeps_remainder) bytes += plan.shape.rows * plan.shape.cols * Index{2};
  bytes += (vector_size<Policies>(plan, 0) + vector_size<Policies>(plan, 1)) * static_cast<Index>(sizeof(T));
  const Index basis = plan.rank * plan.removed;
  if (packs_basis<typename Policies::Projection>)
    bytes += PackedBasis::bytes(basis);
  else if (Policies::Projection::stores_basis)
    bytes += basis * static_cast<Index>(sizeof(T));
  return bytes;
}

/// Bytes of the record that this composition uses: 8, with a limiter 4 more, with OnRefresh::reset or a fixed projection 8, with
/// a packed basis 44.
template <class Policies>
constexpr Index record_bytes(const Settings& settings) {
  Index bytes = 8;
  if (Policies::Limiter::active) bytes += 4;
  if (Policies::Projection::projects && settings.on_refresh == OnRefresh::reset) bytes += 8;
  if (std::is_same_v<typename Policies::Projection, FixedProjection>) bytes += 8;
  if (packs_basis<typename Policies::Projection>) bytes += 3 * 8 + 4 * Record::similarities;
  return bytes;
}

/// Buffer is the backend's memory. Shapes: moments kept x rank (unprojected: as the weight), basis rank x removed.
template <class Policies, class T, template <class> class Buffer>
struct State {
  using Moments = typename Policies::Moments;
  using Projection = typename Policies::Projection;
  using Stored = stored_t<Moments, T>;

  MomentArray<Stored, Buffer> moment[Moments::buffers == 0 ? 1 : Moments::buffers];
  Buffer<T> shared[2];  ///< V where elements share it: one value a block, or one a channel and one a direction
  Buffer<T> basis;      ///< P^T: removed x rank, row-major
  Buffer<std::uint8_t> packed_codes;  ///< the same as a PackedBasis
  Buffer<GroupRange> packed_ranges;
  Buffer<std::uint16_t> remainder;  ///< of SplitWeights
  Record record;

  State() = default;
  explicit State(const Plan& plan) {
    check_moments<Stored, T>();
    for (int i = 0; i < Moments::buffers; ++i) moment[i] = MomentArray<Stored, Buffer>(moment_lines<Policies>(plan));
    for (int i = 0; i < 2; ++i)
      if (vector_size<Policies>(plan, i) > 0) shared[i] = Buffer<T>(vector_size<Policies>(plan, i));
    const Index basis_size = plan.rank * plan.removed;
    if constexpr (packs_basis<Projection>) {
      packed_codes = Buffer<std::uint8_t>(PackedBasis::code_bytes(basis_size));
      packed_ranges = Buffer<GroupRange>(PackedBasis::groups(basis_size));
    } else if (Projection::stores_basis) {
      basis = Buffer<T>(basis_size);
    }
    if (Policies::Weights::keeps_remainder) remainder = Buffer<std::uint16_t>(plan.shape.rows * plan.shape.cols);
  }

  MomentPointers<Stored> moments() {
    MomentPointers<Stored> pointers;
    for (int i = 0; i < Moments::buffers; ++i) pointers.buffer[i] = moment[i].pointer();
    return pointers;
  }

  PackedBasis packed() { return {packed_codes.data(), packed_ranges.data()}; }

  /// Moment 0 of an unprojected tensor, oriented like X.
  MatrixView<const Stored> momentum(const Plan& plan) const { return oriented(plan, moment[0].data()); }

  /// Calls visit.array(name, view) for every array and visit.scalar(name, value) for every number of the record in use.
  /// Names are torch's where torch has the thing. Moments of unprojected tensors are shown in the weight's own orientation,
  /// so that a checkpoint does not depend on memory layout.
  template <class Visitor>
  void visit(const Plan& plan, const Settings& settings, Visitor&& visit) {
    constexpr bool mean = Moments::buffers == 2 || Policies::by_block || Policies::factored_gradient;
    constexpr const char* names[] = {mean ? "exp_avg" : "momentum_buffer", "exp_avg_sq"};
    constexpr const char* scale_names[] = {mean ? "exp_avg_scale" : "momentum_buffer_scale", "exp_avg_sq_scale"};
    for (int i = 0; i < Moments::buffers; ++i) {
      if constexpr (is_block_format<Stored>) {
        const Index lines = moment_lines<Policies>(plan).lines;
        visit.array(names[i], moment[i].codes(lines));
        visit.array(scale_names[i], moment[i].scales(lines));
      } else {
        visit.array(names[i], moment_view(plan, moment[i].data()));
      }
    }
    constexpr const char* shared_names[] = {Policies::by_block ? "exp_avg_sq" : "exp_avg_sq_row", "exp_avg_sq_col"};
    for (int i = 0; i < 2; ++i)
      if (const Index size = vector_size<Policies>(plan, i); size > 0)
        visit.array(shared_names[i], row_major(shared[i].data(), size, 1));
    if constexpr (packs_basis<Projection>) {
      visit.array("basis", row_major(packed_codes.data(), 1, packed_codes.size()));
      visit.array("basis_ranges", row_major(reinterpret_cast<float*>(packed_ranges.data()), packed_ranges.size(), 2));
    } else if (Projection::stores_basis) {
      visit.array("basis", row_major(basis.data(), plan.removed, plan.rank));
    }
    if (Policies::Weights::keeps_remainder) {
      const Index lines = plan.weight_order == Order2D::row_major ? plan.shape.rows : plan.shape.cols;
      visit.array("weight_remainder", row_major(remainder.data(), lines, remainder.size() / lines));
    }
    visit.scalar("step", record.steps);
    if (Policies::Limiter::active) visit.scalar("previous_norm", record.previous_norm);
    if (Projection::projects && settings.on_refresh == OnRefresh::reset) visit.scalar("restart", record.restart);
    if (std::is_same_v<Projection, FixedProjection>) visit.scalar("projection_set", record.projection_set);
    if (packs_basis<Projection>) {
      visit.scalar("refreshes", record.refreshes);
      visit.scalar("next_refresh", record.next_refresh);
      visit.scalar("refresh_gap", record.gap);
      constexpr const char* similarity_names[] = {"similarity_1", "similarity_2", "similarity_3", "similarity_4",
                                                  "similarity_5"};
      for (int i = 0; i < Record::similarities; ++i) visit.scalar(similarity_names[i], record.similarity[i]);
    }
  }

 private:
  template <class Value>
  static MatrixView<Value> oriented(const Plan& plan, Value* data) {
    return plan.state_order == Order2D::row_major ? row_major(data, plan.kept, plan.rank)
                                                  : column_major(data, plan.kept, plan.rank);
  }
  static MatrixView<Stored> moment_view(const Plan& plan, Stored* data) {
    const auto view = oriented(plan, data);
    return Projection::projects ? view : plan.orient(view);
  }
};

}  // namespace apollo
