// SPDX-License-Identifier: Apache-2.0
// A libFuzzer target: checkpoints that are wrong in any way are refused with a reason and change nothing; what is loaded is exactly
// what the file says, and can be stepped. tests/fuzz/run builds and runs it.
#include <unistd.h>

#include <apollo/apollo.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

extern "C" size_t LLVMFuzzerMutate(std::uint8_t* data, size_t size, size_t most);

namespace {

using apollo::Index;

[[noreturn]] void broken(const std::string& promise) {
  std::fprintf(stderr, "fuzz: %s\n", promise.c_str());
  std::abort();
}
void require(bool holds, const std::string& promise) {
  if (!holds) broken(promise);
}

/// What the state is, array by array in order of rows, under the names of the file.
class State final : public apollo::StateVisitor {
 public:
  std::vector<std::pair<std::string, std::string>> fields;
  std::string prefix;

  template <class Optimizer>
  explicit State(const Optimizer& optimizer) {
    for (const auto& parameter : optimizer.parameters()) {
      prefix = parameter->name() + ".";
      parameter->visit_state(*this);
    }
    fields.emplace_back("tick", std::to_string(optimizer.tick()));
  }
  void array(const apollo::StateArray& array) override {
    const apollo::AnyView& v = array.view;
    std::string bytes;
    for (Index i = 0; i < v.rows; ++i)
      for (Index j = 0; j < v.cols; ++j)
        bytes.append(static_cast<const char*>(v.data) + (i * v.row_stride + j * v.col_stride) * array.element_bytes,
                     static_cast<std::size_t>(array.element_bytes));
    fields.emplace_back(prefix + std::string(array.field), bytes);
  }
  void integer(std::string_view field, std::int64_t& value) override { number(field, &value, sizeof value); }
  void real(std::string_view field, float& value) override { number(field, &value, sizeof value); }
  void number(std::string_view field, const void* value, std::size_t size) {
    fields.emplace_back(prefix + std::string(field), std::string(static_cast<const char*>(value), size));
  }
};

/// One tensor for each kind of state: dense by rows and by columns, in bfloat16, in 8 and 4 bits, projected, with bases. In two
/// models, since what a run costs is the length of the header.
struct Model {
  static constexpr Index rows = 6, cols = 4, count = 4;
  std::vector<float> weights, gradients;
  apollo::Optimizer optimizer;

  explicit Model(bool second) : weights(rows * cols * count), gradients(weights.size()) {
    using namespace apollo;
    for (std::size_t i = 0; i < gradients.size(); ++i) gradients[i] = static_cast<float>(i * 37 % 101) / 50 - 1;
    if (second) {
      add<AdamW<AdamMoments<bfloat16>>>("brief", {});
      add<AdamW<AdamMoments<Int4>>>("nibbles", {});
      add<GaLore<>>("basis", {.rank = 2, .update_proj_gap = 2});
      add<SgdMomentum<>>("also", {});
    } else {
      add<SgdMomentum<>>("by.columns", {}, true);
      add<AdamW8bit<>>("bytes", {});
      add<Apollo<>>("projected", {.rank = 2, .update_proj_gap = 2, .on_refresh = OnRefresh::reset});
      add<QGaLore<>>("packed \"basis\"", {.rank = 2, .update_proj_gap = 2});
    }
  }
  template <class Member>
  void add(const char* name, const typename Member::Options& options, bool by_columns = false) {
    const auto at = static_cast<Index>(optimizer.parameters().size()) * rows * cols;
    float *w = weights.data() + at, *g = gradients.data() + at;
    const auto group = optimizer.add_group<Member>(options);
    if (by_columns)
      optimizer.add(group, name, apollo::column_major(w, rows, cols), apollo::column_major(g, rows, cols));
    else
      optimizer.add(group, name, apollo::row_major(w, rows, cols), apollo::row_major(g, rows, cols));
  }
};

/// The file that all runs write, in memory where the system has a place for that, and what became of them.
struct Tally {
  std::string file =
      (::access("/dev/shm", W_OK) == 0 ? "/dev/shm/apollo-fuzz-" : "./apollo-fuzz-") + std::to_string(::getpid());
  long loaded = 0, refused = 0, headers = 0, records = 0;
  ~Tally() {
    ::unlink(file.c_str());
    std::fprintf(stderr,
                 "fuzz: %ld loaded, %ld refused: %ld by the header, %ld by names, shapes, numbers or metadata\n",
                 loaded, refused, headers, records);
  }
} tally;

void put(const void* bytes, std::size_t size) {
  std::FILE* file = std::fopen(tally.file.c_str(), "wb");
  require(file != nullptr && std::fwrite(bytes, 1, size, file) == size && std::fclose(file) == 0, "cannot write");
}

std::string contents(const std::string& path) {
  const apollo::InputFile file(path);
  std::string bytes(static_cast<std::size_t>(file.size()), '\0');
  file.read(bytes.data(), bytes.size(), 0);
  return bytes;
}

/// A valid checkpoint of a model after so many steps.
std::string checkpoint_after(int steps, bool second) {
  Model model(second);
  for (int i = 0; i < steps; ++i) model.optimizer.step();
  apollo::save(model.optimizer, tally.file);
  return contents(tally.file);
}

const std::vector<std::string>& valid() {
  static const std::vector<std::string> all = {checkpoint_after(0, false), checkpoint_after(1, false),
                                               checkpoint_after(3, false), checkpoint_after(0, true),
                                               checkpoint_after(1, true),  checkpoint_after(3, true)};
  return all;
}

/// Whether a refusal says where: a byte of the header, a field of the metadata, or what is named in quotes and why.
bool says_where(const std::string& message) {
  const auto has = [&](const char* part) { return message.find(part) != std::string::npos; };
  if (message.rfind("apollo: '" + tally.file + "', byte ", 0) == 0) {
    ++tally.headers;
    return has(": expected ") && has(", found ");
  }
  ++tally.records;
  if (message.rfind("apollo: cannot load '" + tally.file + "'", 0) != 0) return false;
  if (has("metadata says format") || has("its version is") || has("its tick '") || has("are no safetensors file"))
    return true;
  return has(" mismatch") && has("\n  ") && message.find('\'', message.find("\n  ")) != std::string::npos;
}

struct Random {
  std::uint64_t state;
  std::size_t below(std::size_t bound) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::size_t>((state >> 33) % bound);
  }
};

std::uint64_t largest_end(const std::string& header) {
  std::uint64_t most = 0;
  const std::string key = "\"data_offsets\":[";
  for (std::size_t at = 0; (at = header.find(key, at)) != header.npos;) {
    const std::size_t comma = header.find(',', at);
    if (comma == header.npos) break;
    const std::uint64_t end = std::strtoull(header.c_str() + comma + 1, nullptr, 10);
    if (end > most) most = end;
    at = comma;
  }
  return most;
}

/// One edit that leaves most of the header as it is.
void edit_header(std::string& header, Random& random) {
  static const std::string letters = "{}[]:,\"\\ u0123456789-.e\n\xC3\xFF";
  static const std::vector<std::string> words = {
      "F32",        "F64",  "BF16",   "U8",      "I64",          "U16",   "__metadata__",        "exp_avg",
      "exp_avg_sq", "step", "rank=2", "tick",    "fingerprint:", "dense", "9223372036854775807", "18446744073709551616",
      "-1",         "0",    "1",      "\\u0000", "\\ud800"};
  const std::size_t at = random.below(header.size() + 1);
  switch (random.below(6)) {
    case 0: header.insert(at, 1, letters[random.below(letters.size())]); break;
    case 1: header.erase(at, 1 + random.below(8)); break;
    case 2:  // another digit
      if (const std::size_t digit = header.find_first_of("0123456789", at); digit != header.npos)
        header[digit] = static_cast<char>('0' + random.below(10));
      break;
    case 3: {  // one word for another
      const std::string &from = words[random.below(words.size())], &to = words[random.below(words.size())];
      if (const std::size_t found = header.find(from, at); found != header.npos) header.replace(found, from.size(), to);
      break;
    }
    case 4: {  // an entry goes, or comes again
      const std::size_t begin = header.find(",\"", at), end = begin == header.npos ? begin : header.find("},", begin);
      if (end == header.npos) break;
      const std::string entry = header.substr(begin, end + 1 - begin);
      if (random.below(2) == 0)
        header.erase(begin, entry.size());
      else
        header.insert(begin, entry);
      break;
    }
    default: header.append(1 + random.below(9), ' ');
  }
}

}  // namespace

/// Cuts the file into header and data, edits one of them and puts the length right, so that edits reach beyond the first check.
extern "C" size_t LLVMFuzzerCustomMutator(std::uint8_t* data, size_t size, size_t most, unsigned seed) {
  Random random{seed};
  std::string bytes(reinterpret_cast<const char*>(data), size);
  if (size < 64 || random.below(3) == 0) bytes = valid()[random.below(valid().size())];
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  if (length > bytes.size() - 8) length = bytes.size() - 8;
  std::string header = bytes.substr(8, static_cast<std::size_t>(length)), rest = bytes.substr(8 + header.size());
  const auto mutate = [&](std::string& part) {
    const std::size_t before = part.size(), room = before + 64;
    part.resize(room);
    part.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(part.data()), before, room));
  };
  const std::size_t kind = random.below(8);
  if (kind < 3)
    for (std::size_t edits = 1 + random.below(3); edits-- > 0;) edit_header(header, random);
  else if (kind == 3)
    mutate(header);
  else if (kind == 4)
    mutate(rest);
  else if (kind < 7 && !rest.empty())  // some bytes of the data
    for (std::size_t edits = 1 + random.below(16); edits-- > 0;)
      rest[random.below(rest.size())] = static_cast<char>(random.below(3) == 0 ? 0xFF : random.below(256));
  if (random.below(4) != 0 && largest_end(header) < 8192) rest.resize(static_cast<std::size_t>(largest_end(header)));
  length = header.size();
  bytes.assign(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  bytes += header + rest;
  if (kind == 7) {
    if (random.below(2) == 0)
      mutate(bytes);
    else
      bytes.resize(random.below(bytes.size()));
  }
  if (bytes.size() > most) bytes.resize(most);
  std::memcpy(data, bytes.data(), bytes.size());
  return bytes.size();
}

namespace {

/// A model as each run finds it.
struct Subject {
  Model model;
  std::string home;
  State before;

  explicit Subject(bool second) : model(second), home(valid()[second ? 4 : 1]), before(return_home()) {}
  State return_home() {
    put(home.data(), home.size());
    apollo::load(model.optimizer, tally.file);
    return State(model.optimizer);
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, size_t size) {
  static Subject first(false), second(true);
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  Subject& subject = bytes.find("\"fingerprint:brief") != bytes.npos ? second : first;
  apollo::Optimizer& optimizer = subject.model.optimizer;
  put(data, size);
  try {
    apollo::load(optimizer, tally.file);
  } catch (const std::runtime_error& error) {
    ++tally.refused;
    require(says_where(error.what()), std::string("a refusal that does not say where: ") + error.what());
    require(State(optimizer).fields == subject.before.fields, std::string("changed, though refused: ") + error.what());
    return 0;
  }
  ++tally.loaded;
  const auto header = apollo::safetensors::parse(bytes, size, "input");
  const State now(optimizer);
  require(now.fields.size() == header.tensors.size() + 1, "loaded, but the file has more or fewer tensors");
  for (const auto& [name, value] : now.fields) {
    const auto* tensor = header.find(name);
    const std::string there =
        name == "tick"      ? *header.find_metadata(name)
        : tensor == nullptr ? "absent"
                            : bytes.substr(static_cast<std::size_t>(header.data_offset + tensor->begin), value.size());
    require(name == "tick" ? std::stoll(there) == optimizer.tick() : there == value,
            "loaded something else than the file's " + name);
  }
  optimizer.step();
  require(subject.return_home().fields == subject.before.fields, "the first state did not come back");
  return 0;
}
