// fp8_linear on AVX512-BF16 and AVX512-VBMI: a few rows straight from the codes, more as an outer
// product of packed panels.
#include "cpu/fp8_linear_avx512_direct.h"
#include "cpu/fp8_linear_avx512_panel.h"
#include "cpu/kernel_list.h"

namespace octet {
namespace {

constexpr int64_t kMaxCols = 1008;  // bounds the partial sums to 512 KiB

// Where the parts of a thread's scratch begin, in bytes; each is a whole number of cache lines.
struct Layout {
  int64_t columns;  // after the activations
  int64_t sums;
  int64_t end;

  explicit Layout(const Fp8Linear& args) {
    const bool direct = args.rows <= kDirectRows;
    const int64_t rows = direct ? args.rows : panel_rows(args);
    const int64_t k = direct ? direct_block_k(args) : panel_block_k(args);
    const int64_t activations = rows * k;
    columns = activations * static_cast<int64_t>(sizeof(uint16_t));
    sums = columns + 2 * kBlockCols * kColumnStride * static_cast<int64_t>(sizeof(uint16_t));
    const int64_t cols = round_up(min_of(args.out_features, kMaxCols), 2 * kBlockCols);
    end = sums + rows * cols * static_cast<int64_t>(sizeof(float));
  }
};

}  // namespace

void fp8_linear_avx512_bf16(const Fp8Linear& args, const Fp8LinearTile& tile, void* scratch) {
  const Layout layout(args);
  uint8_t* const base = static_cast<uint8_t*>(scratch);
  uint16_t* const activations = reinterpret_cast<uint16_t*>(base);
  float* const sums = reinterpret_cast<float*>(base + layout.sums);
  if (args.rows <= kDirectRows) {
    linear_direct(args, tile, activations, sums);
  } else {
    uint16_t* const columns = reinterpret_cast<uint16_t*>(base + layout.columns);
    linear_panels(args, tile, PanelScratch{activations, columns, sums});
  }
}

Fp8LinearLimits fp8_linear_limits_avx512_bf16(const Fp8Linear& args) {
  return Fp8LinearLimits{kMaxRows, kMaxCols, static_cast<size_t>(Layout(args).end)};
}

}  // namespace octet
