// Quantizing a row on AVX-512 (F, BW, DQ, VL) in two passes, the second from cache, and the
// elements that a row may hold.
//
// The first pass takes the maximum of the magnitudes as integers, which orders IEEE values, 32
// halves at a time. A NaN shows as a magnitude above infinity. Rows that are all finite and not
// limited by scale_ub can neither saturate nor produce a NaN, and take the short second pass; with
// VBMI, rows of bf16 take one by table.
#pragma once

#include <immintrin.h>

#include "float16.h"
#include "fp8.h"

namespace octet {
namespace {

constexpr int kLanes = 16;  // f32 values in a register
constexpr int kBlock = 64;  // codes in a register

inline __mmask16 lanes_below(int64_t count) {
  return count >= 16 ? __mmask16{0xFFFF} : static_cast<__mmask16>((1u << count) - 1u);
}

struct Float32 {
  using Storage = float;
  static constexpr uint32_t kMagnitudeMask = 0x7FFFFFFFu;
  static constexpr uint32_t kInfinity = 0x7F800000u;
  static constexpr int kBitsLanes = 16;
  // Division: Markstein's correction is not proven for quotients of 24-bit significands below one.
  static constexpr bool kReciprocal = false;
  static constexpr bool kIsBFloat16 = false;

  static uint32_t bits(const float* p) { return bits_of(*p); }
  static float to_f32(uint32_t bits) { return float_of(bits); }
  static __m512 load(const Storage* p) { return _mm512_loadu_ps(p); }
  static __m512 load(const Storage* p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
  static __m512 round(__m512 v) { return v; }
  static void store(Storage* p, __m512 v) { _mm512_storeu_ps(p, v); }
  static void store(Storage* p, __m512 v, __mmask16 mask) { _mm512_mask_storeu_ps(p, mask, v); }
  static __m512i magnitudes(const Storage* p, int64_t count) {
    return _mm512_and_si512(_mm512_maskz_loadu_epi32(lanes_below(count), p),
                            _mm512_set1_epi32(0x7FFFFFFF));
  }
  static __m512i max(__m512i a, __m512i b) { return _mm512_max_epu32(a, b); }
  static uint32_t reduce_max(__m512i v) { return _mm512_reduce_max_epu32(v); }
};

// What bf16 and half share: 16-bit storage.
struct Halves {
  using Storage = uint16_t;
  static constexpr uint32_t kMagnitudeMask = 0x7FFFu;
  static constexpr int kBitsLanes = 32;
  static constexpr bool kReciprocal = true;

  static uint32_t bits(const uint16_t* p) { return *p; }
  static __m256i load_bits(const uint16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static __m512i magnitudes(const uint16_t* p, int64_t count) {
    const __mmask32 mask =
        count >= 32 ? __mmask32{0xFFFFFFFF} : static_cast<__mmask32>((1u << count) - 1u);
    return _mm512_and_si512(_mm512_maskz_loadu_epi16(mask, p), _mm512_set1_epi16(0x7FFF));
  }
  static __m512i max(__m512i a, __m512i b) { return _mm512_max_epu16(a, b); }
  static uint32_t reduce_max(__m512i v) {
    const __m512i low = _mm512_and_si512(v, _mm512_set1_epi32(0xFFFF));
    return _mm512_reduce_max_epu32(_mm512_max_epu32(low, _mm512_srli_epi32(v, 16)));
  }
};

struct BFloat16 : Halves {
  static constexpr bool kIsBFloat16 = true;
  static constexpr uint32_t kInfinity = 0x7F80u;

  static float to_f32(uint32_t bits) { return bf16_to_f32(static_cast<uint16_t>(bits)); }
  static __m512 widen(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static __m512 load(const uint16_t* p) { return widen(load_bits(p)); }
  static __m512 load(const uint16_t* p, __mmask16 mask) {
    return widen(_mm256_maskz_loadu_epi16(mask, p));
  }
  // Rounds to nearest even. A NaN stays one: its upper half is kept, and made quiet.
  static __m512i round_bits(__m512 v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x00400000));
  }
  static __m512 round(__m512 v) {
    const __m512i upper_half = _mm512_set1_epi32(static_cast<int>(0xFFFF0000u));
    return _mm512_castsi512_ps(_mm512_and_si512(round_bits(v), upper_half));
  }
  static __m256i narrow(__m512 v) {
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_bits(v), 16));
  }
  static void store(uint16_t* p, __m512 v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(v));
  }
  static void store(uint16_t* p, __m512 v, __mmask16 mask) {
    _mm256_mask_storeu_epi16(p, mask, narrow(v));
  }
};

struct Float16 : Halves {
  static constexpr bool kIsBFloat16 = false;
  static constexpr uint32_t kInfinity = 0x7C00u;

  static float to_f32(uint32_t bits) { return f16_to_f32(static_cast<uint16_t>(bits)); }
  static __m512 load(const uint16_t* p) { return _mm512_cvtph_ps(load_bits(p)); }
  static __m512 load(const uint16_t* p, __mmask16 mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p));
  }
  static __m256i narrow(__m512 v) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
  static __m512 round(__m512 v) { return _mm512_cvtph_ps(narrow(v)); }
  static void store(uint16_t* p, __m512 v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(v));
  }
  static void store(uint16_t* p, __m512 v, __mmask16 mask) {
    _mm256_mask_storeu_epi16(p, mask, narrow(v));
  }
};

// The largest magnitude of a row, as bits of its own type; above kInfinity if there is a NaN.
template <class Element>
uint32_t max_magnitude(const typename Element::Storage* x, int64_t hidden) {
  constexpr int64_t kStep = Element::kBitsLanes;
  __m512i max[4] = {};
  int64_t i = 0;
  for (; i + 4 * kStep <= hidden; i += 4 * kStep) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      max[v] = Element::max(max[v], Element::magnitudes(x + i + v * kStep, kStep));
    }
  }
  for (; i < hidden; i += kStep) {
    max[0] = Element::max(max[0], Element::magnitudes(x + i, hidden - i));
  }
  return Element::reduce_max(
      Element::max(Element::max(max[0], max[1]), Element::max(max[2], max[3])));
}

// The same with NaNs left out. Rare, so plain.
template <class Element>
uint32_t max_magnitude_without_nan(const typename Element::Storage* x, int64_t hidden) {
  uint32_t max = 0;
  for (int64_t i = 0; i < hidden; ++i) {
    const uint32_t magnitude = Element::bits(x + i) & Element::kMagnitudeMask;
    if (magnitude <= Element::kInfinity && magnitude > max) max = magnitude;
  }
  return max;
}

// fp8_encode() of 16 values of magnitude at most FMAX, one code in each 32-bit lane.
struct Encoder {
  __m512i min_exponent, magic_exponent, rebias;
  __m128i shift;

  explicit Encoder(Fp8Format format) {
    const Fp8Rounding r = rounding_of(format);
    min_exponent = _mm512_set1_epi32(static_cast<int>(r.min_exponent_bits));
    magic_exponent = _mm512_set1_epi32(static_cast<int>(r.magic_exponent));
    rebias = _mm512_set1_epi32(static_cast<int>(r.rebias));
    shift = _mm_cvtsi32_si128(static_cast<int>(r.shift));
  }

  // `sign` gives the sign bit, `magnitude` the rest.
  __m512i operator()(__m512 magnitude, __m512i sign) const {
    constexpr int kAOrBAndC = 0xF8;
    const __m512i exponent = _mm512_max_epu32(
        _mm512_and_si512(_mm512_castps_si512(magnitude), _mm512_set1_epi32(0x7F800000)),
        min_exponent);
    const __m512i magic = _mm512_add_epi32(exponent, magic_exponent);
    const __m512i rounded =
        _mm512_castps_si512(_mm512_add_ps(magnitude, _mm512_castsi512_ps(magic)));
    const __m512i code = _mm512_sub_epi32(
        _mm512_add_epi32(_mm512_sub_epi32(rounded, magic), _mm512_srl_epi32(magic, shift)), rebias);
    return _mm512_ternarylogic_epi32(code, _mm512_srli_epi32(sign, 24), _mm512_set1_epi32(0x80),
                                     kAOrBAndC);
  }
};

inline __m512 magnitude_of(__m512 x) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), x); }

// Finite rows that nothing saturates. With the reciprocal, Markstein's correction: the residual of
// x * (1/s) is exact in one fma and corrects it to the rounded quotient. That this gives IEEE
// division for every bf16 and half numerator and every significand of s was checked exhaustively.
template <bool kReciprocal>
struct FiniteRow {
  Encoder encode;
  __m512 scale, reciprocal;

  FiniteRow(Fp8Format format, float s)
      : encode(format), scale(_mm512_set1_ps(s)), reciprocal(_mm512_set1_ps(1.0f / s)) {}

  __m512i operator()(__m512 x) const {
    const __m512 magnitude = magnitude_of(x);
    __m512 quotient;
    if constexpr (kReciprocal) {
      quotient = _mm512_mul_ps(magnitude, reciprocal);
      const __m512 residual = _mm512_fnmadd_ps(quotient, scale, magnitude);
      quotient = _mm512_fmadd_ps(residual, reciprocal, quotient);
    } else {
      quotient = _mm512_div_ps(magnitude, scale);
    }
    return encode(quotient, _mm512_castps_si512(x));
  }
};

// Any row: NaN, infinities, scale_ub.
struct SaturatingRow {
  Encoder encode;
  __m512 scale, max, min;

  SaturatingRow(Fp8Format format, float s)
      : encode(format),
        scale(_mm512_set1_ps(s)),
        max(_mm512_set1_ps(spec_of(format).max)),
        min(_mm512_set1_ps(-spec_of(format).max)) {}

  __m512i operator()(__m512 x) const {
    // vminps returns its second operand when the first is NaN.
    const __m512 value = _mm512_max_ps(_mm512_min_ps(_mm512_div_ps(x, scale), max), min);
    return encode(magnitude_of(value), _mm512_castps_si512(value));
  }
};

// Four registers of codes in 32-bit lanes to 64 bytes in order.
inline __m512i pack(const __m512i (&codes)[4]) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i bytes = _mm512_packus_epi16(_mm512_packus_epi32(codes[0], codes[1]),
                                            _mm512_packus_epi32(codes[2], codes[3]));
  return _mm512_permutexvar_epi32(order, bytes);
}

template <class Element, class Convert>
void convert_row(const typename Element::Storage* x, int64_t hidden, uint8_t* q,
                 const Convert& convert) {
  int64_t i = 0;
  for (; i + kBlock <= hidden; i += kBlock) {
    __m512i codes[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) codes[v] = convert(Element::load(x + i + v * kLanes));
    _mm512_storeu_si512(q + i, pack(codes));
  }
  for (; i < hidden; i += kLanes) {
    const __mmask16 mask = lanes_below(hidden - i);
    const __m128i codes = _mm512_cvtepi32_epi8(convert(Element::load(x + i, mask)));
    _mm_mask_storeu_epi8(q + i, mask, codes);
  }
}

#ifdef __AVX512VBMI__
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

// The second pass for finite rows of bf16, 64 elements at a time.
//
// Among the elements of x's binades that become normal codes, x / s in the next binade up has the
// same significand, for scaling by two is exact, and hence its code is that of x plus one step of
// the exponent. So a code is the entry of a table for the 7 bits of the mantissa, which costs one
// division for each entry, plus a multiple of the exponent; all modulo 256, in bytes.
template <class Order>
class MantissaTable {
 public:
  MantissaTable(Fp8Format format, float s)
      : format_(format),
        scale_(s),
        shift_(_mm_cvtsi32_si128(static_cast<int>(7u - spec_of(format).mantissa_bits))) {
    // The first exponent at which every quotient is normal: 2^e / s, where s = m 2^k, is 2^(e - k)
    // if m is 1, and otherwise lies in the binade below.
    const uint32_t scale_bits = bits_of(s);
    const bool power_of_two = (scale_bits & 0x7FFFFFu) == 0;
    const uint32_t sum = (scale_bits >> 23) + spec_of(format).min_exponent + !power_of_two;
    const uint32_t exponent = sum > 128u ? sum - 127u : 1u;
    first_ = _mm512_set1_epi16(static_cast<int16_t>(exponent << 8));

    // What the shifted element adds to an entry: its exponent's code, and mantissa bits.
    const FiniteRow<true> convert(format, s);
    const __m512i iota = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i halves[2];
    for (int half = 0; half < 2; ++half) {
      __m512i entries[4];
      for (int v = 0; v < 4; ++v) {
        const __m512i mantissa =
            _mm512_add_epi32(iota, _mm512_set1_epi32(half * kBlock + v * kLanes));
        const __m512i element =
            _mm512_or_si512(_mm512_set1_epi32(static_cast<int>(exponent << 7)), mantissa);
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
    constexpr int kAOrBAndC = 0xF8;
    _mm512_storeu_si512(q, _mm512_ternarylogic_epi32(
                               codes, signs, _mm512_set1_epi8(static_cast<char>(0x80)), kAOrBAndC));
    const __m512i doubled_a = _mm512_add_epi16(a, a), doubled_b = _mm512_add_epi16(b, b);
    if (_mm512_cmplt_epu16_mask(_mm512_min_epu16(doubled_a, doubled_b), first_) != 0) {
      const uint64_t small_a = _mm512_cmplt_epu16_mask(doubled_a, first_);
      const uint64_t small_b = _mm512_cmplt_epu16_mask(doubled_b, first_);
      convert_small(x, small_a | small_b << 32, q);
    }
  }

 private:
  // Replaces the codes of the elements at the positions in `small`: they become subnormal or zero,
  // which is not in the table.
  void convert_small(const uint16_t* x, uint64_t small, uint8_t* q) const {
    if (__builtin_popcountll(small) <= 8) {
      for (; small != 0; small &= small - 1) {
        const int position = __builtin_ctzll(small);
        q[Order::element_at(position)] = fp8_encode(bf16_to_f32(x[position]) / scale_, format_);
      }
      return;
    }
    uint16_t elements[kBlock];
    for (int i = 0; i < kBlock; ++i) elements[Order::element_at(i)] = x[i];
    convert_row<BFloat16>(elements, kBlock, q, FiniteRow<true>(format_, scale_));
  }

  // Which byte of a block each element's lower or upper one is.
  static __m512i bytes(int upper) {
    alignas(64) uint8_t index[kBlock];
    for (int i = 0; i < kBlock; ++i) {
      index[Order::element_at(i)] = static_cast<uint8_t>(2 * i + upper);
    }
    return _mm512_load_si512(index);
  }

  Fp8Format format_;
  float scale_;
  __m128i shift_;
  __m512i first_, low_, high_;
  __m512i even_ = bytes(0), odd_ = bytes(1);
};

// Rows shorter than this are not worth the table.
constexpr int64_t kMinTableHidden = 512;

// Converts a finite row whose blocks of 64 lie in `Order`, and what is left in order. Calls
// beside(i) with each block.
template <class Order, class Beside>
void convert_bf16_row(const uint16_t* x, int64_t hidden, uint8_t* q, Fp8Format format, float scale,
                      const Beside& beside) {
  const MantissaTable<Order> table(format, scale);
  int64_t i = 0;
  for (; i + kBlock <= hidden; i += kBlock) {
    table.convert(x + i, q + i);
    beside(i);
  }
  convert_row<BFloat16>(x + i, hidden - i, q + i, FiniteRow<true>(format, scale));
}
#endif

// Quantizes `hidden` elements whose max_magnitude() is `max` and returns their scale. `scale_ub`
// may be null. Calls beside(i) for each whole block.
template <class Element, class Beside>
float quantize_row_of(uint32_t max, const typename Element::Storage* x, int64_t hidden,
                      const float* scale_ub, Fp8Format format, uint8_t* q, const Beside& beside) {
  const bool has_nan = max > Element::kInfinity;
  if (has_nan) max = max_magnitude_without_nan<Element>(x, hidden);
  const float amax = Element::to_f32(max);
  const float scale = token_scale(amax, scale_ub, format);

  const bool limited = scale_ub != nullptr && *scale_ub < amax;
  const bool saturates = has_nan || limited || max == Element::kInfinity;
#ifdef __AVX512VBMI__
  if constexpr (Element::kIsBFloat16) {
    if (!saturates && hidden >= kMinTableHidden) {
      convert_bf16_row<InOrder>(x, hidden, q, format, scale, beside);
      return scale;
    }
  }
#endif
  if (saturates) {
    convert_row<Element>(x, hidden, q, SaturatingRow(format, scale));
  } else {
    convert_row<Element>(x, hidden, q, FiniteRow<Element::kReciprocal>(format, scale));
  }
  for (int64_t i = 0; i + kBlock <= hidden; i += kBlock) beside(i);
  return scale;
}

struct NothingBeside {
  void operator()(int64_t) const {}
};

// Quantizes `hidden` elements and returns their scale. `scale_ub` may be null.
template <class Element>
float quantize_row(const typename Element::Storage* x, int64_t hidden, const float* scale_ub,
                   Fp8Format format, uint8_t* q) {
  return quantize_row_of<Element>(max_magnitude<Element>(x, hidden), x, hidden, scale_ub, format, q,
                                  NothingBeside{});
}

}  // namespace
}  // namespace octet
