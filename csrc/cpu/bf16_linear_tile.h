// bf16_linear in f32, for processors without products of bf16; an instruction set supplies the
// arithmetic.
//
// Weights are read as they lie, once for the rows of a tile, and become f32 on the way to the
// multiplication; activations become f32 once a tile, and stay in the first-level cache.
//
// `Isa` provides what dot_tile.h asks for, and
//   expand(p)                kVecs * kLanes bf16, Packed as it likes; expand_tail(p, count): zeros
//                            past count
//   part<v>(packed)          the v-th of the kVecs registers of f32. The order within a Packed is
//                            free.
//   kTileRows, kTileCols     the register tile
//
// Everything here has internal linkage, for each including file is compiled with its own flags.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "cpu/dot_tile.h"
#include "kernels.h"

namespace octet {
namespace {

// Of a tile at most. More rows find their weights in the last-level cache.
constexpr int64_t kMaxTileRows = 8;
constexpr int64_t kMaxTileCols = 512;
// How many k are multiplied at a time, at most: eight rows of so many take 24 of the 32 KiB that
// first-level caches have.
constexpr int64_t kMaxBlockK = 768;
// How far ahead of the arithmetic weights are fetched, at least.
constexpr int64_t kPrefetchBytes = 8192;

// Columns of weights as they are stored.
template <class Isa>
struct Bf16Columns {
  static constexpr int kVecs = Isa::kVecs;
  using Packed = typename Isa::Packed;
  const uint16_t* w;
  int64_t stride;  // from column to column
  int64_t count;   // of each column
  int64_t ahead;   // elements to what is fetched meanwhile

  int64_t whole() const { return count - count % (kVecs * Isa::kLanes); }
  OCTET_INLINE Packed fetch(int col, int64_t i) const {
    const uint16_t* at = w + col * stride + i;
    // A prefetch past the end of the weights does nothing.
    __builtin_prefetch(at + ahead);
    return Isa::expand(at);
  }
  OCTET_INLINE Packed fetch_tail(int col, int64_t i) const {
    return Isa::expand_tail(w + col * stride + i, count - i);
  }
  template <int V>
  static OCTET_INLINE typename Isa::Vec part(const Packed& packed) {
    return Isa::template part<V>(packed);
  }
};

// Equal blocks of k, of whole Packed.
template <class Isa>
inline int64_t bf16_block_k(const Bf16Linear& args) {
  constexpr int64_t kStep = Isa::kVecs * Isa::kLanes;
  const int64_t steps = max_of(1, ceil_div(args.in_features, kStep));
  return ceil_div(steps, ceil_div(steps, kMaxBlockK / kStep)) * kStep;
}

// Writes `rows` rows of k activations to x, [rows][padded_k], in the order of the weights' parts.
template <class Isa>
inline void widen_rows(const uint16_t* from, int64_t stride, int64_t rows, int64_t k, float* x) {
  constexpr int64_t kStep = Isa::kVecs * Isa::kLanes;
  for (int64_t row = 0; row < rows; ++row, from += stride) {
    for (int64_t i = 0; i < k; i += kStep) {
      const typename Isa::Packed packed =
          k - i >= kStep ? Isa::expand(from + i) : Isa::expand_tail(from + i, k - i);
      for_each_part<Isa::kVecs>([&](auto v) {
        Isa::store(x + v.value * Isa::kLanes, Isa::template part<v.value>(packed));
      });
      x += kStep;
    }
  }
}

// Sets sums, [rows][kMaxTileCols], to the products of all rows of x with C columns, or adds them.
template <class Isa, int C>
inline void bf16_columns(const float* x, int64_t rows, int64_t padded_k,
                         const Bf16Columns<Isa>& columns, bool accumulate, float* sums) {
  const int64_t groups = ceil_div(rows, Isa::kTileRows);
  int64_t row = 0;
  for (int64_t group = 0; group < groups; ++group) {
    with_count<Isa::kTileRows>(ceil_div(rows - row, groups - group), [&](auto count) {
      constexpr int R = decltype(count)::value;
      float products[R * C];
      dot_tile<Isa, R, C>(x + row * padded_k, padded_k, columns, products);
      for (int r = 0; r < R; ++r) {
        for (int c = 0; c < C; ++c) {
          float& at = sums[(row + r) * kMaxTileCols + c];
          at = products[r * C + c] + (accumulate ? at : 0.0f);
        }
      }
      row += R;
    });
  }
}

template <class Isa>
inline void store_sums(const Bf16Linear& args, const LinearTile& tile, const float* sums) {
  for (int64_t row = tile.row_begin; row < tile.row_end; ++row, sums += kMaxTileCols) {
    for (int64_t col = tile.col_begin; col < tile.col_end; ++col) {
      const float bias = args.bias != nullptr ? args.bias[col] : 0.0f;
      store_rounded(args.out, args.out_dtype, row * args.out_features + col,
                    sums[col - tile.col_begin] + bias);
    }
  }
}

template <class Isa>
inline void bf16_linear_tile(const Bf16Linear& args, const LinearTile& tile, void* scratch) {
  const int64_t rows = tile.row_end - tile.row_begin;
  const int64_t cols = tile.col_end - tile.col_begin;
  const int64_t block_k = bf16_block_k<Isa>(args);
  float* const x = static_cast<float*>(scratch);
  float* const sums = x + kMaxTileRows * block_k;

  // With no k at all, one empty block sets the sums to zero.
  for (int64_t begin = 0; begin == 0 || begin < args.in_features; begin += block_k) {
    const int64_t k = min_of(block_k, args.in_features - begin);
    const int64_t padded_k = round_up(k, Isa::kVecs * Isa::kLanes);
    const int64_t bytes = max_of(k, 1) * static_cast<int64_t>(sizeof(uint16_t));
    const int64_t ahead = round_up(ceil_div(kPrefetchBytes, bytes), Isa::kTileCols);
    widen_rows<Isa>(args.x + tile.row_begin * args.x_stride + begin, args.x_stride, rows, k, x);
    Bf16Columns<Isa> columns{args.w + tile.col_begin * args.in_features + begin, args.in_features,
                             k, ahead * args.in_features};
    int64_t col = 0;
    for (; col + Isa::kTileCols <= cols; col += Isa::kTileCols) {
      bf16_columns<Isa, Isa::kTileCols>(x, rows, padded_k, columns, begin > 0, sums + col);
      columns.w += Isa::kTileCols * columns.stride;
    }
    for (; col < cols; ++col, columns.w += columns.stride) {
      bf16_columns<Isa, 1>(x, rows, padded_k, columns, begin > 0, sums + col);
    }
  }
  store_sums<Isa>(args, tile, sums);
}

template <class Isa>
inline LinearLimits bf16_linear_limits(const Bf16Linear& args) {
  const int64_t floats = kMaxTileRows * (bf16_block_k<Isa>(args) + kMaxTileCols);
  return LinearLimits{kMaxTileRows, kMaxTileCols, static_cast<size_t>(floats) * sizeof(float)};
}

}  // namespace
}  // namespace octet
