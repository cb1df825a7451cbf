// per_channel_quant on AVX2 with F16C: per_channel_quant_avx512.cpp in registers of half the width,
// with the end of a row left to the scalar functions of fp8.h.
#include <immintrin.h>

#include "cpu/kernel_list.h"
#include "cpu/rows.h"
#include "float16.h"

namespace octet {
namespace {

constexpr int kLanes = 8;   // f32 values in a register
constexpr int kBlock = 32;  // codes in a register

inline __m128i load_128(const uint16_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}

struct Float32 {
  using Storage = float;
  static constexpr float kEpsilon = 0x1p-23f;

  static float to_f32(float value) { return value; }
  static float from_f32(float value) { return value; }
  static __m256 load(const float* p) { return _mm256_loadu_ps(p); }
  static __m256 rounded(__m256 v) { return v; }
};

struct BFloat16 {
  using Storage = uint16_t;
  static constexpr float kEpsilon = 0x1p-7f;

  static float to_f32(uint16_t bits) { return bf16_to_f32(bits); }
  static uint16_t from_f32(float value) { return f32_to_bf16(value); }
  static __m256 load(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(p)), 16));
  }
  // f32_to_bf16() of values that are no NaN, left in the upper half.
  static __m256 rounded(__m256 v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    return _mm256_castsi256_ps(
        _mm256_and_si256(sum, _mm256_set1_epi32(static_cast<int>(0xFFFF0000u))));
  }
};

struct Float16 {
  using Storage = uint16_t;
  static constexpr float kEpsilon = 0x1p-10f;

  static float to_f32(uint16_t bits) { return f16_to_f32(bits); }
  static uint16_t from_f32(float value) { return f32_to_f16(value); }
  static __m256 load(const uint16_t* p) { return _mm256_cvtph_ps(load_128(p)); }
  static __m256 rounded(__m256 v) {
    return _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};

// The largest magnitude of a row, as f32 bits; above infinity if there is a NaN.
template <class Element>
uint32_t max_magnitude(const typename Element::Storage* w, int64_t in_features) {
  const __m256i magnitude_mask = _mm256_set1_epi32(0x7FFFFFFF);
  __m256i max[4];
  for (__m256i& v : max) v = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + kBlock <= in_features; i += kBlock) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const __m256 values = Element::load(w + i + v * kLanes);
      max[v] =
          _mm256_max_epu32(max[v], _mm256_and_si256(_mm256_castps_si256(values), magnitude_mask));
    }
  }
  alignas(32) uint32_t lanes[kLanes];
  _mm256_store_si256(
      reinterpret_cast<__m256i*>(lanes),
      _mm256_max_epu32(_mm256_max_epu32(max[0], max[1]), _mm256_max_epu32(max[2], max[3])));
  uint32_t result = 0;
  for (const uint32_t lane : lanes) {
    if (lane > result) result = lane;
  }
  for (; i < in_features; ++i) {
    const uint32_t magnitude = bits_of(Element::to_f32(w[i])) & 0x7FFFFFFFu;
    if (magnitude > result) result = magnitude;
  }
  return result;
}

// The codes of 8 values, one in each 32-bit lane: fp8_encode() of the clamped quotients.
template <class Element>
struct Encoder {
  __m256 scale, max;
  __m256i min_exponent, magic_exponent, rebias;
  __m128i shift;

  Encoder(Fp8Format format, float s) : scale(_mm256_set1_ps(s)) {
    const Fp8Rounding r = rounding_of(format);
    max = _mm256_set1_ps(spec_of(format).max);
    min_exponent = _mm256_set1_epi32(static_cast<int>(r.min_exponent_bits));
    magic_exponent = _mm256_set1_epi32(static_cast<int>(r.magic_exponent));
    rebias = _mm256_set1_epi32(static_cast<int>(r.rebias));
    shift = _mm_cvtsi32_si128(static_cast<int>(r.shift));
  }

  __m256i operator()(__m256 w) const {
    const __m256 quotient =
        _mm256_add_ps(Element::rounded(_mm256_div_ps(w, scale)), _mm256_setzero_ps());  // -0 -> +0
    const __m256 magnitude = _mm256_min_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), quotient), max);
    const __m256i exponent = _mm256_max_epu32(
        _mm256_and_si256(_mm256_castps_si256(magnitude), _mm256_set1_epi32(0x7F800000)),
        min_exponent);
    const __m256i magic = _mm256_add_epi32(exponent, magic_exponent);
    const __m256i rounded =
        _mm256_castps_si256(_mm256_add_ps(magnitude, _mm256_castsi256_ps(magic)));
    const __m256i code = _mm256_sub_epi32(
        _mm256_add_epi32(_mm256_sub_epi32(rounded, magic), _mm256_srl_epi32(magic, shift)), rebias);
    const __m256i sign = _mm256_and_si256(_mm256_srli_epi32(_mm256_castps_si256(quotient), 24),
                                          _mm256_set1_epi32(0x80));
    return _mm256_or_si256(code, sign);
  }
};

// Four registers of codes in 32-bit lanes to 32 bytes in order.
inline __m256i pack(const __m256i (&codes)[4]) {
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(codes[0], codes[1]),
                                            _mm256_packus_epi32(codes[2], codes[3]));
  return _mm256_permutevar8x32_epi32(bytes, order);
}

template <class Element>
void encode_row(const typename Element::Storage* w, int64_t in_features, uint8_t* q, float scale,
                Fp8Format format) {
  const Encoder<Element> encode(format, scale);
  int64_t i = 0;
  for (; i + kBlock <= in_features; i += kBlock) {
    __m256i codes[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) codes[v] = encode(Element::load(w + i + v * kLanes));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i), pack(codes));
  }
  for (; i < in_features; ++i) {
    const float quotient = Element::to_f32(Element::from_f32(Element::to_f32(w[i]) / scale)) + 0.0f;
    q[i] = fp8_encode(fp8_saturate(quotient, format), format);
  }
}

template <class Element>
void quantize_rows(const PerChannelQuant& args, int64_t begin, int64_t end) {
  using Storage = typename Element::Storage;
  quantize_channels<Element>(
      args, begin, end,
      [&](const Storage* w) { return max_magnitude<Element>(w, args.in_features); },
      [&](const Storage* w, uint8_t* q, float scale) {
        encode_row<Element>(w, args.in_features, q, scale, args.format);
      });
}

}  // namespace

void per_channel_quant_avx2(const PerChannelQuant& args, int64_t begin, int64_t end) {
  with_element(args.dtype, [&]<class Element>() { quantize_rows<Element>(args, begin, end); });
}

}  // namespace octet
