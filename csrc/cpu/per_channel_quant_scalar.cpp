// per_channel_quant, portable: the contract of fp8.h written down once.
#include "cpu/kernel_list.h"
#include "cpu/quantize_row_scalar.h"
#include "cpu/rows.h"

namespace octet {
namespace {

template <class Element>
void quantize_rows(const PerChannelQuant& args, int64_t begin, int64_t end) {
  using Storage = typename Element::Storage;
  const auto max_magnitude = [&](const Storage* w) {
    uint32_t max = 0;  // as bits, which order magnitudes and show NaN as the largest
    for (int64_t i = 0; i < args.in_features; ++i) {
      const uint32_t magnitude = bits_of(Element::to_f32(w[i])) & 0x7FFFFFFFu;
      if (magnitude > max) max = magnitude;
    }
    return max;
  };
  const auto encode_row = [&](const Storage* w, uint8_t* q, float scale) {
    for (int64_t i = 0; i < args.in_features; ++i) {
      const float quotient =
          Element::to_f32(Element::from_f32(Element::to_f32(w[i]) / scale)) + 0.0f;
      q[i] = fp8_encode(fp8_saturate(quotient, args.format), args.format);
    }
  };
  quantize_channels<Element>(args, begin, end, max_magnitude, encode_row);
}

}  // namespace

void per_channel_quant_scalar(const PerChannelQuant& args, int64_t begin, int64_t end) {
  with_element(args.dtype, [&]<class Element>() { quantize_rows<Element>(args, begin, end); });
}

}  // namespace octet
