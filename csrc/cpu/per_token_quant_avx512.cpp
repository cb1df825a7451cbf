// per_token_quant on AVX-512.
#include "cpu/per_token_quant_avx512.h"

#include "cpu/kernel_list.h"

namespace octet {
void per_token_quant_avx512(const PerTokenQuant& args, int64_t begin, int64_t end) {
  with_element(args.x_dtype,
               [&]<class Element>() { quantize_rows_avx512<Element>(args, begin, end); });
}

}  // namespace octet
