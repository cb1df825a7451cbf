// per_token_quant on AVX-512 (F, BW, DQ, VL): two passes over a row, the second from cache.
//
// The first pass takes the maximum of the magnitudes as integers, which orders IEEE values, 32
// halves at a time. A NaN shows as a magnitude above infinity. Rows that are all finite and not
// limited by scale_ub can neither saturate nor produce a NaN, and take the short second pass.
#include <immintrin.h>

#include "cpu/kernel_list.h"
#include "float16.h"

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

  static uint32_t bits(const float* p) { return bits_of(*p); }
  static float to_f32(uint32_t bits) { return float_of(bits); }
  static __m512 load(const Storage* p) { return _mm512_loadu_ps(p); }
  static __m512 load(const Storage* p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
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
  static constexpr uint32_t kInfinity = 0x7F80u;

  static float to_f32(uint32_t bits) { return bf16_to_f32(static_cast<uint16_t>(bits)); }
  static __m512 widen(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static __m512 load(const uint16_t* p) { return widen(load_bits(p)); }
  static __m512 load(const uint16_t* p, __mmask16 mask) {
    return widen(_mm256_maskz_loadu_epi16(mask, p));
  }
};

struct Float16 : Halves {
  static constexpr uint32_t kInfinity = 0x7C00u;

  static float to_f32(uint32_t bits) { return f16_to_f32(static_cast<uint16_t>(bits)); }
  static __m512 load(const uint16_t* p) { return _mm512_cvtph_ps(load_bits(p)); }
  static __m512 load(const uint16_t* p, __mmask16 mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p));
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

template <class Element>
void quantize_rows(const PerTokenQuant& args, int64_t begin, int64_t end) {
  using Storage = typename Element::Storage;
  for (int64_t row = begin; row < end; ++row) {
    const Storage* x = static_cast<const Storage*>(args.x) + row * args.x_stride;
    uint8_t* q = args.q + row * args.q_stride;

    uint32_t max = max_magnitude<Element>(x, args.hidden);
    const bool has_nan = max > Element::kInfinity;
    if (has_nan) max = max_magnitude_without_nan<Element>(x, args.hidden);
    const float amax = Element::to_f32(max);
    const float scale = token_scale(amax, args.scale_ub, args.format);
    args.scale[row] = scale;

    const bool limited = args.scale_ub != nullptr && *args.scale_ub < amax;
    if (has_nan || limited || max == Element::kInfinity) {
      convert_row<Element>(x, args.hidden, q, SaturatingRow(args.format, scale));
    } else {
      convert_row<Element>(x, args.hidden, q, FiniteRow<Element::kReciprocal>(args.format, scale));
    }
  }
}

}  // namespace

void per_token_quant_avx512(const PerTokenQuant& args, int64_t begin, int64_t end) {
  switch (args.x_dtype) {
    case Dtype::kFloat32:
      return quantize_rows<Float32>(args, begin, end);
    case Dtype::kFloat16:
      return quantize_rows<Float16>(args, begin, end);
    case Dtype::kBFloat16:
      return quantize_rows<BFloat16>(args, begin, end);
  }
}

}  // namespace octet
