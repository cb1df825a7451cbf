// per_token_quant on AVX-512.
#include "cpu/kernel_list.h"
#include "cpu/quantize_row_avx512.h"

namespace octet {
namespace {

template <class Element>
void quantize_rows(const PerTokenQuant& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const auto* x = static_cast<const typename Element::Storage*>(args.x) + row * args.x_stride;
    args.scale[row] = quantize_row<Element>(x, args.hidden, args.scale_ub, args.format,
                                            args.q + row * args.q_stride);
  }
}

}  // namespace

void per_token_quant_avx512(const PerTokenQuant& args, int64_t begin, int64_t end) {
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
