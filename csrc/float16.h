// bf16 and IEEE half <-> f32 on integers, for code that may not assume conversion instructions.
// Internal linkage for the reason that fp8.h gives.
#pragma once

#include <stdint.h>

#include "fp8.h"

namespace octet {

static inline float bf16_to_f32(uint16_t bits) {
  return float_of(static_cast<uint32_t>(bits) << 16);
}

static inline float f16_to_f32(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7FFFu;
  if (magnitude >= 0x7C00u) return float_of(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
  if (magnitude >= 0x0400u) return float_of(sign | ((magnitude << 13) + (112u << 23)));
  // Subnormal: the mantissa counts units of 2^-24, and this product is exact.
  return float_of(sign | bits_of(static_cast<float>(magnitude) * 0x1p-24f));
}

// Round to nearest even; overflow becomes infinity, NaN stays NaN.
static inline uint16_t f32_to_bf16(float value) {
  const uint32_t bits = bits_of(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>((bits >> 16) | 0x0040u);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

static inline uint16_t f32_to_f16(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u);
  // From 65520 on, values round to 2^16, which half does not have.
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);
  if (magnitude < 0x38800000u) {
    // Subnormal result: with 0.5 added, the unit of the f32 sum is 2^-24, half's smallest step.
    const uint32_t units = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    return static_cast<uint16_t>(sign | units);
  }
  const uint32_t rebased = magnitude - (112u << 23);
  return static_cast<uint16_t>(sign | ((rebased + 0xFFFu + ((rebased >> 13) & 1u)) >> 13));
}

}  // namespace octet
