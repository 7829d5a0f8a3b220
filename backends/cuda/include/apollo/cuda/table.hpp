// SPDX-License-Identifier: Apache-2.0
// The tables that lie on the device: what each tensor is, how far it has come, and which block has which part of it.
#pragma once

#include <apollo/cuda/clock.hpp>
#include <apollo/step/coefficients.hpp>
#include <apollo/step/report.hpp>
#include <apollo/tensor/blocks.hpp>
#include <apollo/tensor/int8.hpp>

namespace apollo::cuda {

/// What a group's steps read that changes between them. It lies on the device, so that a captured graph reads it anew.
struct GroupInput {
  double lr = 0;
  double gradient_factor = 1;
};

struct ProductScalars;

/// One tensor. Written at registration, and where a tensor is bound to other memory.
struct Entry {
  TensorSetup setup;
  const GroupInput* input = nullptr;
  const Clock* clock = nullptr;
  Index number = 0;  ///< in order of registration
  void* weight = nullptr;
  const void* gradient = nullptr;  ///< null: no gradient
  void* moment[2] = {};
  float* scales[2] = {};    ///< of moments in blocks
  float* shared = nullptr;  ///< V of each block of channels; or in two factors, means of rows and then of columns
  std::uint16_t* remainder = nullptr;  ///< of split weights
  GroupRange* ranges = nullptr;        ///< of weights in groups ...
  int group_bits = 0;                  ///< ... of 2^this
  PackedBasis packed;                  ///< P^T, where it is kept in 4 bits

  Index lines = 0;       ///< of memory: rows of a row-major matrix
  Index length = 0;      ///< of a line
  bool along = false;    ///< each line of memory is a channel; else each index in a line is one
  bool aligned = false;  ///< every run of every array begins at 16 bytes
  Index blocks = 0;      ///< that fill `sums`

  float* sum = nullptr;  ///< of gradients of micro-batches, from the first on: as R, or whole in the gradient's order
  bool of_sum = false;   ///< the gradient here is that sum; see Batch
  bool by_products = false;  ///< R and lift(C) are taken by matrix products of the library
  std::int32_t splits = 1;   ///< of which this many add up to R

  // Scratch of a step.
  float* directions = nullptr;      ///< P of a dense projection, rank x removed
  std::int32_t* map = nullptr;      ///< of a sparse one, as it is drawn ...
  std::int32_t* inputs = nullptr;   ///< ... and turned round: which input a bucket takes in a window
  std::uint32_t* signs = nullptr;   ///< of 32 inputs each
  float* old_directions = nullptr;  ///< where moments are turned at a refresh: P before it ...
  std::int32_t* old_map = nullptr;
  std::uint32_t* old_signs = nullptr;
  bfloat16* split_directions = nullptr;  ///< P as `splits` bfloat16 matrices, the largest first
  ProductScalars* scalars = nullptr;
  float* q = nullptr;         ///< ... and P_new P_old^T, rank x rank ...
  float* turned = nullptr;    ///< ... and moments in blocks before they are closed again
  float* r = nullptr;         ///< `parts` times kept x rank: R is their sum
  float* n = nullptr;         ///< N where it is lifted, C then: kept x rank, or rank x kept where channels are adjacent
  double* x_norms = nullptr;  ///< `norm_parts` times kept: squared norms of channels likewise
  double* n_norms = nullptr;  ///< of N, where nothing is projected, or for the residual ...
  double* r_norms = nullptr;  ///< ... and of R
  double* column_sums = nullptr;   ///< factored moments: `column_parts` times so many sums of squares, and ...
  float* column_factor = nullptr;  ///< ... by what columns are multiplied; rows by channel_step
  Index parts = 1;
  Index norm_parts = 1;
  Index column_parts = 1;
  double* sums = nullptr;           ///< of each block of a pass: one number, or three
  double* channel_scale = nullptr;  ///< s of a channel ...
  float* channel_step = nullptr;    ///< ... and by what its gradient is multiplied

  Index values() const { return lines * length; }
  /// Where C has the value of channel j and direction k.
  APOLLO_HD Index in_n(Index j, Index k) const { return along ? j * setup.plan.rank + k : k * setup.plan.kept + j; }
};

/// What waits for a tensor's step beside its gradient.
enum class Pending : std::int32_t {
  none,
  whole,      ///< a sum of gradients ...
  folded,     ///< ... and the gradient that is bound is in it
  projected,  ///< a sum of R
  spoiled,    ///< the same, of which one was not finite: the step will be skipped
};

/// Where a tensor stands. Written by kernels alone.
struct Progress {
  Record record;
  std::int64_t skipped = 0;             ///< steps that it did not take since their gradients were not finite
  double gradient_norm = not_measured;  ///< of the last step, as scaled; where the gradient is looked at first
  double update_norm = not_measured;    ///< of the last structured update, after the limiter
  double limiter = 1;                   ///< which was divided by this
  // For the kernels of one step:
  StepCoefficients<float> c;
  RandomStream weight_rounding;
  double gradient_factor = 1;  ///< what multiplies the gradient: loss scale and clipping
  float clip = 1;              ///< what multiplies R, which has the loss scale
  double factor = 0;           ///< the step length of a channel is this times its scale
  Pending pending = Pending::none;
  std::int32_t carries = 0;  ///< this step takes a sum of R
  std::int32_t fresh = 0;    ///< a basis was computed for the coming step
  std::int32_t active = 0;
  std::int32_t restarts = 0;  ///< moments count as zero
  std::int32_t rotates = 0;   ///< moments are turned to new directions

  /// Of moments that are turned. The update rounds with the same counter: the highest bit tells.
  APOLLO_HD RandomStream rotation_rounding() const {
    RandomStream stream = c.rounding;
    stream.counter |= std::uint64_t{1} << 47;
    return stream;
  }
};

/// Whether a tensor's step is of this entry: of its sum, where one waits that is whole, else of its gradient.
APOLLO_HD inline bool takes(const Entry& entry, const Progress& progress) {
  return entry.of_sum == (progress.pending == Pending::whole || progress.pending == Pending::folded);
}

/// Number `at` of an array that kernels left in parts, one every `stride` numbers.
template <class Number>
APOLLO_HD Number sum_of_parts(const Number* from, Index parts, Index stride, Index at) {
  Number sum = 0;
  for (Index part = 0; part < parts; ++part) sum += from[part * stride + at];
  return sum;
}
/// The squared norm of channel j of X as given.
APOLLO_HD inline double x_norm(const Entry& entry, Index j) {
  return sum_of_parts(entry.x_norms, entry.norm_parts, entry.setup.plan.kept, j);
}

/// One block's part of one tensor.
struct Part {
  std::int32_t tensor = 0;
  std::int32_t number = 0;
};

/// What every kernel is given.
struct Tables {
  const Entry* entries = nullptr;
  Progress* progress = nullptr;
  const Part* parts = nullptr;

  APOLLO_HD const Entry& entry(Index block) const { return entries[parts[block].tensor]; }
  APOLLO_HD Progress& progress_of(Index block) const { return progress[parts[block].tensor]; }
  APOLLO_HD Index number(Index block) const { return parts[block].number; }
  /// Whether a block has no gradient here to look at.
  APOLLO_HD bool idle(Index block) const {
    return entry(block).gradient == nullptr || !takes(entry(block), progress_of(block));
  }
};

/// Values that a thread handles at a time: loops over memory take eight, a warp a run of storage_block.
inline constexpr int per_thread = 8;
inline constexpr int warp = storage_block / per_thread;
inline constexpr int runs_at_once = threads / warp;
inline constexpr int runs_a_part = 4 * runs_at_once;
static_assert(warp == 32);
/// The run with which a turn of a part begins.
APOLLO_HD constexpr Index first_run_of(Index part, int turn) {
  return (part * (runs_a_part / runs_at_once) + turn) * runs_at_once;
}

constexpr Index ceil_divide(Index a, Index b) { return (a + b - 1) / b; }

APOLLO_INLINE constexpr int min_of(int a, int b) { return a < b ? a : b; }
APOLLO_INLINE constexpr Index min_of(Index a, Index b) { return a < b ? a : b; }

/// Run number `number` of a tensor in order of memory; storage and random bits are cut alike, see tensor/blocks.hpp.
struct Run {
  Index value = 0;  ///< number of its first value
  Index line = 0;   ///< of a line of at least storage_block values: its number, and where in it the run begins
  Index at = 0;
  int count = 0;
};
APOLLO_HD inline Index run_count(Index lines, Index length) {
  if (length < storage_block) return (lines * length + storage_block - 1) / storage_block;
  return lines * ((length + storage_block - 1) / storage_block);
}
APOLLO_HD inline Run run_at(Index lines, Index length, Index number) {
  Run run;
  Index left = 0;
  if (length >= storage_block) {
    const Index in_line = (length + storage_block - 1) / storage_block;
    run.line = number / in_line;
    run.at = (number - run.line * in_line) * storage_block;
    run.value = run.line * length + run.at;
    left = length - run.at;
  } else {
    run.value = number * storage_block;
    left = lines * length - run.value;
  }
  run.count = static_cast<int>(min_of(left, Index{storage_block}));
  return run;
}

/// The same as policies' storages take it.
APOLLO_HD inline StorageRun storage_run(const Entry& entry, const Run& run) {
  const bool joined = entry.length < storage_block;
  return {run.line,     joined ? run.value : run.at, joined ? entry.lines * entry.length : entry.length, run.count,
          entry.length, Order2D::row_major};
}

/// Where value `at` of a run lies: its line of memory and its place there.
APOLLO_HD inline void place_of(const Entry& entry, const Run& run, int at, Index& line, Index& in_line) {
  line = run.line, in_line = run.at + at;
  if (entry.length < storage_block) {
    line = (run.value + at) / entry.length;
    in_line = run.value + at - line * entry.length;
  }
}
/// By what that value's channel is multiplied.
APOLLO_HD inline float channel_step_of(const Entry& entry, const Run& run, int at) {
  Index line, in_line;
  place_of(entry, run, at, line, in_line);
  return entry.channel_step[entry.along ? line : in_line];
}

}  // namespace apollo::cuda
