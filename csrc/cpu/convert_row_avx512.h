// Dividing the elements of a row by its scale and encoding them, on AVX-512: the arithmetic, 16
// elements at a time.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "cpu/elements_avx512.h"
#include "fp8.h"

namespace octet {
namespace {

constexpr int kAOrBAndC = 0xF8;  // of vpternlog

// fp8_encode() of 16 values of magnitude at most FMAX, one code in each 32-bit lane.
struct Encoder {
  __m512i min_exponent, magic_exponent, rebias;
  __m128i shift;

  explicit Encoder(Fp8Format format) {
    const Fp8Rounding r = rounding_of(format);
    min_exponent = _mm512_set1_epi32(static_cast<int>(r.min_exponent_bits));
    magic_exponent = _mm512_set1_epi32(static_cast<int>(r.magic_exponent));
    rebias = _mm512_set1_epi32(static_cast<int>(r.rebias));
    shift = _mm_cvtsi32_si128(static_cast<int>(r.shift));
  }

  // `sign` gives the sign bit, `magnitude` the rest.
  __m512i operator()(__m512 magnitude, __m512i sign) const {
    const __m512i exponent = _mm512_max_epu32(
        _mm512_and_si512(_mm512_castps_si512(magnitude), _mm512_set1_epi32(0x7F800000)),
        min_exponent);
    const __m512i magic = _mm512_add_epi32(exponent, magic_exponent);
    const __m512i rounded =
        _mm512_castps_si512(_mm512_add_ps(magnitude, _mm512_castsi512_ps(magic)));
    const __m512i code = _mm512_sub_epi32(
        _mm512_add_epi32(_mm512_sub_epi32(rounded, magic), _mm512_srl_epi32(magic, shift)), rebias);
    return _mm512_ternarylogic_epi32(code, _mm512_srli_epi32(sign, 24), _mm512_set1_epi32(0x80),
                                     kAOrBAndC);
  }
};

inline __m512 magnitude_of(__m512 x) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), x); }

// Finite rows that nothing saturates. With the reciprocal, Markstein's correction: the residual of
// x * (1/s) is exact in one fma and corrects it to the rounded quotient. That this gives IEEE
// division for every bf16 and half numerator and every significand of s was checked exhaustively.
template <bool kReciprocal>
struct FiniteRow {
  Encoder encode;
  __m512 scale, reciprocal;

  FiniteRow(Fp8Format format, float s)
      : encode(format), scale(_mm512_set1_ps(s)), reciprocal(_mm512_set1_ps(1.0f / s)) {}

  __m512i operator()(__m512 x) const {
    const __m512 magnitude = magnitude_of(x);
    __m512 quotient;
    if constexpr (kReciprocal) {
      quotient = _mm512_mul_ps(magnitude, reciprocal);
      const __m512 residual = _mm512_fnmadd_ps(quotient, scale, magnitude);
      quotient = _mm512_fmadd_ps(residual, reciprocal, quotient);
    } else {
      quotient = _mm512_div_ps(magnitude, scale);
    }
    return encode(quotient, _mm512_castps_si512(x));
  }
};

// Any row: NaN, infinities, scale_ub.
struct SaturatingRow {
  Encoder encode;
  __m512 scale, max, min;

  SaturatingRow(Fp8Format format, float s)
      : encode(format),
        scale(_mm512_set1_ps(s)),
        max(_mm512_set1_ps(spec_of(format).max)),
        min(_mm512_set1_ps(-spec_of(format).max)) {}

  __m512i operator()(__m512 x) const {
    // vminps returns its second operand when the first is NaN.
    const __m512 value = _mm512_max_ps(_mm512_min_ps(_mm512_div_ps(x, scale), max), min);
    return encode(magnitude_of(value), _mm512_castps_si512(value));
  }
};

// Four registers of codes in 32-bit lanes to 64 bytes in order.
inline __m512i pack(const __m512i (&codes)[4]) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i bytes = _mm512_packus_epi16(_mm512_packus_epi32(codes[0], codes[1]),
                                            _mm512_packus_epi32(codes[2], codes[3]));
  return _mm512_permutexvar_epi32(order, bytes);
}

template <class Element, class Convert>
void convert_row(const typename Element::Storage* x, int64_t hidden, uint8_t* q,
                 const Convert& convert) {
  int64_t i = 0;
  for (; i + kBlock <= hidden; i += kBlock) {
    __m512i codes[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) codes[v] = convert(Element::load(x + i + v * kLanes));
    _mm512_storeu_si512(q + i, pack(codes));
  }
  for (; i < hidden; i += kLanes) {
    const __mmask16 mask = lanes_below(hidden - i);
    const __m128i codes = _mm512_cvtepi32_epi8(convert(Element::load(x + i, mask)));
    _mm_mask_storeu_epi8(q + i, mask, codes);
  }
}

}  // namespace
}  // namespace octet
