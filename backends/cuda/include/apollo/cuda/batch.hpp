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
#include <apollo/cuda/products.hpp>
#include <apollo/cuda/table.hpp>
#include <apollo/step/plan.hpp>
#include <apollo/step/state_visitor.hpp>

namespace apollo::cuda {

/// Where the next array begins that is read 16 bytes at a time.
constexpr Index up_to_16(Index bytes) { return (bytes + 15) / 16 * 16; }

/// What is asked of a batch with a new tensor: checked by whoever asks.
struct TensorRequest {
  std::string name;
  TensorId id = 0;
  Shape shape;
  Order2D order = Order2D::row_major;
  Settings settings;
  const GroupInput* input = nullptr;
  const Clock* clock = nullptr;
  Index number = 0;  ///< in order of registration
  void* weight = nullptr;
  const void* gradient = nullptr;
  GroupRange* ranges = nullptr;  ///< of weights in groups
  int group_bits = 0;            ///< of 2^this
};

/// The loops that a step may have, in the order in which their parts lie.
enum class Pass {
  by_tensor,
  by_run,
  by_draw,
  along_channels,
  across_channels,
  by_line,
  by_place,
  by_moment_run,
  by_moment,
  old_draw,
  by_turn,
  by_rotation,
  by_rotated_run,
  by_residual,
  by_product,
  norms_along,
  norms_across,
  by_lift,
  count
};
inline constexpr int passes = static_cast<int>(Pass::count);

/// Into how many parts a tensor's loops are cut: so many blocks take it.
struct PartCounts {
  Index of[passes] = {};
  Index& operator[](Pass pass) { return of[static_cast<int>(pass)]; }
};

/// Of which tensors of a batch: all, or one.
struct Scope {
  static constexpr std::size_t all = ~std::size_t{0};
  std::size_t tensor = all;
};

/// A tensor as the host knows it.
template <class Device>
struct Tensor {
  std::string name;
  Entry entry;
  PartCounts first;        ///< of its parts in the list of each loop ...
  PartCounts parts;        ///< ... and how many there are
  Index moment_bytes = 0;  ///< of each buffer: in blocks codes, and from the next multiple of 16 on their scales
  int moment_buffers = 0;
  Memory<Device> moments;
  Memory<Device> basis;
  Memory<Device> shared;
  Memory<Device> remainder;
  Memory<Device> sum;  ///< of micro-batches
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

/// The tables of one batch: of its tensors, and a second one where gradients are summed whole, whose entries have the sums for
/// gradients. A step is then launched for both, and each tensor takes part in one, as its Progress says.
template <class Device>
class Batch {
 public:
  using Stream = typename Device::Stream;
  virtual ~Batch() = default;

  /// Allocates the tensor's state. Errors: those of make_plan; too little memory. Returns its number.
  virtual std::size_t add(const Device& device, const TensorRequest& request, Stream stream) = 0;
  /// Computes what bases the coming step needs, and returns after how many steps there may be some to compute again; waits for
  /// the stream, unless nothing here has a basis.
  virtual std::int64_t refresh(const Device& device, Scope scope, Stream stream) = 0;
  /// Whether its micro-batches are summed as R.
  virtual bool sums_as_projections() const = 0;
  /// Enqueues the addition of a micro-batch: factor G of every tensor that has one. There is room for the sums.
  virtual void accumulate(const Device& device, Scope scope, Stream stream) = 0;
  virtual void discard_accumulated(const Device& device, Stream stream) = 0;

  /// Enqueue one step of every tensor that has a gradient: first what looks at gradients ...
  virtual void look(const Device& device, Scope scope, Stream stream) = 0;
  /// ... then their shares of the global norm, if one is asked for ...
  virtual void measure(const Device& device, Stream stream) = 0;
  /// ... then the rest.
  virtual void act(const Device& device, Scope scope, Stream stream) = 0;
  virtual Index state_bytes(std::size_t number) const = 0;
  /// A tensor's state copied to the host, and back; both wait for the stream. The batch has been prepared.
  virtual std::unique_ptr<HostState> read_state(const Device& device, std::size_t number, Stream stream) const = 0;
  virtual void write_state(const Device& device, std::size_t number, HostState& state, Stream stream) = 0;

  /// Brings the tables to the device; waits for it.
  void prepare(const Device& device, Stream stream) {
    if (!changed_ || tensors_.empty()) return;
    std::vector<Progress> progress(tensors_.size());
    if (on_device_ > 0)
      device.read(progress.data(), progress_.template as<Progress>(), bytes_of<Progress>(on_device_), stream);
    Memory<Device> tables(device, bytes_of<Entry>(tensors_.size()), {}, "tables");
    Memory<Device> kept(device, bytes_of<Progress>(tensors_.size()), {}, "records");
    Memory<Device> parts(device, bytes_of<Part>(part_count()), {}, "tables");
    std::vector<Entry> entries;
    for (const auto& tensor : tensors_) entries.push_back(tensor.entry);
    device.write(tables.template as<Entry>(), entries.data(), tables.bytes(), stream);
    if (has_table_of_sums()) write_table_of_sums(device, stream);
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
    if (number < on_device_) write_entry(device, number, stream);
  }

  /// Makes room for the sums of micro-batches that have none yet. The batch has been prepared. Waits for the stream. Errors: too
  /// little memory; a capture, where there can be none: nothing was changed.
  void reserve_sums(const Device& device, Scope scope, Stream stream) {
    const std::size_t first = scope.tensor == Scope::all ? 0 : scope.tensor;
    const std::size_t end = scope.tensor == Scope::all ? tensors_.size() : scope.tensor + 1;
    std::vector<std::pair<std::size_t, Memory<Device>>> fresh;
    for (std::size_t i = first; i < end; ++i) {
      Tensor<Device>& tensor = tensors_[i];
      if (tensor.entry.sum != nullptr || tensor.entry.gradient == nullptr) continue;
      if (device.capturing(stream))
        refuse_now("tensor " + quote(tensor.name) +
                   ": accumulate() is captured before there is memory for its sum; call it once before, and " +
                   "discard_accumulated()");
      const Index size = sums_as_projections() ? tensor.entry.setup.plan.moment_size() : tensor.entry.values();
      fresh.emplace_back(
          i, Memory<Device>(device, size * static_cast<Index>(sizeof(float)), tensor.name, "accumulated gradients"));
    }
    for (auto& [i, memory] : fresh) {
      tensors_[i].sum = std::move(memory);
      tensors_[i].entry.sum = tensors_[i].sum.template as<float>();
    }
    if (fresh.empty()) return;
    if (!sums_as_projections() && !has_table_of_sums()) write_table_of_sums(device, stream);
    for (const auto& [i, memory] : fresh) write_entry(device, i, stream);
  }
  /// Whether anything waits for a step. Waits for the stream.
  bool accumulating(const Device& device, Stream stream) const {
    std::vector<Progress> progress(on_device_);
    if (on_device_ > 0)
      device.read(progress.data(), progress_.template as<Progress>(), bytes_of<Progress>(on_device_), stream);
    for (const Progress& tensor : progress)
      if (tensor.pending != Pending::none) return true;
    return false;
  }

  /// Takes back the tensor that was added last and is not on the device yet.
  void remove_last() {
    for (int pass = 0; pass < passes; ++pass)
      passes_[pass].resize(static_cast<std::size_t>(tensors_.back().first.of[pass]));
    tensors_.pop_back();
  }

  /// Gives the tensors that are added from now on somebody who multiplies; null: nobody, kernels do.
  void multiply_by(std::shared_ptr<Products<Device>> products) { products_ = std::move(products); }

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
    Index bytes = entries_.bytes() + sums_.bytes() + progress_.bytes() + parts_.bytes();
    for (const auto& tensor : tensors_) bytes += tensor.scratch.bytes();
    return bytes + shared_bytes();
  }

 protected:
  /// Of scratch that tensors share.
  virtual Index shared_bytes() const = 0;

  void insert(Tensor<Device>&& tensor, const PartCounts& parts) {
    const auto number = static_cast<std::int32_t>(tensors_.size());
    tensor.parts = parts;
    for (int pass = 0; pass < passes; ++pass) tensor.first.of[pass] = static_cast<Index>(passes_[pass].size());
    tensors_.push_back(std::move(tensor));
    for (int pass = 0; pass < passes; ++pass)
      for (Index i = 0; i < parts.of[pass]; ++i) passes_[pass].push_back({number, static_cast<std::int32_t>(i)});
    changed_ = true;
  }

  /// Which of the two tables a kernel is given.
  enum class Table { gradients, sums };

  template <class Body>
  void launch(const Device& device, Pass pass, Body body, Scope scope, Stream stream,
              Table table = Table::gradients) const {
    const Part* parts = parts_.template as<Part>();
    const int number = static_cast<int>(pass);
    for (int before = 0; before < number; ++before) parts += passes_[before].size();
    auto count = static_cast<Index>(passes_[number].size());
    if (scope.tensor != Scope::all) {
      parts += tensors_[scope.tensor].first.of[number];
      count = tensors_[scope.tensor].parts.of[number];
    }
    body.tables = {(table == Table::sums ? sums_ : entries_).template as<Entry>(), progress_.template as<Progress>(),
                   parts};
    device.launch(body, count, stream);
  }

  bool has_table_of_sums() const { return sums_.bytes() > 0; }
  /// The entry of a tensor whose gradient is its sum, which has the factors of its gradients.
  Entry entry_of_sum(std::size_t number) const {
    Entry entry = tensors_[number].entry;
    entry.of_sum = true;
    entry.gradient = entry.sum;
    entry.input = &entry.input[1];
    entry.aligned =
        reinterpret_cast<std::uintptr_t>(entry.weight) % 16 == 0 && runs_are_aligned(entry.length, entry.lines);
    return entry;
  }
  Products<Device>* products() const { return products_.get(); }

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

  void write_entry(const Device& device, std::size_t number, Stream stream) {
    const Entry& entry = tensors_[number].entry;
    device.write(entries_.template as<Entry>() + number, &entry, bytes_of<Entry>(1), stream);
    if (!has_table_of_sums()) return;
    const Entry sum = entry_of_sum(number);
    device.write(sums_.template as<Entry>() + number, &sum, bytes_of<Entry>(1), stream);
  }
  void write_table_of_sums(const Device& device, Stream stream) {
    Memory<Device> table(device, bytes_of<Entry>(tensors_.size()), {}, "tables");
    std::vector<Entry> entries;
    for (std::size_t i = 0; i < tensors_.size(); ++i) entries.push_back(entry_of_sum(i));
    device.write(table.template as<Entry>(), entries.data(), table.bytes(), stream);
    sums_ = std::move(table);
  }

  std::vector<Tensor<Device>> tensors_;
  std::vector<Part> passes_[passes];
  std::shared_ptr<Products<Device>> products_;
  Memory<Device> entries_, sums_, progress_, parts_;
  std::size_t on_device_ = 0;
  bool changed_ = false;
};

}  // namespace apollo::cuda
