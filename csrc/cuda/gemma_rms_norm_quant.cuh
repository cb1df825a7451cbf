// gemma_rms_norm_quant: rows normalized by their root mean square and scaled by 1 + weight, after a
// residual, where there is one, was added in place.
#pragma once

#include "cuda/quantize_rows.cuh"
#include "kernels.h"

namespace octet::cuda {

template <class Element>
class GemmaRmsNormRow {
 public:
  using Args = GemmaRmsNormQuant;
  using Values = Chunk<Element>;
  static constexpr bool kNormalizes = true;

  __device__ GemmaRmsNormRow(const Args& args, int64_t row)
      : x_(static_cast<const Storage*>(args.x) + row * args.x_stride, args.hidden),
        residual_(args.residual == nullptr
                      ? nullptr
                      : static_cast<Storage*>(args.residual) + row * args.residual_stride,
                  args.hidden),
        weight_(static_cast<const Storage*>(args.weight), args.hidden),
        eps_(args.eps),
        out_{args.format, nullptr, {args.q + row * args.q_stride, args.hidden}, args.scale + row} {}

  __device__ const RowOutput& output() const { return out_; }

  // What is normalized: x, or x + residual, which is also stored as the new residual.
  __device__ Values read(int64_t at) const {
    Values chunk;
    chunk.load(x_, at);
    if (residual_.elements != nullptr) {
      Values residual;
      residual.load({residual_.elements, residual_.length}, at);
#pragma unroll
      for (int i = 0; i < Values::kPairs; ++i) {
        const float2 x = chunk.pair(i);
        const float2 r = residual.pair(i);
        chunk.set_pair(i, {x.x + r.x, x.y + r.y});
      }
      chunk.store(residual_, at);
    }
    return chunk;
  }

  __device__ Values read_again(int64_t at) const {
    Values chunk;
    chunk.load(residual_.elements == nullptr
                   ? x_
                   : RowPointer<const Storage>(residual_.elements, residual_.length),
               at);
    return chunk;
  }

  __device__ void set_sum_of_squares(float sum) {
    const float mean = divide(sum, static_cast<float>(x_.length));
    inverse_rms_ = divide(1.0f, sqrtf(mean + eps_));
  }

  __device__ Values normalize(Values chunk, int64_t at) const {
    Values weight;
    weight.load(weight_, at);
#pragma unroll
    for (int i = 0; i < Values::kPairs; ++i) {
      const float2 x = chunk.pair(i);
      const float2 w = weight.pair(i);
      chunk.set_pair(i, {x.x * inverse_rms_ * (1.0f + w.x), x.y * inverse_rms_ * (1.0f + w.y)});
    }
    return chunk;
  }

 private:
  using Storage = typename Element::Storage;

  RowPointer<const Storage> x_;
  RowPointer<Storage> residual_;
  RowPointer<const Storage> weight_;
  float eps_;
  float inverse_rms_ = 0;
  RowOutput out_;
};

}  // namespace octet::cuda
