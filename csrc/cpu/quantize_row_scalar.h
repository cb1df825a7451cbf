// The contract of fp8.h for one row, written down once, and the elements that a row may hold. For
// the portable kernels.
#pragma once

#include <stdint.h>

#include "float16.h"
#include "fp8.h"

namespace octet {
namespace {

struct Float32 {
  using Storage = float;
  static constexpr float kEpsilon = 0x1p-23f;
  static float to_f32(float value) { return value; }
  static float from_f32(float value) { return value; }
};
struct Float16 {
  using Storage = uint16_t;
  static constexpr float kEpsilon = 0x1p-10f;
  static float to_f32(uint16_t bits) { return f16_to_f32(bits); }
  static uint16_t from_f32(float value) { return f32_to_f16(value); }
};
struct BFloat16 {
  using Storage = uint16_t;
  static constexpr float kEpsilon = 0x1p-7f;
  static float to_f32(uint16_t bits) { return bf16_to_f32(bits); }
  static uint16_t from_f32(float value) { return f32_to_bf16(value); }
};

// Quantizes `hidden` elements and returns their scale. `scale_ub` may be null.
template <class Element>
float quantize_row(const typename Element::Storage* x, int64_t hidden, const float* scale_ub,
                   Fp8Format format, uint8_t* q) {
  float amax = 0.0f;
  for (int64_t i = 0; i < hidden; ++i) {
    const float magnitude = float_of(bits_of(Element::to_f32(x[i])) & 0x7FFFFFFFu);
    if (magnitude > amax) amax = magnitude;  // false for NaN
  }
  const float scale = token_scale(amax, scale_ub, format);
  for (int64_t i = 0; i < hidden; ++i) {
    q[i] = fp8_encode(fp8_saturate(Element::to_f32(x[i]) / scale, format), format);
  }
  return scale;
}

}  // namespace
}  // namespace octet
