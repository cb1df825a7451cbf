// The AVX-512 instructions that the kernels of fp8_linear use, in plain C++ after Intel's
// documentation: compiled against this header instead of the compiler's own, the very files of
// csrc/cpu run on any machine. What is not here does not compile.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "float16.h"

typedef long long __m128i __attribute__((vector_size(16), may_alias));
typedef float __m128 __attribute__((vector_size(16), may_alias));
typedef long long __m256i __attribute__((vector_size(32), may_alias));
typedef float __m256 __attribute__((vector_size(32), may_alias));
typedef long long __m512i __attribute__((vector_size(64), may_alias));
typedef float __m512 __attribute__((vector_size(64), may_alias));
typedef short __m512bh __attribute__((vector_size(64), may_alias));
typedef uint16_t __mmask16;
typedef uint32_t __mmask32;
typedef uint64_t __mmask64;

namespace x86 {

// A register seen as elements of another type.
template <class Element, class Register>
struct Lanes {
  static constexpr int kCount = sizeof(Register) / sizeof(Element);
  Element lane[kCount];

  Lanes() : lane() {}
  Lanes(const Register& value) { memcpy(lane, &value, sizeof lane); }
  operator Register() const {
    Register value;
    memcpy(&value, lane, sizeof lane);
    return value;
  }
};

// Loads the elements of the mask, and nothing else from memory; the others are zeros.
template <class Element, class Register>
Register masked_load(uint64_t mask, const void* from) {
  Lanes<Element, Register> result;
  for (int i = 0; i < result.kCount; ++i) {
    if (mask >> i & 1)
      memcpy(result.lane + i, static_cast<const Element*>(from) + i, sizeof(Element));
  }
  return result;
}

template <class Element, class Register>
void masked_store(void* to, uint64_t mask, const Register& value) {
  const Lanes<Element, Register> lanes(value);
  for (int i = 0; i < lanes.kCount; ++i) {
    if (mask >> i & 1) memcpy(static_cast<Element*>(to) + i, lanes.lane + i, sizeof(Element));
  }
}

// Aligned, as the instruction demands: a wrong address traps here as there.
template <class Register>
Register aligned_load(const void* from) {
  if (reinterpret_cast<uintptr_t>(from) % sizeof(Register) != 0) __builtin_trap();
  Register value;
  memcpy(&value, from, sizeof value);
  return value;
}

template <class Register>
void aligned_store(void* to, const Register& value) {
  if (reinterpret_cast<uintptr_t>(to) % sizeof(Register) != 0) __builtin_trap();
  memcpy(to, &value, sizeof value);
}

// The lower (or upper) halves of every 128-bit lane of a and b, element by element.
template <class Element, class Register>
Register unpack(const Register& a, const Register& b, bool upper) {
  constexpr int kLane = 16 / sizeof(Element);
  const Lanes<Element, Register> x(a), y(b);
  Lanes<Element, Register> result;
  for (int base = 0; base < result.kCount; base += kLane) {
    for (int i = 0; i < kLane / 2; ++i) {
      const int from = base + i + (upper ? kLane / 2 : 0);
      result.lane[base + 2 * i] = x.lane[from];
      result.lane[base + 2 * i + 1] = y.lane[from];
    }
  }
  return result;
}

template <class Element, class Register, class F>
Register each(const Register& a, const F& f) {
  const Lanes<Element, Register> x(a);
  Lanes<Element, Register> result;
  for (int i = 0; i < x.kCount; ++i) result.lane[i] = static_cast<Element>(f(x.lane[i]));
  return result;
}

// One register's upper part.
template <class Part, class Register>
Part extract(const Register& value, int index) {
  Part part;
  memcpy(&part, reinterpret_cast<const char*>(&value) + index * sizeof part, sizeof part);
  return part;
}

inline float flushed(float value) {
  return fabsf(value) < 0x1p-126f ? copysignf(0.0f, value) : value;
}
inline float flushed_bf16(uint16_t bits) { return flushed(octet::bf16_to_f32(bits)); }

// An f32 fused multiplication and addition of two bf16, rounded to nearest even, subnormals flushed
// on the way in and out.
inline float dot_step(float sum, uint16_t a, uint16_t b) {
  return flushed(fmaf(flushed_bf16(a), flushed_bf16(b), flushed(sum)));
}

}  // namespace x86

#define _MM_HINT_T1 2
#define _CMP_UNORD_Q 3
#define _MM_FROUND_TO_NEAREST_INT 0
#define _MM_SHUFFLE(d, c, b, a) ((d) << 6 | (c) << 4 | (b) << 2 | (a))
#define _mm_prefetch(address, hint) ((void)(address))

// --- 128 and 256 bits ---------------------------------------------------------------------------
inline __m128i _mm_maskz_loadu_epi8(__mmask16 mask, const void* p) {
  return x86::masked_load<uint8_t, __m128i>(mask, p);
}
inline __m128i _mm_cvtsi32_si128(int value) {
  x86::Lanes<int32_t, __m128i> result;
  result.lane[0] = value;
  return result;
}
inline __m128 _mm_add_ps(__m128 a, __m128 b) { return a + b; }
inline __m256 _mm256_add_ps(__m256 a, __m256 b) { return a + b; }
inline __m128 _mm256_castps256_ps128(__m256 a) { return x86::extract<__m128>(a, 0); }
inline __m128 _mm256_extractf128_ps(__m256 a, int index) { return x86::extract<__m128>(a, index); }
inline void _mm_storeu_ps(float* p, __m128 a) { memcpy(p, &a, sizeof a); }
inline void _mm256_mask_storeu_epi16(void* p, __mmask16 mask, __m256i a) {
  x86::masked_store<uint16_t>(p, mask, a);
}

// --- loads, stores, constants -------------------------------------------------------------------
inline __m512i _mm512_load_si512(const void* p) { return x86::aligned_load<__m512i>(p); }
inline __m512 _mm512_load_ps(const void* p) { return x86::aligned_load<__m512>(p); }
inline void _mm512_store_si512(void* p, __m512i a) { x86::aligned_store(p, a); }
inline void _mm512_store_ps(void* p, __m512 a) { x86::aligned_store(p, a); }
inline __m512i _mm512_loadu_si512(const void* p) {
  __m512i a;
  memcpy(&a, p, sizeof a);
  return a;
}
inline __m512i _mm512_maskz_loadu_epi8(__mmask64 mask, const void* p) {
  return x86::masked_load<uint8_t, __m512i>(mask, p);
}
inline __m512i _mm512_maskz_loadu_epi16(__mmask32 mask, const void* p) {
  return x86::masked_load<uint16_t, __m512i>(mask, p);
}
inline __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* p) {
  return x86::masked_load<float, __m512>(mask, p);
}
inline void _mm512_mask_storeu_ps(void* p, __mmask16 mask, __m512 a) {
  x86::masked_store<float>(p, mask, a);
}
inline __m512i _mm512_setzero_si512() { return __m512i{}; }
inline __m512 _mm512_setzero_ps() { return __m512{}; }
inline __m512i _mm512_set1_epi8(char value) {
  return x86::each<char>(__m512i{}, [&](char) { return value; });
}
inline __m512i _mm512_set1_epi16(short value) {
  return x86::each<short>(__m512i{}, [&](short) { return value; });
}
inline __m512i _mm512_set1_epi32(int value) {
  return x86::each<int>(__m512i{}, [&](int) { return value; });
}
inline __m512 _mm512_set1_ps(float value) {
  return x86::each<float>(__m512{}, [&](float) { return value; });
}

// --- integers -----------------------------------------------------------------------------------
inline __m512i _mm512_and_si512(__m512i a, __m512i b) { return a & b; }
inline __m512i _mm512_or_si512(__m512i a, __m512i b) { return a | b; }
inline __m512i _mm512_add_epi32(__m512i a, __m512i b) {
  const x86::Lanes<uint32_t, __m512i> y(b);
  int i = 0;
  return x86::each<uint32_t>(a, [&](uint32_t x) { return x + y.lane[i++]; });
}
inline __m512i _mm512_srli_epi32(__m512i a, unsigned count) {
  return x86::each<uint32_t>(a, [&](uint32_t x) { return count > 31 ? 0 : x >> count; });
}
inline __m512i _mm512_slli_epi32(__m512i a, unsigned count) {
  return x86::each<uint32_t>(a, [&](uint32_t x) { return count > 31 ? 0 : x << count; });
}
inline __m512i _mm512_sra_epi16(__m512i a, __m128i count) {
  const uint64_t by = static_cast<uint64_t>(count[0]);
  return x86::each<int16_t>(a, [&](int16_t x) { return x >> (by > 15 ? 15 : by); });
}
inline __m512i _mm512_mask_or_epi32(__m512i src, __mmask16 mask, __m512i a, __m512i b) {
  const x86::Lanes<uint32_t, __m512i> either(a | b);
  int i = -1;
  return x86::each<uint32_t>(src,
                             [&](uint32_t x) { return ++i, mask >> i & 1 ? either.lane[i] : x; });
}
inline __mmask32 _mm512_cmpeq_epi16_mask(__m512i a, __m512i b) {
  const x86::Lanes<uint16_t, __m512i> x(a), y(b);
  __mmask32 mask = 0;
  for (int i = 0; i < x.kCount; ++i) mask |= static_cast<__mmask32>(x.lane[i] == y.lane[i]) << i;
  return mask;
}
inline __m512i _mm512_mask_set1_epi16(__m512i src, __mmask32 mask, short value) {
  int i = -1;
  return x86::each<short>(src, [&](short x) { return ++i, mask >> i & 1 ? value : x; });
}
inline __m256i _mm512_cvtepi32_epi16(__m512i a) {
  const x86::Lanes<uint32_t, __m512i> x(a);
  x86::Lanes<uint16_t, __m256i> result;
  for (int i = 0; i < 16; ++i) result.lane[i] = static_cast<uint16_t>(x.lane[i]);
  return result;
}
// Bit by bit, the result is the bit of `table` that the bits of a, b and c (the lowest) choose.
inline __m512i _mm512_ternarylogic_epi32(__m512i a, __m512i b, __m512i c, int table) {
  __m512i result{};
  for (int choice = 0; choice < 8; ++choice) {
    if ((table >> choice & 1) == 0) continue;
    result |= (choice & 4 ? a : ~a) & (choice & 2 ? b : ~b) & (choice & 1 ? c : ~c);
  }
  return result;
}

// --- moves --------------------------------------------------------------------------------------
inline __m512i _mm512_permutex2var_epi8(__m512i a, __m512i index, __m512i b) {
  const x86::Lanes<uint8_t, __m512i> x(a), y(b);
  return x86::each<uint8_t>(index,
                            [&](uint8_t i) { return i & 64 ? y.lane[i & 63] : x.lane[i & 63]; });
}
inline __m512i _mm512_unpacklo_epi8(__m512i a, __m512i b) {
  return x86::unpack<uint8_t>(a, b, false);
}
inline __m512i _mm512_unpackhi_epi8(__m512i a, __m512i b) {
  return x86::unpack<uint8_t>(a, b, true);
}
inline __m512i _mm512_unpacklo_epi16(__m512i a, __m512i b) {
  return x86::unpack<uint16_t>(a, b, false);
}
inline __m512i _mm512_unpackhi_epi16(__m512i a, __m512i b) {
  return x86::unpack<uint16_t>(a, b, true);
}
inline __m512i _mm512_unpacklo_epi32(__m512i a, __m512i b) {
  return x86::unpack<uint32_t>(a, b, false);
}
inline __m512i _mm512_unpackhi_epi32(__m512i a, __m512i b) {
  return x86::unpack<uint32_t>(a, b, true);
}
inline __m512i _mm512_unpacklo_epi64(__m512i a, __m512i b) {
  return x86::unpack<uint64_t>(a, b, false);
}
inline __m512i _mm512_unpackhi_epi64(__m512i a, __m512i b) {
  return x86::unpack<uint64_t>(a, b, true);
}
inline __m512 _mm512_unpacklo_ps(__m512 a, __m512 b) { return x86::unpack<float>(a, b, false); }
inline __m512 _mm512_unpackhi_ps(__m512 a, __m512 b) { return x86::unpack<float>(a, b, true); }
// Two elements (or 128-bit lanes) of a and then two of b, chosen by two bits each.
inline __m512 _mm512_shuffle_ps(__m512 a, __m512 b, int choice) {
  const x86::Lanes<float, __m512> x(a), y(b);
  x86::Lanes<float, __m512> result;
  for (int i = 0; i < 16; ++i) {
    const int from = i / 4 * 4 + (choice >> i % 4 * 2 & 3);
    result.lane[i] = i % 4 < 2 ? x.lane[from] : y.lane[from];
  }
  return result;
}
inline __m512i _mm512_shuffle_i32x4(__m512i a, __m512i b, int choice) {
  const x86::Lanes<uint32_t, __m512i> x(a), y(b);
  x86::Lanes<uint32_t, __m512i> result;
  for (int i = 0; i < 16; ++i) {
    const int from = (choice >> i / 4 * 2 & 3) * 4 + i % 4;
    result.lane[i] = i < 8 ? x.lane[from] : y.lane[from];
  }
  return result;
}
inline __m512i _mm512_mask_broadcast_i32x4(__m512i src, __mmask16 mask, __m128i a) {
  const x86::Lanes<uint32_t, __m128i> x(a);
  int i = -1;
  return x86::each<uint32_t>(
      src, [&](uint32_t old) { return ++i, mask >> i & 1 ? x.lane[i % 4] : old; });
}
inline __m512 _mm512_castsi512_ps(__m512i a) { return reinterpret_cast<__m512>(a); }
inline __m512i _mm512_castps_si512(__m512 a) { return reinterpret_cast<__m512i>(a); }
inline __m256 _mm512_castps512_ps256(__m512 a) { return x86::extract<__m256>(a, 0); }
inline __m256i _mm512_castsi512_si256(__m512i a) { return x86::extract<__m256i>(a, 0); }
inline __m256 _mm512_extractf32x8_ps(__m512 a, int index) { return x86::extract<__m256>(a, index); }
inline __m256i _mm512_extracti64x4_epi64(__m512i a, int index) {
  return x86::extract<__m256i>(a, index);
}

// --- floating point -----------------------------------------------------------------------------
inline __m512 _mm512_add_ps(__m512 a, __m512 b) { return a + b; }
inline __m512 _mm512_mul_ps(__m512 a, __m512 b) { return a * b; }
inline __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  const x86::Lanes<float, __m512> x(a), y(b);
  int i = -1;
  return x86::each<float>(c, [&](float sum) { return ++i, fmaf(x.lane[i], y.lane[i], sum); });
}
inline __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int how) {
  if (how != _CMP_UNORD_Q) __builtin_trap();
  const x86::Lanes<float, __m512> x(a), y(b);
  __mmask16 mask = 0;
  for (int i = 0; i < 16; ++i) {
    mask |= static_cast<__mmask16>((isnan(x.lane[i]) || isnan(y.lane[i])) << i);
  }
  return mask;
}
inline float _mm512_reduce_add_ps(__m512 a) {
  x86::Lanes<float, __m512> x(a);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) x.lane[i] += x.lane[i + half];
  }
  return x.lane[0];
}
inline __m256i _mm512_cvtps_ph(__m512 a, int) {
  const x86::Lanes<float, __m512> x(a);
  x86::Lanes<uint16_t, __m256i> result;
  for (int i = 0; i < 16; ++i) result.lane[i] = octet::f32_to_f16(x.lane[i]);
  return result;
}
inline __m512 _mm512_cvtph_ps(__m256i a) {
  const x86::Lanes<uint16_t, __m256i> x(a);
  x86::Lanes<float, __m512> result;
  for (int i = 0; i < 16; ++i) result.lane[i] = octet::f16_to_f32(x.lane[i]);
  return result;
}
// The pair's second product is added first.
inline __m512 _mm512_dpbf16_ps(__m512 sums, __m512bh a, __m512bh b) {
  const x86::Lanes<uint16_t, __m512bh> x(a), y(b);
  int i = -1;
  return x86::each<float>(sums, [&](float sum) {
    ++i;
    sum = x86::dot_step(sum, x.lane[2 * i + 1], y.lane[2 * i + 1]);
    return x86::dot_step(sum, x.lane[2 * i], y.lane[2 * i]);
  });
}
