// The arithmetic of per-token quantization on the device: elements to f32, f32 to codes. Free of
// host API, so that it also runs on the host, where CUDA's own headers stand in for the
// instructions.
#pragma once

#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <stdint.h>

#include "fp8.h"

namespace octet::cuda {

struct Float32 {
  using Storage = float;
  static OCTET_HOST_DEVICE float to_f32(float value) { return value; }
};

struct Float16 {
  using Storage = uint16_t;
  static OCTET_HOST_DEVICE float to_f32(uint16_t bits) { return __half2float(__half_raw{bits}); }
};

struct BFloat16 {
  using Storage = uint16_t;
  static OCTET_HOST_DEVICE float to_f32(uint16_t bits) {
    return float_of(static_cast<uint32_t>(bits) << 16);
  }
};

// IEEE division whatever the compiler was told about fast math.
OCTET_HOST_DEVICE inline float divide(float dividend, float divisor) {
#ifdef __CUDA_ARCH__
  return __fdiv_rn(dividend, divisor);
#else
  return dividend / divisor;
#endif
}

// The codes of `low` and `high` over `scale`, low in the low byte.
template <Fp8Format kFormat>
OCTET_HOST_DEVICE inline uint16_t quantize_pair(float low, float high, float scale) {
  constexpr float kMax = spec_of(kFormat).max;
  // fminf returns the other operand for a NaN; the instruction below would keep it.
  const float2 values = {fmaxf(-kMax, fminf(divide(low, scale), kMax)),
                         fmaxf(-kMax, fminf(divide(high, scale), kMax))};
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
  return static_cast<uint16_t>(fp8_encode(values.x, kFormat) |
                               (static_cast<uint32_t>(fp8_encode(values.y, kFormat)) << 8));
#else
  // cvt.rn.satfinite.e4m3x2.f32 or .e5m2x2.f32: straight from f32, since a step in between rounds
  // twice.
  return __nv_cvt_float2_to_fp8x2(values, __NV_SATFINITE,
                                  kFormat == Fp8Format::kE4M3 ? __NV_E4M3 : __NV_E5M2);
#endif
}

}  // namespace octet::cuda
