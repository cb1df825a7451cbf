// Quantizing a row on AVX2 with FMA and F16C in two passes, the second from cache, and the elements
// that a row may hold. See elements_avx512.h and quantize_row_avx512.h for the reasoning; this is
// the same in registers of half the width, with the end of a row left to the scalar functions of
// fp8.h.
#pragma once

#include <immintrin.h>

#include "float16.h"
#include "fp8.h"

namespace octet {
namespace {

constexpr int kLanes = 8;   // f32 values in a register
constexpr int kBlock = 32;  // codes in a register

inline __m256i load_256(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

struct Float32 {
  using Storage = float;
  static constexpr uint32_t kMagnitudeMask = 0x7FFFFFFFu;
  static constexpr uint32_t kInfinity = 0x7F800000u;
  static constexpr int kBitsLanes = 8;
  static constexpr bool kReciprocal = false;

  static uint32_t bits(const float* p) { return bits_of(*p); }
  static float to_f32(uint32_t bits) { return float_of(bits); }
  static float from_f32(float value) { return value; }
  static __m256 load(const float* p) { return _mm256_loadu_ps(p); }
  static __m256 round(__m256 v) { return v; }
  static void store(float* p, __m256 v) { _mm256_storeu_ps(p, v); }
  static __m256i magnitudes(const float* p) {
    return _mm256_and_si256(load_256(p), _mm256_set1_epi32(0x7FFFFFFF));
  }
  static __m256i max(__m256i a, __m256i b) { return _mm256_max_epu32(a, b); }
};

// What bf16 and half share: 16-bit storage.
struct Halves {
  using Storage = uint16_t;
  static constexpr uint32_t kMagnitudeMask = 0x7FFFu;
  static constexpr int kBitsLanes = 16;
  static constexpr bool kReciprocal = true;

  static uint32_t bits(const uint16_t* p) { return *p; }
  static __m256i magnitudes(const uint16_t* p) {
    return _mm256_and_si256(load_256(p), _mm256_set1_epi16(0x7FFF));
  }
  static __m256i max(__m256i a, __m256i b) { return _mm256_max_epu16(a, b); }
  static __m128i load_bits(const uint16_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
};

struct BFloat16 : Halves {
  static constexpr uint32_t kInfinity = 0x7F80u;

  static float to_f32(uint32_t bits) { return bf16_to_f32(static_cast<uint16_t>(bits)); }
  static __m256 load(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_bits(p)), 16));
  }
  static uint16_t from_f32(float value) { return f32_to_bf16(value); }
  // Rounds to nearest even. A NaN stays one: its upper half is kept, and made quiet.
  static __m256i round_bits(__m256 v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(rounded, quiet, nan);
  }
  static __m256 round(__m256 v) {
    const __m256i upper_half = _mm256_set1_epi32(static_cast<int>(0xFFFF0000u));
    return _mm256_castsi256_ps(_mm256_and_si256(round_bits(v), upper_half));
  }
  static void store(uint16_t* p, __m256 v) {
    const __m256i bits = _mm256_srli_epi32(round_bits(v), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(bits, bits), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
};

struct Float16 : Halves {
  static constexpr uint32_t kInfinity = 0x7C00u;

  static float to_f32(uint32_t bits) { return f16_to_f32(static_cast<uint16_t>(bits)); }
  static __m256 load(const uint16_t* p) { return _mm256_cvtph_ps(load_bits(p)); }
  static uint16_t from_f32(float value) { return f32_to_f16(value); }
  static __m128i narrow(__m256 v) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
  static __m256 round(__m256 v) { return _mm256_cvtph_ps(narrow(v)); }
  static void store(uint16_t* p, __m256 v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(v));
  }
};

// The largest magnitude of a row, as bits of its own type; above kInfinity if there is a NaN.
template <class Element>
uint32_t max_magnitude(const typename Element::Storage* x, int64_t hidden) {
  constexpr int64_t kStep = Element::kBitsLanes;
  __m256i max[4];
  for (__m256i& v : max) v = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + 4 * kStep <= hidden; i += 4 * kStep) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      max[v] = Element::max(max[v], Element::magnitudes(x + i + v * kStep));
    }
  }
  for (; i + kStep <= hidden; i += kStep) {
    max[0] = Element::max(max[0], Element::magnitudes(x + i));
  }
  alignas(32) typename Element::Storage lanes[kStep];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes),
                     Element::max(Element::max(max[0], max[1]), Element::max(max[2], max[3])));
  uint32_t result = 0;
  for (int64_t lane = 0; lane < kStep; ++lane) {
    const uint32_t bits = Element::bits(lanes + lane);
    if (bits > result) result = bits;
  }
  for (; i < hidden; ++i) {
    const uint32_t magnitude = Element::bits(x + i) & Element::kMagnitudeMask;
    if (magnitude > result) result = magnitude;
  }
  return result;
}

// The same with NaNs left out. Rare, so plain.
template <class Element>
uint32_t max_magnitude_without_nan(const typename Element::Storage* x, int64_t hidden) {
  uint32_t max = 0;
  for (int64_t i = 0; i < hidden; ++i) {
    const uint32_t magnitude = Element::bits(x + i) & Element::kMagnitudeMask;
    if (magnitude <= Element::kInfinity && magnitude > max) max = magnitude;
  }
  return max;
}

inline __m256 magnitude_of(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

// fp8_encode() of 8 values of magnitude at most FMAX, one code in each 32-bit lane.
struct Encoder {
  __m256i min_exponent, magic_exponent, rebias;
  __m128i shift;

  explicit Encoder(Fp8Format format) {
    const Fp8Rounding r = rounding_of(format);
    min_exponent = _mm256_set1_epi32(static_cast<int>(r.min_exponent_bits));
    magic_exponent = _mm256_set1_epi32(static_cast<int>(r.magic_exponent));
    rebias = _mm256_set1_epi32(static_cast<int>(r.rebias));
    shift = _mm_cvtsi32_si128(static_cast<int>(r.shift));
  }

  // `sign` gives the sign bit, `magnitude` the rest.
  __m256i operator()(__m256 magnitude, __m256 sign) const {
    const __m256i exponent = _mm256_max_epu32(
        _mm256_and_si256(_mm256_castps_si256(magnitude), _mm256_set1_epi32(0x7F800000)),
        min_exponent);
    const __m256i magic = _mm256_add_epi32(exponent, magic_exponent);
    const __m256i rounded =
        _mm256_castps_si256(_mm256_add_ps(magnitude, _mm256_castsi256_ps(magic)));
    const __m256i code = _mm256_sub_epi32(
        _mm256_add_epi32(_mm256_sub_epi32(rounded, magic), _mm256_srl_epi32(magic, shift)), rebias);
    const __m256i sign_bit =
        _mm256_and_si256(_mm256_srli_epi32(_mm256_castps_si256(sign), 24), _mm256_set1_epi32(0x80));
    return _mm256_or_si256(code, sign_bit);
  }
};

// Finite rows that nothing saturates.
template <bool kReciprocal>
struct FiniteRow {
  Encoder encode;
  __m256 scale, reciprocal;

  FiniteRow(Fp8Format format, float s)
      : encode(format), scale(_mm256_set1_ps(s)), reciprocal(_mm256_set1_ps(1.0f / s)) {}

  __m256i operator()(__m256 x) const {
    const __m256 magnitude = magnitude_of(x);
    __m256 quotient;
    if constexpr (kReciprocal) {
      quotient = _mm256_mul_ps(magnitude, reciprocal);
      const __m256 residual = _mm256_fnmadd_ps(quotient, scale, magnitude);
      quotient = _mm256_fmadd_ps(residual, reciprocal, quotient);
    } else {
      quotient = _mm256_div_ps(magnitude, scale);
    }
    return encode(quotient, x);
  }
};

// Any row: NaN, infinities, scale_ub.
struct SaturatingRow {
  Encoder encode;
  __m256 scale, max, min;

  SaturatingRow(Fp8Format format, float s)
      : encode(format),
        scale(_mm256_set1_ps(s)),
        max(_mm256_set1_ps(spec_of(format).max)),
        min(_mm256_set1_ps(-spec_of(format).max)) {}

  __m256i operator()(__m256 x) const {
    // vminps returns its second operand when the first is NaN.
    const __m256 value = _mm256_max_ps(_mm256_min_ps(_mm256_div_ps(x, scale), max), min);
    return encode(magnitude_of(value), value);
  }
};

// Four registers of codes in 32-bit lanes to 32 bytes in order.
inline __m256i pack(const __m256i (&codes)[4]) {
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(codes[0], codes[1]),
                                            _mm256_packus_epi32(codes[2], codes[3]));
  return _mm256_permutevar8x32_epi32(bytes, order);
}

template <class Element, class Convert>
void convert_row(const typename Element::Storage* x, int64_t hidden, uint8_t* q,
                 const Convert& convert, float scale, Fp8Format format) {
  int64_t i = 0;
  for (; i + kBlock <= hidden; i += kBlock) {
    __m256i codes[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) codes[v] = convert(Element::load(x + i + v * kLanes));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i), pack(codes));
  }
  for (; i < hidden; ++i) {
    const float value = Element::to_f32(Element::bits(x + i));
    q[i] = fp8_encode(fp8_saturate(value / scale, format), format);
  }
}

// Quantizes `hidden` elements and returns their scale. `scale_ub` may be null.
template <class Element>
float quantize_row(const typename Element::Storage* x, int64_t hidden, const float* scale_ub,
                   Fp8Format format, uint8_t* q) {
  uint32_t max = max_magnitude<Element>(x, hidden);
  const bool has_nan = max > Element::kInfinity;
  if (has_nan) max = max_magnitude_without_nan<Element>(x, hidden);
  const float amax = Element::to_f32(max);
  const float scale = token_scale(amax, scale_ub, format);

  const bool limited = scale_ub != nullptr && *scale_ub < amax;
  if (has_nan || limited || max == Element::kInfinity) {
    convert_row<Element>(x, hidden, q, SaturatingRow(format, scale), scale, format);
  } else {
    convert_row<Element>(x, hidden, q, FiniteRow<Element::kReciprocal>(format, scale), scale,
                         format);
  }
  return scale;
}

}  // namespace
}  // namespace octet
