// The elements that a row may hold, on AVX-512 (F, BW, DQ, VL), and the maximum of their
// magnitudes.
//
// Magnitudes are compared as integers, which orders IEEE values, 32 halves at a time. A NaN shows
// as a magnitude above infinity.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "float16.h"
#include "fp8.h"

namespace octet {
namespace {

constexpr int kLanes = 16;  // f32 values in a register
constexpr int kBlock = 64;  // codes in a register

inline __mmask16 lanes_below(int64_t count) {
  return count >= 16 ? __mmask16{0xFFFF} : static_cast<__mmask16>((1u << count) - 1u);
}

struct Float32 {
  using Storage = float;
  static constexpr uint32_t kMagnitudeMask = 0x7FFFFFFFu;
  static constexpr uint32_t kInfinity = 0x7F800000u;
  static constexpr int kBitsLanes = 16;
  // Division: Markstein's correction is not proven for quotients of 24-bit significands below one.
  static constexpr bool kReciprocal = false;
  static constexpr bool kHasTable = false;

  static uint32_t bits(const float* p) { return bits_of(*p); }
  static float to_f32(uint32_t bits) { return float_of(bits); }
  static __m512 load(const Storage* p) { return _mm512_loadu_ps(p); }
  static __m512 load(const Storage* p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
  static __m512 round(__m512 v) { return v; }
  static void store(Storage* p, __m512 v) { _mm512_storeu_ps(p, v); }
  static void store(Storage* p, __m512 v, __mmask16 mask) { _mm512_mask_storeu_ps(p, mask, v); }
  static __m512i magnitudes(const Storage* p, int64_t count) {
    return _mm512_and_si512(_mm512_maskz_loadu_epi32(lanes_below(count), p),
                            _mm512_set1_epi32(0x7FFFFFFF));
  }
  static __m512i max(__m512i a, __m512i b) { return _mm512_max_epu32(a, b); }
  static uint32_t reduce_max(__m512i v) { return _mm512_reduce_max_epu32(v); }
};

// What bf16 and half share: 16-bit storage.
struct Halves {
  using Storage = uint16_t;
  static constexpr bool kHasTable = true;
  static constexpr uint32_t kMagnitudeMask = 0x7FFFu;
  static constexpr int kBitsLanes = 32;
  static constexpr bool kReciprocal = true;

  static uint32_t bits(const uint16_t* p) { return *p; }
  static __m256i load_bits(const uint16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static __m512i magnitudes(const uint16_t* p, int64_t count) {
    const __mmask32 mask =
        count >= 32 ? __mmask32{0xFFFFFFFF} : static_cast<__mmask32>((1u << count) - 1u);
    return _mm512_and_si512(_mm512_maskz_loadu_epi16(mask, p), _mm512_set1_epi16(0x7FFF));
  }
  static __m512i max(__m512i a, __m512i b) { return _mm512_max_epu16(a, b); }
  static uint32_t reduce_max(__m512i v) {
    const __m512i low = _mm512_and_si512(v, _mm512_set1_epi32(0xFFFF));
    return _mm512_reduce_max_epu32(_mm512_max_epu32(low, _mm512_srli_epi32(v, 16)));
  }
};

struct BFloat16 : Halves {
  static constexpr uint32_t kInfinity = 0x7F80u;
  static constexpr int kMantissaBits = 7;
  static constexpr int kBias = 127;

  static float to_f32(uint32_t bits) { return bf16_to_f32(static_cast<uint16_t>(bits)); }
  static __m512 widen(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static __m512 load(const uint16_t* p) { return widen(load_bits(p)); }
  static __m512 load(const uint16_t* p, __mmask16 mask) {
    return widen(_mm256_maskz_loadu_epi16(mask, p));
  }
  // Rounds to nearest even. A NaN stays one: its upper half is kept, and made quiet.
  static __m512i round_bits(__m512 v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x00400000));
  }
  static __m512 round(__m512 v) {
    const __m512i upper_half = _mm512_set1_epi32(static_cast<int>(0xFFFF0000u));
    return _mm512_castsi512_ps(_mm512_and_si512(round_bits(v), upper_half));
  }
  static __m256i narrow(__m512 v) {
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_bits(v), 16));
  }
  static void store(uint16_t* p, __m512 v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(v));
  }
  static void store(uint16_t* p, __m512 v, __mmask16 mask) {
    _mm256_mask_storeu_epi16(p, mask, narrow(v));
  }
};

struct Float16 : Halves {
  static constexpr uint32_t kInfinity = 0x7C00u;
  static constexpr int kMantissaBits = 10;
  static constexpr int kBias = 15;

  static float to_f32(uint32_t bits) { return f16_to_f32(static_cast<uint16_t>(bits)); }
  static __m512 load(const uint16_t* p) { return _mm512_cvtph_ps(load_bits(p)); }
  static __m512 load(const uint16_t* p, __mmask16 mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p));
  }
  static __m256i narrow(__m512 v) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
  static __m512 round(__m512 v) { return _mm512_cvtph_ps(narrow(v)); }
  static void store(uint16_t* p, __m512 v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(v));
  }
  static void store(uint16_t* p, __m512 v, __mmask16 mask) {
    _mm256_mask_storeu_epi16(p, mask, narrow(v));
  }
};

// `max`, and the magnitudes of the elements [begin, hidden).
template <class Element>
__m512i max_with_rest(__m512i max, const typename Element::Storage* x, int64_t begin,
                      int64_t hidden) {
  for (int64_t i = begin; i < hidden; i += Element::kBitsLanes) {
    max = Element::max(max, Element::magnitudes(x + i, hidden - i));
  }
  return max;
}

// The largest magnitude of a row, as bits of its own type; above kInfinity if there is a NaN.
template <class Element>
uint32_t max_magnitude(const typename Element::Storage* x, int64_t hidden) {
  constexpr int64_t kStep = Element::kBitsLanes;
  __m512i max[4] = {};
  int64_t i = 0;
  for (; i + 4 * kStep <= hidden; i += 4 * kStep) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      max[v] = Element::max(max[v], Element::magnitudes(x + i + v * kStep, kStep));
    }
  }
  max[0] = max_with_rest<Element>(max[0], x, i, hidden);
  return Element::reduce_max(
      Element::max(Element::max(max[0], max[1]), Element::max(max[2], max[3])));
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

}  // namespace
}  // namespace octet
