// fp8_linear on AVX512-BF16 and AVX512-VBMI. Every FP8 value is a bf16, and a table of 128 bytes is
// one two-register byte permutation: one gives the low bytes of 64 values, another the high ones.
// vdpbf16ps flushes bf16 subnormals; no FP8 value is one (the smallest is 2^-16).
#include <immintrin.h>

#include "cpu/fp8_linear_tile.h"
#include "cpu/kernel_list.h"

namespace octet {
namespace {

struct Bf16Table {
  alignas(64) uint8_t low[128];
  alignas(64) uint8_t high[128];

  explicit constexpr Bf16Table(Fp8Format format) : low(), high() {
    for (int code = 0; code < 128; ++code) {
      const uint32_t bf16 = fp8_decode_bits(static_cast<uint8_t>(code), format) >> 16;
      low[code] = static_cast<uint8_t>(bf16);
      high[code] = static_cast<uint8_t>(bf16 >> 8);
    }
  }
};

constexpr Bf16Table kE4M3Table(Fp8Format::kE4M3);
constexpr Bf16Table kE5M2Table(Fp8Format::kE5M2);

struct Avx512Bf16 {
  using Operand = uint16_t;
  using Vec = __m512i;
  using Acc = __m512;
  static constexpr int kLanes = 32;
  static constexpr int kVecs = 2;
  static constexpr int kDirectRows = 8;
  static constexpr int kTileRows = 6;
  static constexpr int kTileCols = 4;
  static constexpr int direct_cols(int rows) { return rows <= 4 ? 4 : 2; }

  class Decoder {
   public:
    explicit Decoder(Fp8Format format) {
      const Bf16Table& table = format == Fp8Format::kE4M3 ? kE4M3Table : kE5M2Table;
      low_[0] = _mm512_load_si512(table.low);
      low_[1] = _mm512_load_si512(table.low + 64);
      high_[0] = _mm512_load_si512(table.high);
      high_[1] = _mm512_load_si512(table.high + 64);
    }

    OCTET_INLINE void expand(const uint8_t* codes, Vec* out) const {
      look_up(_mm512_loadu_si512(codes), out);
    }

    OCTET_INLINE void expand_tail(const uint8_t* codes, int64_t count, Vec* out) const {
      const __mmask64 mask = (__mmask64{1} << count) - 1;
      look_up(_mm512_maskz_loadu_epi8(mask, codes), out);
    }

   private:
    OCTET_INLINE void look_up(__m512i codes, Vec* out) const {
      // The permutation ignores bit 7, the sign, which the high byte takes from the code.
      constexpr int kAOrBAndC = 0xF8;
      const __m512i low = _mm512_permutex2var_epi8(low_[0], codes, low_[1]);
      const __m512i magnitude = _mm512_permutex2var_epi8(high_[0], codes, high_[1]);
      const __m512i high = _mm512_ternarylogic_epi32(
          magnitude, codes, _mm512_set1_epi8(static_cast<char>(0x80)), kAOrBAndC);
      out[0] = _mm512_unpacklo_epi8(low, high);
      out[1] = _mm512_unpackhi_epi8(low, high);
    }

    __m512i low_[2];
    __m512i high_[2];
  };

  static OCTET_INLINE Vec load(const Operand* p) { return _mm512_load_si512(p); }
  static OCTET_INLINE void store(Operand* p, Vec v) { _mm512_store_si512(p, v); }
  static OCTET_INLINE Acc zero() { return _mm512_setzero_ps(); }
  static OCTET_INLINE Acc dot(Acc acc, Vec a, Vec b) {
    return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
  static OCTET_INLINE float sum(Acc acc) { return _mm512_reduce_add_ps(acc); }
};

}  // namespace

void fp8_linear_avx512_bf16(const Fp8Linear& args, int64_t begin, int64_t end, void* scratch) {
  fp8_linear_columns<Avx512Bf16>(args, begin, end, scratch);
}

size_t fp8_linear_scratch_avx512_bf16(const Fp8Linear& args) {
  return Blocks<Avx512Bf16>(args).scratch_bytes();
}

}  // namespace octet
