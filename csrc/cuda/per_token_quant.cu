#include "cuda/launch.h"
#include "cuda/per_token_quant.cuh"

namespace octet::cuda {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Threads that `chunks` need with `per_thread` each: whole warps, at least one.
unsigned threads_for(int64_t chunks, int64_t per_thread) {
  const int64_t warps = ceil_div(chunks, per_thread * kWarp);
  return static_cast<unsigned>((warps > 0 ? warps : 1) * kWarp);
}

// Few chunks a thread while the block stays at 256 threads, which hides latency best; then more, so
// that a row of 16K elements still fits a block of 256.
template <class Element, Fp8Format kFormat>
void launch(const PerTokenQuant& args, unsigned rows, cudaStream_t stream) {
  const int64_t chunks = ceil_div(args.hidden, kChunk);
  if (chunks <= 256) {
    per_token_quant_registers<Element, kFormat, 1>
        <<<rows, threads_for(chunks, 1), 0, stream>>>(args);
  } else if (chunks <= 512) {
    per_token_quant_registers<Element, kFormat, 2>
        <<<rows, threads_for(chunks, 2), 0, stream>>>(args);
  } else if (chunks <= 4 * kMaxThreads) {
    per_token_quant_registers<Element, kFormat, 4>
        <<<rows, threads_for(chunks, 4), 0, stream>>>(args);
  } else {
    per_token_quant_two_pass<Element, kFormat><<<rows, kMaxThreads, 0, stream>>>(args);
  }
}

template <class Element>
void launch(const PerTokenQuant& args, unsigned rows, cudaStream_t stream) {
  if (args.format == Fp8Format::kE4M3) {
    launch<Element, Fp8Format::kE4M3>(args, rows, stream);
  } else {
    launch<Element, Fp8Format::kE5M2>(args, rows, stream);
  }
}

}  // namespace

cudaError_t per_token_quant(const PerTokenQuant& args, int64_t rows, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;  // a grid of no blocks is an error
  if (rows > INT32_MAX) return cudaErrorInvalidConfiguration;
  const unsigned grid = static_cast<unsigned>(rows);
  switch (args.x_dtype) {
    case Dtype::kFloat32:
      launch<Float32>(args, grid, stream);
      break;
    case Dtype::kFloat16:
      launch<Float16>(args, grid, stream);
      break;
    case Dtype::kBFloat16:
      launch<BFloat16>(args, grid, stream);
      break;
  }
  return cudaGetLastError();
}

}  // namespace octet::cuda
