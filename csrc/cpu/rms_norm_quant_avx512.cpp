// rms_norm_quant on AVX-512.
#include "cpu/rms_norm_quant_avx512.h"

#include "cpu/kernel_list.h"

namespace octet {

void rms_norm_quant_avx512(const RmsNormQuant& args, int64_t begin, int64_t end, void* scratch) {
  normalize_rows(args, begin, end, scratch);
}

}  // namespace octet
