// gemma_rms_norm_quant on AVX-512 with VBMI, which quantizes bf16 by table.
#include "cpu/gemma_rms_norm_quant_avx512.h"
#include "cpu/kernel_list.h"

namespace octet {

void gemma_rms_norm_quant_avx512_bf16(const GemmaRmsNormQuant& args, int64_t begin, int64_t end,
                                      void* scratch) {
  normalize_rows(args, begin, end, scratch);
}

}  // namespace octet
