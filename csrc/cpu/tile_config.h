// What AMX's tile registers are shaped by, for the instructions and for their model in tests/.
#pragma once

#include <stdint.h>

namespace octet {

constexpr int64_t kTileRows = 16;
constexpr int64_t kTileRowBytes = 64;
constexpr int kTileRegisters = 8;

// The operand of ldtilecfg, in palette 1.
struct alignas(64) TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace octet
