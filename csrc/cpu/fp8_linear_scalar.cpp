// fp8_linear, portable: a table of 256 values a format, and f32 sums in lanes that any compiler can
// map to what vector registers there are.
#include "cpu/f32_dot_scalar.h"
#include "cpu/fp8_linear_tile.h"
#include "cpu/kernel_list.h"

namespace octet {
namespace {

struct Float32Table {
  uint32_t bits[256];

  explicit constexpr Float32Table(Fp8Format format) : bits() {
    for (int code = 0; code < 256; ++code) {
      bits[code] = fp8_decode_bits(static_cast<uint8_t>(code), format);
    }
  }
};

constexpr Float32Table kE4M3Table(Fp8Format::kE4M3);
constexpr Float32Table kE5M2Table(Fp8Format::kE5M2);

struct Scalar : F32DotScalar {
  static constexpr int kVecs = 1;
  static constexpr int kTileRows = 2;
  static constexpr int kTileCols = 2;
  static constexpr int kDirectRows = 1;
  static constexpr int direct_cols(int) { return 2; }
  static constexpr int64_t direct_k(int64_t) { return INT64_MAX; }

  using Packed = Vec;

  template <Fp8Format format>
  class Decoder {
   public:
    static constexpr float kFactor = 1.0f;

    OCTET_INLINE Packed expand(const uint8_t* codes) const { return expand_tail(codes, kLanes); }

    OCTET_INLINE Packed expand_tail(const uint8_t* codes, int64_t count) const {
      constexpr const Float32Table& kTable = format == Fp8Format::kE4M3 ? kE4M3Table : kE5M2Table;
      Packed out;
      for (int i = 0; i < kLanes; ++i) {
        out.lane[i] = i < count ? float_of(kTable.bits[codes[i]]) : 0.0f;
      }
      return out;
    }
  };

  template <int>
  static OCTET_INLINE Vec part(const Packed& packed) {
    return packed;
  }
};

}  // namespace

void fp8_linear_scalar(const Fp8Linear& args, const LinearTile& tile, void* scratch) {
  fp8_linear_tile<Scalar>(args, tile, scratch);
}

LinearLimits fp8_linear_limits_scalar(const Fp8Linear& args) {
  return fp8_linear_limits<Scalar>(args);
}

}  // namespace octet
