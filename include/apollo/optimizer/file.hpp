// SPDX-License-Identifier: Apache-2.0
// Files as checkpoints need them: an output that appears whole or not at all, and an input read at given positions.
// POSIX only: elsewhere both classes are absent and APOLLO_HAS_FILES is 0.
#pragma once

#if __has_include(<unistd.h>) && !defined(_WIN32)
#define APOLLO_HAS_FILES 1

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include <apollo/base/error.hpp>

namespace apollo {
namespace posix {

/// Repeats a system call that a signal interrupted.
template <class Call>
auto uninterrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

/// Bytes of one read: systems refuse or shorten larger ones.
inline constexpr std::uint64_t largest_read = std::uint64_t{1} << 30;
/// Bytes of one write: larger ones take Linux several times as long, which looks for adjacent pages to hold each of them.
inline constexpr std::uint64_t largest_write = std::uint64_t{1} << 17;

/// memcpy for what is too large to stay in a cache: past 64 KiB it goes to memory without being read first, which memcpy itself
/// does only for sizes of whole caches.
inline void copy_large(char* to, const char* from, std::size_t size) {
  std::size_t done = 0;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__CUDACC__)
  using Aligned = long long __attribute__((vector_size(16), may_alias));
  if (size >= 65536 && reinterpret_cast<std::uintptr_t>(to) % 16 == 0) {
    for (; done + 64 <= size; done += 64)
      for (std::size_t i = done; i < done + 64; i += 16) {
        Aligned value;
        std::memcpy(&value, from + i, sizeof value);
#if defined(__clang__)
        __builtin_nontemporal_store(value, reinterpret_cast<Aligned*>(to + i));
#else
        __builtin_ia32_movntdq(reinterpret_cast<Aligned*>(to + i), value);
#endif
      }
    __builtin_ia32_sfence();
  }
#endif
  std::memcpy(to + done, from + done, size - done);
}

}  // namespace posix

/// Writes a file that readers see complete or not at all. The bytes go to a temporary file in the target's directory; commit()
/// syncs it and renames it over the target. Without commit() it goes and the target stays as it was.
/// On Linux the temporary file has no name until it is complete, so that one of a killed process goes too; where the file system
/// does not know that, and in the moment before the rename, it is called `.apollo-*` and a killed process leaves it behind.
/// A target that is a symbolic link stays one: the file it leads to is replaced, and a link to nothing is refused.
/// An existing target passes on its permissions, not its owner; a new file gets 0644 less the umask.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path) : path_(std::move(path)), target_(path_) {
    struct stat status = {};
    bool exists = ::lstat(path_.c_str(), &status) == 0;
    if (exists && S_ISLNK(status.st_mode)) {
      char* resolved = ::realpath(path_.c_str(), nullptr);
      if (resolved == nullptr) fail("follow the link");
      target_ = resolved;
      std::free(resolved);
      exists = ::stat(target_.c_str(), &status) == 0;
    }
    if (!exists && (errno != ENOENT || path_.empty())) fail("look for the file");
    if (exists && !S_ISREG(status.st_mode)) refuse_file("cannot write " + quote(path_) + ": not a regular file");
    const std::size_t slash = target_.rfind('/');
    directory_ = slash == std::string::npos ? "." : target_.substr(0, slash + 1);
    create_temporary(exists ? 0600 : 0644);  // never wider than the target, whose permissions follow
    if (exists && ::fchmod(descriptor_, status.st_mode & 0777) != 0) fail("set the permissions");
    buffer_.reserve(buffer_size);
  }
  ~AtomicFile() { discard(); }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  const std::string& path() const { return path_; }
  /// Bytes written so far.
  std::uint64_t size() const { return size_; }

  void write(const void* data, std::size_t size) {
    if (descriptor_ < 0) refuse_now("cannot write " + quote(path_) + ": it was committed or has failed");
    if (size == 0) return;
    const char* bytes = static_cast<const char*>(data);
    if (size > buffer_size - buffer_.size()) {
      flush();
      if (size >= buffer_size) return write_through(bytes, size);
    }
    buffer_.append(bytes, size);
    size_ += size;
  }

  /// Puts the file in place. Once this returns, it survives a crash of the machine.
  void commit() {
    if (descriptor_ < 0) refuse_now("cannot commit " + quote(path_) + ": it was committed or has failed");
    flush();
    if (posix::uninterrupted([&] { return ::fsync(descriptor_); }) != 0) fail("sync the file");
    if (temporary_.empty()) name_temporary();
    const int closing = std::exchange(descriptor_, -1);
    if (::close(closing) != 0 && errno != EINTR) fail("close the file");
    if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail("rename the temporary file");
    temporary_.clear();
    sync_directory();
  }

 private:
  static constexpr std::size_t buffer_size = std::size_t{1} << 16;
  static constexpr std::uint64_t sync_size = std::uint64_t{1} << 25;

  [[noreturn]] void fail(const char* action) {
    const int cause = errno;
    discard();
    refuse_file("cannot write " + quote(path_) + ": cannot " + action + ": " + std::strerror(cause));
  }

  /// Opened by hand rather than by mkstemp, which would leave a new file 0600; only open() knows the umask.
  void create_temporary(mode_t mode) {
#if defined(O_TMPFILE)
    if (::access("/proc/self/fd", X_OK) == 0)  // or it could get no name
      descriptor_ =
          posix::uninterrupted([&] { return ::open(directory_.c_str(), O_WRONLY | O_TMPFILE | O_CLOEXEC, mode); });
    if (descriptor_ >= 0) return;
#endif
    with_free_name("create a temporary file beside it", [&](const char* name) {
      descriptor_ = posix::uninterrupted([&] { return ::open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode); });
      return descriptor_ >= 0;
    });
  }

  void name_temporary() {
    const std::string nameless = "/proc/self/fd/" + std::to_string(descriptor_);
    with_free_name("name the temporary file", [&](const char* name) {
      return ::linkat(AT_FDCWD, nameless.c_str(), AT_FDCWD, name, AT_SYMLINK_FOLLOW) == 0;
    });
  }

  /// Tries names until `create(name)` does not fail because there is such a file.
  template <class Create>
  void with_free_name(const char* action, Create create) {
    struct timespec now = {};
    ::clock_gettime(CLOCK_REALTIME, &now);
    std::uint64_t key = static_cast<std::uint64_t>(now.tv_nsec) << 32 ^ static_cast<std::uint64_t>(::getpid());
    for (int attempt = 0; attempt < 1000; ++attempt) {
      key = key * 6364136223846793005u + 1442695040888963407u;
      const std::string name = directory_ + (directory_ == "." ? "/" : "") + ".apollo-" + std::to_string(key >> 16);
      if (create(name.c_str())) {
        temporary_ = name;
        return;
      }
      if (errno != EEXIST) break;
    }
    fail(action);
  }

  void write_through(const char* bytes, std::size_t size) {
    while (size > 0) {
      const std::size_t part = size < posix::largest_write ? size : posix::largest_write;
      const auto done = posix::uninterrupted([&] { return ::write(descriptor_, bytes, part); });
      if (done < 0) fail("write");
      bytes += done;
      size -= static_cast<std::size_t>(done);
      size_ += static_cast<std::uint64_t>(done);
      start_sync();
    }
  }

  /// Has the disk begin with what is there, while the rest is written. Errors wait for commit().
  void start_sync() {
#if defined(SYNC_FILE_RANGE_WRITE)
    if (size_ - started_ < sync_size) return;
    ::sync_file_range(descriptor_, static_cast<off_t>(started_), static_cast<off_t>(size_ - started_),
                      SYNC_FILE_RANGE_WRITE);
    started_ = size_;
#endif
  }

  void flush() {
    size_ -= buffer_.size();  // write_through counts them again
    write_through(buffer_.data(), buffer_.size());
    buffer_.clear();
  }

  /// Makes the rename itself durable. A directory that may not be read, or cannot be synced, is left to the system.
  void sync_directory() {
    const int directory = posix::uninterrupted([&] { return ::open(directory_.c_str(), O_RDONLY | O_CLOEXEC); });
    if (directory < 0 && errno == EACCES) return;
    if (directory < 0) fail("open its directory to sync it");
    const bool synced = posix::uninterrupted([&] { return ::fsync(directory); }) == 0 || errno == EINVAL;
    const int cause = errno;
    ::close(directory);
    errno = cause;
    if (!synced) fail("sync its directory, though the new file is in place");
  }

  void discard() noexcept {
    if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
    temporary_.clear();
  }

  std::string path_;       // as the caller gave it
  std::string target_;     // path_ with links followed
  std::string directory_;  // of the target
  std::string temporary_;
  std::string buffer_;
  std::uint64_t size_ = 0;
  std::uint64_t started_ = 0;  // so far the disk was told to begin
  int descriptor_ = -1;
};

/// A regular file opened for reading at any position.
class InputFile {
 public:
  explicit InputFile(std::string path) : path_(std::move(path)) {
    // O_NONBLOCK: a pipe is refused below instead of waited for.
    descriptor_ = posix::uninterrupted([&] { return ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); });
    if (descriptor_ < 0) refuse_file("cannot open " + quote(path_) + ": " + std::strerror(errno));
    struct stat status = {};
    const bool known = ::fstat(descriptor_, &status) == 0;
    if (!known || !S_ISREG(status.st_mode)) {
      const std::string why = known ? "not a regular file" : std::strerror(errno);
      ::close(descriptor_);  // a constructor that throws has no destructor
      refuse_file("cannot open " + quote(path_) + ": " + why);
    }
    size_ = static_cast<std::uint64_t>(status.st_size);
  }
  ~InputFile() {
    if (mapped_ != nullptr) ::munmap(const_cast<char*>(mapped_), static_cast<std::size_t>(size_));
    ::close(descriptor_);
  }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::string& path() const { return path_; }
  /// Bytes in the file when it was opened.
  std::uint64_t size() const { return size_; }

  /// Reads exactly `size` bytes at `offset`; fewer are an error.
  void read(void* to, std::size_t size, std::uint64_t offset) const {
    if (offset > size_ || size > size_ - offset) refuse_short(size, offset, offset < size_ ? size_ - offset : 0);
    char* bytes = static_cast<char*>(to);
    for (std::size_t done = 0; done < size;) {
      const std::size_t part = size - done < posix::largest_read ? size - done : posix::largest_read;
      const auto got = posix::uninterrupted(
          [&] { return ::pread(descriptor_, bytes + done, part, static_cast<off_t>(offset + done)); });
      if (got < 0)
        refuse_file("cannot read " + quote(path_) + " at byte " + std::to_string(offset + done) + ": " +
                    std::strerror(errno));
      if (got == 0) refuse_short(size, offset, done);  // someone cut the file short meanwhile
      done += static_cast<std::size_t>(got);
    }
  }

  /// Looks at every byte, so that copy() finds what can be read. On Linux the system's own cache of the file is mapped then, and
  /// no byte is copied. Errors: those of read().
  void check_readable() {
#if defined(MADV_POPULATE_READ)
    const auto bytes = static_cast<std::size_t>(size_);
    void* pages =
        bytes == 0 || mapped_ != nullptr ? MAP_FAILED : ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor_, 0);
    if (pages != MAP_FAILED) {
      const int result = posix::uninterrupted([&] { return ::madvise(pages, bytes, MADV_POPULATE_READ); });
      struct stat status = {};  // what was cut short still has its last page
      if (result == 0 && ::fstat(descriptor_, &status) == 0 && static_cast<std::uint64_t>(status.st_size) >= size_) {
        mapped_ = static_cast<const char*>(pages);
        return;
      }
      ::munmap(pages, bytes);
    }
#endif
    std::string part(posix::largest_write, '\0');  // and say where it ends
    for (std::uint64_t at = 0; at < size_; at += part.size())
      read(part.data(), static_cast<std::size_t>(size_ - at < part.size() ? size_ - at : part.size()), at);
  }

  /// The same as read(), after check_readable(), and faster. A mapped file that another process cuts short in this moment ends
  /// ours with SIGBUS, as mapped files do.
  void copy(void* to, std::size_t size, std::uint64_t offset) const {
    if (mapped_ == nullptr || offset > size_ || size > size_ - offset) return read(to, size, offset);
    posix::copy_large(static_cast<char*>(to), mapped_ + offset, size);
  }

 private:
  [[noreturn]] void refuse_short(std::uint64_t size, std::uint64_t offset, std::uint64_t found) const {
    refuse_file("cannot read " + quote(path_) + ": expected " + std::to_string(size) + " bytes at byte " +
                std::to_string(offset) + ", found the end of the file after " + std::to_string(found));
  }

  std::string path_;
  std::uint64_t size_ = 0;
  const char* mapped_ = nullptr;
  int descriptor_ = -1;
};

}  // namespace apollo

#else
#define APOLLO_HAS_FILES 0
#endif
