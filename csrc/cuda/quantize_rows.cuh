// The kernels: rows from some source, quantized each with its own scale. No host API.
//
// A source says what the elements of a row are. It has the argument struct of its launcher as
// `Args`, the chunks that it gives as `Values`, and for a chunk that begins at element `at`:
//
//   Source(args, row)
//   read(at)           the values
//   output()           where the codes and the scale go
//
// A source that normalizes the row, `kNormalizes`, gives chunks of `Inputs` with read(), and has
// besides:
//
//   set_sum_of_squares(sum)   of what read() gave, before normalize()
//   normalize(inputs, at)     the values, from what read() gave
//   write_back(inputs, at)    stores what read() gave; after the last read() of the chunk
#pragma once

#include <stdint.h>

#include "cuda/chunk.cuh"
#include "cuda/codes.cuh"
#include "cuda/dependency.cuh"
#include "cuda/group.cuh"

namespace octet::cuda {

// Where the codes of a row and its scale go.
struct RowOutput {
  Fp8Format format;
  const float* scale_ub;  // one value, or null
  RowPointer<uint8_t> codes;
  float* scale;
};

// The row's scale, from each thread's maximum; one thread writes it down.
template <class Group>
__device__ inline RowScale row_scale(const Group& group, const RowOutput& out,
                                     uint32_t thread_max) {
  const RowScale scale(float_of(group.max(thread_max)), out.scale_ub, out.format);
  if (group.rank() == 0) *out.scale = scale.value();
  return scale;
}

// Rows of at most group.size() * kChunks chunks. They are read once and kept in registers between
// the maximum and the conversion. Threads take neighbouring chunks, so that a warp's accesses are.
template <class Source, class Group, int kChunks>
__global__ void __launch_bounds__(Group::kMaxThreads)
    quantize_rows_in_registers(typename Source::Args args, int64_t rows) {
  wait_for_earlier_kernels();
  const Group group;
  if (group.row() >= rows) return;
  Source source(args, group.row());
  const auto begin_of = [&](int chunk) {
    return (static_cast<int64_t>(chunk) * group.size() + group.rank()) * kChunk;
  };

  typename Source::Values chunks[kChunks];
  if constexpr (Source::kNormalizes) {
    typename Source::Inputs inputs[kChunks];
#pragma unroll
    for (int c = 0; c < kChunks; ++c) inputs[c] = source.read(begin_of(c));
#pragma unroll
    for (int c = 0; c < kChunks; ++c) source.write_back(inputs[c], begin_of(c));
    let_next_kernel_start();
    float sum = 0;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) sum = inputs[c].add_squares(sum);
    source.set_sum_of_squares(group.sum(sum));
#pragma unroll
    for (int c = 0; c < kChunks; ++c) chunks[c] = source.normalize(inputs[c], begin_of(c));
  } else {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) chunks[c] = source.read(begin_of(c));
    let_next_kernel_start();
  }

  uint32_t max = 0;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) max = chunks[c].max_magnitude(max);
  const RowOutput out = source.output();
  const RowScale scale = row_scale(group, out, max);
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    encode(chunks[c], scale, out.format).store(out.codes, begin_of(c));
  }
}

// Chunks that the block keeps in its dynamic shared memory, each for the thread that put it there.
// Vectors of one chunk lie a row of chunks apart, so that neighbouring threads do not share banks.
template <class Values>
class StagedRow {
 public:
  __device__ explicit StagedRow(int64_t length)
      : chunks_(static_cast<int>((length + kChunk - 1) / kChunk)) {}

  __device__ void put(int64_t at, const Values& chunk) {
#pragma unroll
    for (int i = 0; i < Values::kVectors; ++i) memory()[index(at, i)] = chunk.vectors[i];
  }

  __device__ Values get(int64_t at) const {
    Values chunk;
#pragma unroll
    for (int i = 0; i < Values::kVectors; ++i) chunk.vectors[i] = memory()[index(at, i)];
    return chunk;
  }

 private:
  __device__ static uint4* memory() {
    extern __shared__ uint4 dynamic_shared_memory[];
    return dynamic_shared_memory;
  }
  __device__ int index(int64_t at, int vector) const {
    return vector * chunks_ + static_cast<int>(at / kChunk);
  }

  int chunks_;
};

// Rows of any length, a block a row. What comes between the maximum and the conversion is kept in
// shared memory where it fits (`staged`), and otherwise computed again from the row, which the
// second reading finds in the L2 cache.
template <class Source>
__global__ void __launch_bounds__(BlockGroup::kMaxThreads)
    quantize_long_rows(typename Source::Args args, int64_t rows, bool staged) {
  wait_for_earlier_kernels();
  const BlockGroup group;
  if (group.row() >= rows) return;
  Source source(args, group.row());
  const RowOutput out = source.output();
  StagedRow<typename Source::Values> stage(out.codes.length);
  const int64_t first = static_cast<int64_t>(group.rank()) * kChunk;
  const int64_t step = static_cast<int64_t>(group.size()) * kChunk;

  if constexpr (Source::kNormalizes) {
    float sum = 0;
    for (int64_t at = first; at < out.codes.length; at += step) {
      sum = source.read(at).add_squares(sum);
    }
    source.set_sum_of_squares(group.sum(sum));
  }
  const auto values = [&](int64_t at, bool last_reading) {
    if constexpr (Source::kNormalizes) {
      const typename Source::Inputs inputs = source.read(at);
      if (last_reading) source.write_back(inputs, at);
      return source.normalize(inputs, at);
    } else {
      return source.read(at);
    }
  };

  uint32_t max = 0;
  for (int64_t at = first; at < out.codes.length; at += step) {
    const typename Source::Values chunk = values(at, staged);
    max = chunk.max_magnitude(max);
    if (staged) stage.put(at, chunk);
  }
  let_next_kernel_start();
  const RowScale scale = row_scale(group, out, max);
  for (int64_t at = first; at < out.codes.length; at += step) {
    encode(staged ? stage.get(at) : values(at, true), scale, out.format).store(out.codes, at);
  }
}

}  // namespace octet::cuda
