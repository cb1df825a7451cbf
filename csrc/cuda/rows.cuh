// The kernels: rows from some source, quantized each with its own scale or stored as they are made.
// No host API.
//
// A source says what the elements of a row are. It has the argument struct of its launcher as
// `Args`, what it loads of a chunk as `Loaded`, the chunks that it gives as `Values`, whether these
// are quantized (`kQuantizes`), and for a chunk that begins at element `at`:
//
//   Source(args, row)
//   vectors()                 whether all it loads is vectors (RowPointer)
//   load<kVectors>(at)        what there is of it in memory, and nothing else: all of a thread's
//                             loads are under way before it uses the first
//   values(loaded)            the values
//   output()                  where they go: RowOutput, or a RowPointer if they are not quantized
//
// A source that normalizes the row has kNorms of 1, gives chunks of `Inputs` instead of values, and
// has besides:
//
//   length()
//   inputs(loaded, at)        what is normalized
//   set_sum_of_squares(sum)   of the inputs, before normalize()
//   normalize(inputs, loaded, at)  the values
//   write_back(inputs, at)    stores the inputs; after the last load() of the chunk
//
// One with kNorms of 2 normalizes once more before that, on the way to its inputs:
//
//   add_post_squares(loaded, sum)  of what it normalizes first
//   set_post_sum_of_squares(sum)   before inputs()
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

// Registers that a thread may have, of the 64K of an SM. With more, which it would take to work on
// all of a chunk's elements side by side, fewer blocks would have their loads under way; with fewer
// it would spill.
template <class Source, int kChunks>
constexpr int registers_of_thread() {
  constexpr bool kIsWide = sizeof(typename Source::Values) > 2 * kChunk;
  if (Source::kNorms > 1) return 255;
  if (kIsWide) return 128;
  if (Source::kNorms == 1) return kChunks == 1 ? 64 : 128;
  return kChunks == 1 ? 40 : 64;
}

template <class Source, class Group, int kChunks>
constexpr int blocks_per_sm() {
  // The plain kernel: it keeps nothing but what it loads, 32 bytes a chunk.
  constexpr bool kIsTuned =
      sizeof(typename Source::Loaded) == 2 * kChunk && kChunks == 2 && Group::kMaxThreads > 128;
  if (kIsTuned) return OCTET_TUNE_BLOCKS_PER_SM;
  constexpr int kBlocks = 65536 / (Group::kMaxThreads * registers_of_thread<Source, kChunks>());
  return kBlocks > 1 ? kBlocks : 1;
}

// All that a thread needs of its chunks, loaded without a branch between them where the row allows.
template <class Source, int kChunks, class BeginOf>
__device__ inline void load_chunks(const Source& source, const BeginOf& begin_of,
                                   typename Source::Loaded (&loaded)[kChunks]) {
  if (source.vectors()) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) loaded[c] = source.template load<true>(begin_of(c));
  } else {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) loaded[c] = source.template load<false>(begin_of(c));
  }
}

template <class Source>
__device__ inline typename Source::Loaded load_chunk(const Source& source, int64_t at) {
  return source.vectors() ? source.template load<true>(at) : source.template load<false>(at);
}

// Rows of at most group.size() * kChunks chunks. They are read once and kept in registers until
// they are stored. Threads take neighbouring chunks, so that a warp's accesses are.
template <class Source, class Group, int kChunks>
__global__ void __launch_bounds__(Group::kMaxThreads, (blocks_per_sm<Source, Group, kChunks>()))
    rows_in_registers(typename Source::Args args, int64_t rows) {
  wait_for_earlier_kernels();
  const Group group;
  if (group.row() >= rows) return;
  Source source(args, group.row());
  const auto begin_of = [&](int chunk) {
    return (static_cast<int64_t>(chunk) * group.size() + group.rank()) * kChunk;
  };

  typename Source::Loaded loaded[kChunks];
  load_chunks(source, begin_of, loaded);
  typename Source::Values chunks[kChunks];
  if constexpr (Source::kNorms > 0) {
    if constexpr (Source::kNorms > 1) {
      float sum = 0;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) sum = source.add_post_squares(loaded[c], sum);
      source.set_post_sum_of_squares(group.template sum<1>(sum));
    }
    typename Source::Inputs inputs[kChunks];
#pragma unroll
    for (int c = 0; c < kChunks; ++c) inputs[c] = source.inputs(loaded[c], begin_of(c));
#pragma unroll
    for (int c = 0; c < kChunks; ++c) source.write_back(inputs[c], begin_of(c));
    let_next_kernel_start();
    float sum = 0;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) sum = inputs[c].add_squares(sum);
    source.set_sum_of_squares(group.sum(sum));
#pragma unroll
    for (int c = 0; c < kChunks; ++c)
      chunks[c] = source.normalize(inputs[c], loaded[c], begin_of(c));
  } else {
    let_next_kernel_start();
#pragma unroll
    for (int c = 0; c < kChunks; ++c) chunks[c] = source.values(loaded[c]);
  }

  const auto out = source.output();
  if constexpr (Source::kQuantizes) {
    uint32_t max = 0;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) max = chunks[c].max_magnitude(max);
    const RowScale scale = row_scale(group, out, max);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      encode(chunks[c], scale, out.format).store(out.codes, begin_of(c));
    }
  } else {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) chunks[c].store(out, begin_of(c));
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
    for (int i = 0; i < Values::kAccesses; ++i) memory()[index(at, i)] = chunk.vectors[i];
  }

  __device__ Values get(int64_t at) const {
    Values chunk;
#pragma unroll
    for (int i = 0; i < Values::kAccesses; ++i) chunk.vectors[i] = memory()[index(at, i)];
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

// Rows of any length, a block a row, read once more for each sum and maximum; all but the first
// reading finds them in the L2 cache. What comes between the maximum and the conversion is kept in
// shared memory where it fits (`staged`), and otherwise computed again.
template <class Source>
__global__ void __launch_bounds__(BlockGroup::kMaxThreads)
    long_rows(typename Source::Args args, int64_t rows, bool staged) {
  wait_for_earlier_kernels();
  const BlockGroup group;
  if (group.row() >= rows) return;
  Source source(args, group.row());
  const auto out = source.output();
  const int64_t first = static_cast<int64_t>(group.rank()) * kChunk;
  const int64_t step = static_cast<int64_t>(group.size()) * kChunk;

  if constexpr (Source::kNorms > 1) {
    float sum = 0;
    for (int64_t at = first; at < source.length(); at += step) {
      sum = source.add_post_squares(load_chunk(source, at), sum);
    }
    source.set_post_sum_of_squares(group.template sum<1>(sum));
  }
  if constexpr (Source::kNorms > 0) {
    float sum = 0;
    for (int64_t at = first; at < source.length(); at += step) {
      sum = source.inputs(load_chunk(source, at), at).add_squares(sum);
    }
    source.set_sum_of_squares(group.sum(sum));
  }
  const auto values = [&](int64_t at, bool last_reading) {
    const typename Source::Loaded loaded = load_chunk(source, at);
    if constexpr (Source::kNorms > 0) {
      const typename Source::Inputs inputs = source.inputs(loaded, at);
      if (last_reading) source.write_back(inputs, at);
      return source.normalize(inputs, loaded, at);
    } else {
      return source.values(loaded);
    }
  };

  if constexpr (Source::kQuantizes) {
    StagedRow<typename Source::Values> stage(out.codes.length);
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
  } else {
    let_next_kernel_start();
    for (int64_t at = first; at < out.length; at += step) values(at, true).store(out, at);
  }
}

}  // namespace octet::cuda
