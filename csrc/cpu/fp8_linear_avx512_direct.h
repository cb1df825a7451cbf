// fp8_linear for a few rows on AVX512-BF16, where reading the weights is most of the work: the
// codes are streamed once and expanded in registers, with k adjacent in both operands.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "cpu/fp8_linear_avx512_expand.h"
#include "cpu/fp8_linear_avx512_output.h"
#include "cpu/fp8_linear_common.h"
#include "kernels.h"

namespace octet {
namespace {

constexpr int64_t kDirectRows = 8;

// How far ahead of the arithmetic a stream of codes is fetched. The hardware's prefetchers stop at
// the end of a page; beyond it the address translation alone takes as long as a hundred products.
constexpr int64_t kPrefetchBytes = 8192;

// Activations of a block of k: what L1 holds beside the weights that stream through it.
constexpr int64_t kDirectElements = 12 << 10;

// Columns side by side, so that accumulators and expanded weights fit the registers.
constexpr int direct_cols(int rows) { return rows <= 4 ? 4 : 2; }

// How many k are multiplied at a time. Up to four rows read an activation so seldom, once in four
// products, that it may come from L2: whole columns, whose sums are made once, are faster.
inline int64_t direct_block_k(const Fp8Linear& args) {
  if (args.rows <= 4) return max_of(kStep, round_up(args.in_features, kStep));
  return equal_block_k(args.in_features, kDirectElements / args.rows);
}

// The sums of each of four registers.
OCTET_INLINE __m128 horizontal_sums(const __m512* v) {
  const __m512 even = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
  const __m512 odd = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
  const __m512 sums = _mm512_add_ps(_mm512_shuffle_ps(even, odd, _MM_SHUFFLE(1, 0, 1, 0)),
                                    _mm512_shuffle_ps(even, odd, _MM_SHUFFLE(3, 2, 3, 2)));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps(sums, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

// sums[r * C + c] = the dot product of row r of x, k codes padded to whole steps, with the c-th
// column of codes. Fetches the codes `ahead` of those that it reads.
template <int R, int C>
OCTET_INLINE void dot_columns(const Bf16Expander& weights, const uint16_t* x, const uint8_t* codes,
                              int64_t column_stride, int64_t k, int64_t ahead, float* sums) {
  const int64_t padded_k = round_up(k, kStep);
  constexpr int kSums = (R * C + 3) / 4 * 4;
  __m512 acc[kSums];
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) acc[i] = _mm512_setzero_ps();

  const auto accumulate = [&](int64_t i, const __m512i(&w)[C][2]) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const __m512i a = _mm512_load_si512(x + r * padded_k + i + half * (kStep / 2));
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) acc[r * C + c] = dot(acc[r * C + c], a, w[c][half]);
      }
    }
  };
  __m512i w[C][2];
  int64_t i = 0;
  for (; i + kStep <= k; i += kStep) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const uint8_t* const at = codes + c * column_stride + i;
      _mm_prefetch(at + ahead, _MM_HINT_T1);
      weights.expand(at, w[c]);
    }
    accumulate(i, w);
  }
  if (i < k) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) weights.expand_tail(codes + c * column_stride + i, k - i, w[c]);
    accumulate(i, w);
  }
#pragma GCC unroll 4
  for (int s = 0; s < kSums; s += 4) _mm_storeu_ps(sums + s, horizontal_sums(acc + s));
}

// Sets sums, [R][sums_stride], to the products of x with `k` codes of `cols` columns, or adds them.
//
// The columns are read in as many streams as there are columns side by side: stream s starts at its
// s-th part and goes on from one column to the next in memory, for a few long streams are read
// faster than many short ones.
template <int R>
inline void direct_sums(const Bf16Expander& weights, const uint16_t* x, const uint8_t* codes,
                        int64_t column_stride, int64_t cols, int64_t k, bool accumulate,
                        float* sums, int64_t sums_stride) {
  constexpr int kCols = direct_cols(R);
  const int64_t stream = cols / kCols;
  const int64_t ahead = ceil_div(kPrefetchBytes, max_of(k, kStep)) * column_stride;
  float of_columns[kDirectRows * 4];
  const auto put = [&](int64_t row, int64_t col, float sum) {
    float& at = sums[row * sums_stride + col];
    at = accumulate ? at + sum : sum;
  };
  for (int64_t col = 0; col < stream; ++col) {
    dot_columns<R, kCols>(weights, x, codes + col * column_stride, stream * column_stride, k, ahead,
                          of_columns);
    for (int r = 0; r < R; ++r) {
      for (int c = 0; c < kCols; ++c) put(r, c * stream + col, of_columns[r * kCols + c]);
    }
  }
  for (int64_t col = stream * kCols; col < cols; ++col) {
    dot_columns<R, 1>(weights, x, codes + col * column_stride, 0, k, ahead, of_columns);
    for (int r = 0; r < R; ++r) put(r, col, of_columns[r]);
  }
}

// x: room for the activations of a block of k. sums: for those of a tile, its columns rounded up.
inline void linear_direct(const Fp8Linear& args, const LinearTile& tile, uint16_t* x, float* sums) {
  const int64_t rows = tile.row_end - tile.row_begin;
  const int64_t cols = tile.col_end - tile.col_begin;
  const int64_t sums_stride = round_up(cols, 16);
  const Bf16Expander activations(args.x_format);
  const Bf16Expander weights(args.w_format);

  // With no k at all, one empty block sets the sums to zero.
  const int64_t block_k = direct_block_k(args);
  for (int64_t begin = 0; begin == 0 || begin < args.in_features; begin += block_k) {
    const int64_t k = min_of(block_k, args.in_features - begin);
    for (int64_t r = 0; r < rows; ++r) {
      activations.expand_row(args.x + (tile.row_begin + r) * args.x_stride + begin, k,
                             x + r * round_up(k, kStep));
    }
    const uint8_t* const codes = args.w + tile.col_begin * args.in_features + begin;
    with_count<kDirectRows>(rows, [&](auto count) {
      direct_sums<decltype(count)::value>(weights, x, codes, args.in_features, cols, k, begin > 0,
                                          sums, sums_stride);
    });
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; c += 16) {
      OutputColumns(args, tile.col_begin + c, min_of(16, cols - c))
          .store(tile.row_begin + r, _mm512_load_ps(sums + r * sums_stride + c));
    }
  }
}

}  // namespace
}  // namespace octet
