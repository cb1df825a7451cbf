// Elements of a row on the device. Neighbouring elements are widened to f32 and rounded back in
// pairs, which is how the conversion instructions take them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "fp8.h"

namespace octet::cuda {

struct Float32 {
  using Storage = float;
  using Pair = float2;

  static OCTET_HOST_DEVICE float2 widen(float2 pair) { return pair; }
  static OCTET_HOST_DEVICE float2 round(float2 values) { return values; }
};

struct Float16 {
  using Storage = uint16_t;
  using Pair = ushort2;

  static OCTET_HOST_DEVICE float2 widen(ushort2 pair) {
    return {__half2float(__half_raw{pair.x}), __half2float(__half_raw{pair.y})};
  }
  static OCTET_HOST_DEVICE ushort2 round(float2 values) {
    const __half2_raw pair = __floats2half2_rn(values.x, values.y);
    return {pair.x, pair.y};
  }
};

struct BFloat16 {
  using Storage = uint16_t;
  using Pair = ushort2;

  static OCTET_HOST_DEVICE float2 widen(ushort2 pair) {
    return {float_of(static_cast<uint32_t>(pair.x) << 16),
            float_of(static_cast<uint32_t>(pair.y) << 16)};
  }
  static OCTET_HOST_DEVICE ushort2 round(float2 values) {
    const __nv_bfloat162_raw pair = __floats2bfloat162_rn(values.x, values.y);
    return {pair.x, pair.y};
  }
};

}  // namespace octet::cuda
