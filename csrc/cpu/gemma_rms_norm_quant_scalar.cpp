// gemma_rms_norm_quant, portable.
#include <math.h>

#include "cpu/kernel_list.h"
#include "cpu/quantize_row_scalar.h"
#include "cpu/rows.h"

namespace octet {
namespace {

// A row of what is normalized: x or, where there is a residual, their sum in f32.
template <class Element>
class Input {
 public:
  using Storage = typename Element::Storage;

  Input(const Storage* x, const Storage* residual) : x_(x), residual_(residual) {}

  float operator[](int64_t i) const {
    const float value = Element::to_f32(x_[i]);
    return residual_ == nullptr ? value : value + Element::to_f32(residual_[i]);
  }

 private:
  const Storage* x_;
  const Storage* residual_;
};

template <class Element>
float inverse_rms(const Input<Element>& input, int64_t hidden, float eps) {
  double sum = 0.0;
  for (int64_t i = 0; i < hidden; ++i) {
    const double value = input[i];
    sum += value * value;
  }
  const float mean = static_cast<float>(sum / static_cast<double>(hidden));
  return 1.0f / sqrtf(mean + eps);
}

template <class Element>
void normalize_rows(const GemmaRmsNormQuant& args, int64_t begin, int64_t end, void* scratch) {
  using Storage = typename Element::Storage;
  const Storage* weight = static_cast<const Storage*>(args.weight);
  quantize_made_rows<Element>(args, begin, end, scratch, [&](int64_t row, Storage* y) {
    Storage* residual = args.residual == nullptr
                            ? nullptr
                            : static_cast<Storage*>(args.residual) + row * args.residual_stride;
    const Input<Element> input(static_cast<const Storage*>(args.x) + row * args.x_stride, residual);
    const float factor = inverse_rms(input, args.hidden, args.eps);
    for (int64_t i = 0; i < args.hidden; ++i) {
      const float value = input[i];
      if (residual != nullptr) residual[i] = Element::from_f32(value);
      y[i] = Element::from_f32(value * factor * (1.0f + Element::to_f32(weight[i])));
    }
  });
}

}  // namespace

void gemma_rms_norm_quant_scalar(const GemmaRmsNormQuant& args, int64_t begin, int64_t end,
                                 void* scratch) {
  with_element(args.x_dtype,
               [&]<class Element>() { normalize_rows<Element>(args, begin, end, scratch); });
}

}  // namespace octet
