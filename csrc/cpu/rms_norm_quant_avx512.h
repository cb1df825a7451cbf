// rms_norm_quant on AVX-512: the normed row is left in scratch for the two passes of its
// quantization.
#pragma once

#ifdef __AVX512BF16__
#include "cpu/even_odd_avx512.h"
#endif
#include "cpu/rms_norm_avx512.h"
#include "kernels.h"

namespace octet {
namespace {

template <class Element, Gain kGain>
struct Row {
  const typename Element::Storage* x;
  typename Element::Storage* residual;  // may be null

  // Where x is to be normalized before it meets the residual, that is done, to `made`.
  Row(const RmsNormQuant& args, int64_t row, typename Element::Storage* made)
      : x(static_cast<const typename Element::Storage*>(args.x) + row * args.x_stride),
        residual(args.residual == nullptr ? nullptr
                                          : static_cast<typename Element::Storage*>(args.residual) +
                                                row * args.residual_stride) {
    if (args.post_weight == nullptr) return;
    normalize_row<Element, false, kGain>(x, nullptr, args.post_weight, args.eps, args.hidden, made);
    x = made;
  }
};

template <class Element, bool kHasResidual, Gain kGain>
void normalize_rows(const RmsNormQuant& args, int64_t begin, int64_t end, void* scratch) {
  using Storage = typename Element::Storage;
  quantize_made_rows<Element>(args, begin, end, scratch, [&](int64_t i, Storage* y) {
    const Row<Element, kGain> row(args, i, y);
    normalize_row<Element, kHasResidual, kGain>(row.x, row.residual, args.weight, args.eps,
                                                args.hidden, y);
  });
}

#ifdef __AVX512BF16__
template <bool kHasResidual>
EvenOdd load_even_odd_input(const uint16_t* x, const uint16_t* residual) {
  const EvenOdd value = load_even_odd(x);
  if constexpr (!kHasResidual) return value;
  const EvenOdd other = load_even_odd(residual);
  return {_mm512_add_ps(value.even, other.even), _mm512_add_ps(value.odd, other.odd)};
}

// Adds the squares of the elements [0, blocks) to `sums`. Returns whether there may be denormals
// among their sums with the residual: only where both are below 2^-111, for above that a sum is
// zero, or at least a unit in the last place of a number half as large.
template <bool kHasResidual>
bool add_bf16_squares(const uint16_t* x, const uint16_t* residual, int64_t blocks,
                      __m512 (&sums)[4]) {
  const __m512i not_tiny = _mm512_set1_epi16(0x7800);  // exponent bits, of 2^-111 and more
  __mmask32 normal = ~__mmask32{0};
  for (int64_t i = 0; i < blocks; i += kBlock) {
#pragma GCC unroll 2
    for (int part = 0; part < 2; ++part) {
      const int64_t at = i + part * 32;
      const EvenOdd value = load_even_odd_input<kHasResidual>(x + at, residual + at);
      sums[2 * part] = _mm512_fmadd_ps(value.even, value.even, sums[2 * part]);
      sums[2 * part + 1] = _mm512_fmadd_ps(value.odd, value.odd, sums[2 * part + 1]);
      if constexpr (kHasResidual) {
        const __m512i both =
            _mm512_or_si512(_mm512_loadu_si512(x + at), _mm512_loadu_si512(residual + at));
        normal = _mm512_mask_test_epi16_mask(normal, both, not_tiny);
      }
    }
  }
  return kHasResidual && normal != ~__mmask32{0};
}

// The sum as elements of the residual, in order.
template <bool kHasDenormals>
__m512i rounded_sum(EvenOdd value) {
  if constexpr (kHasDenormals) {
    const __m512i even = _mm512_castps_si512(round_without_nan_payload(value.even));
    const __m512i odd = _mm512_castps_si512(round_without_nan_payload(value.odd));
    return _mm512_or_si512(_mm512_srli_epi32(even, 16), odd);
  }
  return _mm512_permutexvar_epi16(even_odd_positions(), narrow(value));
}

// value * factor * gain. The sum of one and the weight is exact but for weights below 2^-16.
template <Gain kGain>
__m512 scaled(__m512 value, __m512 factors, __m512 weight) {
  const __m512 normed = _mm512_mul_ps(value, factors);
  if constexpr (kGain == Gain::kOnePlusWeight) return _mm512_fmadd_ps(normed, weight, normed);
  return _mm512_mul_ps(round_without_nan_payload(normed), weight);
}

// Makes the elements [0, blocks) of a row and returns the largest magnitudes over lanes.
template <bool kHasResidual, bool kHasDenormals, Gain kGain>
__m512i scale_blocks(const Row<BFloat16, kGain>& row, const uint16_t* weight, __m512 factors,
                     int64_t blocks, uint16_t* y) {
  __m512i max = _mm512_setzero_si512();
  for (int64_t i = 0; i < blocks; i += 32) {
    const EvenOdd value = load_even_odd_input<kHasResidual>(row.x + i, row.residual + i);
    if constexpr (kHasResidual) {
      _mm512_storeu_si512(row.residual + i, rounded_sum<kHasDenormals>(value));
    }
    const EvenOdd w = load_even_odd(weight + i);
    const __m512i made = narrow(
        {scaled<kGain>(value.even, factors, w.even), scaled<kGain>(value.odd, factors, w.odd)});
    max = BFloat16::max(max, _mm512_and_si512(made, _mm512_set1_epi16(0x7FFF)));
    _mm512_storeu_si512(y + i, made);
  }
  return max;
}

template <bool kHasResidual, Gain kGain>
void normalize_bf16_rows(const RmsNormQuant& args, int64_t begin, int64_t end, void* scratch) {
  auto* y = static_cast<uint16_t*>(scratch);
  const auto* weight = static_cast<const uint16_t*>(args.weight);
  const int64_t blocks = even_odd_elements(args.hidden);
  for (int64_t i = begin; i < end; ++i) {
    const Row<BFloat16, kGain> row(args, i, y);
    __m512 sums[4] = {};
    const bool denormals = add_bf16_squares<kHasResidual>(row.x, row.residual, blocks, sums);
    add_squares<BFloat16, kHasResidual>(row.x, row.residual, blocks, args.hidden, sums);
    const __m512 factors = _mm512_set1_ps(inverse_rms(sums, args.hidden, args.eps));
    const auto scale = denormals ? scale_blocks<kHasResidual, true, kGain>
                                 : scale_blocks<kHasResidual, false, kGain>;
    const __m512i max = scale(row, weight, factors, blocks, y);
    scale_elements<BFloat16, kHasResidual, kGain>(row.x, row.residual, args.weight, factors, blocks,
                                                  args.hidden, y);
    args.scale[i] = quantize_made_row(y, args.hidden, max, args.format, args.q + i * args.q_stride);
  }
}
#endif

inline void normalize_rows(const RmsNormQuant& args, int64_t begin, int64_t end, void* scratch) {
  const bool has_residual = args.residual != nullptr;
  with_gain(args.gain, [&]<Gain kGain>() {
#ifdef __AVX512BF16__
    if (args.x_dtype == Dtype::kBFloat16 && args.hidden >= kMinTableHidden) {
      return has_residual ? normalize_bf16_rows<true, kGain>(args, begin, end, scratch)
                          : normalize_bf16_rows<false, kGain>(args, begin, end, scratch);
    }
#endif
    with_element(args.x_dtype, [&]<class Element>() {
      if (has_residual) {
        normalize_rows<Element, true, kGain>(args, begin, end, scratch);
      } else {
        normalize_rows<Element, false, kGain>(args, begin, end, scratch);
      }
    });
  });
}

}  // namespace
}  // namespace octet
