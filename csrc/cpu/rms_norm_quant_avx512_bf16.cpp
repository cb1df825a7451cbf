// rms_norm_quant on AVX-512 with VBMI, which quantizes bf16 by table.
#include "cpu/kernel_list.h"
#include "cpu/rms_norm_quant_avx512.h"

namespace octet {

void rms_norm_quant_avx512_bf16(const RmsNormQuant& args, int64_t begin, int64_t end,
                                void* scratch) {
  normalize_rows(args, begin, end, scratch);
}

}  // namespace octet
