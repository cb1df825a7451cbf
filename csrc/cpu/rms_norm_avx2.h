// RMS norms of a row on AVX2: the sum of squares in one pass, the row in a second.
#pragma once

#include "cpu/lanes_avx2.h"
#include "cpu/rows.h"

namespace octet {
namespace {

inline float inverse_rms(const __m256 (&sums)[4], int64_t hidden, float eps) {
  const __m256 total =
      _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
  float parts[kLanes];
  _mm256_storeu_ps(parts, total);
  float sum = 0.0f;
  for (float part : parts) sum += part;
  const __m128 mean = _mm_set_ss(sum / static_cast<float>(hidden) + eps);
  return 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(mean));
}

// What is normalized: x or, where there is a residual, their sum in f32.
template <class Element, bool kHasResidual, class Lanes>
__m256 load_input(const typename Element::Storage* x, const typename Element::Storage* residual,
                  int64_t i, Lanes lanes) {
  const __m256 value = load_lanes<Element>(x + i, lanes);
  if constexpr (!kHasResidual) return value;
  return _mm256_add_ps(value, load_lanes<Element>(residual + i, lanes));
}

// The row normed so far times its gain.
template <class Element, Gain kGain>
__m256 times_gain(__m256 normed, __m256 weight) {
  if constexpr (kGain == Gain::kOnePlusWeight) {
    return _mm256_mul_ps(normed, _mm256_add_ps(_mm256_set1_ps(1.0f), weight));
  }
  return _mm256_mul_ps(Element::round(normed), weight);
}

// Writes the normed row to y, which may be x, and the sum, rounded, to the residual. Each pass adds
// x and the residual anew, for only the rounded sum has a place to be kept.
template <class Element, bool kHasResidual, Gain kGain>
void normalize_row(const typename Element::Storage* x, typename Element::Storage* residual,
                   const void* weights, float eps, int64_t hidden, typename Element::Storage* y) {
  __m256 sums[4];
  for (__m256& sum : sums) sum = _mm256_setzero_ps();
  for_each_lanes(hidden, [&](int64_t i, auto lanes, int part) {
    const __m256 value = load_input<Element, kHasResidual>(x, residual, i, lanes);
    sums[part] = _mm256_fmadd_ps(value, value, sums[part]);
  });
  const __m256 factors = _mm256_set1_ps(inverse_rms(sums, hidden, eps));
  const auto* weight = static_cast<const typename Element::Storage*>(weights);
  for_each_lanes(hidden, [&](int64_t i, auto lanes, int) {
    const __m256 value = load_input<Element, kHasResidual>(x, residual, i, lanes);
    if constexpr (kHasResidual) store_lanes<Element>(residual + i, value, lanes);
    const __m256 normed = _mm256_mul_ps(value, factors);
    const __m256 w = load_lanes<Element>(weight + i, lanes);
    store_lanes<Element>(y + i, times_gain<Element, kGain>(normed, w), lanes);
  });
}

}  // namespace
}  // namespace octet
