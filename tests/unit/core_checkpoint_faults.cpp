// SPDX-License-Identifier: Apache-2.0
// Saving and loading when a system call fails or the process is killed: the old file or the new one, and a state that is whole.
// not: sanitizers
// not: optimised
#include <doctest/doctest.h>

#include <apollo/apollo.hpp>

// System calls are replaced for the whole program, which takes a linker that lets them be.
#if defined(__linux__)

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cstdio>
#include <string>
#include <vector>

#include "model.hpp"

namespace {

/// Calls between arm() and disarm() are counted and written down, and one of them fails.
struct Calls {
  bool armed = false;
  bool nameless = true;  ///< whether the system knows files without a name
  bool maps = true;      ///< whether it fills mapped files
  int fail_at = -1;      ///< number of the call
  int cause = 0;
  int count = 0;
  std::string log;

  void arm(int which, int why) { armed = true, fail_at = which, cause = why, count = 0, log.clear(); }
  void disarm() { armed = false; }
  /// Notes a call; true if it is to fail.
  bool fails(const std::string& name) {
    if (!armed) return false;
    log += name + " ";
    if (count++ != fail_at) return false;
    errno = cause;
    return true;
  }
} calls;

bool is_folder(int descriptor) {
  struct stat status = {};
  return ::fstat(descriptor, &status) == 0 && S_ISDIR(status.st_mode);
}

}  // namespace

extern "C" {
ssize_t write(int file, const void* from, size_t bytes) {
  return calls.fails("write") ? -1 : ::syscall(SYS_write, file, from, bytes);
}
ssize_t pread(int file, void* to, size_t bytes, off_t at) {
  return calls.fails("pread") ? -1 : ::syscall(SYS_pread64, file, to, bytes, at);
}
int fsync(int file) {
  return calls.fails(is_folder(file) ? "sync-folder" : "sync-file") ? -1 : static_cast<int>(::syscall(SYS_fsync, file));
}
int rename(const char* from, const char* to) noexcept {
  return calls.fails("rename") ? -1 : static_cast<int>(::syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to));
}
int linkat(int from_folder, const char* from, int to_folder, const char* to, int flags) noexcept {
  return calls.fails("link") ? -1 : static_cast<int>(::syscall(SYS_linkat, from_folder, from, to_folder, to, flags));
}
int madvise(void* at, size_t bytes, int advice) noexcept {
  errno = EINVAL;  // as older systems say
  if (!calls.maps && advice == MADV_POPULATE_READ) return -1;
  return calls.fails("populate") ? -1 : static_cast<int>(::syscall(SYS_madvise, at, bytes, advice));
}
int access(const char* path, int mode) noexcept {
  if (!calls.nameless && std::string(path) == "/proc/self/fd") return -1;
  return static_cast<int>(::syscall(SYS_faccessat, AT_FDCWD, path, mode));
}
}

namespace {

using apollo::Index;
using support::Layout;

std::vector<std::string> entries(const std::string& folder) {
  std::vector<std::string> names;
  DIR* directory = ::opendir(folder.c_str());
  REQUIRE(directory != nullptr);
  while (const dirent* entry = ::readdir(directory))
    if (std::string(entry->d_name) != "." && std::string(entry->d_name) != "..") names.push_back(entry->d_name);
  ::closedir(directory);
  return names;
}

/// A folder on the disk, removed with all it holds.
struct Folder {
  std::string path = "faults_XXXXXX";
  Folder() { REQUIRE(::mkdtemp(path.data()) != nullptr); }
  Folder(const Folder&) = delete;
  ~Folder() {
    for (const std::string& name : entries(path)) ::unlink((path + "/" + name).c_str());
    ::rmdir(path.c_str());
  }
  std::string file() const { return path + "/state"; }
};

std::string contents(const std::string& path) {
  const apollo::InputFile file(path);
  std::string bytes(static_cast<std::size_t>(file.size()), '\0');
  file.read(bytes.data(), bytes.size(), 0);
  return bytes;
}

/// One matrix that lies adjacent and one that does not, larger than one write together.
struct Run {
  model::Leaf<float> rows{"rows", 201, 151}, columns{"columns", 120, 140, Layout::column_major};
  apollo::Optimizer optimizer;

  Run() {
    const auto group = optimizer.add_group(apollo::AdamWOptions{});
    optimizer.add(group, "rows", rows.w.view, rows.g.view);
    optimizer.add(group, "columns", columns.w.view, columns.g.view);
  }
  std::string snapshot() const { return model::snapshot(optimizer); }
};

std::string error_of_save(const Run& run, const std::string& path) {
  return model::message_of<std::runtime_error>([&] { apollo::save(run.optimizer, path); });
}

const std::string accepted = "nothing was thrown";

}  // namespace

TEST_CASE("the file is synced before it is renamed, and the folder after that") {
  for (const bool nameless : {true, false}) {
    const Folder folder;
    Run run;
    calls.nameless = nameless;
    calls.arm(-1, 0);
    apollo::save(run.optimizer, folder.file());
    calls.disarm();
    std::string log = calls.log;
    while (log.rfind("write ", 0) == 0) log.erase(0, 6);
    if (nameless && log.find("link") != log.npos)  // this file system knows files without a name
      CHECK(log == "sync-file link rename sync-folder ");
    else
      CHECK(log == "sync-file rename sync-folder ");
    CHECK(entries(folder.path) == std::vector<std::string>{"state"});
  }
  calls.nameless = true;
}

TEST_CASE("whichever system call of a save fails, the old file or the new one is whole, and nothing else is left") {
  for (const bool nameless : {true, false}) {
    calls.nameless = nameless;
    for (const auto& [cause, reason] :
         {std::pair(ENOSPC, "No space left on device"), std::pair(EIO, "Input/output error")}) {
      const Folder folder;
      Run run;
      run.optimizer.step();
      apollo::save(run.optimizer, folder.file());
      const std::string old_file = contents(folder.file());
      run.optimizer.step();
      const std::string state = run.snapshot();
      int failures = 0;
      for (;; ++failures) {
        CAPTURE(failures);
        calls.arm(failures, cause);
        const std::string message = error_of_save(run, folder.file());
        calls.disarm();
        CHECK(model::same(run.snapshot(), state));
        CHECK(entries(folder.path) == std::vector<std::string>{"state"});
        if (message == accepted) break;
        CHECK(model::mentions(message, "apollo: cannot write '" + folder.file() + "'", reason));
        if (!model::mentions(message, "though the new file is in place"))
          REQUIRE(model::same(contents(folder.file()), old_file));
        else
          CHECK(calls.log.find("rename") != std::string::npos);
      }
      CHECK(failures >= 5);
      CHECK(!model::same(contents(folder.file()), old_file));
      Run loaded;
      apollo::load(loaded.optimizer, folder.file());
      CHECK(model::same(loaded.snapshot(), state));
    }
  }
  calls.nameless = true;
}

TEST_CASE("a full disk is named and leaves the old file") {
  const Folder folder;
  Run run;
  run.optimizer.step();
  apollo::save(run.optimizer, folder.file());
  const std::string old_file = contents(folder.file());
  run.optimizer.step();
  struct rlimit limit = {};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &limit) == 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  for (rlim_t bytes = 1000; bytes < old_file.size(); bytes += 50'000) {
    struct rlimit low = limit;
    low.rlim_cur = bytes;
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &low) == 0);
    const std::string message = error_of_save(run, folder.file());
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHECK(model::mentions(message, "cannot write '" + folder.file() + "': cannot write: File too large"));
    CHECK(model::same(contents(folder.file()), old_file));
    CHECK(entries(folder.path).size() == 1);
  }
  ::signal(SIGXFSZ, handler);
}

TEST_CASE("whichever read of a load fails, the state is as it was, or is refused until it is whole") {
  const Folder folder;
  const std::string first = folder.file() + ".first";
  Run saved, run;
  saved.optimizer.step();
  apollo::save(saved.optimizer, first);
  const std::string before = saved.snapshot();
  saved.optimizer.step();
  apollo::save(saved.optimizer, folder.file());
  for (const bool maps : {true, false}) {
    calls.maps = maps;
    int failures = 0, halves = 0;
    for (bool failed = true; failed; ++failures) {
      CAPTURE(failures);
      apollo::load(run.optimizer, first);
      REQUIRE(model::same(run.snapshot(), before));
      calls.arm(failures, EIO);
      const std::string message =
          model::message_of<std::runtime_error>([&] { apollo::load(run.optimizer, folder.file()); });
      calls.disarm();
      failed = failures < calls.count;
      if (message == accepted) {
        // No call failed, or the one that maps the file, which is read then.
        CHECK((!failed || calls.log.find("populate") != std::string::npos));
        CHECK(model::same(run.snapshot(), saved.snapshot()));
        continue;
      }
      CHECK(model::mentions(message, "apollo: cannot read '" + folder.file() + "' at byte", "Input/output error"));
      if (!run.optimizer.restoring()) {
        CHECK(model::same(run.snapshot(), before));
        continue;
      }
      ++halves;
      const auto refusal = [](auto&& call) { return model::message_of<std::logic_error>(call); };
      CHECK(model::mentions(refusal([&] { run.optimizer.step(); }), "step()", "load()", "in part"));
      CHECK(model::mentions(refusal([&] { run.optimizer.step("rows"); }), "step()", "in part"));
      CHECK(model::mentions(refusal([&] { run.optimizer.begin_tick(); }), "in part"));
      CHECK(model::mentions(refusal([&] { run.optimizer.accumulate(); }), "accumulate()", "in part"));
      CHECK(model::mentions(refusal([&] { run.optimizer.accumulate("rows"); }), "accumulate()", "in part"));
      CHECK(model::mentions(refusal([&] { apollo::save(run.optimizer, first); }), "save()", "in part"));
      CHECK(!run.optimizer.tick_open());
      apollo::load(run.optimizer, folder.file());
      CHECK(!run.optimizer.restoring());
      CHECK(model::same(run.snapshot(), saved.snapshot()));
    }
    CHECK(failures >= 5);
    CHECK(halves == (maps ? 0 : 4));  // the arrays
  }
  calls.maps = true;
}

// --- kills --------------------------------------------------------------------------------------------------------------

namespace {

/// A state that is a function of a number, which is its tick as well.
class Numbered final : public apollo::StateVisitor {
 public:
  explicit Numbered(std::int64_t number) : number_(number) {}
  void array(const apollo::StateArray& array) override {
    const apollo::MatrixView<float> view = array.view.as<float>();
    for (Index k = 0; k < view.size(); ++k) view.data[k] = static_cast<float>((number_ * 7919 + k) % 65536);
  }
  void integer(std::string_view, std::int64_t& value) override { value = number_; }
  void real(std::string_view, float& value) override { value = static_cast<float>(number_); }

 private:
  std::int64_t number_;
};

void number(Run& run, std::int64_t number) {
  Numbered numbered(number);
  for (const auto& parameter : run.optimizer.parameters()) parameter->visit_state(numbered);
  run.optimizer.restore_tick(number);
}

}  // namespace

TEST_CASE("after each of 200 kills at random moments of a save the old file or the new one is whole") {
  struct Progress {
    volatile std::int64_t started, finished;
  };
  const Folder folder;
  void* shared = ::mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(shared != MAP_FAILED);
  auto* progress = new (shared) Progress{1, 1};
  Run run, expected;
  number(run, 1);
  apollo::save(run.optimizer, folder.file());
  int inside = 0, old_ones = 0, new_ones = 0;
  for (std::uint64_t kill = 0; kill < 200; ++kill) {
    const std::int64_t first = progress->started;
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      for (std::int64_t next = first + 1;; ++next) {
        number(run, next);
        progress->started = next;
        apollo::save(run.optimizer, folder.file());
        progress->finished = next;
      }
    }
    for (int wait = 0; wait < 10000 && progress->started == first; ++wait) ::usleep(100);
    ::usleep(static_cast<useconds_t>(support::mix(kill) % 10'000));
    REQUIRE(::kill(child, SIGKILL) == 0);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    REQUIRE(WTERMSIG(status) == SIGKILL);  // and of nothing else
    inside += progress->started != progress->finished ? 1 : 0;
    apollo::load(run.optimizer, folder.file());
    const std::int64_t tick = run.optimizer.tick();
    const bool is_old = tick == progress->finished, is_new = tick == progress->started;
    REQUIRE((is_old || is_new));
    (is_old ? old_ones : new_ones) += 1;
    number(expected, tick);
    REQUIRE(model::same(run.snapshot(), expected.snapshot()));
    progress->started = tick;
    progress->finished = tick;
  }
  CHECK(inside >= 50);
  CHECK(old_ones >= 50);
  MESSAGE(inside << " of 200 kills within a save: " << old_ones << " old files, " << new_ones << " new ones, "
                 << entries(folder.path).size() - 1 << " files left behind");
  // What is left behind, if anything, is in nobody's way.
  number(run, 1'000'000);
  apollo::save(run.optimizer, folder.file());
  apollo::load(expected.optimizer, folder.file());
  CHECK(expected.optimizer.tick() == 1'000'000);
  ::munmap(shared, sizeof(Progress));
}

#endif
