// fp8_linear on AVX512-BF16 and AVX512-VBMI: a few rows straight from the codes, more as an outer
// product of packed panels.
//
// The products alone fill two of the processor's vector ports, so that everything else has to be
// done beside them, a little at a time.
#include <immintrin.h>
#include <string.h>

#include "cpu/fp8_linear_avx512_panel.h"
#include "cpu/kernel_list.h"

namespace octet {
namespace {

// One vdpbf16ps multiplies a register of the panel with a pair of one column, broadcast.
struct Bf16Unit {
  static constexpr int64_t kPanelGroups = 4;
  static constexpr int64_t kBlockCols = 24;  // accumulators in registers, of any panel
  static constexpr int64_t kMaxRows = 128;
  static constexpr int64_t kMaxCols = 1008;  // bounds the partial sums to 512 KiB
  // The panels of the most rows and k take half of an L2 cache of 1 MiB. Twice the rows and half
  // the k would expand the weights half as often, but move the partial sums twice as often, which
  // costs more.
  static constexpr int64_t kMaxBlockK = 2048;

  static constexpr int64_t cols_at_once(int64_t groups) { return kBlockCols / groups; }
  static constexpr int64_t upcoming_cols(int64_t, int64_t groups) { return cols_at_once(groups); }

  // Other ports of the processor expand than those that multiply: a column every few pairs, for a
  // burst of loads that miss the cache would fill the schedulers and leave the multipliers idle.
  template <int Groups>
  static void multiply(const uint16_t* panel, const uint16_t* columns, int64_t k, bool accumulate,
                       const Bf16Expander& weights, const Expansion& upcoming, float* sums,
                       int64_t sums_stride) {
    constexpr int kCols = cols_at_once(Groups);
    constexpr int64_t kPairs = kStep / 2;
    __m512 acc[kCols][Groups];
#pragma GCC unroll 24
    for (int c = 0; c < kCols; ++c) {
#pragma GCC unroll 4
      for (int g = 0; g < Groups; ++g) {
        acc[c][g] = accumulate ? _mm512_load_ps(sums + c * sums_stride + g * kGroupRows)
                               : _mm512_setzero_ps();
      }
    }
    for (int64_t i = 0; i < k; i += kStep) {
      int64_t pair = 0;
      for (int64_t part = 0; part < kCols; ++part) {
        upcoming.step(weights, part, i);
        for (; pair < (part + 1) * kPairs / kCols; ++pair) {
          __m512i x[Groups];
#pragma GCC unroll 4
          for (int g = 0; g < Groups; ++g) x[g] = _mm512_load_si512(panel + g * 2 * kGroupRows);
#pragma GCC unroll 24
          for (int c = 0; c < kCols; ++c) {
            int32_t w;
            memcpy(&w, columns + c * kColumnStride<Bf16Unit>, sizeof w);
#pragma GCC unroll 4
            for (int g = 0; g < Groups; ++g) acc[c][g] = dot(acc[c][g], x[g], _mm512_set1_epi32(w));
          }
          panel += Groups * 2 * kGroupRows;
          columns += 2;
        }
      }
    }
#pragma GCC unroll 24
    for (int c = 0; c < kCols; ++c) {
#pragma GCC unroll 4
      for (int g = 0; g < Groups; ++g) {
        _mm512_store_ps(sums + c * sums_stride + g * kGroupRows, acc[c][g]);
      }
    }
  }
};

}  // namespace

void fp8_linear_avx512_bf16(const Fp8Linear& args, const LinearTile& tile, void* scratch) {
  bf16_linear<Bf16Unit>(args, tile, scratch);
}

LinearLimits fp8_linear_limits_avx512_bf16(const Fp8Linear& args) {
  return bf16_limits<Bf16Unit>(args);
}

}  // namespace octet
