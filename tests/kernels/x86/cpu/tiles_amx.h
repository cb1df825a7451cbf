// A model of AMX's tiles in software, in the place of csrc/cpu/tiles_amx.h: after the operations
// that Intel's documentation spells out (Software Developer's Manual, volumes 1 and 2: LDTILECFG,
// TILELOADD, TILESTORED, TILEZERO, TDPBF16PS). What the processor would refuse throws.
#pragma once

#include <immintrin.h>

#include <stdexcept>
#include <string>

#include "cpu/tile_config.h"

namespace octet {

namespace model {

// Ways in which tiles could compute something else, for the check at load to find.
enum class Fault { kNone, kLastRow, kPairsSwapped, kSecondTile };

struct Tile {
  int rows = 0;
  int row_bytes = 0;
  uint8_t bytes[kTileRows][kTileRowBytes] = {};

  uint16_t bf16(int row, int i) const {
    uint16_t value;
    memcpy(&value, bytes[row] + 2 * i, sizeof value);
    return value;
  }
  float f32(int row, int i) const {
    float value;
    memcpy(&value, bytes[row] + 4 * i, sizeof value);
    return value;
  }
  void set_f32(int row, int i, float value) { memcpy(bytes[row] + 4 * i, &value, sizeof value); }
};

struct State {
  bool configured = false;
  Tile tiles[kTileRegisters];
  Fault fault = Fault::kNone;
  int64_t products = 0;  // instructions so far
};

inline thread_local State state;

inline void require(bool condition, const char* what) {
  if (!condition) throw std::runtime_error(std::string("invalid use of tiles: ") + what);
}

inline Tile& configured_tile(int index) {
  require(state.configured, "they are not configured");
  Tile& tile = state.tiles[index];
  require(tile.rows > 0 && tile.row_bytes > 0, "the register has no shape");
  return tile;
}

}  // namespace model

inline void tile_configure(const TileConfig& config) {
  using model::require;
  require(config.palette == 1, "only palette 1 is modelled");
  require(config.start_row == 0, "a load is never resumed");
  for (const uint8_t byte : config.reserved) require(byte == 0, "reserved bytes are not zero");
  for (int i = 0; i < 16; ++i) {
    require((config.rows[i] == 0) == (config.row_bytes[i] == 0), "half a shape");
    require(i < kTileRegisters || config.rows[i] == 0, "there is no such register");
    require(config.rows[i] <= kTileRows && config.row_bytes[i] <= kTileRowBytes, "too large");
    require(config.row_bytes[i] % 4 == 0, "rows are no whole 32-bit elements");
  }
  for (int i = 0; i < kTileRegisters; ++i) {
    model::state.tiles[i] = model::Tile{};
    model::state.tiles[i].rows = config.rows[i];
    model::state.tiles[i].row_bytes = config.row_bytes[i];
  }
  model::state.configured = true;
}

inline void tile_release() {
  model::state.configured = false;
  for (model::Tile& tile : model::state.tiles) tile = model::Tile{};
}

template <int Index>
void tile_zero() {
  memset(model::configured_tile(Index).bytes, 0, sizeof(model::Tile::bytes));
}

template <int Index>
void tile_load(const void* rows, int64_t stride) {
  model::Tile& tile = model::configured_tile(Index);
  memset(tile.bytes, 0, sizeof tile.bytes);
  for (int row = 0; row < tile.rows; ++row) {
    memcpy(tile.bytes[row], static_cast<const uint8_t*>(rows) + row * stride,
           static_cast<size_t>(tile.row_bytes));
  }
}

template <int Index>
void tile_store(void* rows, int64_t stride) {
  const model::Tile& tile = model::configured_tile(Index);
  for (int row = 0; row < tile.rows; ++row) {
    memcpy(static_cast<uint8_t*>(rows) + row * stride, tile.bytes[row],
           static_cast<size_t>(tile.row_bytes));
  }
}

// The even products of a row and a column and the odd ones are summed apart, from zero, in fused
// steps; the two sums are added to one another, and that to the element.
template <int Sums, int A, int B>
void tile_dot_bf16() {
  using model::Fault;
  static_assert(Sums != A && Sums != B && A != B);
  model::Tile& sums = model::configured_tile(Sums);
  const model::Tile& a = model::configured_tile(A);
  const model::Tile& b = model::configured_tile(B);
  model::require(a.row_bytes / 4 == b.rows, "A's row and B's column differ in length");
  model::require(a.rows == sums.rows && b.row_bytes == sums.row_bytes,
                 "the sums' shape is another");
  const Fault fault = model::state.fault;
  ++model::state.products;
  if (fault == Fault::kSecondTile && Sums == 3) return;
  const int rows = fault == Fault::kLastRow ? sums.rows - 1 : sums.rows;
  const int swap = fault == Fault::kPairsSwapped ? 1 : 0;
  float of_a[kTileRows][kTileRowBytes / 2], of_b[kTileRows][kTileRowBytes / 2];
  for (int i = 0; i < a.rows * a.row_bytes / 2; ++i) {
    const int row = i / (a.row_bytes / 2), at = i % (a.row_bytes / 2);
    of_a[row][at] = x86::flushed_bf16(a.bf16(row, at));
  }
  for (int i = 0; i < b.rows * b.row_bytes / 2; ++i) {
    const int row = i / (b.row_bytes / 2), at = i % (b.row_bytes / 2);
    of_b[row][at] = x86::flushed_bf16(b.bf16(row, at));
  }
  for (int m = 0; m < rows; ++m) {
    for (int n = 0; n < sums.row_bytes / 4; ++n) {
      float even = 0.0f, odd = 0.0f;
      for (int k = 0; k < a.row_bytes / 4; ++k) {
        even = x86::flushed(fmaf(of_a[m][2 * k], of_b[k][2 * n + swap], even));
        odd = x86::flushed(fmaf(of_a[m][2 * k + 1], of_b[k][2 * n + 1 - swap], odd));
      }
      const float both = x86::flushed(even + odd);
      sums.set_f32(m, n, x86::flushed(x86::flushed(sums.f32(m, n)) + both));
    }
  }
}

}  // namespace octet
