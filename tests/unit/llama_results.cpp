// SPDX-License-Identifier: Apache-2.0
// Results of examples/llama: logs and summaries read back as they were written, tables and plots show what they should.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <apollo/optimizer/file.hpp>

#include "llama/results.hpp"
#include "support.hpp"

namespace {

using doctest::Approx;
using llama::LogRow;
using llama::Run;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

/// Numbers that a careless writer would change.
const std::vector<double> awkward{0.0,
                                  -0.0,
                                  0.1,
                                  1.0 / 3,
                                  -2.5e-7,
                                  1e300,
                                  std::numeric_limits<double>::denorm_min(),
                                  std::numeric_limits<double>::max(),
                                  std::nextafter(1.0, 2.0),
                                  infinity,
                                  -infinity,
                                  not_a_number};

struct Folder {
  std::string path = "llama_results_XXXXXX";
  Folder() { REQUIRE(::mkdtemp(path.data()) != nullptr); }
  ~Folder() { std::filesystem::remove_all(path); }
  Folder(const Folder&) = delete;
  std::string in(const std::string& name) const { return path + "/" + name; }
};

template <class Call>
std::string refusal(Call call) {
  return support::refusal<std::runtime_error>(call);
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

bool same_bits(double a, double b) { return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b); }

Run run_with(const std::string& optimizer, std::uint64_t seed, double perplexity) {
  Run run;
  run.optimizer = optimizer;
  run.lr = 0.002;
  run.other_lr = 0.016;
  run.seed = seed;
  run.steps = 600;
  run.validation_loss = std::log(perplexity);
  run.weight_bytes = 4195328;
  run.matrix_state_bytes = optimizer == "adamw" ? 6291456 : 1605632;
  run.matrix_record_bytes = 224;
  run.state_bytes = run.matrix_state_bytes + 2099200;
  run.record_bytes = 296;
  run.adamw_matrix_bytes = 6291456;
  run.adamw_bytes = 8390656;
  run.optimizer_median_ms = 10.25;
  run.optimizer_mean_ms = 11.5;
  run.seconds = 100 + static_cast<double>(seed);
  run.tokens_per_second = 2400;
  for (std::int64_t step = 1; step <= 12; ++step) {
    LogRow row;
    row.step = step;
    row.seconds = static_cast<double>(step) * static_cast<double>(seed);
    row.validation_loss = run.validation_loss + 1 / static_cast<double>(step);
    run.log.push_back(row);
  }
  return run;
}

std::vector<Run> runs_of_four() {
  return {run_with("adamw", 1, 4),       run_with("apollo", 1, 4.4), run_with("apollo-mini", 7, 8),
          run_with("galore", 7, 100),    run_with("adamw", 2, 5),    run_with("apollo", 2, 5),
          run_with("apollo-mini", 8, 8), run_with("galore", 2, 10),  run_with("adamw", 3, 6),
          run_with("apollo", 3, 5.4),    run_with("galore", 3, 9)};
}

/// Cells of the lines below a table's headings, up to the first empty line.
std::vector<std::vector<std::string>> cells_of(const std::string& table, std::size_t headings, bool markdown) {
  std::vector<std::vector<std::string>> cells;
  const std::vector<std::string> lines = llama::report::split(table, '\n');
  for (std::size_t i = headings; i < lines.size() && !lines[i].empty(); ++i) {
    const std::string separator = markdown ? " | " : "  ";
    std::string line = lines[i];
    if (markdown) line = line.substr(2, line.size() - 4);
    cells.emplace_back();
    for (std::size_t at = 0; at < line.size();) {
      const std::size_t end = std::min(line.find(separator, at), line.size());
      std::string cell = line.substr(at, end - at);
      cell.erase(0, std::min(cell.find_first_not_of(' '), cell.size()));
      if (!cell.empty()) cells.back().push_back(cell);
      at = end + separator.size();
    }
  }
  return cells;
}

}  // namespace

TEST_CASE("a log reads back bit for bit") {
  const Folder folder;
  std::vector<LogRow> log;
  for (const double x : awkward) {
    LogRow row;
    row.step = static_cast<std::int64_t>(log.size());
    row.tokens = std::numeric_limits<std::int64_t>::max() - row.step;
    row.seconds = row.lr_factor = row.training_loss = row.optimizer_ms = x;
    if (log.size() % 2 == 0) row.validation_loss = x;
    log.push_back(row);
  }
  llama::write_log(folder.in("log.csv"), log);
  const std::vector<LogRow> back = llama::read_log(folder.in("log.csv"));
  REQUIRE(back.size() == log.size());
  for (std::size_t i = 0; i < log.size(); ++i) {
    CAPTURE(i);
    CHECK(back[i].step == log[i].step);
    CHECK(back[i].tokens == log[i].tokens);
    CHECK(same_bits(back[i].seconds, log[i].seconds));
    CHECK(same_bits(back[i].lr_factor, log[i].lr_factor));
    CHECK(same_bits(back[i].training_loss, log[i].training_loss));
    CHECK(same_bits(back[i].validation_loss, log[i].validation_loss));
    CHECK(same_bits(back[i].optimizer_ms, log[i].optimizer_ms));
  }
  llama::write_log(folder.in("log.csv"), {});
  CHECK(llama::read_log(folder.in("log.csv")).empty());
}

TEST_CASE("a log has the columns that it promises, and nothing where there was no validation") {
  const Folder folder;
  llama::write_log(
      folder.in("log.csv"),
      {{.step = 1, .tokens = 1024, .seconds = 0.5, .lr_factor = 1, .training_loss = 5.5, .optimizer_ms = 2},
       {.step = 2,
        .tokens = 2048,
        .seconds = 1,
        .lr_factor = 0.1,
        .training_loss = 5.25,
        .validation_loss = 5.3,
        .optimizer_ms = 2.5}});
  CHECK(llama::read_whole(folder.in("log.csv")) ==
        "step,tokens,seconds,lr_factor,training_loss,validation_loss,optimizer_ms\n"
        "1,1024,0.5,1,5.5,,2\n"
        "2,2048,1,0.1,5.25,5.3,2.5\n");
}

TEST_CASE("bad logs are refused with file, line and what was expected") {
  const Folder folder;
  const std::string path = folder.in("log.csv"), header = std::string(llama::report::log_header) + "\n";
  const auto reading = [&](const std::string& text) {
    llama::write_whole(path, text);
    return refusal([&] { llama::read_log(path); });
  };
  const auto check = [&](const std::string& text, const std::string& line, const std::string& expected) {
    const std::string message = reading(text);
    CAPTURE(message);
    CHECK(has(message, "'" + path + "', line " + line + ": expected " + expected));
  };
  const std::string good = "1,1024,0.5,1,5.5,,2\n";
  CHECK(reading(header + good).empty());
  check("", "1", "the header 'step,tokens,");
  check("step,tokens\n" + good, "1", "the header 'step,tokens,seconds");
  check(std::string(llama::report::log_header), "1", "a whole line");
  check(header + good + "2,2048,0.5,1,5.5,,2", "3", "a whole line, not a file cut short, found '2,2048");
  check(header + "one,1024,0.5,1,5.5,,2\n", "2", "an integer for step, found 'one'");
  check(header + "1,1024.5,0.5,1,5.5,,2\n", "2", "an integer for tokens, found '1024.5'");
  check(header + "1,99999999999999999999,0.5,1,5.5,,2\n", "2", "an integer for tokens");
  check(header + good + "1,1024,,1,5.5,,2\n", "3", "a number for seconds, found ''");
  check(header + "1,1024,0.5,1,5.5x,,2\n", "2", "a number for training_loss, found '5.5x'");
  check(header + "1,1024,0.5,1,5.5,-,2\n", "2", "a number or nothing for validation_loss, found '-'");
  check(header + "1,1024,0.5,1,5.5,\n", "2", "a field optimizer_ms");
  check(header + "1,1024,0.5,1,5.5,,2,3\n", "2", "seven fields, found '1,1024,0.5,1,5.5,,2,3'");
  check(header + "\n", "2", "an integer for step, found ''");
  check(header + "1,1024,0.5,1,5.5,,2\r\n", "2", "a number for optimizer_ms");
  CHECK(has(refusal([&] { llama::read_log(folder.in("none.csv")); }), "none.csv"));
}

TEST_CASE("a summary reads back bit for bit, through the text of its JSON") {
  for (const double x : awkward) {
    Run run = run_with("apollo-mini", std::numeric_limits<std::uint64_t>::max(), 4);
    run.lr = run.other_lr = run.validation_loss = run.optimizer_median_ms = x;
    run.optimizer_mean_ms = run.seconds = run.tokens_per_second = x;
    run.adamw_bytes = std::numeric_limits<std::int64_t>::max();
    run.skipped = -1;
    const Run back = llama::run_of(nlohmann::json::parse(llama::summary_of(run).dump()));
    CAPTURE(x);
    CHECK(back.optimizer == run.optimizer);
    CHECK(back.seed == run.seed);
    CHECK(back.steps == run.steps);
    for (const auto member : {&Run::lr, &Run::other_lr, &Run::validation_loss, &Run::optimizer_median_ms,
                              &Run::optimizer_mean_ms, &Run::seconds, &Run::tokens_per_second})
      CHECK(same_bits(back.*member, run.*member));
    for (const auto member :
         {&Run::weight_bytes, &Run::matrix_state_bytes, &Run::matrix_record_bytes, &Run::state_bytes,
          &Run::record_bytes, &Run::adamw_matrix_bytes, &Run::adamw_bytes, &Run::skipped})
      CHECK(back.*member == run.*member);
    CHECK(back.log.empty());
  }
}

TEST_CASE("bad summaries are refused by the name of the key") {
  const nlohmann::json good = llama::summary_of(run_with("adamw", 1, 4));
  CHECK(good.size() == 18);
  for (const auto& [key, value] : good.items()) {
    nlohmann::json bad = good;
    bad.erase(key);
    CHECK(refusal([&] { llama::run_of(bad); }) == "summary of a run: '" + key + "' is missing");
    bad[key] = nlohmann::json::array({1});
    CHECK(has(refusal([&] { llama::run_of(bad); }), "'" + key + "' must be "));
  }
  const auto with = [&](const std::string& key, const nlohmann::json& value) {
    nlohmann::json json = good;
    json[key] = value;
    return refusal([&] { llama::run_of(json); });
  };
  CHECK(with("seed", -1) == "summary of a run: 'seed' must be an integer from 0 to 2^64 - 1, found -1");
  CHECK(with("steps", 1.5) == "summary of a run: 'steps' must be an integer of 64 bits, found 1.5");
  CHECK(has(with("state_bytes", std::uint64_t{1} << 63), "'state_bytes' must be an integer of 64 bits"));
  CHECK(with("lr", "high") == "summary of a run: 'lr' must be a number, found \"high\"");
  CHECK(with("optimizer", 3) == "summary of a run: 'optimizer' must be a string, found 3");
  CHECK(with("lr", 1).empty());
  CHECK(with("preset", "nano").empty());
  CHECK(has(refusal([] { llama::run_of(nlohmann::json::array()); }), "expected an object"));
}

TEST_CASE("labels name what tells rows of one optimizer apart") {
  std::vector<Run> runs{run_with("adamw", 1, 4), run_with("adamw", 2, 4), run_with("apollo", 1, 4)};
  CHECK(llama::label(runs[0], runs) == "adamw");
  runs.push_back(run_with("adamw", 1, 4));
  runs.back().lr = 0.0001;
  CHECK(llama::label(runs[0], runs) == "adamw lr 0.002/0.016");
  CHECK(llama::label(runs[3], runs) == "adamw lr 0.0001/0.016");
  CHECK(llama::label(runs[2], runs) == "apollo");
  runs.push_back(run_with("apollo", 1, 4));
  runs.back().steps = 60;
  CHECK(llama::label(runs[4], runs) == "apollo 60 steps");
}

TEST_CASE("means and standard errors") {
  const std::vector<double> values{1, 2, 3, 6};  // squares of what is off the mean: 4 + 1 + 0 + 9
  const llama::Mean mean = llama::mean_of(values);
  CHECK(mean.value == Approx(3));
  CHECK(mean.error == Approx(std::sqrt(14.0 / 3 / 4)));
  CHECK(llama::mean_of(std::span(values).first(1)).error == 0);
  CHECK(llama::mean_of({}).count == 0);
}

TEST_CASE("rows: runs of one optimizer and setting, whatever the order of seeds") {
  const std::vector<Run> runs = runs_of_four();
  const std::vector<llama::Row> rows = llama::rows_of(runs);
  REQUIRE(rows.size() == 4);
  CHECK(rows[0].label == "adamw");
  CHECK(rows[1].label == "apollo");
  CHECK(rows[2].label == "apollo-mini");
  CHECK(rows[3].label == "galore");
  CHECK(rows[2].runs.size() == 2);
  CHECK(rows[3].runs.size() == 3);
  CHECK(llama::baseline_of(rows) == &rows[0]);

  const llama::Mean perplexity = rows[0].mean(llama::perplexity);  // of 4, 5, 6
  CHECK(perplexity.value == Approx(5));
  CHECK(perplexity.error == Approx(1 / std::sqrt(3.0)));
  const llama::Mean apollo = llama::ratio_to(rows[0], rows[1]);  // of 1.1, 1, 0.9
  CHECK(apollo.value == Approx(1));
  CHECK(apollo.error == Approx(0.1 / std::sqrt(3.0)));
  CHECK(llama::ratio_to(rows[0], rows[2]).count == 0);
  const llama::Mean galore = llama::ratio_to(rows[0], rows[3]);  // of 2 and 1.5: seed 7 is not AdamW's
  CHECK(galore.count == 2);
  CHECK(galore.value == Approx(1.75));
  CHECK(galore.error == Approx(0.25));
}

TEST_CASE("runs that cannot share a row are refused") {
  std::vector<Run> runs{run_with("adamw", 1, 4), run_with("adamw", 1, 5)};
  CHECK(refusal([&] { llama::terminal_table(runs); }) == "two runs of adamw have seed 1");
  runs[1].seed = 2;
  runs[1].state_bytes = 7;
  CHECK(refusal([&] { llama::markdown_table(runs); }) ==
        "runs of adamw cannot share a row: state_bytes is 8390656 at seed 1, 7 at seed 2");
}

TEST_CASE("the baseline is adamw at its best learning rates, and nothing else") {
  std::vector<Run> runs{run_with("adamw", 1, 9), run_with("adamw", 1, 5), run_with("adamw", 1, 6),
                        run_with("adamw-one-lr", 1, 4), run_with("apollo", 1, 10)};
  runs[0].lr = 0.1;
  runs[0].validation_loss = not_a_number;
  runs[1].lr = 0.2;
  runs[2].lr = 0.3;
  const llama::Table table = llama::table_of(runs);
  CHECK(table.cells[0][3] == "nan");
  CHECK(table.cells[1][3] == "1");
  CHECK(table.cells[2][3] == "1.200");
  CHECK(table.cells[3][3] == "0.800");
  CHECK(table.cells[4][3] == "2.000");
  CHECK(table.notes[1] == "vs AdamW: adamw lr 0.2/0.016.");
  for (const auto& cells : llama::table_of(std::span<const Run>(runs).last(2)).cells) CHECK(cells[3] == "-");
}

TEST_CASE("cells") {
  const std::vector<Run> runs = runs_of_four();
  const llama::Table table = llama::table_of(runs);
  using Cells = std::vector<std::string>;
  CHECK(table.headings.size() == 11);
  CHECK(table.cells[0] == Cells{"adamw", "5.000 ± 0.577", "2.3023", "1", "6291456", "100.00 %", "8390656", "100.00 %",
                                "10.25 / 11.50", "2400", "102.0"});
  CHECK(table.cells[1] == Cells{"apollo", "4.933 ± 0.291", "2.2975", "1.000 ± 0.058", "1605632", "25.52 %", "3704832",
                                "44.15 %", "10.25 / 11.50", "2400", "102.0"});
  CHECK(table.cells[2] == Cells{"apollo-mini", "8.000 ± 0.000", "3.0000", "-", "1605632", "25.52 %", "3704832",
                                "44.15 %", "10.25 / 11.50", "2400", "107.5"});
  CHECK(table.cells[3][3] == "1.750 ± 0.250");
  CHECK(llama::table_of({}).cells.empty());
}

TEST_CASE("notes: seeds, records, steps left out") {
  std::vector<Run> runs = runs_of_four();
  CHECK(llama::table_of(runs).notes ==
        std::vector<std::string>{
            "Means over seeds, ± their standard error. Seeds: adamw 3, apollo 3, apollo-mini 2, galore 3.",
            "State stands beside the record of 296 bytes, 224 of them for the matrices: step counts and limiters' "
            "norms."});
  runs = {run_with("adamw", 1, 4), run_with("apollo", 1, 4)};
  runs[1].record_bytes = 400;
  runs[1].skipped = 3;
  CHECK(llama::table_of(runs).notes ==
        std::vector<std::string>{"One seed each.",
                                 "State stands beside the record of step counts and limiters' norms, in bytes (for the "
                                 "matrices): adamw 296 (224), apollo 400 (224).",
                                 "apollo at seed 1 left out 3 steps of tensors, for example because of a NaN."});
}

TEST_CASE("the terminal's table and Markdown's have the same cells") {
  std::vector<Run> runs = runs_of_four();
  for (const bool sweep : {false, true}) {
    CAPTURE(sweep);
    if (sweep) {
      runs.push_back(run_with("apollo", 1, 1e300));
      runs.back().lr = 0.5;
    }
    const auto cells = llama::table_of(runs).cells;
    const std::string terminal = llama::terminal_table(runs), markdown = llama::markdown_table(runs);
    CHECK(cells_of(terminal, 3, false) == cells);
    CHECK(cells_of(markdown, 2, true) == cells);
    const std::vector<std::string> lines = llama::report::split(terminal, '\n');
    for (std::size_t i = 0; i < 3 + cells.size(); ++i)
      CHECK(llama::report::width_of(lines[i]) == llama::report::width_of(lines[0]));
    if (!sweep) CHECK(llama::report::width_of(lines[0]) <= 125);
  }
}

TEST_CASE("runs.csv has a line a run") {
  const Folder folder;
  std::vector<Run> runs{run_with("adamw", 1, 4), run_with("a, \"b\"", 2, 4)};
  runs[0].validation_loss = 1.5;
  runs[1].validation_loss = not_a_number;
  llama::write_runs_csv(folder.in("runs.csv"), runs);
  CHECK(
      llama::read_whole(folder.in("runs.csv")) ==
      "optimizer,lr,other_lr,seed,steps,validation_loss,weight_bytes,matrix_state_bytes,matrix_record_bytes,state_"
      "bytes,record_"
      "bytes,"
      "adamw_matrix_bytes,adamw_bytes,skipped,optimizer_median_ms,optimizer_mean_ms,seconds,tokens_per_second\n"
      "adamw,0.002,0.016,1,600,1.5,4195328,6291456,224,8390656,296,6291456,8390656,0,10.25,11.5,101,2400\n"
      "\"a, \"\"b\"\"\",0.002,0.016,2,600,nan,4195328,1605632,224,3704832,296,6291456,8390656,0,10.25,11.5,102,2400\n");
}

TEST_CASE("curves are means over the seeds where all of them were evaluated") {
  std::vector<Run> runs{run_with("adamw", 1, 4), run_with("adamw", 2, 5)};
  runs[0].log[2].validation_loss = llama::not_evaluated;
  runs[1].log[3].validation_loss = not_a_number;
  const llama::Curve curve = llama::report::curve_of(llama::rows_of(runs).front());
  CHECK(curve.label == "adamw");
  REQUIRE(curve.points.size() == 10);
  CHECK(curve.points[1].step == 2);
  CHECK(curve.points[1].seconds == 3);
  CHECK(curve.points[1].loss == Approx((std::log(4.0) + std::log(5.0)) / 2 + 0.5));
  CHECK(curve.points[2].step == 5);
}

TEST_CASE("the range of losses leaves out the start, and a curve far above the others") {
  std::vector<llama::Curve> curves{{"a", {{1, 1, 5}, {5, 5, 2}, {10, 10, 1}}},
                                   {"b", {{1, 1, 5}, {5, 5, 2.2}, {10, 10, 1.1}}}};
  llama::report::Range range = llama::report::loss_range(curves);
  CHECK(range.low == Approx(1 - 0.04 * 1.2));
  CHECK(range.high == Approx(2.2 + 0.04 * 1.2));
  curves.push_back({"diverged", {{1, 1, 5}, {5, 5, 50}, {10, 10, 50}}});
  range = llama::report::loss_range(curves);
  CHECK(range.high == Approx(1 + 2 * 1.2 + 0.04 * 2.4));
  curves = {{"one point", {{1, 1, 5}}}};
  CHECK(llama::report::loss_range(curves).high > llama::report::loss_range(curves).low);
}

TEST_CASE("gnuplot's script and data name every row") {
  const std::vector<llama::Curve> curves{{"adamw", {{50, 1.5, 2}, {100, 3, 1.5}}}, {"it's", {{50, 2, 2.25}}}};
  const std::vector<llama::Bar> bars{{"adamw", 6291456, 2099200, 8390656}, {"it's", 10, 20, 0}};
  const std::string script = llama::report::script(curves, bars);
  CHECK(has(script, "'validation.dat' index 1 using 2:3 with linespoints linetype 2 pointinterval 1 title 'it''s'\n"));
  CHECK(has(script, "6291456 + 2099200 = 8390656 bytes, 100.0 % of AdamW''s"));
  CHECK(has(script, "10 + 20 = 30 bytes'"));
  CHECK(has(llama::report::curve_data(curves), "# adamw\n50 1.5 2\n100 3 1.5\n\n\n# it's\n50 2 2.25\n"));
  CHECK(has(llama::report::bar_data(bars), "0 6291456 2099200  # adamw\n1 10 20  # it's\n"));
  CHECK(!has(llama::report::script({}, bars), "validation.dat' index"));
}

TEST_CASE("no runs, no results") {
  const Folder folder;
  CHECK(has(refusal([&] { llama::write_results(folder.path, "none", {}); }), "no runs"));
  CHECK(std::filesystem::is_empty(folder.path));
}
