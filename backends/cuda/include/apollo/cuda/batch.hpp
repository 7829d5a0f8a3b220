// SPDX-License-Identifier: Apache-2.0
// Batches: all tensors of one composition and of the same value types, stepped by the same few launches however many they are.
// Here what their tables are; typed_batch.hpp has the steps.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <apollo/cuda/allocation.hpp>
#include <apollo/cuda/table.hpp>
#include <apollo/step/plan.hpp>
#include <apollo/step/state_visitor.hpp>

namespace apollo::cuda {

/// What is asked of a batch with a new tensor: checked by whoever asks.
struct TensorRequest {
  std::string name;
  TensorId id = 0;
  Shape shape;
  Order2D order = Order2D::row_major;
  Settings settings;
  const GroupInput* input = nullptr;
  void* weight = nullptr;
  const void* gradient = nullptr;
  GroupRange* ranges = nullptr;  ///< of weights in groups
  int group_bits = 0;            ///< of 2^this
};

/// A tensor as the host knows it.
template <class Device>
struct Tensor {
  std::string name;
  Entry entry;
  Index moment_bytes = 0;  ///< of each buffer: in blocks codes, and from the next multiple of 16 on their scales
  int moment_buffers = 0;
  Memory<Device> moments;
  Memory<Device> basis;
  Memory<Device> shared;
  Memory<Device> remainder;
  Memory<Device> scratch;
};

/// Steps until a refresh where there is none to come.
inline constexpr std::int64_t never = std::int64_t{1} << 62;

/// A tensor's state on the host, as checkpoints see it.
class HostState {
 public:
  virtual ~HostState() = default;
  virtual const std::string& name() const = 0;
  virtual std::string fingerprint() const = 0;
  virtual void visit_state(StateVisitor& visitor) = 0;
  virtual const Record& record() const = 0;
};

/// The loops that a step may have, in the order in which their parts lie.
enum class Pass {
  by_tensor,
  by_run,
  by_draw,
  along_channels,
  across_channels,
  by_moment_run,
  by_moment,
  old_draw,
  by_turn,
  by_rotation,
  by_rotated_run,
  by_residual,
  count
};
inline constexpr int passes = static_cast<int>(Pass::count);

/// Into how many parts a tensor's loops are cut: so many blocks take it.
struct PartCounts {
  Index of[passes] = {};
  Index& operator[](Pass pass) { return of[static_cast<int>(pass)]; }
};

/// The tables of one batch.
template <class Device>
class Batch {
 public:
  using Stream = typename Device::Stream;
  virtual ~Batch() = default;

  /// Allocates the tensor's state. Errors: those of make_plan; too little memory. Returns its number.
  virtual std::size_t add(const Device& device, const TensorRequest& request, Stream stream) = 0;
  /// Computes what bases the coming step needs, and returns after how many steps there may be some to compute again; waits for
  /// the stream, unless nothing here has a basis.
  virtual std::int64_t refresh(const Device& device, Stream stream) = 0;
  /// Enqueues one step of every tensor that has a gradient.
  virtual void step(const Device& device, Stream stream) = 0;
  virtual Index state_bytes() const = 0;
  /// A tensor's state copied to the host, and back; both wait for the stream. The batch has been prepared.
  virtual std::unique_ptr<HostState> read_state(const Device& device, std::size_t number, Stream stream) const = 0;
  virtual void write_state(const Device& device, std::size_t number, HostState& state, Stream stream) = 0;

  /// Brings the tables to the device; waits for it.
  void prepare(const Device& device, Stream stream) {
    if (!changed_) return;
    std::vector<Progress> progress(tensors_.size());
    if (on_device_ > 0)
      device.read(progress.data(), progress_.template as<Progress>(), bytes_of<Progress>(on_device_), stream);
    Memory<Device> tables(device, bytes_of<Entry>(tensors_.size()), {}, "tables");
    Memory<Device> kept(device, bytes_of<Progress>(tensors_.size()), {}, "records");
    Memory<Device> parts(device, bytes_of<Part>(part_count()), {}, "tables");
    std::vector<Entry> entries;
    for (const auto& tensor : tensors_) entries.push_back(tensor.entry);
    device.write(tables.template as<Entry>(), entries.data(), tables.bytes(), stream);
    device.write(kept.template as<Progress>(), progress.data(), kept.bytes(), stream);
    Part* to = parts.template as<Part>();
    for (const auto& pass : passes_) {
      if (!pass.empty()) device.write(to, pass.data(), bytes_of<Part>(pass.size()), stream);
      to += pass.size();
    }
    entries_ = std::move(tables), progress_ = std::move(kept), parts_ = std::move(parts);
    on_device_ = tensors_.size();
    changed_ = false;
  }

  /// Binds a tensor to other memory of the same kind.
  void bind(const Device& device, std::size_t number, const TensorRequest& to, bool aligned, Stream stream) {
    Entry& entry = tensors_[number].entry;
    entry.weight = to.weight;
    entry.gradient = to.gradient;
    entry.ranges = to.ranges;
    entry.group_bits = to.group_bits;
    entry.aligned = aligned && runs_are_aligned(entry.length, entry.lines);
    if (number < on_device_) device.write(entries_.template as<Entry>() + number, &entry, bytes_of<Entry>(1), stream);
  }

  const Tensor<Device>& tensor(std::size_t number) const { return tensors_[number]; }
  std::size_t size() const { return tensors_.size(); }
  Progress progress(const Device& device, std::size_t number, Stream stream) const {
    Progress progress;
    if (number < on_device_)
      device.read(&progress, progress_.template as<Progress>() + number, bytes_of<Progress>(1), stream);
    return progress;
  }
  Progress* progress_on_device(std::size_t number) const { return progress_.template as<Progress>() + number; }
  void set_progress(const Device& device, std::size_t number, const Progress& progress, Stream stream) {
    device.write(progress_.template as<Progress>() + number, &progress, bytes_of<Progress>(1), stream);
  }
  /// Bytes beside the state: tables, records, scratch.
  Index workspace_bytes() const {
    Index bytes = entries_.bytes() + progress_.bytes() + parts_.bytes();
    for (const auto& tensor : tensors_) bytes += tensor.scratch.bytes();
    return bytes + shared_bytes();
  }

 protected:
  /// Of scratch that tensors share.
  virtual Index shared_bytes() const = 0;

  void insert(Tensor<Device>&& tensor, const PartCounts& parts) {
    const auto number = static_cast<std::int32_t>(tensors_.size());
    tensors_.push_back(std::move(tensor));
    for (int pass = 0; pass < passes; ++pass)
      for (Index i = 0; i < parts.of[pass]; ++i) passes_[pass].push_back({number, static_cast<std::int32_t>(i)});
    changed_ = true;
  }

  template <class Body>
  void launch(const Device& device, Pass pass, Body body, Stream stream) const {
    const Part* parts = parts_.template as<Part>();
    const int number = static_cast<int>(pass);
    for (int before = 0; before < number; ++before) parts += passes_[before].size();
    body.tables = {entries_.template as<Entry>(), progress_.template as<Progress>(), parts};
    device.launch(body, static_cast<Index>(passes_[number].size()), stream);
  }

  /// Whether every run begins at 16 bytes, if the tensor does: whatever its values are.
  static bool runs_are_aligned(Index length, Index lines) {
    return length < storage_block || lines == 1 || length % 8 == 0;
  }
  template <class T>
  static constexpr Index bytes_of(std::size_t count) {
    return static_cast<Index>(count * sizeof(T));
  }

 private:
  std::size_t part_count() const {
    std::size_t count = 0;
    for (const auto& pass : passes_) count += pass.size();
    return count;
  }

  std::vector<Tensor<Device>> tensors_;
  std::vector<Part> passes_[passes];
  Memory<Device> entries_, progress_, parts_;
  std::size_t on_device_ = 0;
  bool changed_ = false;
};

}  // namespace apollo::cuda
