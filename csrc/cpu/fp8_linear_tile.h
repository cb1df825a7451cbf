// The blocking of the fp8_linear kernels that compute in f32; an instruction set supplies the
// arithmetic.
//
// Both operands lie with k adjacent, so a tile of R rows by C columns keeps R * C vector
// accumulators and walks k, and nothing has to be transposed. Up to kDirectRows rows the weights
// are streamed once and expanded in registers. With more rows a block of weights is expanded to
// scratch once and used for every row of a block of activations.
//
// `Isa` provides what dot_tile.h asks for, and
//   Decoder<format>         expand(codes) gives kVecs * kLanes of them at once, Packed as it likes;
//                           expand_tail(codes, count): zeros past count. Values are divided by
//                           kFactor, a power of two
//   part<v>(packed)         the v-th of the kVecs registers. The order of the operands within a
//                           Packed is free, but the same for both formats.
//   kTileRows, kTileCols    the register tile of expanded weights
//   kDirectRows             up to how many rows the weights are streamed
//   direct_cols(rows)       the columns of their register tile
//   direct_k(rows)          how many k of so many rows are multiplied at a time
//
// Everything here has internal linkage, for each including file is compiled with its own flags.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "cpu/dot_tile.h"
#include "cpu/fp8_linear_common.h"
#include "kernels.h"

namespace octet {
namespace {

constexpr size_t kActivationBlockBytes = size_t{2} << 20;
constexpr size_t kWeightBlockBytes = size_t{256} << 10;
// Of a tile of a few rows, whose partial sums are kept.
constexpr int64_t kDirectTileCols = 1024;
// Columns side by side, at most, and how far ahead of the arithmetic codes are fetched, at least.
constexpr int64_t kMaxDirectCols = 4;
constexpr int64_t kPrefetchBytes = 8192;

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

// Calls f(decoder) with the decoder of `format`.
template <class Isa, class F>
inline void with_decoder(Fp8Format format, const F& f) {
  if (format == Fp8Format::kE4M3) {
    f(typename Isa::template Decoder<Fp8Format::kE4M3>());
  } else {
    f(typename Isa::template Decoder<Fp8Format::kE5M2>());
  }
}

// What the sums of such operands are divided by.
template <class Isa>
inline float sum_factor(const Fp8Linear& args) {
  float factor = 1.0f;
  const Fp8Format formats[] = {args.x_format, args.w_format};
  for (const Fp8Format format : formats) {
    with_decoder<Isa>(format, [&](const auto& decoder) { factor *= decoder.kFactor; });
  }
  return factor;
}

// Expands `count` vectors of k codes to operands, zero-padded to a multiple of an expansion.
template <class Isa>
inline void expand_rows(Fp8Format format, const uint8_t* codes, int64_t stride, int64_t count,
                        int64_t k, typename Isa::Operand* out) {
  constexpr int64_t kStep = Isa::kVecs * Isa::kLanes;
  with_decoder<Isa>(format, [&](const auto& decoder) {
    for (int64_t row = 0; row < count; ++row, codes += stride) {
      for (int64_t i = 0; i < k; i += kStep) {
        const typename Isa::Packed packed =
            k - i >= kStep ? decoder.expand(codes + i) : decoder.expand_tail(codes + i, k - i);
        for_each_part<Isa::kVecs>([&](auto v) {
          Isa::store(out + v.value * Isa::kLanes, Isa::template part<v.value>(packed));
        });
        out += kStep;
      }
    }
  });
}

// Columns of weights as they are stored, expanded on the way.
template <class Isa, class Decoder>
struct CodeColumns {
  static constexpr int kVecs = Isa::kVecs;
  using Packed = typename Isa::Packed;
  const Decoder& decoder;
  const uint8_t* codes;
  int64_t stride;  // from column to column
  int64_t count;   // of each column
  int64_t ahead;   // bytes to what is fetched meanwhile

  // How far fetch() reaches; fetch_tail() gives the rest, padded with zeros.
  int64_t whole() const { return count - count % (kVecs * Isa::kLanes); }
  OCTET_INLINE Packed fetch(int col, int64_t i) const {
    const uint8_t* at = codes + col * stride + i;
    // Rows of weights are too short a stream for the hardware to run ahead of. A prefetch past the
    // end of the weights does nothing.
    __builtin_prefetch(at + ahead);
    return decoder.expand(at);
  }
  OCTET_INLINE Packed fetch_tail(int col, int64_t i) const {
    return decoder.expand_tail(codes + col * stride + i, count - i);
  }
  template <int V>
  static OCTET_INLINE typename Isa::Vec part(const Packed& packed) {
    return Isa::template part<V>(packed);
  }
};

// Columns of weights that expand_rows() wrote.
template <class Isa>
struct ExpandedColumns {
  static constexpr int kVecs = 1;
  using Packed = typename Isa::Vec;
  const typename Isa::Operand* operands;
  int64_t stride;

  int64_t whole() const { return stride; }
  OCTET_INLINE Packed fetch(int col, int64_t i) const {
    return Isa::load(operands + col * stride + i);
  }
  OCTET_INLINE Packed fetch_tail(int col, int64_t i) const { return fetch(col, i); }
  template <int V>
  static OCTET_INLINE typename Isa::Vec part(const Packed& packed) {
    return packed;
  }
};

inline void store_output(const Fp8Linear& args, int64_t row, int64_t col, float sum) {
  float value = sum * args.x_scale[row] * args.w_scale[col];
  if (args.bias != nullptr) value += args.bias[col];
  store_rounded(args.out, args.out_dtype, row * args.out_features + col, value);
}

template <class Isa, int R, int C, class Columns>
inline void output_tile(const Fp8Linear& args, int64_t row, int64_t col,
                        const typename Isa::Operand* x, int64_t k, const Columns& columns) {
  float sums[R * C];
  dot_tile<Isa, R, C>(x, k, columns, sums);
  const float factor = sum_factor<Isa>(args);
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) store_output(args, row + r, col + c, sums[r * C + c] * factor);
  }
}

// How many k of a few rows are multiplied at a time: equal blocks, of whole expansions.
template <class Isa>
inline int64_t direct_block_k(const Fp8Linear& args) {
  constexpr int64_t kStep = Isa::kVecs * Isa::kLanes;
  const int64_t steps = max_of(1, ceil_div(args.in_features, kStep));
  const int64_t most = max_of(1, Isa::direct_k(args.rows) / kStep);
  return ceil_div(steps, ceil_div(steps, most)) * kStep;
}

// Sets sums, [R][kDirectTileCols], to the products of R rows with `cols` columns, or adds them.
template <class Isa, int R, class Columns>
inline void direct_sums(const typename Isa::Operand* x, int64_t padded_k, Columns columns,
                        int64_t cols, bool accumulate, float* sums) {
  constexpr int kCols = Isa::direct_cols(R);
  static_assert(kCols <= kMaxDirectCols);
  float of_columns[R * kCols];
  const auto put = [&](int64_t col, int count) {
    for (int r = 0; r < R; ++r) {
      for (int c = 0; c < count; ++c) {
        float& at = sums[r * kDirectTileCols + col + c];
        at = of_columns[r * count + c] + (accumulate ? at : 0.0f);
      }
    }
  };
  int64_t col = 0;
  for (; col + kCols <= cols; col += kCols, columns.codes += kCols * columns.stride) {
    dot_tile<Isa, R, kCols>(x, padded_k, columns, of_columns);
    put(col, kCols);
  }
  for (; col < cols; ++col, columns.codes += columns.stride) {
    dot_tile<Isa, R, 1>(x, padded_k, columns, of_columns);
    put(col, 1);
  }
}

// A few rows: the columns of a tile straight from their codes. x: room for the activations of a
// block of k. sums: for those of a tile.
template <class Isa>
inline void linear_direct(const Fp8Linear& args, const LinearTile& tile, typename Isa::Operand* x,
                          float* sums) {
  const int64_t rows = tile.row_end - tile.row_begin;
  const int64_t cols = tile.col_end - tile.col_begin;

  // With no k at all, one empty block sets the sums to zero.
  const int64_t block_k = direct_block_k<Isa>(args);
  for (int64_t begin = 0; begin == 0 || begin < args.in_features; begin += block_k) {
    const int64_t k = min_of(block_k, args.in_features - begin);
    const int64_t padded_k = round_up(k, Isa::kVecs * Isa::kLanes);
    const int64_t ahead_cols = round_up(ceil_div(kPrefetchBytes, max_of(k, 1)), kMaxDirectCols);
    const int64_t ahead = ahead_cols * args.in_features;
    expand_rows<Isa>(args.x_format, args.x + tile.row_begin * args.x_stride + begin, args.x_stride,
                     rows, k, x);
    with_decoder<Isa>(args.w_format, [&]<class Decoder>(const Decoder& decoder) {
      const uint8_t* const codes = args.w + tile.col_begin * args.in_features + begin;
      const CodeColumns<Isa, Decoder> columns{decoder, codes, args.in_features, k, ahead};
      with_count<Isa::kDirectRows>(rows, [&](auto count) {
        direct_sums<Isa, decltype(count)::value>(x, padded_k, columns, cols, begin > 0, sums);
      });
    });
  }
  const float factor = sum_factor<Isa>(args);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) {
      store_output(args, tile.row_begin + row, tile.col_begin + col,
                   sums[row * kDirectTileCols + col] * factor);
    }
  }
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
inline void fp8_linear_tile(const Fp8Linear& args, const LinearTile& tile, void* scratch) {
  using Operand = typename Isa::Operand;
  Operand* const x = static_cast<Operand*>(scratch);
  if (args.rows <= Isa::kDirectRows) {
    linear_direct<Isa>(args, tile, x,
                       reinterpret_cast<float*>(x + args.rows * direct_block_k<Isa>(args)));
    return;
  }
  const Blocks<Isa> blocks(args);
  Operand* const w = x + blocks.rows * blocks.k;
  const int64_t rows = tile.row_end - tile.row_begin;
  expand_rows<Isa>(args.x_format, args.x + tile.row_begin * args.x_stride, args.x_stride, rows,
                   args.in_features, x);
  for (int64_t col = tile.col_begin; col < tile.col_end; col += blocks.cols) {
    const int64_t cols = min_of(blocks.cols, tile.col_end - col);
    expand_rows<Isa>(args.w_format, args.w + col * args.in_features, args.in_features, cols,
                     args.in_features, w);
    expanded_block<Isa>(args, tile.row_begin, rows, col, cols, x, w, blocks.k);
  }
}

template <class Isa>
inline LinearLimits fp8_linear_limits(const Fp8Linear& args) {
  if (args.rows <= Isa::kDirectRows) {
    const size_t x = static_cast<size_t>(args.rows * direct_block_k<Isa>(args));
    const size_t sums = static_cast<size_t>(args.rows * kDirectTileCols);
    return LinearLimits{Isa::kDirectRows, kDirectTileCols,
                        x * sizeof(typename Isa::Operand) + sums * sizeof(float)};
  }
  const Blocks<Isa> blocks(args);
  return LinearLimits{blocks.rows, args.out_features, blocks.scratch_bytes()};
}

}  // namespace
}  // namespace octet
