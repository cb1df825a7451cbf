// The device's arithmetic compiled for the host, for test_cuda_arithmetic.py. CUDA's own headers
// emulate the conversion instruction here.
#include <math.h>

#include "cuda/codes.cuh"
#include "cuda/elements.cuh"

namespace {

using octet::Fp8Format;
using octet::cuda::RowScale;

// Codes of the row [x, x + count) over its scale, by both ways to encode.
template <Fp8Format kFormat>
void quantize(const float* x, int64_t count, float max, const float* scale_ub,
              uint8_t* by_instruction, uint8_t* by_integers) {
  const RowScale scale(max, scale_ub, kFormat);
  const auto quotient = [&](float value) {
    return scale.quotient(scale.overflows() ? scale.cut(value) : value);
  };
  for (int64_t i = 0; i < count; i += 2) {
    const float2 quotients = {quotient(x[i]), quotient(x[i + 1])};
    const uint16_t first = octet::cuda::encode_pair_by_instruction<kFormat>(quotients);
    const uint16_t second = octet::cuda::encode_pair_by_integers<kFormat>(quotients);
    memcpy(by_instruction + i, &first, 2);
    memcpy(by_integers + i, &second, 2);
  }
}

template <class Element>
void widen(const uint16_t* bits, int64_t count, float* values) {
  for (int64_t i = 0; i < count; i += 2) {
    const float2 pair = Element::widen({bits[i], bits[i + 1]});
    values[i] = pair.x;
    values[i + 1] = pair.y;
  }
}

template <class Element>
void round(const float* values, int64_t count, uint16_t* bits) {
  for (int64_t i = 0; i < count; i += 2) {
    const auto pair = Element::round({values[i], values[i + 1]});
    bits[i] = pair.x;
    bits[i + 1] = pair.y;
  }
}

}  // namespace

// Every `count` is even.
extern "C" {

void quantize_e4m3(const float* x, int64_t count, float max, const float* scale_ub,
                   uint8_t* by_instruction, uint8_t* by_integers) {
  quantize<Fp8Format::kE4M3>(x, count, max, scale_ub, by_instruction, by_integers);
}

void quantize_e5m2(const float* x, int64_t count, float max, const float* scale_ub,
                   uint8_t* by_instruction, uint8_t* by_integers) {
  quantize<Fp8Format::kE5M2>(x, count, max, scale_ub, by_instruction, by_integers);
}

// How many quotients differ from IEEE division where a difference would change a code: over every
// mantissa of the scale, at the floats around each value with four fractional bits, which all
// rounding boundaries of both formats are.
int64_t wrong_quotients_at_boundaries(uint32_t first_mantissa, uint32_t step) {
  int64_t wrong = 0;
  for (uint32_t mantissa = first_mantissa; mantissa < 1u << 23; mantissa += step) {
    const float target = octet::float_of(0x3F800000u | mantissa);
    const RowScale scale(target * 448.0f, nullptr, Fp8Format::kE4M3);
    for (int sixteenths = 16; sixteenths < 32; ++sixteenths) {
      const float boundary = sixteenths / 16.0f;
      const uint32_t nearest = octet::bits_of(boundary * scale.value());
      for (uint32_t bits = nearest - 3; bits <= nearest + 3; ++bits) {
        const float x = octet::float_of(bits);
        wrong += scale.quotient(x) != x / scale.value();
      }
    }
  }
  return wrong;
}

void widen_f16(const uint16_t* bits, int64_t count, float* values) {
  widen<octet::cuda::Float16>(bits, count, values);
}

void widen_bf16(const uint16_t* bits, int64_t count, float* values) {
  widen<octet::cuda::BFloat16>(bits, count, values);
}

void round_f16(const float* values, int64_t count, uint16_t* bits) {
  round<octet::cuda::Float16>(values, count, bits);
}

void round_bf16(const float* values, int64_t count, uint16_t* bits) {
  round<octet::cuda::BFloat16>(values, count, bits);
}
}
