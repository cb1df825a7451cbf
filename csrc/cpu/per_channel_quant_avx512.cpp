// per_channel_quant on AVX-512 (F, BW, DQ, VL): two passes over a row, the second from cache. The
// first takes the maximum of the magnitudes as integers, which orders IEEE values and shows a NaN
// as a magnitude above infinity.
#include <immintrin.h>

#include "cpu/kernel_list.h"
#include "cpu/rows.h"
#include "float16.h"

namespace octet {
namespace {

constexpr int kLanes = 16;  // f32 values in a register
constexpr int kBlock = 64;  // codes in a register

inline __mmask16 lanes_below(int64_t count) {
  return count >= kLanes ? __mmask16{0xFFFF} : static_cast<__mmask16>((1u << count) - 1u);
}

struct Float32 {
  using Storage = float;
  static constexpr float kEpsilon = 0x1p-23f;

  static float to_f32(float value) { return value; }
  static float from_f32(float value) { return value; }
  static __m512 load(const float* p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
  static __m512 rounded(__m512 v) { return v; }
};

struct BFloat16 {
  using Storage = uint16_t;
  static constexpr float kEpsilon = 0x1p-7f;

  static float to_f32(uint16_t bits) { return bf16_to_f32(bits); }
  static uint16_t from_f32(float value) { return f32_to_bf16(value); }
  static __m512 load(const uint16_t* p, __mmask16 mask) {
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
  }
  // f32_to_bf16() of values that are no NaN, left in the upper half.
  static __m512 rounded(__m512 v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    return _mm512_castsi512_ps(
        _mm512_and_si512(sum, _mm512_set1_epi32(static_cast<int>(0xFFFF0000u))));
  }
};

struct Float16 {
  using Storage = uint16_t;
  static constexpr float kEpsilon = 0x1p-10f;

  static float to_f32(uint16_t bits) { return f16_to_f32(bits); }
  static uint16_t from_f32(float value) { return f32_to_f16(value); }
  static __m512 load(const uint16_t* p, __mmask16 mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p));
  }
  static __m512 rounded(__m512 v) {
    return _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};

// The largest magnitude of a row, as f32 bits; above infinity if there is a NaN.
template <class Element>
uint32_t max_magnitude(const typename Element::Storage* w, int64_t in_features) {
  const __m512i magnitude_mask = _mm512_set1_epi32(0x7FFFFFFF);
  __m512i max[4] = {};
  int64_t i = 0;
  for (; i + kBlock <= in_features; i += kBlock) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const __m512 values = Element::load(w + i + v * kLanes, 0xFFFF);
      max[v] =
          _mm512_max_epu32(max[v], _mm512_and_si512(_mm512_castps_si512(values), magnitude_mask));
    }
  }
  for (; i < in_features; i += kLanes) {
    const __m512 values = Element::load(w + i, lanes_below(in_features - i));
    max[0] =
        _mm512_max_epu32(max[0], _mm512_and_si512(_mm512_castps_si512(values), magnitude_mask));
  }
  return _mm512_reduce_max_epu32(
      _mm512_max_epu32(_mm512_max_epu32(max[0], max[1]), _mm512_max_epu32(max[2], max[3])));
}

// The codes of 16 values, one in each 32-bit lane: fp8_encode() of the clamped quotients.
template <class Element>
struct Encoder {
  __m512 scale, max;
  __m512i min_exponent, magic_exponent, rebias;
  __m128i shift;

  Encoder(Fp8Format format, float s) : scale(_mm512_set1_ps(s)) {
    const Fp8Rounding r = rounding_of(format);
    max = _mm512_set1_ps(spec_of(format).max);
    min_exponent = _mm512_set1_epi32(static_cast<int>(r.min_exponent_bits));
    magic_exponent = _mm512_set1_epi32(static_cast<int>(r.magic_exponent));
    rebias = _mm512_set1_epi32(static_cast<int>(r.rebias));
    shift = _mm_cvtsi32_si128(static_cast<int>(r.shift));
  }

  __m512i operator()(__m512 w) const {
    constexpr int kAOrBAndC = 0xF8;
    const __m512 quotient =
        _mm512_add_ps(Element::rounded(_mm512_div_ps(w, scale)), _mm512_setzero_ps());  // -0 -> +0
    const __m512 magnitude = _mm512_min_ps(_mm512_abs_ps(quotient), max);
    const __m512i exponent = _mm512_max_epu32(
        _mm512_and_si512(_mm512_castps_si512(magnitude), _mm512_set1_epi32(0x7F800000)),
        min_exponent);
    const __m512i magic = _mm512_add_epi32(exponent, magic_exponent);
    const __m512i rounded =
        _mm512_castps_si512(_mm512_add_ps(magnitude, _mm512_castsi512_ps(magic)));
    const __m512i code = _mm512_sub_epi32(
        _mm512_add_epi32(_mm512_sub_epi32(rounded, magic), _mm512_srl_epi32(magic, shift)), rebias);
    return _mm512_ternarylogic_epi32(code, _mm512_srli_epi32(_mm512_castps_si512(quotient), 24),
                                     _mm512_set1_epi32(0x80), kAOrBAndC);
  }
};

// Four registers of codes in 32-bit lanes to 64 bytes in order.
inline __m512i pack(const __m512i (&codes)[4]) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i bytes = _mm512_packus_epi16(_mm512_packus_epi32(codes[0], codes[1]),
                                            _mm512_packus_epi32(codes[2], codes[3]));
  return _mm512_permutexvar_epi32(order, bytes);
}

template <class Element>
void encode_row(const typename Element::Storage* w, int64_t in_features, uint8_t* q,
                const Encoder<Element>& encode) {
  int64_t i = 0;
  for (; i + kBlock <= in_features; i += kBlock) {
    __m512i codes[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) codes[v] = encode(Element::load(w + i + v * kLanes, 0xFFFF));
    _mm512_storeu_si512(q + i, pack(codes));
  }
  for (; i < in_features; i += kLanes) {
    const __mmask16 mask = lanes_below(in_features - i);
    _mm_mask_storeu_epi8(q + i, mask, _mm512_cvtepi32_epi8(encode(Element::load(w + i, mask))));
  }
}

template <class Element>
void quantize_rows(const PerChannelQuant& args, int64_t begin, int64_t end) {
  using Storage = typename Element::Storage;
  quantize_channels<Element>(
      args, begin, end,
      [&](const Storage* w) { return max_magnitude<Element>(w, args.in_features); },
      [&](const Storage* w, uint8_t* q, float scale) {
        encode_row<Element>(w, args.in_features, q, Encoder<Element>(args.format, scale));
      });
}

}  // namespace

void per_channel_quant_avx512(const PerChannelQuant& args, int64_t begin, int64_t end) {
  with_element(args.dtype, [&]<class Element>() { quantize_rows<Element>(args, begin, end); });
}

}  // namespace octet
