// FP8 codes to bf16 on AVX512-VBMI. Every FP8 value is a bf16, and a table of 128 bytes is one
// two-register byte permutation: one gives the low bytes of 64 values, another the high ones.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "cpu/fp8_linear_common.h"
#include "fp8.h"

namespace octet {
namespace {

// Codes that are expanded at a time.
constexpr int64_t kStep = 64;

// How many whole steps of k, in codes, are multiplied at a time: `k` in equal blocks of at most
// `most`, but of a step at least.
constexpr int64_t equal_block_k(int64_t k, int64_t most) {
  const int64_t steps = max_of(1, ceil_div(k, kStep));
  const int64_t blocks = ceil_div(steps, max_of(1, most / kStep));
  return ceil_div(steps, blocks) * kStep;
}

struct Bf16Table {
  alignas(64) uint8_t low[128];
  alignas(64) uint8_t high[128];

  explicit constexpr Bf16Table(Fp8Format format) : low(), high() {
    for (int code = 0; code < 128; ++code) {
      const uint32_t bf16 = fp8_decode_bits(static_cast<uint8_t>(code), format) >> 16;
      low[code] = static_cast<uint8_t>(bf16);
      high[code] = static_cast<uint8_t>(bf16 >> 8);
    }
  }
};

constexpr Bf16Table kE4M3Table(Fp8Format::kE4M3);
constexpr Bf16Table kE5M2Table(Fp8Format::kE5M2);

// 64 codes become two registers of 32 bf16. Adjacent pairs stay adjacent; the order of the pairs is
// the byte interleaving's own, and the same for both operands.
class Bf16Expander {
 public:
  explicit Bf16Expander(Fp8Format format) {
    const Bf16Table& table = format == Fp8Format::kE4M3 ? kE4M3Table : kE5M2Table;
    low_[0] = _mm512_load_si512(table.low);
    low_[1] = _mm512_load_si512(table.low + 64);
    high_[0] = _mm512_load_si512(table.high);
    high_[1] = _mm512_load_si512(table.high + 64);
  }

  OCTET_INLINE void expand(const uint8_t* codes, __m512i* out) const {
    look_up(_mm512_loadu_si512(codes), out);
  }

  // The first `count` < 64 codes, and zeros.
  OCTET_INLINE void expand_tail(const uint8_t* codes, int64_t count, __m512i* out) const {
    const __mmask64 mask = (__mmask64{1} << count) - 1;
    look_up(_mm512_maskz_loadu_epi8(mask, codes), out);
  }

  // `count` codes in a row, padded with zeros to whole steps.
  inline void expand_row(const uint8_t* codes, int64_t count, uint16_t* out) const {
    __m512i vecs[2];
    int64_t i = 0;
    for (; i + kStep <= count; i += kStep) {
      expand(codes + i, vecs);
      _mm512_store_si512(out + i, vecs[0]);
      _mm512_store_si512(out + i + kStep / 2, vecs[1]);
    }
    if (i < count) {
      expand_tail(codes + i, count - i, vecs);
      _mm512_store_si512(out + i, vecs[0]);
      _mm512_store_si512(out + i + kStep / 2, vecs[1]);
    }
  }

  // 64 codes in a register: the lower halves of its 128-bit lanes, and the upper halves.
  OCTET_INLINE void look_up(__m512i codes, __m512i* out) const {
    // The permutation ignores bit 7, the sign, which the high byte takes from the code.
    constexpr int kAOrBAndC = 0xF8;
    const __m512i low = _mm512_permutex2var_epi8(low_[0], codes, low_[1]);
    const __m512i magnitude = _mm512_permutex2var_epi8(high_[0], codes, high_[1]);
    const __m512i high = _mm512_ternarylogic_epi32(
        magnitude, codes, _mm512_set1_epi8(static_cast<char>(0x80)), kAOrBAndC);
    out[0] = _mm512_unpacklo_epi8(low, high);
    out[1] = _mm512_unpackhi_epi8(low, high);
  }

 private:
  __m512i low_[2];
  __m512i high_[2];
};

// vdpbf16ps flushes bf16 subnormals; no FP8 value is one (the smallest is 2^-16).
OCTET_INLINE __m512 dot(__m512 acc, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

}  // namespace
}  // namespace octet
