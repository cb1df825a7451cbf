// fp8_linear on AVX2 with FMA and F16C. E5M2 is the upper half of an IEEE half, and E4M3 is a half
// scaled by 2^-8 once its magnitude is shifted into place; F16C then converts eight at a time,
// subnormals included. The sums are scaled back.
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
  static constexpr int kVecs = 4;
  static constexpr int kDirectRows = 4;
  static constexpr int kTileRows = 4;
  static constexpr int kTileCols = 3;
  static constexpr int direct_cols(int rows) { return rows <= 2 ? 4 : 2; }

  class Decoder {
   public:
    explicit Decoder(Fp8Format format) {
      const HalfForm form(format);
      shift_ = _mm_cvtsi32_si128(form.shift);
      mask_ = _mm256_set1_epi16(form.mask);
      // E5M2's NaN codes are NaNs as halves; E4M3's one magnitude has to be made one.
      nan_ = _mm256_set1_epi8(static_cast<char>(format == Fp8Format::kE4M3 ? 0xFF : 0x00));
    }

    static float factor(Fp8Format format) { return HalfForm(format).factor; }

    OCTET_INLINE void expand(const uint8_t* codes, Vec* out) const {
      convert(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)), out);
    }

    OCTET_INLINE void expand_tail(const uint8_t* codes, int64_t count, Vec* out) const {
      uint8_t bytes[32] = {};
      memcpy(bytes, codes, static_cast<size_t>(count));
      expand(bytes, out);
    }

   private:
    OCTET_INLINE void convert(__m256i codes, Vec* out) const {
      const __m256i sign_set = _mm256_or_si256(codes, _mm256_set1_epi8(static_cast<char>(0x80)));
      const __m256i nan = _mm256_cmpeq_epi8(sign_set, nan_);
      const __m256i zero = _mm256_setzero_si256();
      convert(_mm256_unpacklo_epi8(zero, codes), _mm256_unpacklo_epi8(nan, nan), out);
      convert(_mm256_unpackhi_epi8(zero, codes), _mm256_unpackhi_epi8(nan, nan), out + 2);
    }

    // Sixteen codes in the upper bytes. See HalfForm.
    OCTET_INLINE void convert(__m256i upper, __m256i nan, Vec* out) const {
      const __m256i finite = _mm256_and_si256(_mm256_sra_epi16(upper, shift_), mask_);
      const __m256i halves = _mm256_or_si256(finite, nan);
      out[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
      out[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
    }

    __m128i shift_;
    __m256i mask_;
    __m256i nan_;
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
