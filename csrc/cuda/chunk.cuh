// 16 neighbouring elements of a row in registers: what a thread loads, computes on and stores at
// once. Their codes are 16 bytes, the widest access that every architecture has.
#pragma once

#include <stdint.h>

#include "cuda/codes.cuh"
#include "cuda/elements.cuh"

namespace octet::cuda {

constexpr int kChunk = 16;

OCTET_HOST_DEVICE inline bool is_vector_aligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % sizeof(uint4) == 0;
}

// A row in memory. Chunks that lie on 16 bytes are accessed as vectors; the last one of a row,
// where it is not whole, and those of other rows element by element.
template <class Storage>
struct RowPointer {
  Storage* elements;
  int64_t length;
  bool aligned;

  OCTET_HOST_DEVICE RowPointer(Storage* first, int64_t count)
      : elements(first), length(count), aligned(is_vector_aligned(first)) {}

  // Whether every chunk is a vector access: whole, and on 16 bytes. The same for all threads of a
  // row, which then have no branches between their loads.
  OCTET_HOST_DEVICE bool vectors() const { return aligned && length % kChunk == 0; }

  // Elements of the chunk at `at` that the row has.
  OCTET_HOST_DEVICE int count(int64_t at) const {
    const int64_t left = length - at;
    return left >= kChunk ? kChunk : left > 0 ? static_cast<int>(left) : 0;
  }
};

template <class ElementType>
struct Chunk {
  using Element = ElementType;
  using Storage = typename Element::Storage;
  static constexpr int kPairs = kChunk / 2;
  static constexpr int kAccesses = kChunk * sizeof(Storage) / sizeof(uint4);

  union {
    uint4 vectors[kAccesses];
    typename Element::Pair pairs[kPairs];
    Storage elements[kChunk];
  };

  // Elements beyond the row's end read as zero. With kVectors the row is one of vectors().
  template <bool kVectors>
  __device__ void load(const RowPointer<const Storage>& row, int64_t at) {
    if constexpr (kVectors) {
      const bool inside = at < row.length;
      const uint4* from = reinterpret_cast<const uint4*>(row.elements + at);
#pragma unroll
      for (int i = 0; i < kAccesses; ++i) vectors[i] = inside ? from[i] : uint4{0, 0, 0, 0};
      return;
    }
    const int count = row.count(at);
    if (row.aligned && count == kChunk) {
      const uint4* from = reinterpret_cast<const uint4*>(row.elements + at);
#pragma unroll
      for (int i = 0; i < kAccesses; ++i) vectors[i] = from[i];
    } else {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        elements[i] = i < count ? row.elements[at + i] : Storage{};
      }
    }
  }

  __device__ void store(const RowPointer<Storage>& row, int64_t at) const {
    const int count = row.count(at);
    if (row.aligned && count == kChunk) {
      uint4* to = reinterpret_cast<uint4*>(row.elements + at);
#pragma unroll
      for (int i = 0; i < kAccesses; ++i) to[i] = vectors[i];
    } else {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        if (i < count) row.elements[at + i] = elements[i];
      }
    }
  }

  // Elements 2i and 2i + 1 in f32.
  __device__ float2 pair(int i) const { return Element::widen(pairs[i]); }
  __device__ void set_pair(int i, float2 values) { pairs[i] = Element::round(values); }

  // The bits of the largest magnitude, NaN ignored, or `bits` where that is no less. Bits of
  // magnitudes order like the magnitudes.
  __device__ uint32_t max_magnitude(uint32_t bits) const {
    float max = float_of(bits);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const float2 values = pair(i);
      max = max_number(max, max_number(fabsf(values.x), fabsf(values.y)));
    }
    return bits_of(max);
  }

  __device__ float add_squares(float sum) const {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const float2 values = pair(i);
      sum = fmaf(values.x, values.x, sum);
      sum = fmaf(values.y, values.y, sum);
    }
    return sum;
  }
};

// The codes of a chunk.
struct alignas(uint4) Codes {
  uint16_t pairs[kChunk / 2];

  __device__ void store(const RowPointer<uint8_t>& row, int64_t at) const {
    const int count = row.count(at);
    if (row.aligned && count == kChunk) {
      *reinterpret_cast<Codes*>(row.elements + at) = *this;
    } else {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        if (i < count) row.elements[at + i] = static_cast<uint8_t>(pairs[i / 2] >> (i % 2 * 8));
      }
    }
  }
};

template <Fp8Format kFormat, class Element>
__device__ inline Codes encode(const Chunk<Element>& chunk, const RowScale& scale) {
  Codes codes;
  if (scale.overflows()) {
#pragma unroll
    for (int i = 0; i < kChunk / 2; ++i) {
      const float2 values = chunk.pair(i);
      codes.pairs[i] = encode_pair<kFormat>(
          {scale.quotient(scale.cut(values.x)), scale.quotient(scale.cut(values.y))});
    }
  } else {
#pragma unroll
    for (int i = 0; i < kChunk / 2; ++i) {
      const float2 values = chunk.pair(i);
      codes.pairs[i] = encode_pair<kFormat>({scale.quotient(values.x), scale.quotient(values.y)});
    }
  }
  return codes;
}

template <class Element>
__device__ inline Codes encode(const Chunk<Element>& chunk, const RowScale& scale,
                               Fp8Format format) {
  return format == Fp8Format::kE4M3 ? encode<Fp8Format::kE4M3>(chunk, scale)
                                    : encode<Fp8Format::kE5M2>(chunk, scale);
}

}  // namespace octet::cuda
