// rms_norm_quant on AVX2: the normed row is left in scratch for the two passes of its
// quantization.
#include "cpu/kernel_list.h"
#include "cpu/rms_norm_avx2.h"

namespace octet {
namespace {

template <class Element, bool kHasResidual, Gain kGain>
void normalize_rows(const RmsNormQuant& args, int64_t begin, int64_t end, void* scratch) {
  using Storage = typename Element::Storage;
  quantize_made_rows<Element>(args, begin, end, scratch, [&](int64_t row, Storage* y) {
    const Storage* x = static_cast<const Storage*>(args.x) + row * args.x_stride;
    Storage* residual = nullptr;
    if constexpr (kHasResidual) {
      residual = static_cast<Storage*>(args.residual) + row * args.residual_stride;
      if (args.post_weight != nullptr) {
        normalize_row<Element, false, kGain>(x, nullptr, args.post_weight, args.eps, args.hidden,
                                             y);
        x = y;
      }
    }
    normalize_row<Element, kHasResidual, kGain>(x, residual, args.weight, args.eps, args.hidden, y);
  });
}

}  // namespace

void rms_norm_quant_avx2(const RmsNormQuant& args, int64_t begin, int64_t end, void* scratch) {
  with_element(args.x_dtype, [&]<class Element>() {
    with_gain(args.gain, [&]<Gain kGain>() {
      if (args.residual == nullptr) {
        normalize_rows<Element, false, kGain>(args, begin, end, scratch);
      } else {
        normalize_rows<Element, true, kGain>(args, begin, end, scratch);
      }
    });
  });
}

}  // namespace octet
