// fp8_linear for many rows on AVX-512: an outer product over cache blocks, whose innermost products
// a unit supplies: vdpbf16ps on registers, or AMX on tiles.
//
// For a block of k, the activations of a tile are packed once into panels in which a register holds
// one pair of adjacent k of 16 rows. The weights are expanded a few columns at a time, with k
// adjacent as they are stored, while the columns before them are multiplied. Partial sums stay in
// scratch from one block of k to the next.
// (Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008.)
//
// `Unit` provides
//   kPanelGroups        groups of 16 rows in a panel
//   kBlockCols          columns expanded at a time
//   kMaxRows, kMaxCols  of a tile of outputs; they bound the panels and the partial sums
//   kMaxBlockK          how many k are packed and expanded at a time
//   cols_at_once(groups)      columns that one call multiplies, with a panel of so many groups
//   upcoming_cols(panels, groups)  columns that one call expands meanwhile
//   multiply<groups>(panel, columns, k, accumulate, weights, upcoming, sums, sums_stride)
//                       adds the products of a panel and of cols_at_once(groups) columns, over k
//                       expanded codes, to sums, [column][sums_stride]; or sets them. Expands
//                       `upcoming` meanwhile.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "cpu/fp8_linear_avx512_direct.h"
#include "cpu/fp8_linear_avx512_expand.h"
#include "cpu/fp8_linear_avx512_output.h"
#include "cpu/fp8_linear_common.h"
#include "kernels.h"

namespace octet {
namespace {

constexpr int64_t kGroupRows = 16;  // rows in a register

// Elements from column to column of expanded weights; the odd line keeps columns in different sets.
template <class Unit>
constexpr int64_t kColumnStride = Unit::kMaxBlockK + 32;

// Sixteen codes of each of the rows 0, 4, 8 and 12, one row a lane: those of `mask`, and of the
// rows below `rows`.
OCTET_INLINE __m512i load_lanes(const uint8_t* codes, int64_t stride, int64_t rows,
                                __mmask16 mask) {
  __m512i lanes = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (int64_t lane = 0; lane < 4; ++lane) {
    if (4 * lane >= rows) break;
    const __m128i row = _mm_maskz_loadu_epi8(mask, codes + 4 * lane * stride);
    lanes = _mm512_mask_broadcast_i32x4(lanes, static_cast<__mmask16>(0xF << 4 * lane), row);
  }
  return lanes;
}

// Packs `count` codes of up to 16 rows, which become register `group` of `groups` of each pair.
//
// Pairs of codes are transposed before they are expanded, when they are half as large. Within a
// step the pairs take the order in which look_up() leaves those of 64 adjacent codes: the first
// four of every eight, then the others.
inline void pack_group(const Bf16Expander& activations, const uint8_t* codes, int64_t stride,
                       int64_t rows, int64_t count, int64_t group, int64_t groups,
                       uint16_t* panel) {
  constexpr int64_t kPiece = 16;
  const int64_t pair_stride = groups * 2 * kGroupRows;
  for (int64_t i = 0; i < round_up(count, kStep); i += kPiece) {
    const __mmask16 mask =
        static_cast<__mmask16>((1u << min_of(kPiece, max_of(0, count - i))) - 1u);
    __m512i v[4];
#pragma GCC unroll 4
    for (int64_t r = 0; r < 4; ++r) {
      v[r] = load_lanes(codes + r * stride + i, stride, rows - r, mask);
    }
    const __m512i low[2] = {_mm512_unpacklo_epi16(v[0], v[1]), _mm512_unpacklo_epi16(v[2], v[3])};
    const __m512i high[2] = {_mm512_unpackhi_epi16(v[0], v[1]), _mm512_unpackhi_epi16(v[2], v[3])};
    const __m512i two_pairs[4] = {
        _mm512_unpacklo_epi32(low[0], low[1]), _mm512_unpackhi_epi32(low[0], low[1]),
        _mm512_unpacklo_epi32(high[0], high[1]), _mm512_unpackhi_epi32(high[0], high[1])};
    const int64_t first_pair = i / kStep * (kStep / 2) + i % kStep / 4;
#pragma GCC unroll 4
    for (int64_t j = 0; j < 4; ++j) {
      const int64_t pair = first_pair + j / 2 * (kStep / 4) + j % 2 * 2;
      uint16_t* const out = panel + pair * pair_stride + group * 2 * kGroupRows;
      __m512i expanded[2];
      activations.look_up(two_pairs[j], expanded);
      _mm512_store_si512(out, expanded[0]);
      _mm512_store_si512(out + pair_stride, expanded[1]);
    }
  }
}

// `cols` columns of `count` codes, and where they are expanded to: [column][out_stride].
struct Expansion {
  const uint8_t* codes;
  int64_t codes_stride;
  int64_t count;
  int64_t cols;
  const uint8_t* later;  // what is expanded after them; to be fetched
  uint16_t* out;
  int64_t out_stride;

  // The columns from `col` on, of which there may be none.
  Expansion part(int64_t col, int64_t most) const {
    return Expansion{codes + col * codes_stride,
                     codes_stride,
                     count,
                     max_of(0, min_of(most, cols - col)),
                     later + col * codes_stride,
                     out + col * out_stride,
                     out_stride};
  }

  // Expands the i-th code of a column and those of its step, if there are any.
  OCTET_INLINE void step(const Bf16Expander& weights, int64_t col, int64_t i) const {
    if (col >= cols || i >= count) return;
    const int64_t at = col * codes_stride + i;
    _mm_prefetch(later + at, _MM_HINT_T1);
    weights.expand_row(codes + at, min_of(kStep, count - i), out + col * out_stride + i);
  }

  void all(const Bf16Expander& weights) const {
    for (int64_t col = 0; col < cols; ++col) {
      for (int64_t i = 0; i < count; i += kStep) step(weights, col, i);
    }
  }
};

// Sums of [column][row] to the columns [begin, end) of a tile's outputs, [row][column].
inline void store_columns(const Fp8Linear& args, const LinearTile& tile, int64_t begin, int64_t end,
                          const float* sums, int64_t sums_stride) {
  for (int64_t row = tile.row_begin; row < tile.row_end; row += kGroupRows) {
    const int64_t rows = min_of(kGroupRows, tile.row_end - row);
    for (int64_t col = begin; col < end; col += 16) {
      const float* const at = sums + (col - begin) * sums_stride + row - tile.row_begin;
      __m512i block[16];
#pragma GCC unroll 16
      for (int c = 0; c < 16; ++c) block[c] = _mm512_load_si512(at + c * sums_stride);
      transpose(block);
      const OutputColumns outputs(args, tile.col_begin + col, min_of(16, end - col));
      for (int64_t r = 0; r < rows; ++r) outputs.store(row + r, _mm512_castsi512_ps(block[r]));
    }
  }
}

// Rows of the largest tile, in whole registers.
template <class Unit>
inline int64_t panel_rows(const Fp8Linear& args) {
  return round_up(min_of(args.rows, Unit::kMaxRows), kGroupRows);
}

template <class Unit>
inline int64_t panel_block_k(const Fp8Linear& args) {
  return equal_block_k(args.in_features, Unit::kMaxBlockK);
}

struct PanelScratch {
  uint16_t* panels;   // [groups][block of k][16], a panel after the other
  uint16_t* columns;  // two blocks of [kBlockCols][kColumnStride]: multiplied, and expanded
  float* sums;        // [columns][rows], both rounded up
};

// A block of k of the activations of a tile, as panels.
template <class Unit>
inline void pack_panels(const Fp8Linear& args, const LinearTile& tile, int64_t begin, int64_t count,
                        uint16_t* panels) {
  const Bf16Expander activations(args.x_format);
  const int64_t rows = tile.row_end - tile.row_begin;
  const int64_t groups = ceil_div(rows, kGroupRows);
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t first = group / Unit::kPanelGroups * Unit::kPanelGroups;  // of the panel
    const int64_t row = group * kGroupRows;
    pack_group(activations, args.x + (tile.row_begin + row) * args.x_stride + begin, args.x_stride,
               min_of(kGroupRows, rows - row), count, group - first,
               min_of(Unit::kPanelGroups, groups - first),
               panels + first * kGroupRows * round_up(count, kStep));
  }
}

template <class Unit>
inline void linear_panels(const Fp8Linear& args, const LinearTile& tile,
                          const PanelScratch& scratch) {
  constexpr int64_t kBlockCols = Unit::kBlockCols;
  constexpr int64_t kPanelGroups = Unit::kPanelGroups;
  constexpr int64_t kStride = kColumnStride<Unit>;
  const int64_t cols = tile.col_end - tile.col_begin;
  const int64_t groups = ceil_div(tile.row_end - tile.row_begin, kGroupRows);
  const int64_t panels = ceil_div(groups, kPanelGroups);
  const int64_t sums_stride = groups * kGroupRows;
  const Bf16Expander weights(args.w_format);

  // Blocks of weights, one after another: all columns of a block of k, then of the next. They are
  // expanded into the two halves of scratch by turns. With no k at all, one empty block of k sets
  // the sums to zero. No block is longer than the one before, beside whose products it is expanded.
  const int64_t block_k = panel_block_k<Unit>(args);
  const int64_t blocks_across = ceil_div(cols, kBlockCols);
  const int64_t blocks = blocks_across * max_of(1, ceil_div(args.in_features, block_k));
  const auto codes_of = [&](int64_t block) {
    return args.w + (tile.col_begin + block % blocks_across * kBlockCols) * args.in_features +
           block / blocks_across * block_k;
  };
  const auto expansion = [&](int64_t block) {
    const int64_t count = min_of(block_k, args.in_features - block / blocks_across * block_k);
    const int64_t col = block % blocks_across * kBlockCols;
    return Expansion{codes_of(block),
                     args.in_features,
                     count,
                     block < blocks ? min_of(kBlockCols, cols - col) : 0,
                     codes_of(min_of(block + 1, blocks - 1)),
                     scratch.columns + block % 2 * kBlockCols * kStride,
                     kStride};
  };
  expansion(0).all(weights);

  int64_t stored = 0;  // columns of outputs
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t col = block % blocks_across * kBlockCols;
    const int64_t begin = block / blocks_across * block_k;
    const Expansion current = expansion(block);
    const Expansion upcoming = expansion(block + 1);
    const int64_t k = round_up(current.count, kStep);
    const bool last = begin + current.count == args.in_features;
    if (col == 0) pack_panels<Unit>(args, tile, begin, current.count, scratch.panels);
    int64_t expanded = 0;  // upcoming columns
    for (int64_t group = 0; group < groups; group += kPanelGroups) {
      with_count<kPanelGroups>(min_of(kPanelGroups, groups - group), [&](auto of_panel) {
        constexpr int kGroups = decltype(of_panel)::value;
        constexpr int64_t kCols = Unit::cols_at_once(kGroups);
        const int64_t meanwhile = Unit::upcoming_cols(panels, kGroups);
        for (int64_t c = 0; c < current.cols; c += kCols) {
          float* const sums = scratch.sums + (col + c) * sums_stride + group * kGroupRows;
          Unit::template multiply<kGroups>(scratch.panels + group * kGroupRows * k,
                                           current.out + c * kStride, k, begin > 0, weights,
                                           upcoming.part(expanded, meanwhile), sums, sums_stride);
          expanded += meanwhile;
        }
      });
    }
    upcoming.part(expanded, kBlockCols).all(weights);
    const int64_t done = col + current.cols;
    if (last && (done % 16 == 0 || done == cols)) {
      store_columns(args, tile, stored, done, scratch.sums + stored * sums_stride, sums_stride);
      stored = done;
    }
  }
}

// Where the parts of a thread's scratch begin, in bytes; each is a whole number of cache lines.
template <class Unit>
struct ScratchLayout {
  int64_t columns;  // after the activations
  int64_t sums;
  int64_t end;

  explicit ScratchLayout(const Fp8Linear& args) {
    const bool direct = args.rows <= kDirectRows;
    const int64_t rows = direct ? args.rows : panel_rows<Unit>(args);
    const int64_t k = direct ? direct_block_k(args) : panel_block_k<Unit>(args);
    const int64_t activations = rows * k;
    columns = activations * static_cast<int64_t>(sizeof(uint16_t));
    sums = columns +
           2 * Unit::kBlockCols * kColumnStride<Unit> * static_cast<int64_t>(sizeof(uint16_t));
    const int64_t cols = round_up(min_of(args.out_features, Unit::kMaxCols), 2 * Unit::kBlockCols);
    end = sums + rows * cols * static_cast<int64_t>(sizeof(float));
  }
};

template <class Unit>
inline LinearLimits bf16_limits(const Fp8Linear& args) {
  return LinearLimits{Unit::kMaxRows, Unit::kMaxCols,
                      static_cast<size_t>(ScratchLayout<Unit>(args).end)};
}

// A few rows straight from the codes, more as panels.
template <class Unit>
inline void bf16_linear(const Fp8Linear& args, const LinearTile& tile, void* scratch) {
  const ScratchLayout<Unit> layout(args);
  uint8_t* const base = static_cast<uint8_t*>(scratch);
  uint16_t* const activations = reinterpret_cast<uint16_t*>(base);
  float* const sums = reinterpret_cast<float*>(base + layout.sums);
  if (args.rows <= kDirectRows) {
    linear_direct(args, tile, activations, sums);
  } else {
    uint16_t* const columns = reinterpret_cast<uint16_t*>(base + layout.columns);
    linear_panels<Unit>(args, tile, PanelScratch{activations, columns, sums});
  }
}

}  // namespace
}  // namespace octet
