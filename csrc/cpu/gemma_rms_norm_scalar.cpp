// gemma_rms_norm, portable.
#include "cpu/kernel_list.h"
#include "cpu/rms_norm_scalar.h"

namespace octet {

void gemma_rms_norm_scalar(const GemmaRmsNorm& args, int64_t begin, int64_t end) {
  with_element(args.x_dtype, [&]<class Element>() {
    for_each_head<Element>(args, begin, end, [&](const auto* x, auto* y) {
      normalize_row<Element, Gain::kOnePlusWeight>(x, nullptr, args.weight, args.eps, args.hidden,
                                                   y);
    });
  });
}

}  // namespace octet
