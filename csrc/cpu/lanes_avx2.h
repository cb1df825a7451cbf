// Steps over the elements of a row on AVX2, and functions of f32 that the instruction set lacks.
#pragma once

#include <immintrin.h>
#include <string.h>

#include "cpu/quantize_row_avx2.h"

namespace octet {
namespace {

struct AllLanes {};
struct LanesBelow {
  int64_t count;
};

template <class Element>
__m256 load_lanes(const typename Element::Storage* p, AllLanes) {
  return Element::load(p);
}
template <class Element>
__m256 load_lanes(const typename Element::Storage* p, LanesBelow lanes) {
  typename Element::Storage copy[kLanes] = {};
  memcpy(copy, p, static_cast<size_t>(lanes.count) * sizeof copy[0]);
  return Element::load(copy);
}
template <class Element>
void store_lanes(typename Element::Storage* p, __m256 v, AllLanes) {
  Element::store(p, v);
}
template <class Element>
void store_lanes(typename Element::Storage* p, __m256 v, LanesBelow lanes) {
  typename Element::Storage copy[kLanes];
  Element::store(copy, v);
  memcpy(p, copy, static_cast<size_t>(lanes.count) * sizeof copy[0]);
}

// Calls step(i, lanes, part) for every 8 elements from i on; `part` counts round from 0 to 3, for
// steps that keep four sums.
template <class Step>
void for_each_lanes(int64_t hidden, const Step& step) {
  int64_t i = 0;
  for (; i + 4 * kLanes <= hidden; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) step(i + part * kLanes, AllLanes{}, part);
  }
  for (; i + kLanes <= hidden; i += kLanes) step(i, AllLanes{}, 0);
  if (i < hidden) step(i, LanesBelow{hidden - i}, 0);
}

inline __m256 power_of_two(__m256i exponent) {
  const __m256i biased = _mm256_add_epi32(exponent, _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}

// e^x, after Cephes' expf (S. Moshier): e^r by a polynomial for |r| <= ln(2) / 2, whose relative
// error is below 2e-8, times a power of two; 2 units in the last place altogether. Below -104 the
// result is 0, above 89 it is infinite, and a NaN stays one.
inline __m256 exp_ps(__m256 x) {
  x = _mm256_max_ps(_mm256_set1_ps(-104.0f), _mm256_min_ps(_mm256_set1_ps(89.0f), x));
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), kNearest);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  __m256 p = _mm256_set1_ps(1.9875691500e-4f);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
  const __m256 one_plus_r = _mm256_add_ps(r, _mm256_set1_ps(1.0f));
  const __m256 result = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), one_plus_r);
  // Times 2^n in two steps, for 2^n alone may be out of range.
  const __m256i exponent = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(exponent, 1);
  return _mm256_mul_ps(_mm256_mul_ps(result, power_of_two(half)),
                       power_of_two(_mm256_sub_epi32(exponent, half)));
}

}  // namespace
}  // namespace octet
