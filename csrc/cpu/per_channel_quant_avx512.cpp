// per_channel_quant on AVX-512 (F, BW, DQ, VL): two passes over a row, the second from cache.
#include <immintrin.h>

#include "cpu/convert_row_avx512.h"
#include "cpu/elements_avx512.h"
#include "cpu/kernel_list.h"
#include "cpu/rows.h"
#include "float16.h"

namespace octet {
namespace {

// An element with what its type adds to the scale of a channel.
template <class Element>
struct Weight;

template <>
struct Weight<Float32> : Float32 {
  static constexpr float kEpsilon = 0x1p-23f;

  static float to_f32(float value) { return value; }
  static float from_f32(float value) { return value; }
};

template <>
struct Weight<BFloat16> : BFloat16 {
  static constexpr float kEpsilon = 0x1p-7f;

  static uint16_t from_f32(float value) { return f32_to_bf16(value); }
};

template <>
struct Weight<Float16> : Float16 {
  static constexpr float kEpsilon = 0x1p-10f;

  static uint16_t from_f32(float value) { return f32_to_f16(value); }
};

// The codes of 16 values, one in each 32-bit lane: fp8_encode() of the clamped quotients.
template <class Element>
struct DividedByScale {
  Encoder encode;
  __m512 scale, max;

  DividedByScale(Fp8Format format, float s)
      : encode(format), scale(_mm512_set1_ps(s)), max(_mm512_set1_ps(spec_of(format).max)) {}

  __m512i operator()(__m512 w) const {
    const __m512 quotient =
        _mm512_add_ps(Element::round(_mm512_div_ps(w, scale)), _mm512_setzero_ps());  // -0 -> +0
    return encode(_mm512_min_ps(magnitude_of(quotient), max), _mm512_castps_si512(quotient));
  }
};

template <class Element>
void quantize_rows(const PerChannelQuant& args, int64_t begin, int64_t end) {
  using Storage = typename Element::Storage;
  quantize_channels<Weight<Element>>(
      args, begin, end,
      [&](const Storage* w) {
        return bits_of(Element::to_f32(max_magnitude<Element>(w, args.in_features)));
      },
      [&](const Storage* w, uint8_t* q, float scale) {
        convert_row<Element>(w, args.in_features, q, DividedByScale<Element>(args.format, scale));
      });
}

}  // namespace

void per_channel_quant_avx512(const PerChannelQuant& args, int64_t begin, int64_t end) {
  with_element(args.dtype, [&]<class Element>() { quantize_rows<Element>(args, begin, end); });
}

}  // namespace octet
