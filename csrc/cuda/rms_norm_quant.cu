#include "cuda/launch.h"
#include "cuda/launch_rows.cuh"
#include "cuda/rms_norm.cuh"
#include "cuda/stream_launcher.h"

namespace octet::cuda {

cudaError_t rms_norm_quant(const RmsNormQuant& args, int64_t rows, cudaStream_t stream) {
  return launch_rms_norm_quant(StreamLauncher(stream), args, rows);
}

}  // namespace octet::cuda
