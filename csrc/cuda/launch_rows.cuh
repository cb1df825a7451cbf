// Which kernel takes rows of which length, and how many threads it gets. What launches it is
// the caller's: a CUDA stream, or a simulation.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/rows.cuh"
#include "kernels.h"

namespace octet::cuda {

struct Geometry {
  unsigned grid;
  unsigned block;
  size_t dynamic_shared_bytes;
};

constexpr int64_t kChunksOfWarpThread = OCTET_TUNE_WARP_CHUNKS;
constexpr int64_t kLongestRowOfWarp = kWarp * kChunksOfWarpThread * kChunk;

// Rows of up to 16K elements stay in the registers of a block of at most 512 threads. A longer one
// goes through shared memory, which holds 50K 16-bit elements on the smallest of these GPUs, and
// through the L2 cache beyond. Every architecture has both; a cluster of blocks would need a second
// way for those before sm_90, and gains only where there are fewer rows than SMs.
template <class Source, class Launcher>
cudaError_t launch_rows_of(Launcher&& launcher, const typename Source::Args& args, int64_t rows) {
  constexpr int64_t kBlock = BlockGroup::kMaxThreads;
  const int64_t chunks = (args.hidden + kChunk - 1) / kChunk;
  const unsigned grid = static_cast<unsigned>(rows);
  // Whole warps, and no fewer than keep an SM busy with its limited number of blocks.
  const auto threads = [&](int64_t per_thread) {
    const int64_t warps = (chunks + per_thread * kWarp - 1) / (per_thread * kWarp);
    return static_cast<unsigned>((warps < 4 ? 4 : warps) * kWarp);
  };
  if (args.hidden <= kLongestRowOfWarp) {
    constexpr unsigned kRows = WarpGroup::kMaxThreads / kWarp;
    return launcher(rows_in_registers<Source, WarpGroup, kChunksOfWarpThread>,
                    Geometry{(grid + kRows - 1) / kRows, WarpGroup::kMaxThreads, 0}, args, rows);
  }
  if (chunks <= kBlock) {
    return launcher(rows_in_registers<Source, BlockGroup, 1>, Geometry{grid, threads(1), 0}, args,
                    rows);
  }
  if (chunks <= 2 * kBlock) {
    return launcher(rows_in_registers<Source, BlockGroup, 2>, Geometry{grid, threads(2), 0}, args,
                    rows);
  }
  const size_t row_bytes = static_cast<size_t>(chunks) * sizeof(typename Source::Values);
  const bool staged = Source::kQuantizes && row_bytes <= launcher.max_dynamic_shared_bytes();
  return launcher(long_rows<Source>, Geometry{grid, kBlock, staged ? row_bytes : 0}, args, rows,
                  staged);
}

// Rows [0, rows) of the source for the dtype of `args.x`.
template <template <class> class Source, class Args, class Launcher>
cudaError_t launch_rows(Launcher&& launcher, const Args& args, int64_t rows) {
  if (rows == 0) return cudaSuccess;  // a grid of no blocks is an error
  if (rows > INT32_MAX) return cudaErrorInvalidConfiguration;
  switch (args.x_dtype) {
    case Dtype::kFloat32:
      return launch_rows_of<Source<Float32>>(launcher, args, rows);
    case Dtype::kFloat16:
      return launch_rows_of<Source<Float16>>(launcher, args, rows);
    case Dtype::kBFloat16:
      return launch_rows_of<Source<BFloat16>>(launcher, args, rows);
  }
  return cudaErrorInvalidValue;
}

}  // namespace octet::cuda
