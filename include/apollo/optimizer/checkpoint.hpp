// SPDX-License-Identifier: Apache-2.0
// Checkpoints: the state of an Optimizer as one safetensors file, written whole or not at all, verified before it is loaded.
#pragma once

#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <apollo/optimizer/file.hpp>
#include <apollo/optimizer/optimizer.hpp>
#include <apollo/optimizer/safetensors.hpp>
#include <apollo/optimizer/transpose.hpp>

namespace apollo {

/// The file holds, for every registered tensor, `NAME.FIELD` for each array and number of its state: exp_avg, exp_avg_sq,
/// momentum_buffer, basis, weight_remainder, step, previous_norm, restart, projection_set, and the record of a packed basis.
/// Moments of unprojected tensors have the weight's shape, others kept x rank; those of 8 and 4 bits are codes in order of memory,
/// with a FIELD_scale a block. Metadata: format, version, tick, and one fingerprint for each tensor. Random projections are not in
/// it: they are drawn again from seed, name and step.
namespace checkpoint {

inline constexpr const char* format = "apollo-optimizer";
inline constexpr const char* version = "1";

inline safetensors::Type type_of(std::string_view name) {
  if (name == type_name<double>) return safetensors::Type::F64;
  if (name == type_name<bfloat16>) return safetensors::Type::BF16;
  if (name == type_name<std::uint8_t>) return safetensors::Type::U8;
  if (name == type_name<std::uint16_t>) return safetensors::Type::U16;
  return name == type_name<float16> ? safetensors::Type::F16 : safetensors::Type::F32;
}

/// One tensor of the file and the memory it belongs to.
struct Item {
  safetensors::Tensor tensor;
  AnyView view;  ///< arrays
  int element_bytes = 0;
  std::int64_t* integer = nullptr;
  float* real = nullptr;
  std::uint64_t offset = 0;        ///< load: where the file has it
  std::int64_t integer_there = 0;  ///< load: what the file has
  float real_there = 0;
};

/// Lists the state of one parameter after another.
class Lister final : public StateVisitor {
 public:
  std::string prefix;
  std::vector<Item> items;

  void array(const StateArray& array) override {
    Item item;
    item.tensor = {
        prefix + std::string(array.field), type_of(array.view.type), {array.view.rows, array.view.cols}, 0, 0};
    item.view = array.view;
    item.element_bytes = array.element_bytes;
    items.push_back(std::move(item));
  }
  void integer(std::string_view field, std::int64_t& value) override {
    Item item;
    item.tensor = {prefix + std::string(field), safetensors::Type::I64, {}, 0, 0};
    item.integer = &value;
    items.push_back(std::move(item));
  }
  void real(std::string_view field, float& value) override {
    Item item;
    item.tensor = {prefix + std::string(field), safetensors::Type::F32, {}, 0, 0};
    item.real = &value;
    items.push_back(std::move(item));
  }
};

// `parameters` below: pointers to whatever has name(), fingerprint() and visit_state(StateVisitor&), one a tensor.

/// Wide types first, so that every tensor of the file is aligned to its type.
template <class Parameters>
std::vector<Item> list(const Parameters& parameters) {
  Lister lister;
  for (const auto& parameter : parameters) {
    lister.prefix = parameter->name() + ".";
    parameter->visit_state(lister);
  }
  std::vector<Item> items;
  for (const std::uint64_t size : {8u, 4u, 2u, 1u})
    for (Item& item : lister.items)
      if (safetensors::type_size(item.tensor.type) == size) items.push_back(std::move(item));
  return items;
}

template <class Parameters>
safetensors::Metadata metadata(const Parameters& parameters, std::int64_t tick) {
  safetensors::Metadata entries = {{"format", format}, {"version", version}, {"tick", std::to_string(tick)}};
  for (const auto& parameter : parameters)
    entries.emplace_back("fingerprint:" + parameter->name(), parameter->fingerprint());
  return entries;
}

inline bool adjacent(const AnyView& v) {
  return (v.cols == 1 || v.col_stride == 1) && (v.rows == 1 || v.row_stride == v.cols);
}

/// Rows that go through the buffer at a time: 1 MiB of them, which stays in the cache, or as many as are turned at a time, up to
/// 4 MiB.
inline Index rows_at_once(const Item& item) {
  constexpr Index side = 64;  // a multiple of every turned_side
  const Index row_bytes = item.view.cols * item.element_bytes + 1;
  const Index near = (Index{1} << 20) / row_bytes / side * side, most = (Index{1} << 22) / row_bytes;
  const Index rows = near > 0 ? near : most < 1 ? 1 : most < side ? most : side;
  return rows >= item.view.rows ? item.view.rows : rows;
}

/// A buffer for whichever of the arrays needs the largest one.
inline std::vector<std::byte> buffer_for(const std::vector<Item>& items) {
  Index most = 0;
  for (const Item& item : items) {
    const Index bytes = rows_at_once(item) * item.view.cols * item.element_bytes;
    if (!adjacent(item.view) && bytes > most) most = bytes;
  }
  return std::vector<std::byte>(static_cast<std::size_t>(most));
}

/// Calls `run(pointer, bytes)` for stretches of adjacent memory that make up the array row by row: its own, or that of the
/// buffer, which is filled before or copied back after. `store` says whether the buffer goes to the array.
template <class Run>
void transfer(const Item& item, std::vector<std::byte>& buffer, bool store, Run&& run) {
  const AnyView& v = item.view;
  const auto row_bytes = static_cast<std::size_t>(v.cols * item.element_bytes);
  if (adjacent(v))
    return run(static_cast<std::byte*>(const_cast<void*>(v.data)), row_bytes * static_cast<std::size_t>(v.rows));
  const Index step = rows_at_once(item);
  for (Index first = 0; first < v.rows; first += step) {
    const Index count = v.rows - first < step ? v.rows - first : step;
    const auto copy = [&] {
      switch (item.element_bytes) {
        case 1: return copy_rows<1>(v, first, count, buffer.data(), store);
        case 2: return copy_rows<2>(v, first, count, buffer.data(), store);
        case 4: return copy_rows<4>(v, first, count, buffer.data(), store);
        default: return copy_rows<8>(v, first, count, buffer.data(), store);
      }
    };
    if (!store) copy();
    run(buffer.data(), row_bytes * static_cast<std::size_t>(count));
    if (store) copy();
  }
}

/// All that is wrong with a file, in one message.
class Mismatches {
 public:
  void add(const std::string& line) {
    if (++count_ <= most_) lines_ += "\n  " + line;
  }
  void raise_if_any(const std::string& path) const {
    if (count_ == 0) return;
    const Index hidden = count_ - most_;
    refuse_file("cannot load " + quote(path) + ", " + text(count_) + (count_ == 1 ? " mismatch:" : " mismatches:") +
                lines_ + (hidden > 0 ? "\n  and " + text(hidden) + " more" : ""));
  }

 private:
  static constexpr Index most_ = 50;
  Index count_ = 0;
  std::string lines_;
};

inline std::string shape_text(const std::vector<Index>& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += (i > 0 ? ", " : "") + text(shape[i]);
  return out + "]";
}

inline bool parse_count(const std::string& digits, std::int64_t& value) {
  if (digits.empty() || digits.size() > 18) return false;
  value = 0;
  for (const char c : digits) {
    if (c < '0' || c > '9') return false;
    value = value * 10 + (c - '0');
  }
  return true;
}

/// Names, types, shapes and fingerprints of the file against the optimizer's. Fills in the items' offsets.
template <class Parameters>
void compare(const Parameters& parameters, const safetensors::Header& header, std::vector<Item>& items,
             Mismatches& wrong) {
  for (const auto& parameter : parameters) {
    const std::string* there = header.find_metadata("fingerprint:" + parameter->name());
    const std::string here = parameter->fingerprint();
    if (there == nullptr)
      wrong.add("tensor " + quote(parameter->name()) + " is not in the file");
    else if (*there != here)
      wrong.add("tensor " + quote(parameter->name()) + ": the file has '" + *there + "', the optimizer has '" + here +
                "'");
  }
  for (Item& item : items) {
    const safetensors::Tensor* found = header.find(item.tensor.name);
    if (found == nullptr) {
      wrong.add(quote(item.tensor.name) + " is not in the file");
    } else if (found->type != item.tensor.type || found->shape != item.tensor.shape) {
      wrong.add(quote(item.tensor.name) + " is " + std::string(safetensors::type_name(found->type)) +
                shape_text(found->shape) + " in the file, must be " +
                std::string(safetensors::type_name(item.tensor.type)) + shape_text(item.tensor.shape));
    } else {
      item.offset = header.data_offset + found->begin;
    }
  }
  const auto name = [&](std::size_t i) -> const std::string& { return items[i].tensor.name; };
  const std::vector<std::size_t> order =
      json::sorted(items.size(), [&](std::size_t i, std::size_t k) { return name(i) < name(k); });
  for (const auto& tensor : header.tensors) {
    std::size_t first = 0, last = order.size();
    while (first < last) {
      const std::size_t middle = first + (last - first) / 2;
      if (name(order[middle]) < tensor.name)
        first = middle + 1;
      else
        last = middle;
    }
    if (first == order.size() || name(order[first]) != tensor.name)
      wrong.add(quote(tensor.name) + " is in the file only; no such tensor is registered");
  }
}

/// Numbers of a record must make sense before they replace ours. A tensor's step comes before what is bounded by it.
template <class Source>
void read_numbers(const Source& file, std::vector<Item>& items, Mismatches& wrong) {
  constexpr std::int64_t most_steps = std::int64_t{1} << 47;  // random streams count no further
  std::int64_t steps = 0;
  for (Item& item : items) {
    if (item.integer != nullptr) {
      const std::string_view name = item.tensor.name;
      const std::string_view field = name.substr(name.rfind('.') + 1);
      std::int64_t& value = item.integer_there;
      file.read(&value, sizeof value, item.offset);
      const bool counts = field == "step" || field == "next_refresh" || field == "refresh_gap";
      const std::int64_t bound = counts ? most_steps : field == "restart" || field == "refreshes" ? steps : 1;
      if (value < 0 || value > bound)
        wrong.add(quote(name) + " = " + text(value) + " must be at least 0 and at most " + text(bound));
      if (field == "step") steps = value;
    } else if (item.real != nullptr) {
      float& value = item.real_there;
      file.read(&value, sizeof value, item.offset);
      if (!bits::finite(value) || !(value >= -1))
        wrong.add(quote(item.tensor.name) + " = " + text(static_cast<double>(value)) +
                  " must be finite and at least -1");
    }
  }
}

/// The bytes of a file, from first to last, in stretches: write(data, bytes).
template <class Parameters, class Write>
void write(const Parameters& parameters, std::int64_t tick, Write&& write_bytes) {
  const std::vector<Item> items = list(parameters);
  std::vector<safetensors::Tensor> tensors;
  for (const auto& item : items) tensors.push_back(item.tensor);
  const std::string header = safetensors::serialize(tensors, metadata(parameters, tick));
  std::vector<std::byte> buffer = buffer_for(items);
  write_bytes(header.data(), header.size());
  for (const auto& item : items) {
    if (item.integer != nullptr)
      write_bytes(item.integer, sizeof *item.integer);
    else if (item.real != nullptr)
      write_bytes(item.real, sizeof *item.real);
    else
      transfer(item, buffer, false, [&](const std::byte* from, std::size_t bytes) { write_bytes(from, bytes); });
  }
}

/// The bytes of a file that are in memory already; as InputFile.
class BytesSource {
 public:
  BytesSource(std::span<const std::byte> bytes, std::string name) : bytes_(bytes), name_(std::move(name)) {}
  const std::string& path() const { return name_; }
  std::uint64_t size() const { return bytes_.size(); }
  void read(void* to, std::size_t size, std::uint64_t offset) const {
    if (offset > bytes_.size() || size > bytes_.size() - offset)
      refuse_file("cannot read " + std::to_string(size) + " bytes at byte " + std::to_string(offset) + " of " +
                  quote(name_) + ", which has " + std::to_string(bytes_.size()));
    if (size > 0) std::memcpy(to, bytes_.data() + offset, size);
  }
  void check_readable() const {}
  void copy(void* to, std::size_t size, std::uint64_t offset) const { read(to, size, offset); }

 private:
  std::span<const std::byte> bytes_;
  std::string name_;
};

/// Reads a whole file into the memory that the parameters show, once everything in it has been compared; begin() is called
/// before anything changes. Returns the file's tick.
template <class Parameters, class Source, class Begin>
std::int64_t read(const Parameters& parameters, Source&& file, Begin&& begin) {
  const std::string& path = file.path();
  std::string prefix(8, '\0');
  if (file.size() < prefix.size())
    refuse_file("cannot load " + quote(path) + ": " + std::to_string(file.size()) +
                " bytes are no safetensors file, which has at least 8");
  file.read(prefix.data(), prefix.size(), 0);
  prefix.resize(safetensors::header_end(prefix, file.size(), path));
  file.read(prefix.data(), prefix.size(), 0);
  const safetensors::Header header = safetensors::parse(prefix, file.size(), path);

  const std::string* format_there = header.find_metadata("format");
  if (format_there == nullptr || *format_there != format)
    refuse_file("cannot load " + quote(path) + ": its metadata says format '" +
                (format_there == nullptr ? "" : *format_there) + "', must be '" + format + "'");
  const std::string* version_there = header.find_metadata("version");
  if (version_there == nullptr || *version_there != version)
    refuse_file("cannot load " + quote(path) + ": its version is '" + (version_there == nullptr ? "" : *version_there) +
                "', must be '" + version + "'");
  std::int64_t tick = 0;
  const std::string* digits = header.find_metadata("tick");
  if (digits == nullptr || !parse_count(*digits, tick))
    refuse_file("cannot load " + quote(path) + ": its tick '" + (digits == nullptr ? "" : *digits) +
                "' must be a whole number");

  Mismatches wrong;
  std::vector<Item> items = list(parameters);
  compare(parameters, header, items, wrong);
  wrong.raise_if_any(path);
  read_numbers(file, items, wrong);
  wrong.raise_if_any(path);
  file.check_readable();
  std::vector<std::byte> buffer = buffer_for(items);

  begin();
  for (auto& item : items) {
    if (item.integer != nullptr)
      *item.integer = item.integer_there;
    else if (item.real != nullptr)
      *item.real = item.real_there;
    else
      transfer(item, buffer, true, [&](std::byte* to, std::size_t count) {
        file.copy(to, count, item.offset);
        item.offset += count;
      });
  }
  return tick;
}

#if APOLLO_HAS_FILES
/// A file of these bytes at `path`, whole or not at all.
template <class Parameters>
void write_file(const Parameters& parameters, std::int64_t tick, const std::string& path) {
  AtomicFile file(path);
  write(parameters, tick, [&](const void* data, std::size_t bytes) { file.write(data, bytes); });
  file.commit();
}
#endif

template <class Backend>
void check_save(const BasicOptimizer<Backend>& optimizer) {
  if (optimizer.tick_open()) rules::save_while_open(text(optimizer.tick()));
  if (optimizer.accumulating()) rules::save_while_accumulating();
  if (optimizer.restoring())
    refuse_now("save() of a state that load() replaced in part; load a whole checkpoint first");
}

template <class Backend>
void check_load(const BasicOptimizer<Backend>& optimizer) {
  if (optimizer.tick_open()) rules::load_while_open(text(optimizer.tick()));
  if (optimizer.accumulating()) rules::load_while_accumulating();
}

/// Replaces the state of every tensor by that of a file.
template <class Backend, class Source>
void restore(BasicOptimizer<Backend>& optimizer, Source&& file) {
  optimizer.restore_tick(read(optimizer.parameters(), file, [&] { optimizer.begin_restore(); }));
}

}  // namespace checkpoint

/// What save() would write to a file, for archives of other libraries. Errors: an open tick; accumulated gradients.
template <class Backend>
std::vector<std::byte> save_bytes(const BasicOptimizer<Backend>& optimizer) {
  checkpoint::check_save(optimizer);
  std::vector<std::byte> bytes;
  checkpoint::write(optimizer.parameters(), optimizer.tick(), [&](const void* data, std::size_t count) {
    const auto* first = static_cast<const std::byte*>(data);
    bytes.insert(bytes.end(), first, first + count);
  });
  return bytes;
}

/// As load(), from the bytes of a file. `name` is what errors call them.
template <class Backend>
void load_bytes(BasicOptimizer<Backend>& optimizer, std::span<const std::byte> bytes, const std::string& name) {
  checkpoint::check_load(optimizer);
  checkpoint::restore(optimizer, checkpoint::BytesSource(bytes, name));
}

#if APOLLO_HAS_FILES

/// Writes the state of every tensor to `path`. On return the file is complete and on the disk; on an error the old file, if
/// there was one, is as it was. Errors: an open tick; accumulated gradients; anything the file system says.
template <class Backend>
void save(const BasicOptimizer<Backend>& optimizer, const std::string& path) {
  checkpoint::check_save(optimizer);
  checkpoint::write_file(optimizer.parameters(), optimizer.tick(), path);
}

/// Replaces the state of every tensor by that of `path`. Names, types, shapes, fingerprints and numbers are compared and every
/// byte is read before anything changes; all mismatches are reported in one error. Resuming is exact to the bit.
/// Arrays are then copied from the system's cache of the file into the state. Where that cannot be mapped they are read once more,
/// and if the disk fails then, the optimizer refuses to step and to be saved until a load succeeds.
/// Peak memory: the header, and up to 4 MiB where arrays do not lie row by row.
template <class Backend>
void load(BasicOptimizer<Backend>& optimizer, const std::string& path) {
  checkpoint::check_load(optimizer);
  checkpoint::restore(optimizer, InputFile(path));
}

#endif

}  // namespace apollo
