// fp8_linear on AVX-512 without its BF16 products: in f32, with the halves of fp8_linear_avx2.cpp
// in registers of twice the width.
#include <immintrin.h>
#include <string.h>

#include "cpu/f32_dot_avx512.h"
#include "cpu/fp8_linear_tile.h"
#include "cpu/kernel_list.h"

namespace octet {
namespace {

struct Avx512 : F32DotAvx512 {
  static constexpr int kVecs = 4;
  static constexpr int kTileRows = 4;
  static constexpr int kTileCols = 6;
  static constexpr int kDirectRows = 4;
  static constexpr int direct_cols(int) { return 4; }
  static constexpr int64_t direct_k(int64_t) { return INT64_MAX; }

  struct Packed {
    Vec vec[kVecs];
  };

  template <Fp8Format format>
  class Decoder {
   public:
    static constexpr float kFactor = HalfForm(format).factor;

    OCTET_INLINE Packed expand(const uint8_t* codes) const {
      return convert(_mm512_loadu_si512(codes));
    }

    OCTET_INLINE Packed expand_tail(const uint8_t* codes, int64_t count) const {
      return convert(_mm512_maskz_loadu_epi8((uint64_t{1} << count) - 1, codes));
    }

   private:
    static OCTET_INLINE Packed convert(__m512i codes) {
      const __m512i zero = _mm512_setzero_si512();
      Packed out;
      convert_upper(_mm512_unpacklo_epi8(zero, codes), out.vec);
      convert_upper(_mm512_unpackhi_epi8(zero, codes), out.vec + 2);
      return out;
    }

    // Thirty-two codes in the upper bytes. See HalfForm.
    static OCTET_INLINE void convert_upper(__m512i upper, Vec* out) {
      constexpr HalfForm kForm(format);
      // E5M2's NaN codes are NaNs as halves; E4M3's one magnitude has to be made one.
      const __m512i nan_code =
          _mm512_set1_epi16(static_cast<int16_t>(format == Fp8Format::kE4M3 ? 0xFF00 : 0x0000));
      const __m512i sign_set =
          _mm512_or_si512(upper, _mm512_set1_epi16(static_cast<int16_t>(0x8000)));
      const __mmask32 nan = _mm512_cmpeq_epi16_mask(sign_set, nan_code);
      const __m512i finite = _mm512_and_si512(
          _mm512_sra_epi16(upper, _mm_cvtsi32_si128(kForm.shift)), _mm512_set1_epi16(kForm.mask));
      const __m512i halves = _mm512_mask_set1_epi16(finite, nan, -1);
      out[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
      out[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
    }
  };

  template <int V>
  static OCTET_INLINE Vec part(const Packed& packed) {
    return packed.vec[V];
  }
};

}  // namespace

void fp8_linear_avx512(const Fp8Linear& args, const LinearTile& tile, void* scratch) {
  fp8_linear_tile<Avx512>(args, tile, scratch);
}

LinearLimits fp8_linear_limits_avx512(const Fp8Linear& args) {
  return fp8_linear_limits<Avx512>(args);
}

}  // namespace octet
