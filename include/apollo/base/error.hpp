// SPDX-License-Identifier: Apache-2.0
// How the library refuses: one exception type per kind of cause, or, where exceptions are off, a handler with the same text.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include <apollo/base/config.hpp>

namespace apollo {

#if !defined(__cpp_exceptions)
/// Receives the text of an error in a build without exceptions. It must not return; if it does, the program aborts.
using ErrorHandler = void (*)(const char* message);

inline ErrorHandler& error_handler() {
  static ErrorHandler handler = [](const char* message) { std::fprintf(stderr, "%s\n", message); };
  return handler;
}

inline void set_error_handler(ErrorHandler handler) { error_handler() = handler; }
#endif

/// Raises `Exception(message)`. The message names the value, the bound and the tensor.
template <class Exception>
[[noreturn]] inline void raise(const std::string& message) {
#if defined(__cpp_exceptions)
  throw Exception(message);
#else
  error_handler()(message.c_str());
  std::abort();
#endif
}

/// An argument, an option or a tensor that cannot be accepted; nothing has been changed.
[[noreturn]] inline void refuse(const std::string& message) { raise<std::invalid_argument>("apollo: " + message); }

/// A call that is fine in itself but not now (a second step of a tensor in one tick); nothing has been changed.
[[noreturn]] inline void refuse_now(const std::string& message) { raise<std::logic_error>("apollo: " + message); }

/// A file that cannot be read, written or understood; nothing has been changed.
[[noreturn]] inline void refuse_file(const std::string& message) { raise<std::runtime_error>("apollo: " + message); }

/// Numbers as they stand in messages: %g for reals, plain digits for integers.
inline std::string text(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%g", value);
  return buffer;
}
inline std::string text(Index value) { return std::to_string(value); }
inline std::string text(Shape shape) { return text(shape.rows) + " x " + text(shape.cols); }
inline std::string quote(std::string_view name) { return std::string("'").append(name).append("'"); }

}  // namespace apollo
