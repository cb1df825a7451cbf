// The CPU kernels, one per operation and instruction set; each is defined in the file of its name.
#pragma once

#include "kernels.h"

namespace octet {

void per_token_quant_scalar(const PerTokenQuant& args, int64_t begin, int64_t end);
void per_token_quant_avx2(const PerTokenQuant& args, int64_t begin, int64_t end);
void per_token_quant_avx512(const PerTokenQuant& args, int64_t begin, int64_t end);
void per_token_quant_avx512_bf16(const PerTokenQuant& args, int64_t begin, int64_t end);

void per_channel_quant_scalar(const PerChannelQuant& args, int64_t begin, int64_t end);
void per_channel_quant_avx2(const PerChannelQuant& args, int64_t begin, int64_t end);
void per_channel_quant_avx512(const PerChannelQuant& args, int64_t begin, int64_t end);

void gemma_rms_norm_scalar(const GemmaRmsNorm& args, int64_t begin, int64_t end);
void gemma_rms_norm_avx2(const GemmaRmsNorm& args, int64_t begin, int64_t end);
void gemma_rms_norm_avx512(const GemmaRmsNorm& args, int64_t begin, int64_t end);

void rms_norm_quant_scalar(const RmsNormQuant& args, int64_t begin, int64_t end, void* scratch);
void rms_norm_quant_avx2(const RmsNormQuant& args, int64_t begin, int64_t end, void* scratch);
void rms_norm_quant_avx512(const RmsNormQuant& args, int64_t begin, int64_t end, void* scratch);
void rms_norm_quant_avx512_bf16(const RmsNormQuant& args, int64_t begin, int64_t end,
                                void* scratch);

void qk_norm_rope_scalar(const QkNormRope& args, int64_t begin, int64_t end);
void qk_norm_rope_avx2(const QkNormRope& args, int64_t begin, int64_t end);
void qk_norm_rope_avx512(const QkNormRope& args, int64_t begin, int64_t end);

void gelu_tanh_and_mul_quant_scalar(const GatedQuant& args, int64_t begin, int64_t end,
                                    void* scratch);
void gelu_tanh_and_mul_quant_avx2(const GatedQuant& args, int64_t begin, int64_t end,
                                  void* scratch);
void gelu_tanh_and_mul_quant_avx512(const GatedQuant& args, int64_t begin, int64_t end,
                                    void* scratch);
void gelu_tanh_and_mul_quant_avx512_bf16(const GatedQuant& args, int64_t begin, int64_t end,
                                         void* scratch);
void silu_and_mul_quant_scalar(const GatedQuant& args, int64_t begin, int64_t end, void* scratch);
void silu_and_mul_quant_avx2(const GatedQuant& args, int64_t begin, int64_t end, void* scratch);
void silu_and_mul_quant_avx512(const GatedQuant& args, int64_t begin, int64_t end, void* scratch);
void silu_and_mul_quant_avx512_bf16(const GatedQuant& args, int64_t begin, int64_t end,
                                    void* scratch);

void fp8_linear_scalar(const Fp8Linear& args, const LinearTile& tile, void* scratch);
void fp8_linear_avx2(const Fp8Linear& args, const LinearTile& tile, void* scratch);
void fp8_linear_avx512(const Fp8Linear& args, const LinearTile& tile, void* scratch);
void fp8_linear_avx512_bf16(const Fp8Linear& args, const LinearTile& tile, void* scratch);
void fp8_linear_amx_bf16(const Fp8Linear& args, const LinearTile& tile, void* scratch);

LinearLimits fp8_linear_limits_scalar(const Fp8Linear& args);
LinearLimits fp8_linear_limits_avx2(const Fp8Linear& args);
LinearLimits fp8_linear_limits_avx512(const Fp8Linear& args);
LinearLimits fp8_linear_limits_avx512_bf16(const Fp8Linear& args);
LinearLimits fp8_linear_limits_amx_bf16(const Fp8Linear& args);

void bf16_linear_scalar(const Bf16Linear& args, const LinearTile& tile, void* scratch);
void bf16_linear_avx2(const Bf16Linear& args, const LinearTile& tile, void* scratch);
void bf16_linear_avx512(const Bf16Linear& args, const LinearTile& tile, void* scratch);

LinearLimits bf16_linear_limits_scalar(const Bf16Linear& args);
LinearLimits bf16_linear_limits_avx2(const Bf16Linear& args);
LinearLimits bf16_linear_limits_avx512(const Bf16Linear& args);

}  // namespace octet
