// The codes of a finite row of 16-bit elements by table, 64 at a time, on AVX-512.
//
// Among the elements of x's binades that become normal codes, x / s in the next binade up has the
// same significand, for scaling by two is exact, and hence its code is that of x plus one step of
// the exponent. So a code is what belongs to the bits of the mantissa, which a table holds for the
// row's scale, plus a multiple of the exponent, which is shifted into place; modulo a power of two.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "cpu/convert_row_avx512.h"
#include "cpu/elements_avx512.h"
#include "fp8.h"

namespace octet {
namespace {

constexpr int kF32Bias = 127;

// How the 64 elements of a block lie in memory.
struct InOrder {
  static constexpr int element_at(int position) { return position; }
};
// As even and odd elements of 32 were processed: 16 even ones, 16 odd ones, and so again.
struct EvenThenOdd {
  static constexpr int element_at(int position) {
    return (position & 32) | (position & 15) << 1 | (position >> 4 & 1);
  }
};

// The elements that a table does not know, for their codes are subnormal or zero.
template <class Element, class Order>
class SmallElements {
 public:
  SmallElements(Fp8Format format, float s)
      : format_(format),
        scale_(s),
        exponent_(first_exponent(format, s)),
        doubled_first_(
            _mm512_set1_epi16(static_cast<int16_t>(exponent_ << (Element::kMantissaBits + 1)))) {}

  // The exponent field of the first binade whose codes are all normal.
  uint32_t exponent() const { return exponent_; }

  // Replaces their codes among those of the 64 elements at x, which are a and b.
  void replace(const uint16_t* x, __m512i a, __m512i b, uint8_t* q) const {
    const __m512i doubled_a = _mm512_add_epi16(a, a), doubled_b = _mm512_add_epi16(b, b);
    const __m512i smaller = _mm512_min_epu16(doubled_a, doubled_b);
    if (_mm512_cmplt_epu16_mask(smaller, doubled_first_) == 0) return;
    const uint64_t small_a = _mm512_cmplt_epu16_mask(doubled_a, doubled_first_);
    const uint64_t small_b = _mm512_cmplt_epu16_mask(doubled_b, doubled_first_);
    replace_at(small_a | small_b << 32, x, q);
  }

 private:
  // 2^e / s, where s = m 2^k, is 2^(e - k) if m is 1, and otherwise lies in the binade below.
  static uint32_t first_exponent(Fp8Format format, float s) {
    const uint32_t bits = bits_of(s);
    const bool power_of_two = (bits & 0x7FFFFFu) == 0;
    const int exponent = static_cast<int>((bits >> 23) + spec_of(format).min_exponent) -
                         2 * kF32Bias + !power_of_two + Element::kBias;
    return exponent > 1 ? static_cast<uint32_t>(exponent) : 1u;
  }

  void replace_at(uint64_t positions, const uint16_t* x, uint8_t* q) const {
    if (__builtin_popcountll(positions) <= 8) {
      for (; positions != 0; positions &= positions - 1) {
        const int position = __builtin_ctzll(positions);
        q[Order::element_at(position)] = fp8_encode(Element::to_f32(x[position]) / scale_, format_);
      }
      return;
    }
    uint16_t elements[kBlock];
    for (int i = 0; i < kBlock; ++i) elements[Order::element_at(i)] = x[i];
    convert_row<Element>(elements, kBlock, q, FiniteRow<true>(format_, scale_));
  }

  Fp8Format format_;
  float scale_;
  uint32_t exponent_;
  __m512i doubled_first_;
};

// A table of 32 entries, for the upper five bits of the mantissa.
//
// As many mantissas as share them lie too near to each other for more than one code to begin among
// them: FP8 values, and hence the ties between them, are a sixteenth of a binade apart or more. An
// entry is the code of the first of them, and the mantissa, if any, with which the next begins.
template <class Element>
class StepTable {
 public:
  StepTable(Fp8Format format, float s)
      : small_(format, s),
        shift_(_mm_cvtsi32_si128(kMantissaBits - static_cast<int>(spec_of(format).mantissa_bits))) {
    // Integers count mantissas of the table's binade: n is n / 2^kMantissaBits of its beginning.
    const int exponent = static_cast<int>(small_.exponent());
    const float unit =
        float_of(static_cast<uint32_t>(exponent - Element::kBias + kF32Bias - kMantissaBits) << 23);
    const __m512 units = _mm512_set1_ps(unit);
    const __m512 magic = _mm512_set1_ps(0x1.8p23f * unit);  // a sum with it is in whole units
    const __m512i binade = _mm512_set1_epi32(1 << kMantissaBits);
    const __m512i iota = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const FiniteRow<true> convert(format, s);

    __m512i codes[2], steps[2];
    for (int half = 0; half < 2; ++half) {
      const __m512i number = _mm512_slli_epi32(
          _mm512_add_epi32(iota, _mm512_set1_epi32(kEntries + half * kLanes)), kEntryShift);
      const __m512i code = convert(_mm512_mul_ps(_mm512_cvtepi32_ps(number), units));

      // The next code begins at the tie above, or just beside it: whether the number nearest to it
      // is there already, its conversion tells.
      const __m512 sum =
          _mm512_add_ps(_mm512_mul_ps(tie_above(code, format), _mm512_set1_ps(s)), magic);
      const __m512i nearest =
          _mm512_sub_epi32(_mm512_castps_si512(sum), _mm512_castps_si512(magic));
      const __mmask16 before = _mm512_cmpeq_epi32_mask(convert(_mm512_sub_ps(sum, magic)), code);
      const __m512i begin = _mm512_mask_add_epi32(nearest, before, nearest, _mm512_set1_epi32(1));
      steps[half] = _mm512_sub_epi32(begin, binade);

      const __m512i element =
          _mm512_add_epi32(number, _mm512_set1_epi32((exponent - 1) << kMantissaBits));
      codes[half] = _mm512_sub_epi32(code, _mm512_srl_epi32(element, shift_));
    }
    codes_ = narrow(codes);
    steps_ = narrow(steps);
  }

  // Converts the 64 elements at x.
  void convert(const uint16_t* x, uint8_t* q) const {
    const __m512i a = _mm512_loadu_si512(x);
    const __m512i b = _mm512_loadu_si512(x + 32);
    store_bytes(q, look_up(a));
    store_bytes(q + 32, look_up(b));
    small_.replace(x, a, b, q);
  }

 private:
  static constexpr int kMantissaBits = Element::kMantissaBits;
  static constexpr int kEntries = 32;
  static constexpr int kEntryShift = kMantissaBits - 5;

  // The value halfway between normal codes and the ones above them.
  static __m512 tie_above(__m512i code, Fp8Format format) {
    const Fp8Spec spec = spec_of(format);
    const __m512i rebias =
        _mm512_set1_epi32(static_cast<int>((spec.min_exponent - 1) << spec.mantissa_bits));
    const int dropped_bits = 23 - static_cast<int>(spec.mantissa_bits);
    const __m512i bits =
        _mm512_sll_epi32(_mm512_add_epi32(code, rebias), _mm_cvtsi32_si128(dropped_bits));
    return _mm512_castsi512_ps(_mm512_or_si512(bits, _mm512_set1_epi32(1 << (dropped_bits - 1))));
  }

  static __m512i narrow(const __m512i (&v)[2]) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(v[0])),
                              _mm512_cvtepi32_epi16(v[1]), 1);
  }

  // The codes in the lower bytes.
  __m512i look_up(__m512i x) const {
    // The permutations look at the lower five bits of an index.
    const __m512i entry = _mm512_srli_epi16(x, kEntryShift);
    const __m512i mantissa = _mm512_and_si512(x, _mm512_set1_epi16((1 << kMantissaBits) - 1));
    const __mmask32 stepped =
        _mm512_cmpge_epu16_mask(mantissa, _mm512_permutexvar_epi16(entry, steps_));
    const __m512i code =
        _mm512_add_epi16(_mm512_permutexvar_epi16(entry, codes_), _mm512_srl_epi16(x, shift_));
    return _mm512_ternarylogic_epi32(
        _mm512_mask_add_epi16(code, stepped, code, _mm512_set1_epi16(1)), _mm512_srli_epi16(x, 8),
        _mm512_set1_epi16(0x80), kAOrBAndC);
  }

  static void store_bytes(uint8_t* q, __m512i codes) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm512_cvtepi16_epi8(codes));
  }

  SmallElements<Element, InOrder> small_;
  __m128i shift_;
  __m512i codes_, steps_;  // what the shifted element adds to a code, and where the next begins
};

#ifdef __AVX512VBMI__
// A table of the 128 mantissas of bf16, in bytes.
template <class Order>
class MantissaTable {
 public:
  MantissaTable(Fp8Format format, float s)
      : small_(format, s),
        shift_(_mm_cvtsi32_si128(static_cast<int>(7u - spec_of(format).mantissa_bits))) {
    const __m512i exponent = _mm512_set1_epi32(static_cast<int>(small_.exponent() << 7));
    const FiniteRow<true> convert(format, s);
    const __m512i iota = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i halves[2];
    for (int half = 0; half < 2; ++half) {
      __m512i entries[4];
      for (int v = 0; v < 4; ++v) {
        const __m512i mantissa =
            _mm512_add_epi32(iota, _mm512_set1_epi32(half * kBlock + v * kLanes));
        const __m512i element = _mm512_or_si512(exponent, mantissa);
        const __m512i code = convert(_mm512_castsi512_ps(_mm512_slli_epi32(element, 16)));
        entries[v] = _mm512_and_si512(_mm512_sub_epi32(code, _mm512_srl_epi32(element, shift_)),
                                      _mm512_set1_epi32(0xFF));
      }
      halves[half] = pack(entries);
    }
    low_ = halves[0];
    high_ = halves[1];
  }

  // Converts the 64 elements at x.
  void convert(const uint16_t* x, uint8_t* q) const {
    const __m512i a = _mm512_loadu_si512(x);
    const __m512i b = _mm512_loadu_si512(x + 32);
    const __m512i mantissas = _mm512_permutex2var_epi8(a, even_, b);
    const __m512i signs = _mm512_permutex2var_epi8(a, odd_, b);
    const __m512i steps =
        _mm512_permutex2var_epi8(_mm512_srl_epi16(a, shift_), even_, _mm512_srl_epi16(b, shift_));
    // The permutation looks at the lower 7 bits of an index, which are the mantissa.
    const __m512i codes = _mm512_add_epi8(_mm512_permutex2var_epi8(low_, mantissas, high_), steps);
    _mm512_storeu_si512(q, _mm512_ternarylogic_epi32(
                               codes, signs, _mm512_set1_epi8(static_cast<char>(0x80)), kAOrBAndC));
    small_.replace(x, a, b, q);
  }

 private:
  // Which byte of a block each element's lower or upper one is. A constant, for the loop takes as
  // long as the whole table.
  struct Bytes {
    alignas(64) uint8_t index[kBlock];
  };
  static constexpr Bytes bytes(int upper) {
    Bytes bytes{};
    for (int i = 0; i < kBlock; ++i) {
      bytes.index[Order::element_at(i)] = static_cast<uint8_t>(2 * i + upper);
    }
    return bytes;
  }
  static __m512i even_bytes() {
    static constexpr Bytes kBytes = bytes(0);
    return _mm512_load_si512(kBytes.index);
  }
  static __m512i odd_bytes() {
    static constexpr Bytes kBytes = bytes(1);
    return _mm512_load_si512(kBytes.index);
  }

  SmallElements<BFloat16, Order> small_;
  __m128i shift_;
  __m512i low_, high_;  // what the shifted element adds to a code
  __m512i even_ = even_bytes(), odd_ = odd_bytes();
};
#endif

// The fastest table for elements that lie in order.
template <class Element>
struct TableOf {
  using Type = StepTable<Element>;
};
#ifdef __AVX512VBMI__
template <>
struct TableOf<BFloat16> {
  using Type = MantissaTable<InOrder>;
};
#endif

}  // namespace
}  // namespace octet
