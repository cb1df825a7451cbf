// per_token_quant on CUDA: one block a row, no host API.
//
// A thread works on chunks of 16 neighbouring elements, which are 16 bytes of codes. Up to a width
// the row stays in registers between the maximum and the conversion, so that it is read once; a
// longer row is read twice. Rows that do not lie on 16 bytes go element by element.
#pragma once

#include <stdint.h>

#include "cuda/convert.cuh"
#include "kernels.h"

namespace octet::cuda {

constexpr int kChunk = 16;
constexpr int kWarp = 32;
constexpr int kMaxThreads = 512;

// 16 elements of a row in registers.
template <class Element>
struct Chunk {
  using Storage = typename Element::Storage;
  static constexpr int kLoads = kChunk * sizeof(Storage) / sizeof(uint4);

  union {
    uint4 vectors[kLoads];
    Storage elements[kChunk];
  };

  // Elements at `hidden` and beyond read as zero.
  __device__ void load(const Storage* row, int64_t at, int64_t hidden, bool aligned) {
    if (aligned && at + kChunk <= hidden) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) vectors[i] = reinterpret_cast<const uint4*>(row + at)[i];
    } else {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) elements[i] = at + i < hidden ? row[at + i] : Storage{};
    }
  }

  // The bits of the largest magnitude, NaN ignored, no less than `bits`.
  __device__ uint32_t max_magnitude(uint32_t bits) const {
    float max = float_of(bits);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) max = fmaxf(max, fabsf(Element::to_f32(elements[i])));
    return bits_of(max);
  }

  template <Fp8Format kFormat>
  __device__ void store_codes(uint8_t* row, int64_t at, int64_t hidden, bool aligned,
                              float scale) const {
    union {
      uint4 vector;
      uint16_t pairs[kChunk / 2];
      uint8_t codes[kChunk];
    } out;
#pragma unroll
    for (int i = 0; i < kChunk / 2; ++i) {
      out.pairs[i] = quantize_pair<kFormat>(Element::to_f32(elements[2 * i]),
                                            Element::to_f32(elements[2 * i + 1]), scale);
    }
    if (aligned && at + kChunk <= hidden) {
      *reinterpret_cast<uint4*>(row + at) = out.vector;
    } else {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        if (at + i < hidden) row[at + i] = out.codes[i];
      }
    }
  }
};

// The maximum over the block of bits that order like integers, for every thread.
__device__ inline uint32_t block_max(uint32_t bits) {
  __shared__ uint32_t warp_max[kMaxThreads / kWarp];
  bits = __reduce_max_sync(0xFFFFFFFFu, bits);
  if (threadIdx.x % kWarp == 0) warp_max[threadIdx.x / kWarp] = bits;
  __syncthreads();
  const unsigned lane = threadIdx.x % kWarp;
  return __reduce_max_sync(0xFFFFFFFFu, lane < blockDim.x / kWarp ? warp_max[lane] : 0u);
}

// What every thread of a row's block knows about the row.
template <class Element>
struct Row {
  using Storage = typename Element::Storage;

  const Storage* x;
  uint8_t* q;
  bool x_aligned;
  bool q_aligned;

  __device__ explicit Row(const PerTokenQuant& args) {
    const int64_t row = blockIdx.x;
    x = static_cast<const Storage*>(args.x) + row * args.x_stride;
    q = args.q + row * args.q_stride;
    x_aligned = reinterpret_cast<uintptr_t>(x) % sizeof(uint4) == 0;
    q_aligned = reinterpret_cast<uintptr_t>(q) % sizeof(uint4) == 0;
  }
};

// The row's scale, from each thread's maximum; one thread writes it down.
template <Fp8Format kFormat>
__device__ inline float row_scale(const PerTokenQuant& args, uint32_t thread_max) {
  const float scale = token_scale(float_of(block_max(thread_max)), args.scale_ub, kFormat);
  if (threadIdx.x == 0) args.scale[blockIdx.x] = scale;
  return scale;
}

// Rows of at most blockDim.x * kChunks chunks, kept in registers. blockDim.x is a multiple of a
// warp.
template <class Element, Fp8Format kFormat, int kChunks>
__global__ void __launch_bounds__(kMaxThreads) per_token_quant_registers(PerTokenQuant args) {
  const Row<Element> row(args);
  Chunk<Element> chunks[kChunks];
  uint32_t max = 0;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int64_t at = (static_cast<int64_t>(c) * blockDim.x + threadIdx.x) * kChunk;
    chunks[c].load(row.x, at, args.hidden, row.x_aligned);
    max = chunks[c].max_magnitude(max);
  }
  const float scale = row_scale<kFormat>(args, max);
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int64_t at = (static_cast<int64_t>(c) * blockDim.x + threadIdx.x) * kChunk;
    if (at < args.hidden) {
      chunks[c].template store_codes<kFormat>(row.q, at, args.hidden, row.q_aligned, scale);
    }
  }
}

// Rows of any length, read twice.
template <class Element, Fp8Format kFormat>
__global__ void __launch_bounds__(kMaxThreads) per_token_quant_two_pass(PerTokenQuant args) {
  const Row<Element> row(args);
  const int64_t first = static_cast<int64_t>(threadIdx.x) * kChunk;
  const int64_t step = static_cast<int64_t>(blockDim.x) * kChunk;
  Chunk<Element> chunk;
  uint32_t max = 0;
  for (int64_t at = first; at < args.hidden; at += step) {
    chunk.load(row.x, at, args.hidden, row.x_aligned);
    max = chunk.max_magnitude(max);
  }
  const float scale = row_scale<kFormat>(args, max);
  for (int64_t at = first; at < args.hidden; at += step) {
    chunk.load(row.x, at, args.hidden, row.x_aligned);
    chunk.template store_codes<kFormat>(row.q, at, args.hidden, row.q_aligned, scale);
  }
}

}  // namespace octet::cuda
