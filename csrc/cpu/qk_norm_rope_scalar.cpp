// qk_norm_rope, portable.
#include "cpu/kernel_list.h"
#include "cpu/rms_norm_scalar.h"

namespace octet {
namespace {

template <class Element>
void rotate_head(typename Element::Storage* x, const typename Element::Storage* cos_sin,
                 int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = Element::to_f32(x[i]), b = Element::to_f32(x[half + i]);
    const float cos = Element::to_f32(cos_sin[i]), sin = Element::to_f32(cos_sin[half + i]);
    x[i] = Element::from_f32(a * cos - b * sin);
    x[half + i] = Element::from_f32(b * cos + a * sin);
  }
}

}  // namespace

void qk_norm_rope_scalar(const QkNormRope& args, int64_t begin, int64_t end) {
  with_element(args.dtype, [&]<class Element>() {
    with_gain(args.gain, [&]<Gain kGain>() {
      for_each_rotated_head<Element>(
          args, begin, end,
          [&](auto* x, const void* weight) {
            normalize_row<Element, kGain>(x, nullptr, weight, args.eps, args.head_size, x);
          },
          [&](auto* x, const auto* cos_sin) {
            rotate_head<Element>(x, cos_sin, args.rotary_dim / 2);
          });
    });
  });
}

}  // namespace octet
