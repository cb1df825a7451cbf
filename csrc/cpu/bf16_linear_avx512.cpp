// bf16_linear on AVX-512 without its BF16 products: as bf16_linear_avx2.cpp, in registers of twice
// the width.
#include <immintrin.h>

#include "cpu/bf16_linear_tile.h"
#include "cpu/f32_dot_avx512.h"
#include "cpu/kernel_list.h"

namespace octet {
namespace {

struct Avx512 : F32DotAvx512 {
  static constexpr int kVecs = 2;
  static constexpr int kTileRows = 4;
  static constexpr int kTileCols = 6;

  using Packed = __m512i;

  static OCTET_INLINE Packed expand(const uint16_t* p) { return _mm512_loadu_si512(p); }
  static OCTET_INLINE Packed expand_tail(const uint16_t* p, int64_t count) {
    return _mm512_maskz_loadu_epi16((uint32_t{1} << count) - 1, p);
  }
  template <int V>
  static OCTET_INLINE Vec part(const Packed& pairs) {
    return _mm512_castsi512_ps(
        V == 0 ? _mm512_slli_epi32(pairs, 16)
               : _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xFFFF0000u))));
  }
};

}  // namespace

void bf16_linear_avx512(const Bf16Linear& args, const LinearTile& tile, void* scratch) {
  bf16_linear_tile<Avx512>(args, tile, scratch);
}

LinearLimits bf16_linear_limits_avx512(const Bf16Linear& args) {
  return bf16_linear_limits<Avx512>(args);
}

}  // namespace octet
