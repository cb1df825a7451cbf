// per_token_quant, portable: the contract of fp8.h written down once.
#include "cpu/kernel_list.h"
#include "float16.h"

namespace octet {
namespace {

struct Float32 {
  using Storage = float;
  static float to_f32(float value) { return value; }
};
struct Float16 {
  using Storage = uint16_t;
  static float to_f32(uint16_t bits) { return f16_to_f32(bits); }
};
struct BFloat16 {
  using Storage = uint16_t;
  static float to_f32(uint16_t bits) { return bf16_to_f32(bits); }
};

template <class Element>
void quantize_rows(const PerTokenQuant& args, int64_t begin, int64_t end) {
  using Storage = typename Element::Storage;
  for (int64_t row = begin; row < end; ++row) {
    const Storage* x = static_cast<const Storage*>(args.x) + row * args.x_stride;
    uint8_t* q = args.q + row * args.q_stride;

    float amax = 0.0f;
    for (int64_t i = 0; i < args.hidden; ++i) {
      const float magnitude = float_of(bits_of(Element::to_f32(x[i])) & 0x7FFFFFFFu);
      if (magnitude > amax) amax = magnitude;  // false for NaN
    }
    const float scale = token_scale(amax, args.scale_ub, args.format);
    args.scale[row] = scale;
    for (int64_t i = 0; i < args.hidden; ++i) {
      q[i] = fp8_encode(fp8_saturate(Element::to_f32(x[i]) / scale, args.format), args.format);
    }
  }
}

}  // namespace

void per_token_quant_scalar(const PerTokenQuant& args, int64_t begin, int64_t end) {
  switch (args.x_dtype) {
    case Dtype::kFloat32:
      return quantize_rows<Float32>(args, begin, end);
    case Dtype::kFloat16:
      return quantize_rows<Float16>(args, begin, end);
    case Dtype::kBFloat16:
      return quantize_rows<BFloat16>(args, begin, end);
  }
}

}  // namespace octet
