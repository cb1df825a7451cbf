// bf16_linear, portable: f32 sums in lanes that any compiler can map to what vector registers there
// are.
#include "cpu/bf16_linear_tile.h"
#include "cpu/f32_dot_scalar.h"
#include "cpu/kernel_list.h"

namespace octet {
namespace {

struct Scalar : F32DotScalar {
  static constexpr int kVecs = 1;
  static constexpr int kTileRows = 2;
  static constexpr int kTileCols = 2;

  using Packed = Vec;

  static OCTET_INLINE Packed expand(const uint16_t* p) { return expand_tail(p, kLanes); }
  static OCTET_INLINE Packed expand_tail(const uint16_t* p, int64_t count) {
    Packed out;
    for (int i = 0; i < kLanes; ++i) out.lane[i] = i < count ? bf16_to_f32(p[i]) : 0.0f;
    return out;
  }
  template <int>
  static OCTET_INLINE Vec part(const Packed& packed) {
    return packed;
  }
};

}  // namespace

void bf16_linear_scalar(const Bf16Linear& args, const LinearTile& tile, void* scratch) {
  bf16_linear_tile<Scalar>(args, tile, scratch);
}

LinearLimits bf16_linear_limits_scalar(const Bf16Linear& args) {
  return bf16_linear_limits<Scalar>(args);
}

}  // namespace octet
