// per_token_quant: rows as they are.
#pragma once

#include "cuda/rows.cuh"
#include "kernels.h"

namespace octet::cuda {

template <class Element>
class PlainRow {
 public:
  using Args = PerTokenQuant;
  using Values = Chunk<Element>;
  using Loaded = Values;
  static constexpr int kNorms = 0;
  static constexpr bool kQuantizes = true;

  __device__ PlainRow(const Args& args, int64_t row)
      : x_(static_cast<const Storage*>(args.x) + row * args.x_stride, args.hidden),
        out_{args.format,
             args.scale_ub,
             {args.q + row * args.q_stride, args.hidden},
             args.scale + row} {}

  __device__ const RowOutput& output() const { return out_; }

  __device__ bool vectors() const { return x_.vectors(); }

  template <bool kVectors>
  __device__ Loaded load(int64_t at) const {
    Values chunk;
    chunk.template load<kVectors>(x_, at);
    return chunk;
  }

  __device__ Values values(const Loaded& loaded) const { return loaded; }

 private:
  using Storage = typename Element::Storage;

  RowPointer<const Storage> x_;
  RowOutput out_;
};

}  // namespace octet::cuda
