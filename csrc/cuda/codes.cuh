// From f32 to FP8 codes on the device: the quotient by a row's scale and its rounding.
#pragma once

#include <cuda_fp8.h>
#include <stdint.h>

#include "cuda/arithmetic.cuh"
#include "fp8.h"

namespace octet::cuda {

// The largest finite f32.
constexpr float kMaxFloat32 = 3.402823466e+38f;

// A row's scale, and what it takes to divide the row's elements by it exactly without a division
// each: Markstein's correction of x * (1 / scale), three instructions. Every quotient on an FP8
// rounding boundary and its neighbours come out as IEEE division has them, for every mantissa of
// the scale; what is left is the ends of the f32 range.
//
// - A quotient that underflows loses the correction, but not its sign, and it is a zero code.
// - A product that overflows would turn the correction into NaN. It takes an upper bound that cut
//   the row's maximum; `limit` then cuts the elements where their codes are saturated anyway.
// - Over an infinite scale, finite elements are zeros and Inf / Inf is NaN: that is what the
//   products are with the reciprocal, zero, once the correction is kept off by a zero divisor.
class RowScale {
 public:
  // `max` is the largest magnitude in the row, NaN ignored; `upper_bound` may be null.
  OCTET_HOST_DEVICE RowScale(float max, const float* upper_bound, Fp8Format format)
      : scale_(token_scale(max, upper_bound, format)),
        reciprocal_(divide(1.0f, scale_)),
        divisor_(scale_ <= kMaxFloat32 ? scale_ : 0.0f),
        overflows_(scale_ <= kMaxFloat32 && !(max * reciprocal_ <= kMaxFloat32)),
        limit_(min_number(2.0f * spec_of(format).max * scale_, kMaxFloat32)) {}

  OCTET_HOST_DEVICE float value() const { return scale_; }

  // Whether elements have to pass cut() before quotient().
  OCTET_HOST_DEVICE bool overflows() const { return overflows_; }

  // NaN becomes the limit, whose code is that of NaN.
  OCTET_HOST_DEVICE float cut(float element) const {
    return max_number(-limit_, min_number(element, limit_));
  }

  OCTET_HOST_DEVICE float quotient(float element) const {
    const float product = element * reciprocal_;
    const float error = fmaf(product, divisor_, -element);
    return fmaf(-reciprocal_, error, product);
  }

 private:
  float scale_;
  float reciprocal_;
  float divisor_;
  bool overflows_;
  float limit_;
};

// Codes of two quotients, the first in the low byte, by the conversion instruction
// cvt.rn.satfinite.{e4m3x2,e5m2x2}.f32 (on the host, CUDA's emulation of it).
template <Fp8Format kFormat>
OCTET_HOST_DEVICE inline uint16_t encode_pair_by_instruction(float2 quotients) {
  // min_number returns the other operand for a NaN, which the instruction would keep.
  const float max = spec_of(kFormat).max;
  return __nv_cvt_float2_to_fp8x2({min_number(quotients.x, max), min_number(quotients.y, max)},
                                  __NV_SATFINITE,
                                  kFormat == Fp8Format::kE4M3 ? __NV_E4M3 : __NV_E5M2);
}

// The same on integers, for architectures without the instruction.
template <Fp8Format kFormat>
OCTET_HOST_DEVICE inline uint16_t encode_pair_by_integers(float2 quotients) {
  const float max = spec_of(kFormat).max;
  const uint32_t low = fp8_encode(max_number(-max, min_number(quotients.x, max)), kFormat);
  const uint32_t high = fp8_encode(max_number(-max, min_number(quotients.y, max)), kFormat);
  return static_cast<uint16_t>(low | high << 8);
}

template <Fp8Format kFormat>
OCTET_HOST_DEVICE inline uint16_t encode_pair(float2 quotients) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
  return encode_pair_by_integers<kFormat>(quotients);
#else
  return encode_pair_by_instruction<kFormat>(quotients);
#endif
}

}  // namespace octet::cuda
