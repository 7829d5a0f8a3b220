// SPDX-License-Identifier: Apache-2.0
// Files: an output appears whole or not at all, whatever fails, and an input gives exactly the bytes asked for.
#include <doctest/doctest.h>

#include <apollo/optimizer/file.hpp>

#if APOLLO_HAS_FILES

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace {

using apollo::AtomicFile;
using apollo::InputFile;

std::vector<std::string> entries(const std::string& folder) {
  std::vector<std::string> names;
  DIR* directory = ::opendir(folder.c_str());
  REQUIRE(directory != nullptr);
  while (const dirent* entry = ::readdir(directory)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  ::closedir(directory);
  return names;
}

/// A folder of its own for each test, removed with all it holds.
struct Folder {
  std::string path = "file_test_XXXXXX";
  Folder() { REQUIRE(::mkdtemp(path.data()) != nullptr); }
  ~Folder() {
    for (const std::string& name : entries(path)) {
      if (::unlink(in(name).c_str()) != 0) ::rmdir(in(name).c_str());
    }
    ::rmdir(path.c_str());
  }
  std::string in(const std::string& name) const { return path + "/" + name; }
};

void put(const std::string& path, const std::string& text) {
  AtomicFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

std::string get(const std::string& path) {
  const InputFile file(path);
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read(text.data(), text.size(), 0);
  return text;
}

template <class Call>
std::string refusal(Call call) {
  try {
    call();
  } catch (const std::runtime_error& error) {
    return error.what();
  } catch (const std::logic_error& error) {
    return std::string("logic: ") + error.what();
  }
  return "accepted";
}

mode_t mode_of(const std::string& path) {
  struct stat status = {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_CASE("a committed file holds what was written, in writes of any size") {
  const Folder folder;
  const std::string path = folder.in("out");
  std::string expected;
  AtomicFile file(path);
  for (const std::size_t size : {0u, 1u, 65535u, 1u, 65536u, 3u, 300000u, 65537u, 7u, 65529u}) {
    std::string part(size, '\0');
    for (std::size_t i = 0; i < size; ++i) part[i] = static_cast<char>((expected.size() + i) * 31 >> 3 & 0xFF);
    file.write(part.data(), part.size());
    expected += part;
    CHECK(file.size() == expected.size());
  }
  for (const std::string& name : entries(folder.path)) CHECK(name.rfind(".apollo-", 0) == 0);
  file.commit();
  CHECK(entries(folder.path) == std::vector<std::string>{"out"});
  CHECK(get(path) == expected);
  CHECK(file.path() == path);
  CHECK(has(refusal([&] { file.write("x", 1); }), "logic: apollo: cannot write '" + path + "'"));
  CHECK(has(refusal([&] { file.commit(); }), "logic: apollo: cannot commit '" + path + "'"));
  put(path, "");
  CHECK(get(path) == "");
}

TEST_CASE("without a commit the old file stays and the temporary file goes") {
  const Folder folder;
  const std::string path = folder.in("out");
  put(path, "old");
  {
    AtomicFile file(path);
    const std::string text(200000, 'x');
    file.write(text.data(), text.size());
    CHECK(get(path) == "old");
  }
  CHECK(get(path) == "old");
  CHECK(entries(folder.path).size() == 1);
}

TEST_CASE("a killed writer leaves the old file") {
  const Folder folder;
  const std::string path = folder.in("out");
  put(path, "old");
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    AtomicFile file(path);
    const std::string text(200000, 'x');
    file.write(text.data(), text.size());
    ::raise(SIGKILL);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status));
  CHECK(get(path) == "old");
  put(path, "new");  // what the dead writer left does not disturb the next one
  CHECK(get(path) == "new");
}

TEST_CASE("permissions: those of the old file, or what the umask leaves of 0644") {
  const Folder folder;
  const std::string path = folder.in("out");
  const mode_t old = ::umask(027);
  put(path, "a");
  CHECK(mode_of(path) == 0640);
  for (const mode_t mode : {0600u, 0664u, 0444u}) {
    REQUIRE(::chmod(path.c_str(), mode) == 0);
    put(path, "b");
    CHECK(mode_of(path) == mode);
  }
  ::umask(old);
}

TEST_CASE("a symbolic link stays and what it leads to is replaced") {
  const Folder folder;
  const std::string target = folder.in("target"), link = folder.in("link"), dangling = folder.in("dangling");
  put(target, "old");
  REQUIRE(::symlink("target", link.c_str()) == 0);
  put(link, "new");
  CHECK(get(target) == "new");
  struct stat status = {};
  REQUIRE(::lstat(link.c_str(), &status) == 0);
  CHECK(S_ISLNK(status.st_mode));
  REQUIRE(::symlink("nowhere", dangling.c_str()) == 0);
  CHECK(has(refusal([&] { AtomicFile file(dangling); }), "cannot follow the link: No such file or directory"));
  CHECK(entries(folder.path).size() == 3);
}

TEST_CASE("a target that cannot be written is refused at once, with path and reason") {
  const Folder folder;
  put(folder.in("file"), "old");
  const std::string below_file = folder.in("file") + "/out", nowhere = folder.in("missing") + "/out";
  const std::string pipe = folder.in("pipe");
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  const auto opening = [](const std::string& path) { return refusal([&] { AtomicFile file(path); }); };
  CHECK(has(opening(below_file), "apollo: cannot write '" + below_file + "': "));
  CHECK(has(opening(below_file), "Not a directory"));
  CHECK(
      has(opening(nowhere), "'" + nowhere + "': cannot create a temporary file beside it: No such file or directory"));
  CHECK(has(opening(folder.path), "not a regular file"));
  CHECK(has(opening("/dev/null"), "not a regular file"));
  CHECK(has(opening(pipe), "not a regular file"));
  CHECK(has(opening(""), "No such file or directory"));
  CHECK(has(opening(folder.in(std::string(300, 'x'))), "File name too long"));
  put(folder.in(std::string(255, 'x')), "fits");  // the longest name: the temporary file's does not build on it
  if (::geteuid() != 0) {
    REQUIRE(::chmod(folder.path.c_str(), 0500) == 0);
    CHECK(has(opening(folder.in("out")), "Permission denied"));
    REQUIRE(::chmod(folder.path.c_str(), 0700) == 0);
  }
  CHECK(entries(folder.path).size() == 3);
  CHECK(get(folder.in("file")) == "old");
}

TEST_CASE("a failing rename is reported and leaves no temporary file") {
  const Folder folder;
  const std::string path = folder.in("out");
  AtomicFile file(path);
  file.write("x", 1);
  REQUIRE(::mkdir(path.c_str(), 0700) == 0);
  CHECK(has(refusal([&] { file.commit(); }), "cannot write '" + path + "': cannot rename the temporary file: "));
  CHECK(has(refusal([&] { file.commit(); }), "logic: "));
  CHECK(entries(folder.path) == std::vector<std::string>{"out"});
}

TEST_CASE("a write that fails half-way is reported and leaves the old file") {
  const Folder folder;
  const std::string path = folder.in("out");
  put(path, "old");
  struct rlimit limit = {};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &limit) == 0);
  struct rlimit low = limit;
  low.rlim_cur = 100000;  // the system writes up to here and then fails
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &low) == 0);
  const std::string text(150000, 'x'), part(1000, 'x');
  const std::string at_once = refusal([&] {
    AtomicFile file(path);
    file.write(text.data(), text.size());
  });
  const std::string buffered = refusal([&] {
    AtomicFile file(path);
    for (int i = 0; i < 110; ++i) file.write(part.data(), part.size());
    file.commit();
  });
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  ::signal(SIGXFSZ, handler);
  CHECK(has(at_once, "cannot write '" + path + "': cannot write: File too large"));
  CHECK(has(buffered, "cannot write '" + path + "': cannot write: File too large"));
  CHECK(get(path) == "old");
  CHECK(entries(folder.path).size() == 1);
}

TEST_CASE("concurrent writers do not clash: the last commit wins, and every reader sees one whole file") {
  const Folder folder;
  const std::string path = folder.in("out");
  {
    AtomicFile first(path), second(path);
    first.write("first", 5);
    second.write("second", 6);
    second.commit();
    CHECK(get(path) == "second");
    first.commit();
    CHECK(get(path) == "first");
  }
  put(path, std::string(100000, '0'));
  constexpr int writers = 4, rounds = 25;
  std::vector<pid_t> children;
  for (int writer = 0; writer < writers; ++writer) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      int result = 0;
      try {
        for (int round = 0; round < rounds; ++round) put(path, std::string(100000, static_cast<char>('1' + writer)));
      } catch (...) {
        result = 1;
      }
      ::_exit(result);
    }
    children.push_back(child);
  }
  bool whole = true;
  for (int round = 0; round < 200; ++round) {
    const std::string text = get(path);
    whole = whole && text.size() == 100000 && text == std::string(100000, text[0]);
  }
  CHECK(whole);
  for (const pid_t child : children) {
    int status = -1;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
  }
  CHECK(entries(folder.path) == std::vector<std::string>{"out"});
}

TEST_CASE("an input gives exactly the bytes asked for") {
  const Folder folder;
  const std::string path = folder.in("in");
  put(path, "0123456789");
  const InputFile file(path);
  CHECK(file.size() == 10);
  CHECK(file.path() == path);
  std::string text(4, '\0');
  file.read(text.data(), 4, 6);
  CHECK(text == "6789");
  file.read(nullptr, 0, 10);
  char byte = 0;
  CHECK(has(refusal([&] { file.read(text.data(), 4, 7); }),
            "apollo: cannot read '" + path + "': expected 4 bytes at byte 7, found the end of the file after 3"));
  CHECK(has(refusal([&] { file.read(&byte, 1, 11); }), "at byte 11, found the end of the file after 0"));
  CHECK(has(refusal([&] { file.read(&byte, 1, ~0ull); }), "at byte 18446744073709551615"));
  CHECK(has(refusal([&] { file.read(&byte, static_cast<std::size_t>(-1), 5); }), "found the end of the file after 5"));
  REQUIRE(::truncate(path.c_str(), 8) == 0);  // behind the reader's back
  CHECK(has(refusal([&] { file.read(text.data(), 4, 6); }),
            "expected 4 bytes at byte 6, found the end of the file after 2"));
}

TEST_CASE("an input that is no readable file is refused, with path and reason") {
  const Folder folder;
  const std::string missing = folder.in("missing"), pipe = folder.in("pipe");
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  const auto opening = [](const std::string& path) { return refusal([&] { InputFile file(path); }); };
  CHECK(opening(missing) == "apollo: cannot open '" + missing + "': No such file or directory");
  CHECK(opening(folder.path) == "apollo: cannot open '" + folder.path + "': not a regular file");
  CHECK(has(opening(pipe), "not a regular file"));
  CHECK(has(opening("/dev/zero"), "not a regular file"));
}

}  // namespace

#endif
