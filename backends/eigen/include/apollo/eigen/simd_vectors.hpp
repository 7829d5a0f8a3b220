// SPDX-License-Identifier: Apache-2.0
// Included by simd.hpp once for each instruction set, like simd_kernels.hpp: vectors, and bfloat16 in them.
#if !defined(APOLLO_ISA)
#include <apollo/eigen/simd.hpp>
#else

namespace apollo::simd::APOLLO_ISA_NAMESPACE {

/// `width` adjacent values; `Loose` is the same anywhere in memory.
template <class T, int width>
struct Vector {
  typedef T Type __attribute__((vector_size(width * sizeof(T))));
  typedef T Loose __attribute__((vector_size(width * sizeof(T)), aligned(alignof(T)), may_alias));
};

struct Vectors {
  static constexpr int chunk = 64;  ///< values that elementwise loops take at a time
  static constexpr int vector_bytes = APOLLO_ISA == 512 ? 64 : APOLLO_ISA == 2 ? 32 : 16;
  template <class T>
  static constexpr int lanes = vector_bytes / static_cast<int>(sizeof(T));

  using Words = typename Vector<std::uint32_t, lanes<float>>::Type;
  using LooseWords = typename Vector<std::uint32_t, lanes<float>>::Loose;
  using Floats = typename Vector<float, lanes<float>>::Type;

  /// A vector of stored values in arithmetic of T, by reference: wide vectors that are returned change the ABI.
  template <class T, int width, class V>
  APOLLO_PART void widen(const V* from, typename Vector<T, width>::Type& to) {
    if constexpr (std::is_same_v<V, bfloat16>) {
      using Bits = Vector<std::uint16_t, width>;
      typename Vector<std::uint32_t, width>::Type wide;
#if APOLLO_ISA != 0
      if constexpr (width * sizeof(T) == vector_bytes) {  // g++ 12 would do it half by half
        asm("vpmovzxwd {%1, %0|%0, %1}" : "=v"(wide) : "m"(*reinterpret_cast<const typename Bits::Loose*>(from)));
      } else
#endif
      {
        const typename Bits::Type bits = *reinterpret_cast<const typename Bits::Loose*>(from);
        wide = __builtin_convertvector(bits, decltype(wide));
      }
      wide <<= 16;
      to = reinterpret_cast<typename Vector<T, width>::Type>(wide);
    } else {
      to = *reinterpret_cast<const typename Vector<T, width>::Loose*>(from);
    }
  }

  /// Square roots that errno is not told of, which is why no sqrt is called; and no intrinsic, whose header would be a sixth
  /// of what the backend takes to parse.
  template <class T>
  APOLLO_PART void roots(const typename Vector<T, lanes<T>>::Type& x, typename Vector<T, lanes<T>>::Type& y) {
#if !APOLLO_X86_DISPATCH
    for (int l = 0; l < lanes<T>; ++l)
      y[l] = static_cast<T>(sizeof(T) == 4 ? __builtin_sqrtf(static_cast<float>(x[l])) : __builtin_sqrt(x[l]));
#elif APOLLO_ISA == 512
    if constexpr (sizeof(T) == 4)
      asm("vsqrtps {%1, %0|%0, %1}" : "=v"(y) : "v"(x));
    else
      asm("vsqrtpd {%1, %0|%0, %1}" : "=v"(y) : "v"(x));
#elif APOLLO_ISA == 2 || defined(__AVX__)
    if constexpr (sizeof(T) == 4)
      asm("vsqrtps {%1, %0|%0, %1}" : "=x"(y) : "x"(x));
    else
      asm("vsqrtpd {%1, %0|%0, %1}" : "=x"(y) : "x"(x));
#else
    if constexpr (sizeof(T) == 4)
      asm("sqrtps {%1, %0|%0, %1}" : "=x"(y) : "x"(x));
    else
      asm("sqrtpd {%1, %0|%0, %1}" : "=x"(y) : "x"(x));
#endif
  }

  /// Square roots and reciprocals from the processor's estimates and a step of Newton's, of what is not negative. Error: 3e-7;
  /// the root of what is below normal numbers is 0, of infinity that of the largest number, so that its reciprocal is no NaN.
  APOLLO_PART void roots_nearly(const Floats& given, Floats& y) {
    using Signed = typename Vector<std::int32_t, lanes<float>>::Type;
    const Signed bits = reinterpret_cast<Signed>(given), most = Signed{} + 0x7f7fffff;  // also under fast math
    const Floats x = reinterpret_cast<Floats>(bits < most ? bits : most);
#if !APOLLO_X86_DISPATCH || APOLLO_ISA == 0
    roots<float>(x, y);
#else
    Floats e;
#if APOLLO_ISA == 512
    asm("vrsqrt14ps {%1, %0|%0, %1}" : "=v"(e) : "v"(x));
#else
    asm("vrsqrtps {%1, %0|%0, %1}" : "=x"(e) : "x"(x));
#endif
    const Floats root = x * e;
    y = x >= 0x1p-126f ? root + 0.5f * root * (1.0f - root * e) : Floats{};
#endif
  }
  APOLLO_PART void reciprocals_nearly(const Floats& x, Floats& y) {
#if !APOLLO_X86_DISPATCH || APOLLO_ISA == 0
    y = 1.0f / x;
#else
    Floats e;
#if APOLLO_ISA == 512
    asm("vrcp14ps {%1, %0|%0, %1}" : "=v"(e) : "v"(x));
#else
    asm("vrcpps {%1, %0|%0, %1}" : "=x"(e) : "x"(x));
#endif
    y = e + e * (1.0f - x * e);
#endif
  }

  /// The sum of a vector's values, half to half.
  template <class T, int width>
  APOLLO_PART T total(const typename Vector<T, width>::Type& values) {
    if constexpr (width == 1) {
      return values[0];
    } else {
      using Half = Vector<T, width / 2>;
      const auto* halves = reinterpret_cast<const typename Half::Loose*>(&values);
      const typename Half::Type sum = halves[0] + halves[1];
      return total<T, width / 2>(sum);
    }
  }

  /// Two adjacent bfloat16 are 32 bits, of which one is a float when it is shifted up, the other when the rest is masked
  /// away: nothing changes its lane, which is half the work of widening and narrowing.
  template <class V>
  static constexpr bool in_pairs =
      std::is_same_v<std::remove_const_t<V>, bfloat16>&& std::endian::native == std::endian::little;

  /// Rounds to bfloat16 in the upper 16 bits, as bits::to_bfloat16; the lower ones are left as they come.
  APOLLO_PART void round_to_bfloat16(const Floats& value, Words& rounded) {
    using Signed = typename Vector<std::int32_t, lanes<float>>::Type;
    const Words u = reinterpret_cast<Words>(value);
    const Words is_nan = reinterpret_cast<Words>(reinterpret_cast<Signed>(u & ~bits::float_sign) >
                                                 static_cast<std::int32_t>(bits::float_exponent));
    rounded = (is_nan & (u | 0x400000u)) | (~is_nan & (u + 0x7fffu + ((u >> 16) & 1u)));
  }
};

}  // namespace apollo::simd::APOLLO_ISA_NAMESPACE

#endif
