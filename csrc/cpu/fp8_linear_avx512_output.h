// From f32 sums to outputs on AVX-512: scales, bias, conversion, and the transposition of a block.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "cpu/fp8_linear_common.h"
#include "kernels.h"

namespace octet {
namespace {

// Rounds to nearest even as f32_to_bf16() does; vcvtneps2bf16 would flush subnormals.
OCTET_INLINE __m256i to_bf16(__m512 value) {
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i high = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x0040)));
}

// Up to 16 adjacent columns of the outputs, and what their sums are scaled by.
class OutputColumns {
 public:
  OCTET_INLINE OutputColumns(const Fp8Linear& args, int64_t col, int64_t count)
      : args_(args), col_(col), mask_(static_cast<__mmask16>((1u << count) - 1u)) {
    w_scale_ = _mm512_maskz_loadu_ps(mask_, args.w_scale + col);
    if (args.bias != nullptr) bias_ = _mm512_maskz_loadu_ps(mask_, args.bias + col);
  }

  OCTET_INLINE void store(int64_t row, __m512 sums) const {
    const __m512 x_scale = _mm512_set1_ps(args_.x_scale[row]);
    __m512 value = _mm512_mul_ps(_mm512_mul_ps(sums, x_scale), w_scale_);
    if (args_.bias != nullptr) value = _mm512_add_ps(value, bias_);
    const int64_t at = row * args_.out_features + col_;
    switch (args_.out_dtype) {
      case Dtype::kFloat32:
        _mm512_mask_storeu_ps(static_cast<float*>(args_.out) + at, mask_, value);
        return;
      case Dtype::kFloat16:
        _mm256_mask_storeu_epi16(static_cast<uint16_t*>(args_.out) + at, mask_,
                                 _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
        return;
      case Dtype::kBFloat16:
        _mm256_mask_storeu_epi16(static_cast<uint16_t*>(args_.out) + at, mask_, to_bf16(value));
        return;
    }
  }

 private:
  const Fp8Linear& args_;
  int64_t col_;
  __mmask16 mask_;
  __m512 w_scale_;
  __m512 bias_ = _mm512_setzero_ps();
};

// Transposes a 16 x 16 block of 32-bit elements: pairs, then quads within 128-bit lanes, then
// lanes.
OCTET_INLINE void transpose(__m512i (&v)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xDD);
    t[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xDD);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    v[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    v[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xDD);
  }
}

}  // namespace
}  // namespace octet
