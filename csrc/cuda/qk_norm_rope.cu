#include "cuda/launch.h"
#include "cuda/qk_norm_rope.cuh"
#include "cuda/stream_launcher.h"

namespace octet::cuda {

cudaError_t qk_norm_rope(const QkNormRope& args, int64_t rows, cudaStream_t stream) {
  return launch_qk_norm_rope(StreamLauncher(stream), args, rows);
}

}  // namespace octet::cuda
