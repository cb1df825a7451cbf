// The blocking of the fp8_linear kernels that compute in f32; an instruction set supplies the
// arithmetic.
//
// Both operands lie with k adjacent, so a tile of R rows by C columns keeps R * C vector
// accumulators and walks k, and nothing has to be transposed. Up to kDirectRows rows the weights
// are streamed once and expanded in registers. With more rows a block of weights is expanded to
// scratch once and used for every row of a block of activations. Either way each output is summed
// in the same order.
//
// `Isa` provides
//   Operand                 what a code expands to; Vec, a register of kLanes of them
//   Acc                     a register of partial f32 sums; zero(), dot(acc, a, b), sum(acc)
//   load(p), store(p, v)    of a Vec
//   kVecs                   registers that expand() fills at once, from kVecs * kLanes codes. The
//                           order of the operands within them is free, since both sides share it.
//   Decoder(format)         expand(codes, out), expand_tail(codes, count, out): zeros past count;
//                           both give values divided by factor(format), a power of two
//   kDirectRows, direct_cols(rows), kTileRows, kTileCols    the register tiles
//
// Everything here has internal linkage, for each including file is compiled with its own flags.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "cpu/fp8_linear_common.h"
#include "float16.h"
#include "kernels.h"

namespace octet {
namespace {

constexpr size_t kActivationBlockBytes = size_t{2} << 20;
constexpr size_t kWeightBlockBytes = size_t{256} << 10;

// How many rows and columns are expanded at a time.
template <class Isa>
struct Blocks {
  int64_t k;  // in_features, padded with zeros to whole expansions
  int64_t rows;
  int64_t cols;

  explicit Blocks(const Fp8Linear& args) {
    k = round_up(args.in_features, Isa::kVecs * Isa::kLanes);
    const int64_t bytes = (k > 0 ? k : 1) * static_cast<int64_t>(sizeof(typename Isa::Operand));
    rows = fit(kActivationBlockBytes, bytes, args.rows, Isa::kTileRows);
    if (rows < Isa::kDirectRows) rows = Isa::kDirectRows;
    cols = fit(kWeightBlockBytes, bytes, args.out_features, Isa::kTileCols);
  }

  size_t scratch_bytes() const {
    return static_cast<size_t>((rows + cols) * k) * sizeof(typename Isa::Operand);
  }

 private:
  // As many vectors as fit, in whole tiles, at least one tile and no more than there are.
  static int64_t fit(size_t budget, int64_t bytes, int64_t available, int64_t tile) {
    const int64_t fitting = static_cast<int64_t>(budget) / bytes / tile * tile;
    const int64_t wanted = round_up(available, tile);
    const int64_t most = fitting < wanted ? fitting : wanted;
    return most > tile ? most : tile;
  }
};

// Expands `count` vectors of k codes to operands, zero-padded to a multiple of an expansion.
template <class Isa>
inline void expand_rows(const typename Isa::Decoder& decoder, const uint8_t* codes, int64_t stride,
                        int64_t count, int64_t k, typename Isa::Operand* out) {
  constexpr int64_t kStep = Isa::kVecs * Isa::kLanes;
  for (int64_t row = 0; row < count; ++row, codes += stride) {
    for (int64_t i = 0; i < k; i += kStep) {
      typename Isa::Vec vecs[Isa::kVecs];
      if (k - i >= kStep) {
        decoder.expand(codes + i, vecs);
      } else {
        decoder.expand_tail(codes + i, k - i, vecs);
      }
      for (int v = 0; v < Isa::kVecs; ++v) Isa::store(out + v * Isa::kLanes, vecs[v]);
      out += kStep;
    }
  }
}

// Columns of weights as they are stored, expanded on the way.
template <class Isa>
struct CodeColumns {
  static constexpr int kVecs = Isa::kVecs;
  const typename Isa::Decoder& decoder;
  const uint8_t* codes;
  int64_t in_features;
  int64_t next_tile;  // bytes from these columns to the ones that are read after them

  // How far fetch() reaches; fetch_tail() gives the rest, padded with zeros.
  int64_t whole() const { return in_features - in_features % (kVecs * Isa::kLanes); }
  OCTET_INLINE void fetch(int col, int64_t i, typename Isa::Vec* out) const {
    const uint8_t* at = codes + col * in_features + i;
    // Rows of weights are too short a stream for the hardware to run ahead of. A prefetch past the
    // end of the weights does nothing.
    __builtin_prefetch(at + next_tile);
    decoder.expand(at, out);
  }
  OCTET_INLINE void fetch_tail(int col, int64_t i, typename Isa::Vec* out) const {
    decoder.expand_tail(codes + col * in_features + i, in_features - i, out);
  }
};

// Columns of weights that expand_rows() wrote.
template <class Isa>
struct ExpandedColumns {
  static constexpr int kVecs = 1;
  const typename Isa::Operand* operands;
  int64_t stride;

  int64_t whole() const { return stride; }
  OCTET_INLINE void fetch(int col, int64_t i, typename Isa::Vec* out) const {
    *out = Isa::load(operands + col * stride + i);
  }
  OCTET_INLINE void fetch_tail(int col, int64_t i, typename Isa::Vec* out) const {
    fetch(col, i, out);
  }
};

// sums[r * C + c] = the dot product of row r of x with column c.
template <class Isa, int R, int C, class Columns>
OCTET_INLINE void dot_tile(const typename Isa::Operand* x, int64_t k, const Columns& columns,
                           float* sums) {
  using Vec = typename Isa::Vec;
  typename Isa::Acc acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) acc[r][c] = Isa::zero();
  }
  // Columns that are expanded on the way fill the registers one by one; of those that are there
  // already, each row's operand is loaded once for all.
  constexpr int kAtOnce = Columns::kVecs > 1 ? 1 : C;
  const auto accumulate = [&](int64_t i, const auto& fetch) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int begin = 0; begin < C; begin += kAtOnce) {
      Vec w[kAtOnce][Columns::kVecs];
#pragma GCC unroll 8
      for (int c = 0; c < kAtOnce; ++c) fetch(begin + c, i, w[c]);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < Columns::kVecs; ++v) {
          const Vec a = Isa::load(x + r * k + i + v * Isa::kLanes);
#pragma GCC unroll 8
          for (int c = 0; c < kAtOnce; ++c) {
            acc[r][begin + c] = Isa::dot(acc[r][begin + c], a, w[c][v]);
          }
        }
      }
    }
  };
  const int64_t whole = columns.whole();
  for (int64_t i = 0; i < whole; i += Columns::kVecs * Isa::kLanes) {
    accumulate(i, [&](int c, int64_t at, Vec* w)
                      __attribute__((always_inline)) { columns.fetch(c, at, w); });
  }
  if (whole < k) {
    accumulate(whole, [&](int c, int64_t at, Vec* w)
                          __attribute__((always_inline)) { columns.fetch_tail(c, at, w); });
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sums[r * C + c] = Isa::sum(acc[r][c]);
  }
}

inline void store_output(const Fp8Linear& args, int64_t row, int64_t col, float sum) {
  float value = sum * args.x_scale[row] * args.w_scale[col];
  if (args.bias != nullptr) value += args.bias[col];
  const int64_t at = row * args.out_features + col;
  switch (args.out_dtype) {
    case Dtype::kFloat32:
      static_cast<float*>(args.out)[at] = value;
      return;
    case Dtype::kFloat16:
      static_cast<uint16_t*>(args.out)[at] = f32_to_f16(value);
      return;
    case Dtype::kBFloat16:
      static_cast<uint16_t*>(args.out)[at] = f32_to_bf16(value);
      return;
  }
}

template <class Isa, int R, int C, class Columns>
inline void output_tile(const Fp8Linear& args, int64_t row, int64_t col,
                        const typename Isa::Operand* x, int64_t k, const Columns& columns) {
  float sums[R * C];
  dot_tile<Isa, R, C>(x, k, columns, sums);
  using Decoder = typename Isa::Decoder;
  const float factor = Decoder::factor(args.x_format) * Decoder::factor(args.w_format);
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) store_output(args, row + r, col + c, sums[r * C + c] * factor);
  }
}

// A few rows: the columns of a tile straight from their codes.
template <class Isa, int R>
inline void direct_rows(const Fp8Linear& args, const Fp8LinearTile& tile,
                        const typename Isa::Operand* x, int64_t k) {
  constexpr int kCols = Isa::direct_cols(R);
  const typename Isa::Decoder decoder(args.w_format);
  const int64_t row = tile.row_begin;
  int64_t col = tile.col_begin;
  const auto columns = [&] {
    return CodeColumns<Isa>{decoder, args.w + col * args.in_features, args.in_features,
                            kCols * args.in_features};
  };
  for (; col + kCols <= tile.col_end; col += kCols) {
    output_tile<Isa, R, kCols>(args, row, col, x, k, columns());
  }
  for (; col < tile.col_end; ++col) output_tile<Isa, R, 1>(args, row, col, x, k, columns());
}

// A block of rows against a block of columns that is expanded already.
template <class Isa>
inline void expanded_block(const Fp8Linear& args, int64_t row, int64_t rows, int64_t col,
                           int64_t cols, const typename Isa::Operand* x,
                           const typename Isa::Operand* w, int64_t k) {
  for (int64_t r = 0; r < rows; r += Isa::kTileRows) {
    const int64_t tile_rows = rows - r < Isa::kTileRows ? rows - r : Isa::kTileRows;
    with_count<Isa::kTileRows>(tile_rows, [&](auto count) {
      constexpr int kRows = decltype(count)::value;
      int64_t c = 0;
      const auto columns = [&] { return ExpandedColumns<Isa>{w + c * k, k}; };
      for (; c + Isa::kTileCols <= cols; c += Isa::kTileCols) {
        output_tile<Isa, kRows, Isa::kTileCols>(args, row + r, col + c, x + r * k, k, columns());
      }
      for (; c < cols; ++c) {
        output_tile<Isa, kRows, 1>(args, row + r, col + c, x + r * k, k, columns());
      }
    });
  }
}

template <class Isa>
inline void fp8_linear_tile(const Fp8Linear& args, const Fp8LinearTile& tile, void* scratch) {
  using Operand = typename Isa::Operand;
  const Blocks<Isa> blocks(args);
  Operand* const x = static_cast<Operand*>(scratch);
  Operand* const w = x + blocks.rows * blocks.k;
  const int64_t rows = tile.row_end - tile.row_begin;
  expand_rows<Isa>(typename Isa::Decoder(args.x_format), args.x + tile.row_begin * args.x_stride,
                   args.x_stride, rows, args.in_features, x);
  if (rows <= Isa::kDirectRows) {
    with_count<Isa::kDirectRows>(rows, [&](auto count) {
      direct_rows<Isa, decltype(count)::value>(args, tile, x, blocks.k);
    });
    return;
  }
  const typename Isa::Decoder w_decoder(args.w_format);
  for (int64_t col = tile.col_begin; col < tile.col_end; col += blocks.cols) {
    const int64_t cols = min_of(blocks.cols, tile.col_end - col);
    expand_rows<Isa>(w_decoder, args.w + col * args.in_features, args.in_features, cols,
                     args.in_features, w);
    expanded_block<Isa>(args, tile.row_begin, rows, col, cols, x, w, blocks.k);
  }
}

template <class Isa>
inline Fp8LinearLimits fp8_linear_limits(const Fp8Linear& args) {
  const Blocks<Isa> blocks(args);
  return Fp8LinearLimits{blocks.rows, args.out_features, blocks.scratch_bytes()};
}

}  // namespace
}  // namespace octet
