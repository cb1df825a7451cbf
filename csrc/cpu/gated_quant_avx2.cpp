// gelu_tanh_and_mul_quant and silu_and_mul_quant on AVX2: a pass that leaves the row in scratch,
// then the two passes of its quantization.
#include "cpu/kernel_list.h"
#include "cpu/lanes_avx2.h"
#include "cpu/rows.h"

namespace octet {
namespace {

// See gated_quant_scalar.cpp for the roundings that are kept.
struct GeluTanh {
  static __m256 apply(__m256 x) {
    const __m256 one = _mm256_set1_ps(1.0f);
    const __m256 cube = _mm256_mul_ps(_mm256_mul_ps(x, x), x);
    const __m256 u = _mm256_mul_ps(_mm256_set1_ps(0.7978845608028654f),
                                   _mm256_fmadd_ps(_mm256_set1_ps(0.044715f), cube, x));
    const __m256 half = _mm256_mul_ps(_mm256_set1_ps(0.5f), x);
    return _mm256_mul_ps(half, _mm256_add_ps(one, tanh(u)));
  }

  static __m256 tanh(__m256 u) {
    const __m256 one = _mm256_set1_ps(1.0f);
    const __m256 magnitude = magnitude_of(u);
    const __m256 inside = _mm256_cmp_ps(magnitude, _mm256_set1_ps(8.6643398f), _CMP_NGT_UQ);
    const __m256 e = _mm256_and_ps(inside, exp_ps(_mm256_mul_ps(_mm256_set1_ps(-2.0f), magnitude)));
    const __m256 ratio = _mm256_div_ps(_mm256_add_ps(e, e), _mm256_add_ps(one, e));
    const __m256 sign = _mm256_and_ps(u, _mm256_set1_ps(-0.0f));
    return _mm256_or_ps(_mm256_sub_ps(one, ratio), sign);
  }
};

struct Silu {
  static __m256 apply(__m256 x) {
    const __m256 e = exp_ps(_mm256_sub_ps(_mm256_setzero_ps(), x));
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
  }
};

template <class Activation, class Element>
void activate_rows(const GatedQuant& args, int64_t begin, int64_t end, void* scratch) {
  using Storage = typename Element::Storage;
  quantize_made_rows<Element>(args, begin, end, scratch, [&](int64_t row, Storage* y) {
    const Storage* gate = static_cast<const Storage*>(args.x) + row * args.x_stride;
    const Storage* up = gate + args.hidden;
    for_each_lanes(args.hidden, [&](int64_t i, auto lanes, int) {
      const __m256 activated =
          Element::round(Activation::apply(load_lanes<Element>(gate + i, lanes)));
      store_lanes<Element>(y + i, _mm256_mul_ps(activated, load_lanes<Element>(up + i, lanes)),
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

void gelu_tanh_and_mul_quant_avx2(const GatedQuant& args, int64_t begin, int64_t end,
                                  void* scratch) {
  activate_rows<GeluTanh>(args, begin, end, scratch);
}

void silu_and_mul_quant_avx2(const GatedQuant& args, int64_t begin, int64_t end, void* scratch) {
  activate_rows<Silu>(args, begin, end, scratch);
}

}  // namespace octet
