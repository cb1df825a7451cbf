// per_token_quant on AVX-512 with VBMI.
#include "cpu/kernel_list.h"
#include "cpu/per_token_quant_avx512.h"

namespace octet {
void per_token_quant_avx512_bf16(const PerTokenQuant& args, int64_t begin, int64_t end) {
  with_element(args.x_dtype,
               [&]<class Element>() { quantize_rows_avx512<Element>(args, begin, end); });
}

}  // namespace octet
