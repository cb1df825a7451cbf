// fp8_linear on AMX-BF16, beside AVX512-BF16 and AVX512-VBMI, which expand and pack: a few rows
// straight from the codes, as without AMX; more as products of tiles.
//
// Expanded weights lie as the rows of a tile do, k adjacent, 16 columns of the weights as 16 rows,
// and a panel of activations as the other operand wants it: one row for each pair of k, with 16
// rows of the activations side by side. So nothing is moved but into tiles. The product is that of
// the transposed outputs, as in the other kernels of panels.
//
// tdpbf16ps flushes bf16 and f32 subnormals. No FP8 value is one, and no product of two, and a sum
// of products is a multiple of 2^-32, which is none either.
//
// No machine with AMX has been at hand: this has run on a model of the instructions only, and what
// is said about speed is arithmetic on Intel's documentation.
#include <immintrin.h>

#include "cpu/fp8_linear_avx512_panel.h"
#include "cpu/kernel_list.h"
#include "cpu/tiles_amx.h"

namespace octet {
namespace {

// All registers have 16 rows of 64 bytes: rows, columns and k are padded in scratch.
constexpr TileConfig whole_tiles() {
  TileConfig config{};
  config.palette = 1;
  for (int tile = 0; tile < kTileRegisters; ++tile) {
    config.row_bytes[tile] = kTileRowBytes;
    config.rows[tile] = kTileRows;
  }
  return config;
}
constexpr TileConfig kWholeTiles = whole_tiles();

// Two tiles of columns by up to two of rows: four of sums, and each operand that is loaded is used
// twice, so that four products, of 16 cycles each, wait for four loads.
struct TileUnit {
  static constexpr int64_t kPanelGroups = 2;
  static constexpr int64_t kBlockCols = 2 * kTileRows;
  static constexpr int64_t kMaxRows = 128;
  static constexpr int64_t kMaxCols = 1024;  // bounds the partial sums to 512 KiB
  // The expanded columns of a block take 34 KiB, of an L1 cache of 48, and are read from there for
  // every panel of rows. Sums are moved once in 64 products.
  static constexpr int64_t kMaxBlockK = 512;

  static constexpr int64_t cols_at_once(int64_t) { return kBlockCols; }
  // An even share for each panel: a step of one column takes some five cycles of the other ports.
  static constexpr int64_t upcoming_cols(int64_t panels, int64_t) {
    return ceil_div(kBlockCols, panels);
  }

  template <int Groups>
  static void multiply(const uint16_t* panel, const uint16_t* columns, int64_t k, bool accumulate,
                       const Bf16Expander& weights, const Expansion& upcoming, float* sums,
                       int64_t sums_stride) {
    constexpr int64_t kTileK = kTileRowBytes / sizeof(uint16_t);
    constexpr int64_t kRowStride = kColumnStride<TileUnit> * sizeof(uint16_t);
    constexpr int64_t kPairStride = Groups * kTileRowBytes;
    const int64_t bytes = sums_stride * static_cast<int64_t>(sizeof(float));
    float* const second_cols = sums + kTileRows * sums_stride;

    if (accumulate) {
      tile_load<0>(sums, bytes);
      tile_load<1>(second_cols, bytes);
      if constexpr (Groups == 2) tile_load<2>(sums + kGroupRows, bytes);
      if constexpr (Groups == 2) tile_load<3>(second_cols + kGroupRows, bytes);
    } else {
      tile_zero<0>();
      tile_zero<1>();
      if constexpr (Groups == 2) tile_zero<2>();
      if constexpr (Groups == 2) tile_zero<3>();
    }

    // The columns that are expanded meanwhile take turns after the products of a step of k.
    constexpr int64_t kProducts = kStep / kTileK * 2 * Groups;
    for (int64_t i = 0; i < k; i += kStep) {
      int64_t product = 0;
      const auto expand_some = [&]() __attribute__((always_inline)) {
        for (int64_t col = product; col < upcoming.cols; col += kProducts) {
          upcoming.step(weights, col, i);
        }
        ++product;
      };
      for (int64_t at = i; at < i + kStep; at += kTileK) {
        const uint16_t* const pairs = panel + at * Groups * kGroupRows;
        tile_load<4>(pairs, kPairStride);
        if constexpr (Groups == 2) tile_load<5>(pairs + 2 * kGroupRows, kPairStride);
        tile_load<6>(columns + at, kRowStride);
        tile_dot_bf16<0, 6, 4>();
        expand_some();
        if constexpr (Groups == 2) {
          tile_dot_bf16<2, 6, 5>();
          expand_some();
        }
        tile_load<7>(columns + kTileRows * kColumnStride<TileUnit> + at, kRowStride);
        tile_dot_bf16<1, 7, 4>();
        expand_some();
        if constexpr (Groups == 2) {
          tile_dot_bf16<3, 7, 5>();
          expand_some();
        }
      }
    }

    tile_store<0>(sums, bytes);
    tile_store<1>(second_cols, bytes);
    if constexpr (Groups == 2) tile_store<2>(sums + kGroupRows, bytes);
    if constexpr (Groups == 2) tile_store<3>(second_cols + kGroupRows, bytes);
  }
};

}  // namespace

void fp8_linear_amx_bf16(const Fp8Linear& args, const LinearTile& tile, void* scratch) {
  // Others use tiles on these threads too, each with a configuration of its own; and a thread whose
  // tiles are in their initial state is switched without them.
  const bool tiles = args.rows > kDirectRows;
  if (tiles) tile_configure(kWholeTiles);
  bf16_linear<TileUnit>(args, tile, scratch);
  if (tiles) tile_release();
}

LinearLimits fp8_linear_limits_amx_bf16(const Fp8Linear& args) {
  return bf16_limits<TileUnit>(args);
}

}  // namespace octet
