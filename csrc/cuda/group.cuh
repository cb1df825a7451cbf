// The threads that share a row, a warp or a block, and what they compute together.
#pragma once

#include <stdint.h>

#include "cuda/tuning.h"
#include "fp8.h"

namespace octet::cuda {

constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xFFFFFFFFu;

// The sum over the warp. Every lane adds in the same tree, so all get the same bits.
__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(kWholeWarp, value, lanes);
  }
  return value;
}

// A warp a row, several rows a block: short rows, which would leave most of a block idle.
struct WarpGroup {
  static constexpr int kMaxThreads = 128;

  __device__ int rank() const { return threadIdx.x % kWarp; }
  __device__ int size() const { return kWarp; }
  __device__ int64_t row() const {
    return static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  }
  __device__ uint32_t max(uint32_t value) const { return __reduce_max_sync(kWholeWarp, value); }
  template <int kNumber = 0>
  __device__ float sum(float value) const {
    return warp_sum(value);
  }
};

// A block a row. Each reduction, and each sum by its number, has shared memory of its own and is to
// be called once in a kernel, so that no barrier is needed between them. Threads past the row's end
// take part in reductions.
struct BlockGroup {
  static constexpr int kMaxThreads = OCTET_TUNE_BLOCK_THREADS;

  __device__ int rank() const { return threadIdx.x; }
  __device__ int size() const { return blockDim.x; }
  __device__ int64_t row() const { return blockIdx.x; }

  __device__ uint32_t max(uint32_t value) const {
    static __shared__ uint32_t of_warps[kMaxThreads / kWarp];
    value = __reduce_max_sync(kWholeWarp, value);
    return __reduce_max_sync(kWholeWarp, exchange(of_warps, value));
  }

  template <int kNumber = 0>
  __device__ float sum(float value) const {
    static __shared__ float of_warps[kMaxThreads / kWarp];
    value = warp_sum(value);
    return warp_sum(exchange(of_warps, value));
  }

 private:
  // Lane i of every warp gets the value of warp i, or zero where there is none.
  template <class Value>
  __device__ static Value exchange(Value* of_warps, Value value) {
    const unsigned lane = threadIdx.x % kWarp;
    if (lane == 0) of_warps[threadIdx.x / kWarp] = value;
    __syncthreads();
    return lane < blockDim.x / kWarp ? of_warps[lane] : Value{};
  }
};

}  // namespace octet::cuda
