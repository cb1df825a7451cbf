// RMS norms of a row on AVX-512: the sum of squares in one pass, the row in a second.
#pragma once

#include "cpu/lanes_avx512.h"
#include "cpu/rows.h"

namespace octet {
namespace {

inline float inverse_rms(const __m512 (&sums)[4], int64_t hidden, float eps) {
  const float sum = _mm512_reduce_add_ps(
      _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
  const __m128 mean = _mm_set_ss(sum / static_cast<float>(hidden) + eps);
  return 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(mean));
}

// What is normalized: x or, where there is a residual, their sum in f32.
template <class Element, bool kHasResidual, class Lanes>
__m512 load_input(const typename Element::Storage* x, const typename Element::Storage* residual,
                  int64_t i, Lanes lanes) {
  const __m512 value = load_lanes<Element>(x + i, lanes);
  if constexpr (!kHasResidual) return value;
  return _mm512_add_ps(value, load_lanes<Element>(residual + i, lanes));
}

// The row normed so far times its gain.
template <class Element, Gain kGain>
__m512 times_gain(__m512 normed, __m512 weight) {
  if constexpr (kGain == Gain::kOnePlusWeight) {
    return _mm512_mul_ps(normed, _mm512_add_ps(_mm512_set1_ps(1.0f), weight));
  }
  return _mm512_mul_ps(Element::round(normed), weight);
}

// Adds the squares of the elements [begin, hidden) to `sums`.
template <class Element, bool kHasResidual>
void add_squares(const typename Element::Storage* x, const typename Element::Storage* residual,
                 int64_t begin, int64_t hidden, __m512 (&sums)[4]) {
  for_each_lanes(hidden - begin, [&](int64_t offset, auto lanes, int part) {
    const __m512 value = load_input<Element, kHasResidual>(x, residual, begin + offset, lanes);
    sums[part] = _mm512_fmadd_ps(value, value, sums[part]);
  });
}

// Writes the elements [begin, hidden) of the normed row to y, which may be x, and the sum, rounded,
// to the residual. The sum is added anew, for only the rounded one has a place to be kept.
template <class Element, bool kHasResidual, Gain kGain>
void scale_elements(const typename Element::Storage* x, typename Element::Storage* residual,
                    const void* weights, __m512 factors, int64_t begin, int64_t hidden,
                    typename Element::Storage* y) {
  const auto* weight = static_cast<const typename Element::Storage*>(weights);
  for_each_lanes(hidden - begin, [&](int64_t offset, auto lanes, int) {
    const int64_t i = begin + offset;
    const __m512 value = load_input<Element, kHasResidual>(x, residual, i, lanes);
    if constexpr (kHasResidual) store_lanes<Element>(residual + i, value, lanes);
    const __m512 normed = _mm512_mul_ps(value, factors);
    const __m512 w = load_lanes<Element>(weight + i, lanes);
    store_lanes<Element>(y + i, times_gain<Element, kGain>(normed, w), lanes);
  });
}

// Both passes for a whole row.
template <class Element, bool kHasResidual, Gain kGain>
void normalize_row(const typename Element::Storage* x, typename Element::Storage* residual,
                   const void* weights, float eps, int64_t hidden, typename Element::Storage* y) {
  __m512 sums[4] = {};
  add_squares<Element, kHasResidual>(x, residual, 0, hidden, sums);
  const __m512 factors = _mm512_set1_ps(inverse_rms(sums, hidden, eps));
  scale_elements<Element, kHasResidual, kGain>(x, residual, weights, factors, 0, hidden, y);
}

}  // namespace
}  // namespace octet
