// gelu_tanh_and_mul_quant and silu_and_mul_quant on AVX-512: a pass that leaves the row in scratch,
// then the two passes of its quantization.
#pragma once

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

template <class Activation, class Element>
void activate_rows(const GatedQuant& args, int64_t begin, int64_t end, void* scratch) {
  using Storage = typename Element::Storage;
  quantize_made_rows<Element>(args, begin, end, scratch, [&](int64_t row, Storage* y) {
    const Storage* gate = static_cast<const Storage*>(args.x) + row * args.x_stride;
    const Storage* up = gate + args.hidden;
    for_each_lanes(args.hidden, [&](int64_t i, auto lanes, int) {
      const __m512 activated =
          Element::round(Activation::apply(load_lanes<Element>(gate + i, lanes)));
      store_lanes<Element>(y + i, _mm512_mul_ps(activated, load_lanes<Element>(up + i, lanes)),
                           lanes);
    });
  });
}

template <class Activation>
void activate_rows(const GatedQuant& args, int64_t begin, int64_t end, void* scratch) {
  with_element(args.x_dtype, [&]<class Element>() {
    activate_rows<Activation, Element>(args, begin, end, scratch);
  });
}

}  // namespace
}  // namespace octet
