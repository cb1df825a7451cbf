// The CPU kernels, one per operation and instruction set; each is defined in the file of its name.
#pragma once

#include "kernels.h"

namespace octet {

void per_token_quant_scalar(const PerTokenQuant& args, int64_t begin, int64_t end);
void per_token_quant_avx2(const PerTokenQuant& args, int64_t begin, int64_t end);
void per_token_quant_avx512(const PerTokenQuant& args, int64_t begin, int64_t end);

void fp8_linear_scalar(const Fp8Linear& args, int64_t begin, int64_t end, void* scratch);
void fp8_linear_avx2(const Fp8Linear& args, int64_t begin, int64_t end, void* scratch);
void fp8_linear_avx512_bf16(const Fp8Linear& args, int64_t begin, int64_t end, void* scratch);

size_t fp8_linear_scratch_scalar(const Fp8Linear& args);
size_t fp8_linear_scratch_avx2(const Fp8Linear& args);
size_t fp8_linear_scratch_avx512_bf16(const Fp8Linear& args);

}  // namespace octet
