#include "cuda/launch.h"
#include "cuda/launch_rows.cuh"
#include "cuda/rms_norm.cuh"
#include "cuda/stream_launcher.h"

namespace octet::cuda {

cudaError_t gemma_rms_norm(const GemmaRmsNorm& args, int64_t rows, cudaStream_t stream) {
  return launch_rows<GemmaRmsNormRow>(StreamLauncher(stream), args, rows);
}

}  // namespace octet::cuda
