// Steps over the elements of a row on AVX-512, and functions of f32 that the instruction set lacks.
#pragma once

#include <immintrin.h>

#include "cpu/quantize_row_avx512.h"

namespace octet {
namespace {

struct AllLanes {};

template <class Element>
__m512 load_lanes(const typename Element::Storage* p, AllLanes) {
  return Element::load(p);
}
template <class Element>
__m512 load_lanes(const typename Element::Storage* p, __mmask16 mask) {
  return Element::load(p, mask);
}
template <class Element>
void store_lanes(typename Element::Storage* p, __m512 v, AllLanes) {
  Element::store(p, v);
}
template <class Element>
void store_lanes(typename Element::Storage* p, __m512 v, __mmask16 mask) {
  Element::store(p, v, mask);
}

// Calls step(i, lanes, part) for every 16 elements from i on; `part` counts round from 0 to 3, for
// steps that keep four sums.
template <class Step>
void for_each_lanes(int64_t hidden, const Step& step) {
  int64_t i = 0;
  for (; i + 4 * kLanes <= hidden; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) step(i + part * kLanes, AllLanes{}, part);
  }
  for (; i < hidden; i += kLanes) step(i, lanes_below(hidden - i), 0);
}

// e^x, after Cephes' expf (S. Moshier): e^r by a polynomial for |r| <= ln(2) / 2, whose relative
// error is below 2e-8, times a power of two; 2 units in the last place altogether. Below -104 the
// result is 0, above 89 it is infinite, and a NaN stays one.
inline __m512 exp_ps(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-104.0f), _mm512_min_ps(_mm512_set1_ps(89.0f), x));
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), kNearest);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  const __m512 one_plus_r = _mm512_add_ps(r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), one_plus_r), n);
}

}  // namespace
}  // namespace octet
