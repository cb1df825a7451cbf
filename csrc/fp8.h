// FP8 formats and the numerical contracts, in one place: of the quantization per token,
//
//   row:      m = max |f32(x)| over the row, NaN ignored; with an upper bound, m = min(m, bound)
//             s = max(m / FMAX, 1 / (FMAX * 512))                     (IEEE f32 division)
//   element:  q = f32(x) / s                                          (IEEE f32 division)
//             code = round-to-nearest-even(max(-FMAX, min(q, FMAX)))  (NaN -> +FMAX, -0 -> 0x80)
//
// and of the quantization of weights per output channel, which is compressed-tensors' (0.19). E is
// the dtype of the weights; -> E rounds to it, to nearest even.
//
//   row:      m = max |w| over the row
//             s = m / FMAX -> E; eps(E), the distance from 1 to the next value, where that is 0
//   element:  q = w / s -> E
//             code = round-to-nearest-even(max(-FMAX, min(q, FMAX)))      (q = -0 -> 0x00)
//   A row that holds NaN or an infinity has a NaN or an infinity as its scale, and NaN codes.
//
// The scalar functions below are the reference that every kernel equals bit for bit, on the host
// and on the device. They have internal linkage on purpose: this header is also included by files
// compiled for one instruction set, whose copies the linker must never choose for everybody.
#pragma once

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define OCTET_HOST_DEVICE __host__ __device__
#else
#define OCTET_HOST_DEVICE
#endif

namespace octet {

enum class Fp8Format : uint8_t {
  kE4M3,  // E4M3FN: 1-4-3, no infinity, one NaN per sign
  kE5M2,  // 1-5-2, IEEE-like: infinities and NaNs
};

// What tells one format from the other. An f32 biased exponent of `min_exponent` is that of the
// smallest normal value.
struct Fp8Spec {
  float max;                // FMAX, the largest finite value
  uint32_t min_scale_bits;  // f32(1 / (FMAX * 512)), the smallest scale
  uint32_t min_exponent;
  uint32_t mantissa_bits;
  uint32_t infinity_code;  // first magnitude that is no finite value
};

OCTET_HOST_DEVICE static constexpr inline Fp8Spec spec_of(Fp8Format format) {
  return format == Fp8Format::kE4M3 ? Fp8Spec{448.0f, 0x36924925u, 121u, 3u, 0x7Fu}
                                    : Fp8Spec{57344.0f, 0x33124925u, 113u, 2u, 0x7Cu};
}

// Constants of the integer rounding, see fp8_encode().
struct Fp8Rounding {
  uint32_t min_exponent_bits;  // exponent field of the smallest normal value
  uint32_t magic_exponent;     // raises an exponent so that the f32 adder rounds at the FP8 digit
  uint32_t shift;              // f32 mantissa bits below an FP8 mantissa
  uint32_t rebias;
};

OCTET_HOST_DEVICE static constexpr inline Fp8Rounding rounding_of(Fp8Format format) {
  const Fp8Spec spec = spec_of(format);
  const uint32_t shift = 23u - spec.mantissa_bits;
  return Fp8Rounding{spec.min_exponent << 23, shift << 23, shift,
                     (spec.min_exponent + shift) << spec.mantissa_bits};
}

OCTET_HOST_DEVICE static inline uint32_t bits_of(float value) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(value);
#else
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

OCTET_HOST_DEVICE static inline float float_of(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

// The scale of a row whose largest magnitude is `amax` (no NaN). `upper_bound` may be null; a NaN
// bound bounds nothing.
OCTET_HOST_DEVICE static inline float token_scale(float amax, const float* upper_bound,
                                                  Fp8Format format) {
  const Fp8Spec spec = spec_of(format);
  if (upper_bound != nullptr && *upper_bound < amax) amax = *upper_bound;
  const float scale = amax / spec.max;
  const float min_scale = float_of(spec.min_scale_bits);
  return scale > min_scale ? scale : min_scale;
}

// Clamps to the finite range; NaN becomes +FMAX.
OCTET_HOST_DEVICE static inline float fp8_saturate(float value, Fp8Format format) {
  const float max = spec_of(format).max;
  const float low = value < max ? value : max;
  return low > -max ? low : -max;
}

// Rounds a finite value of magnitude at most FMAX to the nearest code, ties to even. Adding a power
// of two that lies `shift` binades above the value makes the f32 adder drop exactly the digits that
// FP8 does not have; a value below the smallest normal one is aligned as that one is, which keeps
// subnormals.
OCTET_HOST_DEVICE static inline uint8_t fp8_encode(float value, Fp8Format format) {
  const Fp8Rounding r = rounding_of(format);
  const uint32_t bits = bits_of(value);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  uint32_t exponent = bits & 0x7F800000u;
  if (exponent < r.min_exponent_bits) exponent = r.min_exponent_bits;
  const uint32_t magic = exponent + r.magic_exponent;
  const uint32_t rounded = bits_of(float_of(magnitude) + float_of(magic));
  const uint32_t code = rounded - magic + (magic >> r.shift) - r.rebias;
  return static_cast<uint8_t>(code | ((bits >> 24) & 0x80u));
}

// The f32 bits of a code. Exact: every value of both formats is an f32, and a bf16 too (the upper
// half of these bits).
OCTET_HOST_DEVICE static constexpr inline uint32_t fp8_decode_bits(uint8_t code, Fp8Format format) {
  const Fp8Spec spec = spec_of(format);
  const uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24;
  const uint32_t magnitude = code & 0x7Fu;
  if (magnitude >= spec.infinity_code) {
    const bool infinite = format == Fp8Format::kE5M2 && magnitude == spec.infinity_code;
    return sign | (infinite ? 0x7F800000u : 0x7FC00000u);
  }
  uint32_t mantissa = magnitude & ((1u << spec.mantissa_bits) - 1u);
  uint32_t exponent = magnitude >> spec.mantissa_bits;
  if (exponent == 0u) {
    if (mantissa == 0u) return sign;
    exponent = 1u;
    while ((mantissa >> spec.mantissa_bits) == 0u) {
      mantissa <<= 1;
      --exponent;  // wraps around zero; the sum below brings it back
    }
    mantissa &= (1u << spec.mantissa_bits) - 1u;
  }
  return sign | ((exponent + spec.min_exponent - 1u) << 23) |
         (mantissa << (23u - spec.mantissa_bits));
}

}  // namespace octet
