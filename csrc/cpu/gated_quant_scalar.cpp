// gelu_tanh_and_mul_quant and silu_and_mul_quant, portable.
#include <math.h>

#include "cpu/kernel_list.h"
#include "cpu/quantize_row_scalar.h"
#include "cpu/rows.h"

namespace octet {
namespace {

// The operations, their order and hence their roundings are those of torch's kernels, which the
// unfused pair uses: 1 + tanh(u), where tanh is rounded to f32, has few digits left for a negative
// u.
struct GeluTanh {
  static float apply(float x) {
    constexpr float kSqrtTwoOverPi = 0.7978845608028654f;
    const float u = kSqrtTwoOverPi * (x + 0.044715f * (x * x * x));
    return 0.5f * x * (1.0f + tanh(u));
  }

  // Next to 1 correctly rounded but for rare ties; like torch's (SLEEF's), it is 1 from 8.6643398
  // on.
  static float tanh(float u) {
    const float magnitude = fabsf(u);
    const float e = magnitude > 8.6643398f ? 0.0f : expf(-2.0f * magnitude);
    return copysignf(1.0f - 2.0f * e / (1.0f + e), u);
  }
};

struct Silu {
  static float apply(float x) { return x / (1.0f + expf(-x)); }
};

template <class Activation, class Element>
void activate_rows(const GatedQuant& args, int64_t begin, int64_t end, void* scratch) {
  using Storage = typename Element::Storage;
  quantize_made_rows<Element>(args, begin, end, scratch, [&](int64_t row, Storage* y) {
    const Storage* gate = static_cast<const Storage*>(args.x) + row * args.x_stride;
    const Storage* up = gate + args.hidden;
    for (int64_t i = 0; i < args.hidden; ++i) {
      const Storage activated = Element::from_f32(Activation::apply(Element::to_f32(gate[i])));
      y[i] = Element::from_f32(Element::to_f32(activated) * Element::to_f32(up[i]));
    }
  });
}

template <class Activation>
void activate_rows(const GatedQuant& args, int64_t begin, int64_t end, void* scratch) {
  with_element(args.x_dtype, [&]<class Element>() {
    activate_rows<Activation, Element>(args, begin, end, scratch);
  });
}

}  // namespace

void gelu_tanh_and_mul_quant_scalar(const GatedQuant& args, int64_t begin, int64_t end,
                                    void* scratch) {
  activate_rows<GeluTanh>(args, begin, end, scratch);
}

void silu_and_mul_quant_scalar(const GatedQuant& args, int64_t begin, int64_t end, void* scratch) {
  activate_rows<Silu>(args, begin, end, scratch);
}

}  // namespace octet
