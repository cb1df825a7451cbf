// per_token_quant, portable.
#include "cpu/kernel_list.h"
#include "cpu/quantize_row_scalar.h"
#include "cpu/rows.h"

namespace octet {
void per_token_quant_scalar(const PerTokenQuant& args, int64_t begin, int64_t end) {
  with_element(args.x_dtype, [&]<class Element>() { quantize_rows<Element>(args, begin, end); });
}

}  // namespace octet
