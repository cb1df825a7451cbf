// gemma_rms_norm_quant, portable.
#include <math.h>

#include "cpu/kernel_list.h"
#include "cpu/quantize_row_scalar.h"

namespace octet {
namespace {

// Adds `x` to `residual`, rounding each sum once.
template <class Element>
void add_row(const typename Element::Storage* x, int64_t hidden,
             typename Element::Storage* residual) {
  for (int64_t i = 0; i < hidden; ++i) {
    residual[i] = Element::from_f32(Element::to_f32(x[i]) + Element::to_f32(residual[i]));
  }
}

template <class Element>
float inverse_rms(const typename Element::Storage* x, int64_t hidden, float eps) {
  double sum = 0.0;
  for (int64_t i = 0; i < hidden; ++i) {
    const double value = Element::to_f32(x[i]);
    sum += value * value;
  }
  const float mean = static_cast<float>(sum / static_cast<double>(hidden));
  return 1.0f / sqrtf(mean + eps);
}

template <class Element>
void normalize_rows(const GemmaRmsNormQuant& args, int64_t begin, int64_t end, void* scratch) {
  using Storage = typename Element::Storage;
  const Storage* weight = static_cast<const Storage*>(args.weight);
  Storage* y = static_cast<Storage*>(scratch);
  for (int64_t row = begin; row < end; ++row) {
    const Storage* x = static_cast<const Storage*>(args.x) + row * args.x_stride;
    if (args.residual != nullptr) {
      Storage* residual = static_cast<Storage*>(args.residual) + row * args.residual_stride;
      add_row<Element>(x, args.hidden, residual);
      x = residual;
    }
    const float factor = inverse_rms<Element>(x, args.hidden, args.eps);
    for (int64_t i = 0; i < args.hidden; ++i) {
      const float normalized = Element::to_f32(x[i]) * factor;
      y[i] = Element::from_f32(normalized * (1.0f + Element::to_f32(weight[i])));
    }
    args.scale[row] =
        quantize_row<Element>(y, args.hidden, nullptr, args.format, args.q + row * args.q_stride);
  }
}

}  // namespace

void gemma_rms_norm_quant_scalar(const GemmaRmsNormQuant& args, int64_t begin, int64_t end,
                                 void* scratch) {
  switch (args.x_dtype) {
    case Dtype::kFloat32:
      return normalize_rows<Float32>(args, begin, end, scratch);
    case Dtype::kFloat16:
      return normalize_rows<Float16>(args, begin, end, scratch);
    case Dtype::kBFloat16:
      return normalize_rows<BFloat16>(args, begin, end, scratch);
  }
}

}  // namespace octet
