// SPDX-License-Identifier: Apache-2.0
// The side of checkpoint.py that is ours:
//   checkpoint save FILE     writes the checkpoint of a small model and prints its state
//   checkpoint load FILE     loads a checkpoint of that model and prints its state
// A state is a line `NAME BYTES` for each array and number, in hexadecimal and in order of rows, and `tick NUMBER`.
#include <apollo/apollo.hpp>
#include <cstdio>
#include <string>
#include <vector>

namespace {

using apollo::Index;

class Printer final : public apollo::StateVisitor {
 public:
  std::string prefix;

  void array(const apollo::StateArray& array) override {
    const apollo::AnyView& v = array.view;
    begin(array.field);
    for (Index i = 0; i < v.rows; ++i)
      for (Index j = 0; j < v.cols; ++j)
        bytes(static_cast<const unsigned char*>(v.data) + (i * v.row_stride + j * v.col_stride) * array.element_bytes,
              static_cast<std::size_t>(array.element_bytes));
    std::printf("\n");
  }
  void integer(std::string_view field, std::int64_t& value) override { number(field, &value, sizeof value); }
  void real(std::string_view field, float& value) override { number(field, &value, sizeof value); }

 private:
  void begin(std::string_view field) {
    std::printf("%s%.*s ", prefix.c_str(), static_cast<int>(field.size()), field.data());
  }
  void number(std::string_view field, const void* value, std::size_t size) {
    begin(field);
    bytes(static_cast<const unsigned char*>(value), size);
    std::printf("\n");
  }
  static void bytes(const unsigned char* at, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) std::printf("%02x", static_cast<unsigned>(at[i]));
  }
};

constexpr Index rows = 40, cols = 30, tensors = 6;

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  using namespace apollo;
  std::vector<float> weights(rows * cols * tensors), gradients(weights.size());
  Optimizer optimizer;
  const auto add = [&](const char* name, auto group, bool by_columns = false) {
    const auto at = static_cast<Index>(optimizer.parameters().size()) * rows * cols;
    float *w = weights.data() + at, *g = gradients.data() + at;
    if (by_columns)
      optimizer.add(group, name, column_major(w, rows, cols), column_major(g, rows, cols));
    else
      optimizer.add(group, name, row_major(w, rows, cols), row_major(g, rows, cols));
  };
  const auto dense = optimizer.add_group(AdamWOptions{});
  add("dense", dense);
  add("\xce\xb2.by \"columns\"", dense, true);
  add("brief", optimizer.add_group<AdamW<AdamMoments<bfloat16>>>({}));
  add("bytes", optimizer.add_group<AdamW8bit<>>({}));
  add("projected", optimizer.add_group<apollo::Apollo<>>({.rank = 3}));
  add("basis", optimizer.add_group<GaLore<>>({.rank = 3}));
  if (std::string(argv[1]) == "save") {
    for (int step = 1; step <= 3; ++step) {
      for (std::size_t i = 0; i < gradients.size(); ++i)
        gradients[i] = static_cast<float>((i * 2654435761u + static_cast<unsigned>(step) * 40503u) % 65521) / 32768 - 1;
      optimizer.step();
    }
    save(optimizer, argv[2]);
  } else {
    load(optimizer, argv[2]);
  }
  Printer printer;
  for (const auto& parameter : optimizer.parameters()) {
    printer.prefix = parameter->name() + ".";
    parameter->visit_state(printer);
  }
  std::printf("tick %lld\n", static_cast<long long>(optimizer.tick()));
}
