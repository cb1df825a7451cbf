// Products of f32 on AVX2 with FMA, as dot_tile.h asks for them.
#pragma once

#include <immintrin.h>

#include "cpu/linear_common.h"

namespace octet {
namespace {

struct F32DotAvx2 {
  using Operand = float;
  using Vec = __m256;
  using Acc = __m256;
  static constexpr int kLanes = 8;

  static OCTET_INLINE Vec load(const Operand* p) { return _mm256_load_ps(p); }
  static OCTET_INLINE void store(Operand* p, Vec v) { _mm256_store_ps(p, v); }
  static OCTET_INLINE Acc zero() { return _mm256_setzero_ps(); }
  static OCTET_INLINE Acc dot(Acc acc, Vec a, Vec b) { return _mm256_fmadd_ps(a, b, acc); }
  static OCTET_INLINE float sum(Acc acc) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(acc), _mm256_extractf128_ps(acc, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
};

}  // namespace
}  // namespace octet
