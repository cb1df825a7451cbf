// The contract between the operators and the CUDA kernels: raw pointers and a stream, no torch. A
// launcher queues its work and returns; it neither synchronizes nor allocates, so that it can be
// captured in a graph.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels.h"

namespace octet::cuda {

// Each works on the rows [0, rows); every pointer in `args` is the current device's. Returns what
// the launch returned.
cudaError_t per_token_quant(const PerTokenQuant& args, int64_t rows, cudaStream_t stream);
cudaError_t gemma_rms_norm(const GemmaRmsNorm& args, int64_t rows, cudaStream_t stream);
cudaError_t rms_norm_quant(const RmsNormQuant& args, int64_t rows, cudaStream_t stream);
cudaError_t qk_norm_rope(const QkNormRope& args, int64_t rows, cudaStream_t stream);
cudaError_t gelu_tanh_and_mul_quant(const GatedQuant& args, int64_t rows, cudaStream_t stream);
cudaError_t silu_and_mul_quant(const GatedQuant& args, int64_t rows, cudaStream_t stream);

}  // namespace octet::cuda
