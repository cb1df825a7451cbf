// Products of f32 on AVX-512, as dot_tile.h asks for them.
#pragma once

#include <immintrin.h>

#include "cpu/linear_common.h"

namespace octet {
namespace {

struct F32DotAvx512 {
  using Operand = float;
  using Vec = __m512;
  using Acc = __m512;
  static constexpr int kLanes = 16;

  static OCTET_INLINE Vec load(const Operand* p) { return _mm512_load_ps(p); }
  static OCTET_INLINE void store(Operand* p, Vec v) { _mm512_store_ps(p, v); }
  static OCTET_INLINE Acc zero() { return _mm512_setzero_ps(); }
  static OCTET_INLINE Acc dot(Acc acc, Vec a, Vec b) { return _mm512_fmadd_ps(a, b, acc); }
  static OCTET_INLINE float sum(Acc acc) { return _mm512_reduce_add_ps(acc); }
};

}  // namespace
}  // namespace octet
