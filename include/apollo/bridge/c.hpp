// SPDX-License-Identifier: Apache-2.0
// What is behind apollo/bridge/c.h. One source file of a program holds APOLLO_DEFINE_C_API(Backend) and is its object.
#pragma once

#include <functional>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <apollo/bridge/c.h>
#include <apollo/apollo.hpp>
#include <apollo/bridge/flat.hpp>

namespace apollo::c {

inline std::string& last_error() {
  thread_local std::string text;
  return text;
}

/// Runs body(); an exception becomes a status and a text. In a build without exceptions errors reach the handler, and no status.
template <class Body>
apollo_status guarded(Body&& body) noexcept {
#if defined(__cpp_exceptions)
  try {
    last_error().clear();
    body();
    return APOLLO_OK;
  } catch (const std::invalid_argument& error) {
    last_error() = error.what();
    return APOLLO_BAD_ARGUMENT;
  } catch (const std::logic_error& error) {
    last_error() = error.what();
    return APOLLO_NOT_NOW;
  } catch (const std::bad_alloc&) {
    last_error() = "out of memory";  // short enough to need none
    return APOLLO_FAILED;
  } catch (const std::runtime_error& error) {
    last_error() = error.what();
    return APOLLO_BAD_FILE;
  } catch (const std::exception& error) {
    last_error() = error.what();
    return APOLLO_FAILED;
  }
#else
  body();
  return APOLLO_OK;
#endif
}

inline void need(const void* pointer, const char* name) {
  if (pointer == nullptr) refuse(std::string(name) + " is a null pointer");
}

/// Calls visit(options) with the C++ options of the member.
template <class Visit>
void with_member(apollo_member member, Visit&& visit) {
  switch (member) {
    case APOLLO_ADAMW: return visit(AdamWOptions{});
    case APOLLO_SGD: return visit(SgdOptions{});
    case APOLLO_APOLLO: return visit(ApolloOptions{});
    case APOLLO_APOLLO_MINI: return visit(ApolloMiniOptions{});
    case APOLLO_GALORE: return visit(GaLoreOptions{});
  }
  refuse("member = " + text(static_cast<Index>(member)) + " is no apollo_member");
}

/// Calls field(name, value of C, value of C++ or null) for each number of the options.
template <class Options, class Field>
void for_each_field(apollo_options& c, Options& options, Field&& field) {
#define APOLLO_C_FIELD(name)                \
  if constexpr (requires { options.name; }) \
    field(#name, c.name, &options.name);    \
  else                                      \
    field(#name, c.name, static_cast<decltype(c.name)*>(nullptr))
  APOLLO_C_FIELD(lr);
  APOLLO_C_FIELD(beta1);
  APOLLO_C_FIELD(beta2);
  APOLLO_C_FIELD(eps);
  APOLLO_C_FIELD(weight_decay);
  APOLLO_C_FIELD(scale);
  APOLLO_C_FIELD(rank);
  APOLLO_C_FIELD(update_proj_gap);
  APOLLO_C_FIELD(seed);
#undef APOLLO_C_FIELD
}

inline double number(double value) { return value; }
inline double number(const Scale& scale) { return scale.value; }
inline Index number(Index value) { return value; }
inline std::uint64_t number(std::uint64_t value) { return value; }

inline void defaults(apollo_member member, apollo_options& out) {
  out = {};
  out.member = member;
  with_member(member, [&](auto options) {
    const Settings settings = options.settings();
    for_each_field(out, options, [](const char*, auto& c, auto* mine) {
      if (mine != nullptr) c = static_cast<std::remove_reference_t<decltype(c)>>(number(*mine));
    });
    if constexpr (requires { options.eps; })
      out.eps = settings.eps, out.weight_decay = settings.weight_decay;  // by order
  });
}

/// The C++ options of these. Error: a number that the member does not have.
template <class Options>
void fill(const apollo_options& from, Options& options) {
  apollo_options c = from;
  for_each_field(c, options, [](const char* name, auto& value, auto* mine) {
    if (mine != nullptr)
      *mine = value;
    else if (!(value == 0))
      refuse(std::string(name) + " = " + text(static_cast<double>(value)) + " is set, but the member does not have it");
  });
}

/// One optimizer, its two groups and the layouts that were added.
template <class Backend>
class Handle {
 public:
  BasicOptimizer<Backend> optimizer;
  flat::Layout layout;

  Handle(const apollo_options& matrices, const apollo_options& others, const Backend& backend) : optimizer(backend) {
    with_member(matrices.member, [&](auto first) {
      fill(matrices, first);
      const auto a = optimizer.add_group(first);
      with_member(others.member, [&](auto second) {
        fill(others, second);
        const auto b = optimizer.add_group(second);
        add_ = [this, a, b](const flat::Layout& added, float* w, const float* g) {
          flat::add(optimizer, a, b, added, w, g);
        };
        set_lr_ = [this, a, b](double lr_of_matrices, double lr_of_others) {
          Check{{}}.at_least("lr", lr_of_others, 0);
          optimizer.set_lr(a, lr_of_matrices);
          optimizer.set_lr(b, lr_of_others);
        };
      });
    });
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  void add(const apollo_tensor* tensors, std::size_t count, float* weights, const float* gradients) {
    std::vector<flat::Entry> entries = layout.entries();
    const auto before = static_cast<std::ptrdiff_t>(entries.size());
    for (std::size_t i = 0; i < count; ++i) {
      need(tensors[i].name, "the name of a tensor");
      entries.push_back({tensors[i].name, tensors[i].offset, tensors[i].rows, tensors[i].cols, tensors[i].count});
    }
    flat::Layout whole(entries);
    add_(flat::Layout({entries.begin() + before, entries.end()}), weights, gradients);
    layout = std::move(whole);
  }
  void set_lr(double matrices, double others) { set_lr_(matrices, others); }

 private:
  std::function<void(const flat::Layout&, float*, const float*)> add_;
  std::function<void(double, double)> set_lr_;
};

template <class Backend>
Backend backend_of(int threads) {
  if constexpr (std::is_constructible_v<Backend, int>) {
    if (threads != 0) return Backend(threads);
  } else if (threads != 0 && threads != 1) {
    refuse("threads = " + text(Index{threads}) + " must be 0 or 1: this backend has one");
  }
  return Backend();
}

}  // namespace apollo::c

/// Defines the functions of apollo/bridge/c.h on a backend, once in a program: APOLLO_DEFINE_C_API(apollo::EigenBackend)
#define APOLLO_DEFINE_C_API(BackendType)                                                                             \
  struct apollo_optimizer : apollo::c::Handle<BackendType> {                                                         \
    using apollo::c::Handle<BackendType>::Handle;                                                                    \
  };                                                                                                                 \
  extern "C" {                                                                                                       \
  const char* apollo_error(void) { return apollo::c::last_error().c_str(); }                                         \
  apollo_status apollo_defaults(apollo_member member, apollo_options* options) {                                     \
    return apollo::c::guarded([&] {                                                                                  \
      apollo::c::need(options, "options");                                                                           \
      apollo_options found;                                                                                          \
      apollo::c::defaults(member, found);                                                                            \
      *options = found;                                                                                              \
    });                                                                                                              \
  }                                                                                                                  \
  apollo_status apollo_create(const apollo_options* matrices, const apollo_options* others, int threads,             \
                              apollo_optimizer** created) {                                                          \
    return apollo::c::guarded([&] {                                                                                  \
      apollo::c::need(matrices, "matrices"), apollo::c::need(others, "others"), apollo::c::need(created, "created"); \
      *created = new apollo_optimizer(*matrices, *others, apollo::c::backend_of<BackendType>(threads));              \
    });                                                                                                              \
  }                                                                                                                  \
  void apollo_destroy(apollo_optimizer* optimizer) { delete optimizer; }                                             \
  apollo_status apollo_add(apollo_optimizer* optimizer, const apollo_tensor* tensors, size_t count, float* weights,  \
                           const float* gradients) {                                                                 \
    return apollo::c::guarded([&] {                                                                                  \
      apollo::c::need(optimizer, "optimizer"), apollo::c::need(tensors, "tensors");                                  \
      apollo::c::need(weights, "weights"), apollo::c::need(gradients, "gradients");                                  \
      optimizer->add(tensors, count, weights, gradients);                                                            \
    });                                                                                                              \
  }                                                                                                                  \
  apollo_status apollo_rebind(apollo_optimizer* optimizer, float* weights, const float* gradients) {                 \
    return apollo::c::guarded([&] {                                                                                  \
      apollo::c::need(optimizer, "optimizer");                                                                       \
      apollo::c::need(weights, "weights"), apollo::c::need(gradients, "gradients");                                  \
      apollo::flat::rebind(optimizer->optimizer, optimizer->layout, weights, gradients);                             \
    });                                                                                                              \
  }                                                                                                                  \
  apollo_status apollo_set_lr(apollo_optimizer* optimizer, double matrices, double others) {                         \
    return apollo::c::guarded([&] {                                                                                  \
      apollo::c::need(optimizer, "optimizer");                                                                       \
      optimizer->set_lr(matrices, others);                                                                           \
    });                                                                                                              \
  }                                                                                                                  \
  apollo_status apollo_clip(apollo_optimizer* optimizer, double norm) {                                              \
    return apollo::c::guarded([&] {                                                                                  \
      apollo::c::need(optimizer, "optimizer");                                                                       \
      optimizer->optimizer.clip_global_norm(norm);                                                                   \
    });                                                                                                              \
  }                                                                                                                  \
  apollo_status apollo_step(apollo_optimizer* optimizer, int64_t* skipped) {                                         \
    return apollo::c::guarded([&] {                                                                                  \
      apollo::c::need(optimizer, "optimizer");                                                                       \
      const apollo::StepReport report = optimizer->optimizer.step();                                                 \
      if (skipped != nullptr) *skipped = report.skipped;                                                             \
    });                                                                                                              \
  }                                                                                                                  \
  apollo_status apollo_save(const apollo_optimizer* optimizer, const char* path) {                                   \
    return apollo::c::guarded([&] {                                                                                  \
      apollo::c::need(optimizer, "optimizer"), apollo::c::need(path, "path");                                        \
      apollo::save(optimizer->optimizer, path);                                                                      \
    });                                                                                                              \
  }                                                                                                                  \
  apollo_status apollo_load(apollo_optimizer* optimizer, const char* path) {                                         \
    return apollo::c::guarded([&] {                                                                                  \
      apollo::c::need(optimizer, "optimizer"), apollo::c::need(path, "path");                                        \
      apollo::load(optimizer->optimizer, path);                                                                      \
    });                                                                                                              \
  }                                                                                                                  \
  apollo_status apollo_state_bytes(const apollo_optimizer* optimizer, int64_t* bytes) {                              \
    return apollo::c::guarded([&] {                                                                                  \
      apollo::c::need(optimizer, "optimizer"), apollo::c::need(bytes, "bytes");                                      \
      *bytes = optimizer->optimizer.state_bytes();                                                                   \
    });                                                                                                              \
  }                                                                                                                  \
  }
