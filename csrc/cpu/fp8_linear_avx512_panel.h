// fp8_linear for many rows on AVX512-BF16: a register-tiled outer product over cache blocks.
//
// For a block of k, the activations of a tile are packed once into panels of up to 64 rows in which
// a register holds one pair of adjacent k of 16 rows. The weights are expanded a few columns at a
// time, with k adjacent as they are stored, while the columns before them are multiplied; one
// vdpbf16ps multiplies a register of the panel with a pair of one column, broadcast. Partial sums
// stay in scratch from one block of k to the next.
// (Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008.)
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "cpu/fp8_linear_avx512_expand.h"
#include "cpu/fp8_linear_avx512_output.h"
#include "cpu/fp8_linear_common.h"
#include "kernels.h"

namespace octet {
namespace {

constexpr int64_t kGroupRows = 16;   // rows in a register
constexpr int64_t kPanelGroups = 4;  // registers of rows in a panel
constexpr int64_t kBlockCols = 24;   // columns expanded at a time; accumulators in registers
constexpr int64_t kMaxRows = 256;    // rows packed at a time
constexpr int64_t kMaxBlockK = 2048;
constexpr int64_t kPanelElements = 256
                                   << 10;  // of the panels of a block of k, so that L2 holds them
// Elements from column to column of expanded weights; the odd line keeps columns in different sets.
constexpr int64_t kColumnStride = kMaxBlockK + 32;

// Packs `count` codes of up to 16 rows, which become register `group` of `groups` of each pair.
inline void pack_group(const Bf16Expander& activations, const uint8_t* codes, int64_t stride,
                       int64_t rows, int64_t count, int64_t group, int64_t groups,
                       uint16_t* panel) {
  for (int64_t i = 0; i < count; i += kStep) {
    __m512i halves[2][16];
    for (int64_t r = 0; r < 16; ++r) {
      __m512i vecs[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
      if (r < rows) {
        const uint8_t* const at = codes + r * stride + i;
        if (count - i >= kStep) {
          activations.expand(at, vecs);
        } else {
          activations.expand_tail(at, count - i, vecs);
        }
      }
      halves[0][r] = vecs[0];
      halves[1][r] = vecs[1];
    }
    uint16_t* out = panel + (i * groups + 2 * group) * kGroupRows;
    for (auto& half : halves) {
      transpose(half);
      for (const __m512i& pair : half) {
        _mm512_store_si512(out, pair);
        out += 2 * groups * kGroupRows;
      }
    }
  }
}

// `cols` columns of `count` codes, and where they are expanded to: [column][kColumnStride].
struct Expansion {
  const uint8_t* codes;
  int64_t codes_stride;
  int64_t count;
  int64_t cols;
  uint16_t* out;

  // The columns from `col` on, of which there may be none.
  Expansion part(int64_t col, int64_t most) const {
    return Expansion{codes + col * codes_stride, codes_stride, count,
                     max_of(0, min_of(most, cols - col)), out + col * kColumnStride};
  }

  // Expands the i-th code and those of its step, and fetches those of the next block of columns.
  OCTET_INLINE void step(const Bf16Expander& weights, int64_t i) const {
    for (int64_t c = 0; c < cols; ++c) {
      const uint8_t* const at = codes + c * codes_stride + i;
      _mm_prefetch(at + kBlockCols * codes_stride, _MM_HINT_T1);
      weights.expand_row(at, min_of(kStep, count - i), out + c * kColumnStride + i);
    }
  }
};

// Adds the products of a panel of `Groups` registers a pair and of 24 / Groups columns, over
// `k` expanded codes, to sums, [column][sums_stride]; or sets them. Expands `upcoming` meanwhile,
// which other ports of the processor do than those that multiply.
template <int Groups>
inline void multiply(const uint16_t* panel, const uint16_t* columns, int64_t k, bool accumulate,
                     const Bf16Expander& weights, const Expansion& upcoming, float* sums,
                     int64_t sums_stride) {
  constexpr int kCols = kBlockCols / Groups;
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
    upcoming.step(weights, i);
    for (int64_t pair = 0; pair < kStep / 2; ++pair) {
      __m512i x[Groups];
#pragma GCC unroll 4
      for (int g = 0; g < Groups; ++g) x[g] = _mm512_load_si512(panel + g * 2 * kGroupRows);
#pragma GCC unroll 24
      for (int c = 0; c < kCols; ++c) {
        int32_t w;
        memcpy(&w, columns + c * kColumnStride, sizeof w);
#pragma GCC unroll 4
        for (int g = 0; g < Groups; ++g) acc[c][g] = dot(acc[c][g], x[g], _mm512_set1_epi32(w));
      }
      panel += Groups * 2 * kGroupRows;
      columns += 2;
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

// Sums of [column][row] to the columns [begin, end) of a tile's outputs, [row][column].
inline void store_columns(const Fp8Linear& args, const Fp8LinearTile& tile, int64_t begin,
                          int64_t end, const float* sums, int64_t sums_stride) {
  for (int64_t col = begin; col < end; col += 16) {
    for (int64_t row = tile.row_begin; row < tile.row_end; row += kGroupRows) {
      const float* const at = sums + (col - begin) * sums_stride + row - tile.row_begin;
      __m512i block[16];
      for (int c = 0; c < 16; ++c) block[c] = _mm512_load_si512(at + c * sums_stride);
      transpose(block);
      const int64_t rows = min_of(kGroupRows, tile.row_end - row);
      for (int64_t r = 0; r < rows; ++r) {
        store_outputs(args, row + r, tile.col_begin + col, min_of(16, end - col),
                      _mm512_castsi512_ps(block[r]));
      }
    }
  }
}

// Rows of the largest tile, in whole registers.
inline int64_t panel_rows(const Fp8Linear& args) {
  return round_up(min_of(args.rows, kMaxRows), kGroupRows);
}

// How many k are packed and expanded at a time: the fewer rows, the longer the stretches of weights
// that are read.
inline int64_t panel_block_k(const Fp8Linear& args) {
  return equal_block_k(args.in_features, min_of(kMaxBlockK, kPanelElements / panel_rows(args)));
}

struct PanelScratch {
  uint16_t* panels;   // [groups][block of k][16], a panel after the other
  uint16_t* columns;  // two blocks of [kBlockCols][kColumnStride]: multiplied, and expanded
  float* sums;        // [columns][rows], both rounded up
};

inline void linear_panels(const Fp8Linear& args, const Fp8LinearTile& tile,
                          const PanelScratch& scratch) {
  const int64_t rows = tile.row_end - tile.row_begin;
  const int64_t cols = tile.col_end - tile.col_begin;
  const int64_t groups = round_up(rows, kGroupRows) / kGroupRows;
  const int64_t sums_stride = groups * kGroupRows;
  const Bf16Expander activations(args.x_format);
  const Bf16Expander weights(args.w_format);

  // With no k at all, one empty block sets the sums to zero.
  const int64_t block_k = panel_block_k(args);
  for (int64_t begin = 0; begin == 0 || begin < args.in_features; begin += block_k) {
    const int64_t count = min_of(block_k, args.in_features - begin);
    const int64_t k = round_up(count, kStep);
    const bool last = begin + count == args.in_features;
    int64_t stored = 0;  // columns of outputs
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t first = group / kPanelGroups * kPanelGroups;  // of the panel
      const int64_t row = group * kGroupRows;
      pack_group(activations, args.x + (tile.row_begin + row) * args.x_stride + begin,
                 args.x_stride, min_of(kGroupRows, rows - row), count, group - first,
                 min_of(kPanelGroups, groups - first), scratch.panels + first * kGroupRows * k);
    }
    // The columns from `col` on, expanded into the two blocks of scratch by turns.
    const auto expansion = [&](int64_t col) {
      const int64_t turn = col / kBlockCols % 2;
      return Expansion{args.w + (tile.col_begin + col) * args.in_features + begin, args.in_features,
                       count, min_of(kBlockCols, max_of(0, cols - col)),
                       scratch.columns + turn * kBlockCols * kColumnStride};
    };
    for (int64_t i = 0; i < count; i += kStep) expansion(0).step(weights, i);
    for (int64_t col = 0; col < cols; col += kBlockCols) {
      const int64_t block_cols = min_of(kBlockCols, cols - col);
      float* const sums = scratch.sums + col * sums_stride;
      const uint16_t* const columns = expansion(col).out;
      const Expansion upcoming = expansion(col + kBlockCols);
      for (int64_t group = 0; group < groups; group += kPanelGroups) {
        with_count<kPanelGroups>(min_of(kPanelGroups, groups - group), [&](auto of_panel) {
          constexpr int kGroups = decltype(of_panel)::value;
          constexpr int kCols = kBlockCols / kGroups;
          for (int64_t c = 0; c < block_cols; c += kCols) {
            // The first panel's products expand for all.
            multiply<kGroups>(scratch.panels + group * kGroupRows * k, columns + c * kColumnStride,
                              k, begin > 0, weights, upcoming.part(c, group == 0 ? kCols : 0),
                              sums + c * sums_stride + group * kGroupRows, sums_stride);
          }
        });
      }
      const int64_t done = col + block_cols;
      if (last && (done % 16 == 0 || done == cols)) {
        store_columns(args, tile, stored, done, scratch.sums + stored * sums_stride, sums_stride);
        stored = done;
      }
    }
  }
}

}  // namespace
}  // namespace octet
