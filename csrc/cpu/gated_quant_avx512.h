// gelu_tanh_and_mul_quant and silu_and_mul_quant on AVX-512: a pass that leaves the row in scratch,
// then the two passes of its quantization.
#pragma once

#ifdef __AVX512BF16__
#include "cpu/even_odd_avx512.h"
#endif
#include "cpu/lanes_avx512.h"
#include "cpu/rows.h"
#include "kernels.h"

namespace octet {
namespace {

// See gated_quant_scalar.cpp for the roundings that are kept.
struct GeluTanh {
  static __m512 apply(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
    const __m512 u = _mm512_mul_ps(_mm512_set1_ps(0.7978845608028654f),
                                   _mm512_fmadd_ps(_mm512_set1_ps(0.044715f), cube, x));
    const __m512 half = _mm512_mul_ps(_mm512_set1_ps(0.5f), x);
    return _mm512_mul_ps(half, _mm512_add_ps(one, tanh(u)));
  }

  static __m512 tanh(__m512 u) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 magnitude = magnitude_of(u);
    const __mmask16 inside = _mm512_cmp_ps_mask(magnitude, _mm512_set1_ps(8.6643398f), _CMP_NGT_UQ);
    const __m512 e =
        _mm512_maskz_mov_ps(inside, exp_ps(_mm512_mul_ps(_mm512_set1_ps(-2.0f), magnitude)));
    const __m512 ratio = _mm512_div_ps(_mm512_add_ps(e, e), _mm512_add_ps(one, e));
    const __m512 sign = _mm512_and_ps(u, _mm512_set1_ps(-0.0f));
    return _mm512_or_ps(_mm512_sub_ps(one, ratio), sign);
  }
};

struct Silu {
  static __m512 apply(__m512 x) {
    const __m512 e = exp_ps(_mm512_sub_ps(_mm512_setzero_ps(), x));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
  }
};

// The elements of [begin, hidden) of a row, 16 at a time.
template <class Activation, class Element>
void activate(const typename Element::Storage* gate, const typename Element::Storage* up,
              int64_t begin, int64_t hidden, typename Element::Storage* y) {
  for_each_lanes(hidden - begin, [&](int64_t offset, auto lanes, int) {
    const int64_t i = begin + offset;
    const __m512 activated =
        Element::round(Activation::apply(load_lanes<Element>(gate + i, lanes)));
    store_lanes<Element>(y + i, _mm512_mul_ps(activated, load_lanes<Element>(up + i, lanes)),
                         lanes);
  });
}

template <class Activation, class Element>
void activate_rows(const GatedQuant& args, int64_t begin, int64_t end, void* scratch) {
  using Storage = typename Element::Storage;
  quantize_made_rows<Element>(args, begin, end, scratch, [&](int64_t row, Storage* y) {
    const Storage* gate = static_cast<const Storage*>(args.x) + row * args.x_stride;
    activate<Activation, Element>(gate, gate + args.hidden, 0, args.hidden, y);
  });
}

#ifdef __AVX512BF16__
// 2^t as 2^(t - f) * 2^f, where t - f is the nearest multiple of 1/32: a table has the powers of
// its fraction, scalef applies its integer part, and for |f| <= 1/64 a parabola gives 2^f with a
// relative error below 6e-8.
struct PowerOfTwo {
  __m512 rest;      // f
  __m512 multiple;  // t - f
  __m512i index;    // its multiple of 1/32, in the lower five bits

  // t = a * b, of which only the sum with a multiple of 1/32 is rounded.
  PowerOfTwo(__m512 a, __m512 b) {
    const __m512 magic = _mm512_set1_ps(0x1.8p18f);  // a unit in its last place is 1/32
    const __m512 sum = _mm512_fmadd_ps(a, b, magic);
    index = _mm512_castps_si512(sum);
    multiple = _mm512_sub_ps(sum, magic);
    rest = _mm512_fmsub_ps(a, b, multiple);
  }

  __m512 value() const {
    const __m512 low = _mm512_setr_ps(0x1p0f, 0x1.059b0ep0f, 0x1.0b5586p0f, 0x1.11301ep0f,
                                      0x1.172b84p0f, 0x1.1d4874p0f, 0x1.2387a6p0f, 0x1.29e9ep0f,
                                      0x1.306fep0f, 0x1.371a74p0f, 0x1.3dea64p0f, 0x1.44e086p0f,
                                      0x1.4bfdaep0f, 0x1.5342b6p0f, 0x1.5ab07ep0f, 0x1.6247ecp0f);
    const __m512 high = _mm512_setr_ps(0x1.6a09e6p0f, 0x1.71f75ep0f, 0x1.7a1148p0f, 0x1.82589ap0f,
                                       0x1.8ace54p0f, 0x1.93737cp0f, 0x1.9c4918p0f, 0x1.a5503cp0f,
                                       0x1.ae89fap0f, 0x1.b7f77p0f, 0x1.c199bep0f, 0x1.cb720ep0f,
                                       0x1.d5818ep0f, 0x1.dfc974p0f, 0x1.ea4afap0f, 0x1.f50766p0f);
    const __m512 power = _mm512_permutex2var_ps(low, index, high);
    const __m512 slope =
        _mm512_fmadd_ps(rest, _mm512_set1_ps(0.24022651f), _mm512_set1_ps(0.69315735f));
    // Scaled last, for infinity and a negative change would give a NaN.
    const __m512 value = _mm512_fmadd_ps(power, _mm512_mul_ps(rest, slope), power);
    return _mm512_scalef_ps(value, multiple);
  }
};

// The activations for gates of bf16. Their results round to the same bf16 as those above.
inline __m512 activate_bf16(GeluTanh, __m512 x) {
  constexpr float kTwoLog2E = 2.8853900817779268f, kSqrtTwoOverPi = 0.7978845608028654f;
  const __m512 half = _mm512_set1_ps(0.5f);
  const __m512 magnitude = magnitude_of(x);
  // e^(-2|u|); tanh(|u|) is 1 from this magnitude of x on.
  const __mmask16 inside = _mm512_cmp_ps_mask(magnitude, _mm512_set1_ps(5.046875f), _CMP_NGT_UQ);
  const __m512 factor =
      _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(-0.044715f * kTwoLog2E * kSqrtTwoOverPi),
                      _mm512_set1_ps(-kTwoLog2E * kSqrtTwoOverPi));
  const __m512 e = PowerOfTwo(magnitude, factor).value();
  // Halves of tanh(|u|) and of 1 + tanh(u), which doubling would not round.
  const __m512 ratio = _mm512_div_ps(e, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
  const __m512 half_tanh = _mm512_mask_sub_ps(half, inside, half, ratio);
  constexpr int kAOrBAndC = 0xF8;
  const __m512 sign = _mm512_set1_ps(-0.0f);
  const __m512 signed_half_tanh = _mm512_castsi512_ps(
      _mm512_ternarylogic_epi32(_mm512_castps_si512(half_tanh), _mm512_castps_si512(x),
                                _mm512_castps_si512(sign), kAOrBAndC));
  return _mm512_mul_ps(x, _mm512_add_ps(half, signed_half_tanh));
}

inline __m512 activate_bf16(Silu, __m512 x) {
  // Clamped where e^-x is 0 or infinite, NaNs as well: what comes of them is decided by the
  // quotient.
  constexpr int kSmallerMagnitude = 0x2;
  const __m512 clamped = _mm512_range_ps(x, _mm512_set1_ps(128.0f), kSmallerMagnitude);
  const __m512 e = PowerOfTwo(clamped, _mm512_set1_ps(-1.4426950408889634f)).value();
  return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

// Makes 32 elements of a row, even ones first, and returns them.
template <class Activation>
__m512i activate_32(const uint16_t* gate, const uint16_t* up) {
  const EvenOdd g = load_even_odd(gate), u = load_even_odd(up);
  const __m512 even = round_without_nan_payload(activate_bf16(Activation{}, g.even));
  const __m512 odd = round_without_nan_payload(activate_bf16(Activation{}, g.odd));
  return narrow({_mm512_mul_ps(even, u.even), _mm512_mul_ps(odd, u.odd)});
}

template <class Activation>
void activate_bf16_rows(const GatedQuant& args, int64_t begin, int64_t end, void* scratch) {
  auto* y = static_cast<uint16_t*>(scratch);
  const int64_t blocks = even_odd_elements(args.hidden);
  const __m512i magnitude_mask = _mm512_set1_epi16(0x7FFF);
  for (int64_t row = begin; row < end; ++row) {
    const uint16_t* gate = static_cast<const uint16_t*>(args.x) + row * args.x_stride;
    const uint16_t* up = gate + args.hidden;
    __m512i max = _mm512_setzero_si512();
    for (int64_t i = 0; i < blocks; i += 32) {
      const __m512i made = activate_32<Activation>(gate + i, up + i);
      max = BFloat16::max(max, _mm512_and_si512(made, magnitude_mask));
      _mm512_storeu_si512(y + i, made);
    }
    activate<Activation, BFloat16>(gate, up, blocks, args.hidden, y);
    args.scale[row] =
        quantize_made_row(y, args.hidden, max, args.format, args.q + row * args.q_stride);
  }
}
#endif

template <class Activation>
void activate_rows(const GatedQuant& args, int64_t begin, int64_t end, void* scratch) {
#ifdef __AVX512BF16__
  if (args.x_dtype == Dtype::kBFloat16 && args.hidden >= kMinTableHidden) {
    return activate_bf16_rows<Activation>(args, begin, end, scratch);
  }
#endif
  with_element(args.x_dtype, [&]<class Element>() {
    activate_rows<Activation, Element>(args, begin, end, scratch);
  });
}

}  // namespace
}  // namespace octet
