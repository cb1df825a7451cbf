// The device's arithmetic compiled for the host, for test_cuda.py. CUDA's own headers emulate the
// conversion instruction here.
#include <math.h>

#include "cuda/convert.cuh"

namespace {

template <octet::Fp8Format kFormat>
void quantize(const float* values, int64_t count, float scale, uint8_t* codes) {
  for (int64_t i = 0; i < count; i += 2) {
    const uint16_t pair = octet::cuda::quantize_pair<kFormat>(values[i], values[i + 1], scale);
    codes[i] = static_cast<uint8_t>(pair);
    codes[i + 1] = static_cast<uint8_t>(pair >> 8);
  }
}

}  // namespace

// `count` is even.
extern "C" void quantize_e4m3(const float* values, int64_t count, float scale, uint8_t* codes) {
  quantize<octet::Fp8Format::kE4M3>(values, count, scale, codes);
}

extern "C" void quantize_e5m2(const float* values, int64_t count, float scale, uint8_t* codes) {
  quantize<octet::Fp8Format::kE5M2>(values, count, scale, codes);
}

extern "C" void widen_f16(const uint16_t* bits, int64_t count, float* values) {
  for (int64_t i = 0; i < count; ++i) values[i] = octet::cuda::Float16::to_f32(bits[i]);
}

extern "C" void widen_bf16(const uint16_t* bits, int64_t count, float* values) {
  for (int64_t i = 0; i < count; ++i) values[i] = octet::cuda::BFloat16::to_f32(bits[i]);
}
