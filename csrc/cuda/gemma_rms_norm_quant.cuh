// gemma_rms_norm_quant: rows, or their sums with a residual, normalized by their root mean square
// and scaled by 1 + weight. The sums, rounded, become the new residual.
#pragma once

#include "cuda/quantize_rows.cuh"
#include "kernels.h"

namespace octet::cuda {

template <class Element>
class GemmaRmsNormRow {
 public:
  using Args = GemmaRmsNormQuant;
  using Values = Chunk<Element>;
  using Inputs = Chunk<Float32>;
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

  // What is normalized: x or, where there is a residual, their sum in f32.
  __device__ Inputs read(int64_t at) const {
    Inputs inputs = widen(x_, at);
    if (residual_.elements != nullptr) {
      const Inputs residual = widen({residual_.elements, residual_.length}, at);
#pragma unroll
      for (int i = 0; i < Inputs::kPairs; ++i) {
        const float2 x = inputs.pair(i);
        const float2 r = residual.pair(i);
        inputs.set_pair(i, {x.x + r.x, x.y + r.y});
      }
    }
    return inputs;
  }

  // Stores the sums as the new residual.
  __device__ void write_back(const Inputs& inputs, int64_t at) const {
    if (residual_.elements == nullptr) return;
    Values rounded;
#pragma unroll
    for (int i = 0; i < Values::kPairs; ++i) rounded.set_pair(i, inputs.pair(i));
    rounded.store(residual_, at);
  }

  __device__ void set_sum_of_squares(float sum) {
    const float mean = divide(sum, static_cast<float>(x_.length));
    inverse_rms_ = divide(1.0f, sqrtf(mean + eps_));
  }

  __device__ Values normalize(const Inputs& inputs, int64_t at) const {
    Values weight, normalized;
    weight.load(weight_, at);
#pragma unroll
    for (int i = 0; i < Values::kPairs; ++i) {
      const float2 x = inputs.pair(i);
      const float2 w = weight.pair(i);
      normalized.set_pair(i,
                          {x.x * inverse_rms_ * (1.0f + w.x), x.y * inverse_rms_ * (1.0f + w.y)});
    }
    return normalized;
  }

 private:
  using Storage = typename Element::Storage;

  __device__ static Inputs widen(const RowPointer<const Storage>& row, int64_t at) {
    Values chunk;
    chunk.load(row, at);
    Inputs wide;
#pragma unroll
    for (int i = 0; i < Values::kPairs; ++i) wide.set_pair(i, chunk.pair(i));
    return wide;
  }

  RowPointer<const Storage> x_;
  RowPointer<Storage> residual_;
  RowPointer<const Storage> weight_;
  float eps_;
  float inverse_rms_ = 0;
  RowOutput out_;
};

}  // namespace octet::cuda
