#include "cuda/gated_quant.cuh"
#include "cuda/launch.h"
#include "cuda/launch_rows.cuh"
#include "cuda/stream_launcher.h"

namespace octet::cuda {

cudaError_t gelu_tanh_and_mul_quant(const GatedQuant& args, int64_t rows, cudaStream_t stream) {
  return launch_rows<GeluTanhRow>(StreamLauncher(stream), args, rows);
}

cudaError_t silu_and_mul_quant(const GatedQuant& args, int64_t rows, cudaStream_t stream) {
  return launch_rows<SiluRow>(StreamLauncher(stream), args, rows);
}

}  // namespace octet::cuda
