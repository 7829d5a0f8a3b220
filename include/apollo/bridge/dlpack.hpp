// SPDX-License-Identifier: Apache-2.0
// DLPack: tensors of a framework whose value type is known at run time only. <dlpack/dlpack.h> is the caller's: any struct with
// the fields of DLTensor will do, so this header goes with every version since DLPack 0.6.
#pragma once

#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <apollo/optimizer/optimizer.hpp>

namespace apollo::dlpack {

enum class ValueType : std::uint8_t { float32, float64, bfloat16, float16 };

/// Calls f(std::type_identity<T>()) of the type's T.
template <class Function>
decltype(auto) with_type(ValueType type, Function&& f) {
  switch (type) {
    case ValueType::float64: return f(std::type_identity<double>());
    case ValueType::bfloat16: return f(std::type_identity<apollo::bfloat16>());
    case ValueType::float16: return f(std::type_identity<apollo::float16>());
    default: return f(std::type_identity<float>());
  }
}

/// Where memory may lie: whose optimizer is to step it.
enum class Place : std::uint8_t {
  host,  ///< kDLCPU, kDLCUDAHost
  cuda,  ///< kDLCUDA, kDLCUDAManaged
};

/// A DLTensor that has been looked through. Owns nothing: the memory is the framework's, extents and strides are copies.
struct Tensor {
  void* data = nullptr;  ///< byte_offset is in it
  ValueType type = ValueType::float32;
  std::vector<Index> extents;
  std::vector<Index> strides;

  /// T is the type's, perhaps const.
  template <class T>
  TensorView<T> as() const {
    return {static_cast<T*>(data), extents, strides};
  }
};

namespace detail {

constexpr int cpu = 1, cuda = 2, cuda_host = 3, cuda_managed = 13;  // DLDeviceType
constexpr int ieee = 2, bfloat = 4;                                 // DLDataTypeCode

inline std::string device_name(int type, int id) {
  const char* known = nullptr;
  switch (type) {
    case cpu: known = "the CPU"; break;
    case cuda: known = "CUDA device "; break;
    case cuda_host: known = "pinned memory of the host"; break;
    case cuda_managed: known = "managed memory of CUDA device "; break;
    case 10: known = "ROCm device "; break;
    default: break;
  }
  const std::string code = " (device_type " + text(Index{type}) + ")";
  if (known == nullptr) return "a device of another kind" + code;
  return known + (type == cpu || type == cuda_host ? "" : text(Index{id})) + code;
}

inline std::string type_text(int code, int bits) {
  constexpr const char* names[] = {"int", "uint", "float", "handle", "bfloat", "complex", "bool"};
  return (code >= 0 && code < 7 ? names[code] + text(Index{bits}) : "another type") + " (code " + text(Index{code}) +
         ", " + text(Index{bits}) + " bits)";
}

inline const char* name_of(ValueType type) {
  return with_type(type, []<class T>(std::type_identity<T>) { return type_name<T>; });
}

template <class DLTensor>
ValueType checked_type(const DLTensor& tensor, const Check& check, const std::string& what) {
  const int code = static_cast<int>(tensor.dtype.code), bits = static_cast<int>(tensor.dtype.bits);
  if (tensor.dtype.lanes != 1)
    check.fail(what + " has " + text(static_cast<Index>(tensor.dtype.lanes)) + " lanes; 1 is needed");
  if (code == ieee && bits == 32) return ValueType::float32;
  if (code == ieee && bits == 64) return ValueType::float64;
  if (code == ieee && bits == 16) return ValueType::float16;
  if (code == bfloat && bits == 16) return ValueType::bfloat16;
  check.fail(what + " of " + type_text(code, bits) + " must be float32, float64, bfloat16 or float16");
}

template <class DLTensor>
Tensor look_through(const DLTensor& tensor, const Check& check, const std::string& what, Place place) {
  const int device = static_cast<int>(tensor.device.device_type);
  if (place == Place::host && device != cpu && device != cuda_host)
    check.fail(what + " lies on " + device_name(device, static_cast<int>(tensor.device.device_id)) +
               "; this optimizer steps memory of the host");
  if (place == Place::cuda && device != cuda && device != cuda_managed)
    check.fail(what + " lies on " + device_name(device, static_cast<int>(tensor.device.device_id)) +
               "; apollo::cuda steps memory of a CUDA device");
  Tensor result;
  result.type = checked_type(tensor, check, what);
  const auto dimensions = static_cast<Index>(tensor.ndim);
  if (dimensions < 1) check.fail(what + " has " + text(dimensions) + " dimensions; at least 1 is needed");
  if (tensor.shape == nullptr)
    check.fail(what + " of " + text(dimensions) + " dimensions has no shape (a null pointer)");
  if (tensor.data == nullptr) check.fail(what + " has no data (a null pointer)");
  result.extents.assign(tensor.shape, tensor.shape + dimensions);
  result.strides.resize(result.extents.size(), 1);
  const auto value_bytes =
      with_type(result.type, []<class T>(std::type_identity<T>) { return static_cast<Index>(sizeof(T)); });
  Index dense = 1, reach = value_bytes;
  for (std::size_t k = result.extents.size(); k-- > 0;) {
    const Index extent = result.extents[k];
    const auto dimension = "dimension " + text(static_cast<Index>(k)) + " of the " + what;
    if (extent < 1) check.fail(dimension + " has " + text(extent) + " elements; at least 1 is needed");
    // An extent of 1 may have any stride, and frameworks leave there what they like.
    const Index stride = extent == 1 ? 1 : tensor.strides == nullptr ? dense : static_cast<Index>(tensor.strides[k]);
    result.strides[k] = stride;
    Index bytes = 0;
    if (__builtin_mul_overflow(dense, extent, &dense) || __builtin_mul_overflow(stride, value_bytes, &bytes) ||
        __builtin_mul_overflow(bytes, extent - 1, &bytes) ||
        (bytes < 0 && __builtin_sub_overflow(Index{0}, bytes, &bytes)) || __builtin_add_overflow(reach, bytes, &reach))
      check.fail(dimension + ", " + text(extent) + " elements of stride " + text(stride) +
                 ", is beyond 2^63 elements or bytes");
  }
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.data) + static_cast<std::uintptr_t>(tensor.byte_offset);
  if (address % static_cast<std::uintptr_t>(value_bytes) != 0)
    check.fail(what + " with byte_offset " + text(static_cast<Index>(tensor.byte_offset)) +
               " begins at an address that is " + "no multiple of " + text(value_bytes) + ", as " +
               name_of(result.type) + " needs");
  result.data = reinterpret_cast<void*>(address);
  return result;
}

}  // namespace detail

/// Looks a DLTensor through. `what` is "weight" or "gradient", for the errors.
/// Errors: a device elsewhere; a type that is none of the four, or lanes other than 1; no data, no shape, dimensions below 1;
/// extents below 1; extents and strides beyond 2^63 elements or bytes; an address that is not aligned to the type. Strides of
/// NULL mean row-major; they may be negative, and those of a gradient 0.
template <class DLTensor>
Tensor look_through([[maybe_unused]] const DLTensor& tensor, std::string_view name, const std::string& what,
                    Place place) {
  static_assert(
      adapter::DLTensorLike<DLTensor>,
      "apollo: this is no DLTensor. Of a DLManagedTensor hand over managed->dl_tensor, by reference and not by "
      "pointer; see docs/adapters.md.");
  if constexpr (!adapter::DLTensorLike<DLTensor>) {
    return {};
  } else {
    return detail::look_through(tensor, Check{name}, what, place);
  }
}

/// The view of a tensor on the host that must be of type T, as a matrix: for optimizers of one tensor.
/// Errors: those of look_through; another type; more than two dimensions without Unfold::rest.
template <class T, class DLTensor>
MatrixView<T> view(const DLTensor& tensor, std::string_view name, Unfold how = Unfold::none) {
  const Tensor found = look_through(tensor, name, "the tensor", Place::host);
  const char* type = detail::name_of(found.type);
  if (std::string_view(type) != type_name<std::remove_const_t<T>>)
    Check{name}.fail(std::string("values of ") + type + " must be " + type_name<std::remove_const_t<T>>);
  if (how == Unfold::batch) Check{name}.fail("Unfold::batch gives several matrices; one is asked for");
  return unfold(found.as<T>(), how, std::string(name))[0];
}

namespace detail {

/// A stride of 0 is a gradient's alone.
inline void check_weight(const Tensor& weight, std::string_view name) {
  for (std::size_t k = 0; k < weight.extents.size(); ++k)
    if (weight.strides[k] == 0 && weight.extents[k] > 1)
      Check{name}.fail("dimension " + text(static_cast<Index>(k)) + " of the weight has stride 0, so that its " +
                       text(weight.extents[k]) + " elements are one; it cannot be updated");
}

/// Calls f(weight, gradient) with TensorViews of their types. `f` is compiled for the pairs of types that go together.
template <Place place, class Function>
void with_types(const Tensor& weight, const Tensor& gradient, std::string_view name, Function&& f) {
  bool called = false;
  with_type(weight.type, [&]<class W>(std::type_identity<W>) {
    with_type(gradient.type, [&]<class G>(std::type_identity<G>) {
      constexpr bool on_device = (std::is_same_v<W, float> || std::is_same_v<W, apollo::bfloat16>)&&(
          std::is_same_v<G, float> || std::is_same_v<G, apollo::bfloat16>);
      if constexpr (place == Place::host ? std::is_same_v<arithmetic_t<W>, arithmetic_t<G>> : on_device) {
        called = true;
        f(weight.as<W>(), gradient.as<const G>());
      }
    });
  });
  if (!called)
    Check{name}.fail(
        std::string("a weight of ") + name_of(weight.type) + " and a gradient of " + name_of(gradient.type) +
        (place == Place::host ? ": both must be float64, or neither" : ": apollo::cuda steps float32 and bfloat16"));
}

template <Place place, class Weight, class Gradient, class Function>
void look_through_both(const Weight& weight, const Gradient& gradient, std::string_view name, Function&& f) {
  const Tensor w = look_through(weight, name, "weight", place);
  check_weight(w, name);
  with_types<place>(w, look_through(gradient, name, "gradient", place), name, f);
}
template <Place place, class Weight, class Function>
void look_through_one(const Weight& weight, std::string_view name, Function&& f) {
  const Tensor w = look_through(weight, name, "weight", place);
  check_weight(w, name);
  with_types<place>(w, w, name, [&](const auto& view, const auto&) { f(view); });
}

/// Of views of the host: apollo::Optimizer and its like.
template <class Optimizer>
concept Host = requires {
  typename Optimizer::Backend;
};
/// Of matrices on a device: apollo::cuda::Optimizer.
template <class Optimizer>
concept Cuda = requires {
  typename Optimizer::Device;
  typename Optimizer::Stream;
};

template <class T>
MatrixView<T> one_matrix(const TensorView<T>& view, Unfold how, std::string_view name) {
  if (how == Unfold::batch)
    Check{name}.fail("apollo::cuda takes one matrix a name; add the batch's matrices one by one");
  return unfold(view, how, std::string(name))[0];
}

}  // namespace detail

/// optimizer.add of DLTensors, with all that add() refuses and what look_through does. The tensors' memory must stay until it
/// is rebound; the DLTensors themselves need not. Compiled once for each pair of value types: ten for each group's type.
template <detail::Host Optimizer, class Policies, class Weight, class Gradient>
void add(Optimizer& optimizer, Group<Policies> group, std::string_view name, const Weight& weight,
         const Gradient& gradient, Unfold how = Unfold::none) {
  detail::look_through_both<Place::host>(weight, gradient, name,
                                         [&](const auto& w, const auto& g) { optimizer.add(group, name, w, g, how); });
}
/// Without a gradient until the next rebind, of the weight's type.
template <detail::Host Optimizer, class Policies, class Weight>
void add(Optimizer& optimizer, Group<Policies> group, std::string_view name, const Weight& weight, NoGradient,
         Unfold how = Unfold::none) {
  detail::look_through_one<Place::host>(weight, name,
                                        [&](const auto& w) { optimizer.add(group, name, w, no_gradient, how); });
}

/// optimizer.rebind: the shapes and value types must be those of add().
template <detail::Host Optimizer, class Weight, class Gradient>
void rebind(Optimizer& optimizer, std::string_view name, const Weight& weight, const Gradient& gradient,
            Unfold how = Unfold::none) {
  detail::look_through_both<Place::host>(weight, gradient, name,
                                         [&](const auto& w, const auto& g) { optimizer.rebind(name, w, g, how); });
}
template <detail::Host Optimizer, class Weight>
void rebind(Optimizer& optimizer, std::string_view name, const Weight& weight, NoGradient, Unfold how = Unfold::none) {
  detail::look_through_one<Place::host>(weight, name,
                                        [&](const auto& w) { optimizer.rebind(name, w, no_gradient, how); });
}

/// The same of tensors on a CUDA device, for apollo::cuda: float32 and bfloat16, matrices and Unfold::rest.
template <detail::Cuda Optimizer, class Policies, class Weight, class Gradient>
void add(Optimizer& optimizer, Group<Policies> group, std::string_view name, const Weight& weight,
         const Gradient& gradient, Unfold how = Unfold::none, typename Optimizer::Stream stream = {}) {
  detail::look_through_both<Place::cuda>(weight, gradient, name, [&](const auto& w, const auto& g) {
    optimizer.add(group, name, detail::one_matrix(w, how, name), detail::one_matrix(g, how, name), stream);
  });
}
template <detail::Cuda Optimizer, class Policies, class Weight>
void add(Optimizer& optimizer, Group<Policies> group, std::string_view name, const Weight& weight, NoGradient,
         Unfold how = Unfold::none, typename Optimizer::Stream stream = {}) {
  detail::look_through_one<Place::cuda>(weight, name, [&](const auto& w) {
    optimizer.add(group, name, detail::one_matrix(w, how, name), no_gradient, stream);
  });
}
template <detail::Cuda Optimizer, class Weight, class Gradient>
void rebind(Optimizer& optimizer, std::string_view name, const Weight& weight, const Gradient& gradient,
            Unfold how = Unfold::none, typename Optimizer::Stream stream = {}) {
  detail::look_through_both<Place::cuda>(weight, gradient, name, [&](const auto& w, const auto& g) {
    optimizer.rebind(name, detail::one_matrix(w, how, name), detail::one_matrix(g, how, name), stream);
  });
}

}  // namespace apollo::dlpack
