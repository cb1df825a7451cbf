// rms_norm_quant, portable.
#include "cpu/kernel_list.h"
#include "cpu/rms_norm_scalar.h"

namespace octet {
namespace {

template <class Element, Gain kGain>
void normalize_rows(const RmsNormQuant& args, int64_t begin, int64_t end, void* scratch) {
  using Storage = typename Element::Storage;
  quantize_made_rows<Element>(args, begin, end, scratch, [&](int64_t row, Storage* y) {
    const Storage* x = static_cast<const Storage*>(args.x) + row * args.x_stride;
    Storage* residual = args.residual == nullptr
                            ? nullptr
                            : static_cast<Storage*>(args.residual) + row * args.residual_stride;
    if (args.post_weight != nullptr) {
      normalize_row<Element, kGain>(x, nullptr, args.post_weight, args.eps, args.hidden, y);
      x = y;
    }
    normalize_row<Element, kGain>(x, residual, args.weight, args.eps, args.hidden, y);
  });
}

}  // namespace

void rms_norm_quant_scalar(const RmsNormQuant& args, int64_t begin, int64_t end, void* scratch) {
  with_element(args.x_dtype, [&]<class Element>() {
    with_gain(args.gain,
              [&]<Gain kGain>() { normalize_rows<Element, kGain>(args, begin, end, scratch); });
  });
}

}  // namespace octet
