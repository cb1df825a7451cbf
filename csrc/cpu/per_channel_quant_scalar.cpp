// per_channel_quant, portable: the contract of fp8.h written down once.
#include "cpu/kernel_list.h"
#include "float16.h"

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

template <class Element>
void quantize_rows(const PerChannelQuant& args, int64_t begin, int64_t end) {
  using Storage = typename Element::Storage;
  for (int64_t row = begin; row < end; ++row) {
    const Storage* w = static_cast<const Storage*>(args.w) + row * args.w_stride;
    uint8_t* q = args.q + row * args.q_stride;

    uint32_t max = 0;  // as bits, which order magnitudes and show NaN as the largest
    for (int64_t i = 0; i < args.in_features; ++i) {
      const uint32_t magnitude = bits_of(Element::to_f32(w[i])) & 0x7FFFFFFFu;
      if (magnitude > max) max = magnitude;
    }
    Storage& scale = static_cast<Storage*>(args.scale)[row];
    if (max >= 0x7F800000u) {
      scale = Element::from_f32(float_of(max));
      memset(q, 0x7F, static_cast<size_t>(args.in_features));
      continue;
    }
    scale = Element::from_f32(float_of(max) / spec_of(args.format).max);
    if (Element::to_f32(scale) == 0.0f) scale = Element::from_f32(Element::kEpsilon);
    const float divisor = Element::to_f32(scale);
    for (int64_t i = 0; i < args.in_features; ++i) {
      const float quotient =
          Element::to_f32(Element::from_f32(Element::to_f32(w[i]) / divisor)) + 0.0f;
      q[i] = fp8_encode(fp8_saturate(quotient, args.format), args.format);
    }
  }
}

}  // namespace

void per_channel_quant_scalar(const PerChannelQuant& args, int64_t begin, int64_t end) {
  switch (args.dtype) {
    case Dtype::kFloat32:
      return quantize_rows<Float32>(args, begin, end);
    case Dtype::kFloat16:
      return quantize_rows<Float16>(args, begin, end);
    case Dtype::kBFloat16:
      return quantize_rows<BFloat16>(args, begin, end);
  }
}

}  // namespace octet
