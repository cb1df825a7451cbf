#include "cuda/launch.h"
#include "cuda/launch_rows.cuh"
#include "cuda/per_token_quant.cuh"
#include "cuda/stream_launcher.h"

namespace octet::cuda {

cudaError_t per_token_quant(const PerTokenQuant& args, int64_t rows, cudaStream_t stream) {
  return launch_rows<PlainRow>(StreamLauncher(stream), args, rows);
}

}  // namespace octet::cuda
