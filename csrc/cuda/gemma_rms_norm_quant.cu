#include "cuda/gemma_rms_norm.cuh"
#include "cuda/launch.h"
#include "cuda/launch_rows.cuh"
#include "cuda/stream_launcher.h"

namespace octet::cuda {

cudaError_t gemma_rms_norm_quant(const GemmaRmsNormQuant& args, int64_t rows, cudaStream_t stream) {
  const StreamLauncher launcher(stream);
  return args.post_weight == nullptr ? launch_rows<GemmaNormQuantRow>(launcher, args, rows)
                                     : launch_rows<GemmaNormAddNormQuantRow>(launcher, args, rows);
}

}  // namespace octet::cuda
