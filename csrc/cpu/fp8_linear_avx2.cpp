// fp8_linear on AVX2 with FMA, in f32. Codes become bf16 byte by byte, for pairs of bf16 are
// cheaply made two registers of f32; F16C's conversions, which take a code's bits in the upper byte
// of a half, take longer than all of that.
#include <immintrin.h>
#include <string.h>

#include "cpu/f32_dot_avx2.h"
#include "cpu/fp8_linear_tile.h"
#include "cpu/kernel_list.h"

namespace octet {
namespace {

// How the bytes of a bf16 follow from a code's magnitude: in the upper one, what belongs to the
// magnitude's bits above the lowest kLowBits; in the lower one, those, shifted up. That is so but
// for the 16 (E4M3) or 8 (E5M2) smallest magnitudes, which have subnormals among them, whose bytes
// are corrected by exclusive or; and for those from kSpecial on.
template <Fp8Format format>
struct Bytes {
  static constexpr bool kE4M3 = format == Fp8Format::kE4M3;
  static constexpr int kLowBits = kE4M3 ? 4 : 3;
  static constexpr int kSmall = 1 << kLowBits;
  static constexpr uint32_t kSpecial = spec_of(format).infinity_code;

  // Tables for a shuffle of bytes. That of the upper bytes is indexed by four bits: of E4M3, with
  // the sign.
  alignas(16) uint8_t upper[16];
  alignas(16) uint8_t upper_correction[16];
  alignas(16) uint8_t lower_correction[16];

  constexpr Bytes() : upper(), upper_correction(), lower_correction() {
    const auto bf16 = [](int code) {
      return fp8_decode_bits(static_cast<uint8_t>(code), format) >> 16;
    };
    // The first magnitude with an upper part is normal, and the others' follow by counting.
    const uint32_t first = (bf16(kSmall) >> 8) - 1;
    for (uint32_t i = 0; i < 16; ++i) {
      const uint32_t magnitude = kE4M3 ? i & 7 : i;
      upper[i] = static_cast<uint8_t>((first + magnitude) | (i != magnitude ? 0x80 : 0));
    }
    for (int low = 0; low < kSmall; ++low) {
      // What a shuffle takes of an index of which the upper bits are set: see Decoder.
      const int at = 16 - kSmall + low;
      upper_correction[at] = static_cast<uint8_t>(bf16(low) >> 8 ^ first);
      lower_correction[at] = static_cast<uint8_t>(bf16(low) ^ low << (8 - kLowBits));
    }
  }
};
template <Fp8Format format>
constexpr Bytes<format> kBytes;

struct Avx2 : F32DotAvx2 {
  static constexpr int kVecs = 4;
  static constexpr int kTileRows = 4;
  static constexpr int kTileCols = 3;
  static constexpr int kDirectRows = 8;
  static constexpr int direct_cols(int rows) { return rows <= 2 ? 4 : rows <= 5 ? 2 : 1; }
  // More rows find their activations in L1, of which they take 24 KiB; of up to four, each is used
  // for two columns at least, and may come from L2.
  static constexpr int64_t direct_k(int64_t rows) {
    return rows <= 4 ? INT64_MAX : (24 << 10) / static_cast<int64_t>(sizeof(Operand)) / rows;
  }

  // 32 codes as bf16: of each 128-bit lane, the lower eight, and the upper.
  struct Packed {
    __m256i half[2];
  };

  template <Fp8Format format>
  class Decoder {
   public:
    static constexpr float kFactor = 1.0f;

    Decoder()
        : upper_(table(kBytes<format>.upper)),
          upper_correction_(table(kBytes<format>.upper_correction)),
          lower_correction_(table(kBytes<format>.lower_correction)) {}

    OCTET_INLINE Packed expand(const uint8_t* codes) const {
      return convert(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
    }

    OCTET_INLINE Packed expand_tail(const uint8_t* codes, int64_t count) const {
      uint8_t bytes[32] = {};
      memcpy(bytes, codes, static_cast<size_t>(count));
      return expand(bytes);
    }

   private:
    using Form = Bytes<format>;

    static __m256i table(const uint8_t* bytes) {
      return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
    }
    static OCTET_INLINE __m256i every(int byte) {
      return _mm256_set1_epi8(static_cast<char>(byte));
    }

    OCTET_INLINE Packed convert(__m256i codes) const {
      const __m256i magnitude = _mm256_and_si256(codes, every(0x7F));
      // Sets bit 7, with which a shuffle gives zero, of all but the small magnitudes.
      const __m256i small = _mm256_add_epi8(magnitude, every(0x80 - Form::kSmall));
      const __m256i shifted = _mm256_srli_epi16(codes, Form::kLowBits);
      const __m256i index = _mm256_and_si256(shifted, every(0x0F));
      __m256i upper = _mm256_xor_si256(_mm256_shuffle_epi8(upper_, index),
                                       _mm256_shuffle_epi8(upper_correction_, small));
      const __m256i low_bits = _mm256_and_si256(_mm256_slli_epi16(codes, 8 - Form::kLowBits),
                                                every(0xFF << (8 - Form::kLowBits)));
      __m256i lower = _mm256_xor_si256(low_bits, _mm256_shuffle_epi8(lower_correction_, small));
      const __m256i special =
          _mm256_cmpgt_epi8(magnitude, every(static_cast<int>(Form::kSpecial) - 1));
      if constexpr (Form::kE4M3) {
        upper = _mm256_or_si256(upper, special);  // NaN, of all ones
        lower = _mm256_or_si256(lower, special);
      } else {
        // The largest exponent; the mantissa of an infinity is zero already.
        upper = _mm256_or_si256(upper, _mm256_and_si256(special, every(0x7F)));
        upper = _mm256_or_si256(upper, _mm256_and_si256(codes, every(0x80)));
      }
      return Packed{{_mm256_unpacklo_epi8(lower, upper), _mm256_unpackhi_epi8(lower, upper)}};
    }

    __m256i upper_;
    __m256i upper_correction_;
    __m256i lower_correction_;
  };

  // A bf16 is the upper half of an f32: of each pair, the first or the second.
  template <int V>
  static OCTET_INLINE Vec part(const Packed& packed) {
    const __m256i pairs = packed.half[V / 2];
    return _mm256_castsi256_ps(
        V % 2 == 0 ? _mm256_slli_epi32(pairs, 16)
                   : _mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xFFFF0000u))));
  }
};

}  // namespace

void fp8_linear_avx2(const Fp8Linear& args, const LinearTile& tile, void* scratch) {
  fp8_linear_tile<Avx2>(args, tile, scratch);
}

LinearLimits fp8_linear_limits_avx2(const Fp8Linear& args) { return fp8_linear_limits<Avx2>(args); }

}  // namespace octet
