// fp8_linear on AVX2 with FMA and F16C. E5M2 is the upper half of an IEEE half, and E4M3 is a half
// scaled by 2^-8 once its magnitude is shifted into place; F16C then converts eight at a time,
// subnormals included.
#include <immintrin.h>
#include <string.h>

#include "cpu/fp8_linear_tile.h"
#include "cpu/kernel_list.h"

namespace octet {
namespace {

struct Avx2 {
  using Operand = float;
  using Vec = __m256;
  using Acc = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kVecs = 1;
  static constexpr int kDirectRows = 4;
  static constexpr int kTileRows = 4;
  static constexpr int kTileCols = 3;
  static constexpr int direct_cols(int rows) { return rows <= 2 ? 4 : 2; }

  class Decoder {
   public:
    explicit Decoder(Fp8Format format) {
      const bool e4m3 = format == Fp8Format::kE4M3;
      shift_ = _mm_cvtsi32_si128(e4m3 ? 7 : 8);
      // E5M2's NaN codes are NaNs as halves; E4M3's one magnitude has to be made one.
      nan_magnitude_ = _mm_set1_epi16(e4m3 ? 0x7F : -1);
      factor_ = _mm256_set1_ps(e4m3 ? 256.0f : 1.0f);
    }

    OCTET_INLINE void expand(const uint8_t* codes, Vec* out) const {
      convert(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)), out);
    }

    OCTET_INLINE void expand_tail(const uint8_t* codes, int64_t count, Vec* out) const {
      uint64_t bytes = 0;
      memcpy(&bytes, codes, static_cast<size_t>(count));
      convert(_mm_cvtsi64_si128(static_cast<long long>(bytes)), out);
    }

   private:
    OCTET_INLINE void convert(__m128i codes, Vec* out) const {
      const __m128i wide = _mm_cvtepu8_epi16(codes);
      const __m128i magnitude = _mm_and_si128(wide, _mm_set1_epi16(0x7F));
      const __m128i sign = _mm_slli_epi16(_mm_xor_si128(wide, magnitude), 8);
      const __m128i nan = _mm_srli_epi16(_mm_cmpeq_epi16(magnitude, nan_magnitude_), 1);
      const __m128i finite = _mm_or_si128(_mm_sll_epi16(magnitude, shift_), sign);
      *out = _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(finite, nan)), factor_);
    }

    __m128i shift_;
    __m128i nan_magnitude_;
    __m256 factor_;
  };

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

void fp8_linear_avx2(const Fp8Linear& args, const Fp8LinearTile& tile, void* scratch) {
  fp8_linear_tile<Avx2>(args, tile, scratch);
}

Fp8LinearLimits fp8_linear_limits_avx2(const Fp8Linear& args) {
  return fp8_linear_limits<Avx2>(args);
}

}  // namespace octet
