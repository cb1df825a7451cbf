// per_token_quant on AVX2 with FMA and F16C: two passes over a row, the second from cache. See
// per_token_quant_avx512.cpp for the reasoning; this is the same in registers of half the width,
// with the end of a row left to the scalar functions of fp8.h.
#include <immintrin.h>

#include "cpu/kernel_list.h"
#include "float16.h"

namespace octet {
namespace {

constexpr int kLanes = 8;   // f32 values in a register
constexpr int kBlock = 32;  // codes in a register

inline __m256i load_256(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

struct Float32 {
  using Storage = float;
  static constexpr uint32_t kMagnitudeMask = 0x7FFFFFFFu;
  static constexpr uint32_t kInfinity = 0x7F800000u;
  static constexpr int kBitsLanes = 8;
  static constexpr bool kReciprocal = false;

  static uint32_t bits(const float* p) { return bits_of(*p); }
  static float to_f32(uint32_t bits) { return float_of(bits); }
  static __m256 load(const float* p) { return _mm256_loadu_ps(p); }
  static __m256i magnitudes(const float* p) {
    return _mm256_and_si256(load_256(p), _mm256_set1_epi32(0x7FFFFFFF));
  }
  static __m256i max(__m256i a, __m256i b) { return _mm256_max_epu32(a, b); }
};

// What bf16 and half share: 16-bit storage.
struct Halves {
  using Storage = uint16_t;
  static constexpr uint32_t kMagnitudeMask = 0x7FFFu;
  static constexpr int kBitsLanes = 16;
  static constexpr bool kReciprocal = true;

  static uint32_t bits(const uint16_t* p) { return *p; }
  static __m256i magnitudes(const uint16_t* p) {
    return _mm256_and_si256(load_256(p), _mm256_set1_epi16(0x7FFF));
  }
  static __m256i max(__m256i a, __m256i b) { return _mm256_max_epu16(a, b); }
  static __m128i load_bits(const uint16_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
};

struct BFloat16 : Halves {
  static constexpr uint32_t kInfinity = 0x7F80u;

  static float to_f32(uint32_t bits) { return bf16_to_f32(static_cast<uint16_t>(bits)); }
  static __m256 load(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_bits(p)), 16));
  }
};

struct Float16 : Halves {
  static constexpr uint32_t kInfinity = 0x7C00u;

  static float to_f32(uint32_t bits) { return f16_to_f32(static_cast<uint16_t>(bits)); }
  static __m256 load(const uint16_t* p) { return _mm256_cvtph_ps(load_bits(p)); }
};

// The largest magnitude of a row, as bits of its own type; above kInfinity if there is a NaN.
template <class Element>
uint32_t max_magnitude(const typename Element::Storage* x, int64_t hidden) {
  constexpr int64_t kStep = Element::kBitsLanes;
  __m256i max[4];
  for (__m256i& v : max) v = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + 4 * kStep <= hidden; i += 4 * kStep) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      max[v] = Element::max(max[v], Element::magnitudes(x + i + v * kStep));
    }
  }
  for (; i + kStep <= hidden; i += kStep) {
    max[0] = Element::max(max[0], Element::magnitudes(x + i));
  }
  alignas(32) typename Element::Storage lanes[kStep];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes),
                     Element::max(Element::max(max[0], max[1]), Element::max(max[2], max[3])));
  uint32_t result = 0;
  for (int64_t lane = 0; lane < kStep; ++lane) {
    const uint32_t bits = Element::bits(lanes + lane);
    if (bits > result) result = bits;
  }
  for (; i < hidden; ++i) {
    const uint32_t magnitude = Element::bits(x + i) & Element::kMagnitudeMask;
    if (magnitude > result) result = magnitude;
  }
  return result;
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

inline __m256 magnitude_of(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

// fp8_encode() of 8 values of magnitude at most FMAX, one code in each 32-bit lane.
struct Encoder {
  __m256i min_exponent, magic_exponent, rebias;
  __m128i shift;

  explicit Encoder(Fp8Format format) {
    const Fp8Rounding r = rounding_of(format);
    min_exponent = _mm256_set1_epi32(static_cast<int>(r.min_exponent_bits));
    magic_exponent = _mm256_set1_epi32(static_cast<int>(r.magic_exponent));
    rebias = _mm256_set1_epi32(static_cast<int>(r.rebias));
    shift = _mm_cvtsi32_si128(static_cast<int>(r.shift));
  }

  // `sign` gives the sign bit, `magnitude` the rest.
  __m256i operator()(__m256 magnitude, __m256 sign) const {
    const __m256i exponent = _mm256_max_epu32(
        _mm256_and_si256(_mm256_castps_si256(magnitude), _mm256_set1_epi32(0x7F800000)),
        min_exponent);
    const __m256i magic = _mm256_add_epi32(exponent, magic_exponent);
    const __m256i rounded =
        _mm256_castps_si256(_mm256_add_ps(magnitude, _mm256_castsi256_ps(magic)));
    const __m256i code = _mm256_sub_epi32(
        _mm256_add_epi32(_mm256_sub_epi32(rounded, magic), _mm256_srl_epi32(magic, shift)), rebias);
    const __m256i sign_bit =
        _mm256_and_si256(_mm256_srli_epi32(_mm256_castps_si256(sign), 24), _mm256_set1_epi32(0x80));
    return _mm256_or_si256(code, sign_bit);
  }
};

// Finite rows that nothing saturates.
template <bool kReciprocal>
struct FiniteRow {
  Encoder encode;
  __m256 scale, reciprocal;

  FiniteRow(Fp8Format format, float s)
      : encode(format), scale(_mm256_set1_ps(s)), reciprocal(_mm256_set1_ps(1.0f / s)) {}

  __m256i operator()(__m256 x) const {
    const __m256 magnitude = magnitude_of(x);
    __m256 quotient;
    if constexpr (kReciprocal) {
      quotient = _mm256_mul_ps(magnitude, reciprocal);
      const __m256 residual = _mm256_fnmadd_ps(quotient, scale, magnitude);
      quotient = _mm256_fmadd_ps(residual, reciprocal, quotient);
    } else {
      quotient = _mm256_div_ps(magnitude, scale);
    }
    return encode(quotient, x);
  }
};

// Any row: NaN, infinities, scale_ub.
struct SaturatingRow {
  Encoder encode;
  __m256 scale, max, min;

  SaturatingRow(Fp8Format format, float s)
      : encode(format),
        scale(_mm256_set1_ps(s)),
        max(_mm256_set1_ps(spec_of(format).max)),
        min(_mm256_set1_ps(-spec_of(format).max)) {}

  __m256i operator()(__m256 x) const {
    // vminps returns its second operand when the first is NaN.
    const __m256 value = _mm256_max_ps(_mm256_min_ps(_mm256_div_ps(x, scale), max), min);
    return encode(magnitude_of(value), value);
  }
};

// Four registers of codes in 32-bit lanes to 32 bytes in order.
inline __m256i pack(const __m256i (&codes)[4]) {
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(codes[0], codes[1]),
                                            _mm256_packus_epi32(codes[2], codes[3]));
  return _mm256_permutevar8x32_epi32(bytes, order);
}

template <class Element, class Convert>
void convert_row(const typename Element::Storage* x, int64_t hidden, uint8_t* q,
                 const Convert& convert, float scale, Fp8Format format) {
  int64_t i = 0;
  for (; i + kBlock <= hidden; i += kBlock) {
    __m256i codes[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) codes[v] = convert(Element::load(x + i + v * kLanes));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i), pack(codes));
  }
  for (; i < hidden; ++i) {
    const float value = Element::to_f32(Element::bits(x + i));
    q[i] = fp8_encode(fp8_saturate(value / scale, format), format);
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
      convert_row<Element>(x, args.hidden, q, SaturatingRow(args.format, scale), scale,
                           args.format);
    } else {
      convert_row<Element>(x, args.hidden, q, FiniteRow<Element::kReciprocal>(args.format, scale),
                           scale, args.format);
    }
  }
}

}  // namespace

void per_token_quant_avx2(const PerTokenQuant& args, int64_t begin, int64_t end) {
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
