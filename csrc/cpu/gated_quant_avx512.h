// gelu_tanh_and_mul_quant and silu_and_mul_quant on AVX-512: a pass that leaves the row in scratch,
// then the two passes of its quantization.
#pragma once

#ifdef __AVX512BF16__
#include "cpu/activation_tables.h"
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
// The activations for gates of bf16, whose results round to the same bf16 as torch's: a
// parabola for each of 32 segments of the gate's magnitude (see tools/fit_activations.py), which
// are narrow enough to have few gates. There is no exponential and no division.
template <class Table>
class Parabolas {
 public:
  // `magnitudes` are at most the table's limit.
  void evaluate(const __m512 (&magnitudes)[4], __m512 (&values)[4]) const {
    // The sum's lower bits are the index; the permutation looks at five of them.
    const __m512 magic = _mm512_set1_ps(0x1.8p23f);
    __m512i index[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      index[v] = _mm512_castps_si512(
          _mm512_fmadd_ps(magnitudes[v], _mm512_set1_ps(Table::kSegmentsPerUnit), magic));
    }
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) values[v] = coefficient(2, index[v]);
#pragma GCC unroll 2
    for (int k = 1; k >= 0; --k) {
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        values[v] = _mm512_fmadd_ps(values[v], magnitudes[v], coefficient(k, index[v]));
      }
    }
  }

 private:
  __m512 coefficient(int k, __m512i index) const {
    return _mm512_permutex2var_ps(low_[k], index, high_[k]);
  }

  static __m512 load(int k, int half) {
    return _mm512_load_ps(Table::kCoefficients[k] + half * kLanes);
  }
  __m512 low_[3] = {load(0, 0), load(1, 0), load(2, 0)};
  __m512 high_[3] = {load(0, 1), load(1, 1), load(2, 1)};
};

// The magnitude of x, or the limit where that is smaller or x is a NaN.
template <class Table>
__m512 limited_magnitude(__m512 x) {
  constexpr int kMinMagnitudeWithoutSign = 0xA;
  return _mm512_range_ps(x, _mm512_set1_ps(Table::kLimit), kMinMagnitudeWithoutSign);
}

template <class Activation>
class Bf16Activation;

template <>
class Bf16Activation<GeluTanh> {
 public:
  static __mmask32 is_far(__m512i, __m512i) { return 0; }

  void operator()(__m512 (&x)[4]) const {
    __m512 magnitude[4], half_tanh[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) magnitude[v] = limited_magnitude<GeluHalfTanh>(x[v]);
    parabolas_.evaluate(magnitude, half_tanh);
    const __m512i sign = _mm512_castps_si512(_mm512_set1_ps(-0.0f));
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      half_tanh[v] = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(
          _mm512_castps_si512(half_tanh[v]), _mm512_castps_si512(x[v]), sign, kAOrBAndC));
    }
    const __m512 half = _mm512_set1_ps(0.5f);
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) x[v] = _mm512_mul_ps(x[v], _mm512_add_ps(half, half_tanh[v]));
  }

 private:
  Parabolas<GeluHalfTanh> parabolas_;
};

template <>
class Bf16Activation<Silu> {
 public:
  // Whether there are gates, of these, that the parabolas do not reach: below -kLimit, where SiLU
  // is tiny but not zero. Negative numbers are the greater ones as unsigned integers.
  static __mmask32 is_far(__m512i a, __m512i b) {
    const auto limit = static_cast<int16_t>(bits_of(-SiluSigmoid::kLimit) >> 16);
    return _mm512_cmpgt_epu16_mask(_mm512_max_epu16(a, b), _mm512_set1_epi16(limit));
  }

  // With q = 1 / (1 + e^|x|), it is x q below zero, and x - x q above. A zero keeps its sign, for
  // the maximum of zeros is the second one.
  void operator()(__m512 (&x)[4]) const {
    __m512 magnitude[4], q[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) magnitude[v] = limited_magnitude<SiluSigmoid>(x[v]);
    parabolas_.evaluate(magnitude, q);
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      x[v] = _mm512_fnmadd_ps(magnitude[v], q[v], _mm512_max_ps(_mm512_set1_ps(-0.0f), x[v]));
    }
  }

 private:
  Parabolas<SiluSigmoid> parabolas_;
};

// Rounds to bf16 and leaves it as f32; ties go towards zero, where to nearest even would take twice
// as long. Of all activations only that of GELU at -4.90625, and denormal ones, are ties that
// differ.
inline __m512 round_half_down(__m512 v) {
  const __m512i sum = _mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0x7FFF));
  return _mm512_castsi512_ps(
      _mm512_and_si512(sum, _mm512_set1_epi32(static_cast<int>(0xFFFF0000u))));
}

inline void prefetch_block(const uint16_t* p) {
  _mm_prefetch(p, _MM_HINT_T0);
  _mm_prefetch(p + 32, _MM_HINT_T0);
}

// Makes the elements [0, blocks) of a row, 32 by 32 even ones first, and returns the largest
// magnitudes over lanes. Prefetches the row that lies `ahead`, if any: the hardware, which would
// have to follow two streams that end with each row, runs too little ahead of the arithmetic.
template <class Activation>
__m512i activate_blocks(const uint16_t* gate, const uint16_t* up, int64_t blocks, int64_t ahead,
                        uint16_t* y) {
  const Bf16Activation<Activation> activate;
  const __m512i magnitude_mask = _mm512_set1_epi16(0x7FFF);
  __m512i max = _mm512_setzero_si512();
  for (int64_t i = 0; i < blocks; i += kBlock) {
    if (ahead != 0) {
      prefetch_block(gate + ahead + i);
      prefetch_block(up + ahead + i);
    }
    const __m512i g[2] = {_mm512_loadu_si512(gate + i), _mm512_loadu_si512(gate + i + 32)};
    const EvenOdd a = widen(g[0]), b = widen(g[1]);
    __m512 x[4] = {a.even, a.odd, b.even, b.odd};
    if (Bf16Activation<Activation>::is_far(g[0], g[1]) != 0) [[unlikely]] {
      for (__m512& v : x) v = round_without_nan_payload(Activation::apply(v));
    } else {
      activate(x);
    }
#pragma GCC unroll 4
    for (__m512& v : x) v = round_half_down(v);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const EvenOdd u = load_even_odd(up + i + 32 * half);
      const __m512i made =
          narrow({_mm512_mul_ps(x[2 * half], u.even), _mm512_mul_ps(x[2 * half + 1], u.odd)});
      max = BFloat16::max(max, _mm512_and_si512(made, magnitude_mask));
      _mm512_storeu_si512(y + i + 32 * half, made);
    }
  }
  return max;
}

template <class Activation>
void activate_bf16_rows(const GatedQuant& args, int64_t begin, int64_t end, void* scratch) {
  auto* y = static_cast<uint16_t*>(scratch);
  const int64_t blocks = even_odd_elements(args.hidden);
  for (int64_t row = begin; row < end; ++row) {
    const uint16_t* gate = static_cast<const uint16_t*>(args.x) + row * args.x_stride;
    const uint16_t* up = gate + args.hidden;
    const int64_t ahead = row + 1 < end ? args.x_stride : 0;
    const __m512i max = activate_blocks<Activation>(gate, up, blocks, ahead, y);
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
