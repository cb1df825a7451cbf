// Rows of bf16 made and quantized on AVX-512 with BF16 and VBMI, 32 elements at a time: the even
// and the odd ones, which a shift and a mask widen to f32. A made row stays in scratch in that
// order, which its quantization undoes, for bytes are permuted there anyway; and the maximum is
// taken while the row is made.
//
// The conversion to bf16 of this instruction set takes denormals for zeros, so it rounds only what
// is quantized next, where both are zero.
#pragma once

#include <immintrin.h>

#include "cpu/quantize_row_avx512.h"

namespace octet {
namespace {

struct EvenOdd {
  __m512 even, odd;
};

inline EvenOdd widen(__m512i halves) {
  const __m512i upper_half = _mm512_set1_epi32(static_cast<int>(0xFFFF0000u));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(halves, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(halves, upper_half))};
}
inline EvenOdd load_even_odd(const uint16_t* p) { return widen(_mm512_loadu_si512(p)); }

// The even elements, then the odd ones; denormals become zero.
inline __m512i narrow(EvenOdd v) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(v.odd, v.even));
}

// Where each of 32 elements lies then, for permutations that put them in order again.
inline __m512i even_odd_positions() {
  return _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                          6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
}

// Rounds to bf16 and leaves it as f32, denormals too. NaNs that come from bf16 or from arithmetic
// have no lower half that could carry into the upper one.
inline __m512 round_without_nan_payload(__m512 v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
  return _mm512_castsi512_ps(
      _mm512_and_si512(sum, _mm512_set1_epi32(static_cast<int>(0xFFFF0000u))));
}

// Elements of a row that are made 32 at a time, in whole blocks of the quantization.
inline int64_t even_odd_elements(int64_t hidden) { return hidden / kBlock * kBlock; }

// Quantizes a row that was made, its blocks even elements first. `max` has the magnitudes' maximum
// over lanes of those blocks; the rest lies in order. Returns the scale.
inline float quantize_made_row(uint16_t* y, int64_t hidden, __m512i max, Fp8Format format,
                               uint8_t* q) {
  const int64_t blocks = even_odd_elements(hidden);
  const uint32_t amax = BFloat16::reduce_max(max_with_rest<BFloat16>(max, y, blocks, hidden));
  if (amax >= BFloat16::kInfinity) {
    const __m512i order = even_odd_positions();
    for (int64_t i = 0; i < blocks; i += 32) {
      _mm512_storeu_si512(y + i, _mm512_permutexvar_epi16(order, _mm512_loadu_si512(y + i)));
    }
    return quantize_row<BFloat16>(y, hidden, nullptr, format, q);
  }
  const float scale = token_scale(BFloat16::to_f32(amax), nullptr, format);
  using Table = MantissaTable<EvenThenOdd>;
  convert_by_table<BFloat16, Table>(y, hidden, q, format, scale, NothingBeside{});
  return scale;
}

}  // namespace
}  // namespace octet
