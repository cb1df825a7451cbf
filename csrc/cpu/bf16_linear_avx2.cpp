// bf16_linear on AVX2 with FMA. A bf16 is the upper half of an f32: of a register of pairs, a shift
// makes the first ones, and a mask the second ones.
#include <immintrin.h>
#include <string.h>

#include "cpu/bf16_linear_tile.h"
#include "cpu/f32_dot_avx2.h"
#include "cpu/kernel_list.h"

namespace octet {
namespace {

struct Avx2 : F32DotAvx2 {
  static constexpr int kVecs = 2;
  static constexpr int kTileRows = 4;
  static constexpr int kTileCols = 3;

  using Packed = __m256i;

  static OCTET_INLINE Packed expand(const uint16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static OCTET_INLINE Packed expand_tail(const uint16_t* p, int64_t count) {
    uint16_t copy[kVecs * kLanes] = {};
    memcpy(copy, p, static_cast<size_t>(count) * sizeof copy[0]);
    return expand(copy);
  }
  template <int V>
  static OCTET_INLINE Vec part(const Packed& pairs) {
    return _mm256_castsi256_ps(
        V == 0 ? _mm256_slli_epi32(pairs, 16)
               : _mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xFFFF0000u))));
  }
};

}  // namespace

void bf16_linear_avx2(const Bf16Linear& args, const LinearTile& tile, void* scratch) {
  bf16_linear_tile<Avx2>(args, tile, scratch);
}

LinearLimits bf16_linear_limits_avx2(const Bf16Linear& args) {
  return bf16_linear_limits<Avx2>(args);
}

}  // namespace octet
