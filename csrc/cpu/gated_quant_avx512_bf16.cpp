// gelu_tanh_and_mul_quant and silu_and_mul_quant on AVX-512 with VBMI, which quantizes bf16 by
// table.
#include "cpu/gated_quant_avx512.h"
#include "cpu/kernel_list.h"

namespace octet {

void gelu_tanh_and_mul_quant_avx512_bf16(const GatedQuant& args, int64_t begin, int64_t end,
                                         void* scratch) {
  activate_rows<GeluTanh>(args, begin, end, scratch);
}

void silu_and_mul_quant_avx512_bf16(const GatedQuant& args, int64_t begin, int64_t end,
                                    void* scratch) {
  activate_rows<Silu>(args, begin, end, scratch);
}

}  // namespace octet
