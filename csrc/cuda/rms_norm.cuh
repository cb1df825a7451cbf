// RMS norms, by themselves and quantized: rows normalized by their root mean square and scaled by
// their gain.
#pragma once

#include "cuda/launch_rows.cuh"
#include "cuda/rows.cuh"
#include "kernels.h"

namespace octet::cuda {

__device__ inline float inverse_rms(float sum_of_squares, int64_t length, float eps) {
  const float mean = divide(sum_of_squares, static_cast<float>(length));
  return divide(1.0f, sqrtf(mean + eps));
}

// x * factor * gain, rounded to the element where the gain says so. `x` is a chunk of the element's
// or of f32.
template <Gain kGain, class Values, class Inputs>
__device__ inline Values scaled(const Inputs& x, float factor, const Values& weight) {
  Values result;
#pragma unroll
  for (int i = 0; i < Values::kPairs; ++i) {
    const float2 v = x.pair(i);
    const float2 w = weight.pair(i);
    if constexpr (kGain == Gain::kOnePlusWeight) {
      result.set_pair(i, {v.x * factor * (1.0f + w.x), v.y * factor * (1.0f + w.y)});
    } else {
      result.set_pair(i, {v.x * factor, v.y * factor});
      const float2 normed = result.pair(i);
      result.set_pair(i, {normed.x * w.x, normed.y * w.y});
    }
  }
  return result;
}

// A row of x in memory, which is normalized and stored as it is.
template <class Element>
class GemmaRmsNormRow {
 public:
  using Args = GemmaRmsNorm;
  using Values = Chunk<Element>;
  using Inputs = Values;
  struct Loaded {
    Values x, weight;
  };
  static constexpr int kNorms = 1;
  static constexpr bool kQuantizes = false;

  __device__ GemmaRmsNormRow(const Args& args, int64_t row)
      : x_(static_cast<const Storage*>(args.x) + row / args.heads * args.x_stride +
               row % args.heads * args.head_stride,
           args.hidden),
        weight_(static_cast<const Storage*>(args.weight), args.hidden),
        eps_(args.eps),
        out_(static_cast<Storage*>(args.y) + row * args.hidden, args.hidden) {}

  __device__ const RowPointer<typename Element::Storage>& output() const { return out_; }
  __device__ int64_t length() const { return x_.length; }
  __device__ bool vectors() const { return x_.vectors() && weight_.aligned; }

  template <bool kVectors>
  __device__ Loaded load(int64_t at) const {
    Loaded loaded;
    loaded.x.template load<kVectors>(x_, at);
    loaded.weight.template load<kVectors>(weight_, at);
    return loaded;
  }

  __device__ Inputs inputs(const Loaded& loaded, int64_t) const { return loaded.x; }
  __device__ void write_back(const Inputs&, int64_t) const {}
  __device__ void set_sum_of_squares(float sum) {
    inverse_rms_ = inverse_rms(sum, x_.length, eps_);
  }
  __device__ Values normalize(const Inputs& inputs, const Loaded& loaded, int64_t) const {
    return scaled<Gain::kOnePlusWeight>(inputs, inverse_rms_, loaded.weight);
  }

 private:
  using Storage = typename Element::Storage;

  RowPointer<const Storage> x_;
  RowPointer<const Storage> weight_;
  float eps_;
  float inverse_rms_ = 0;
  RowPointer<Storage> out_;
};

// Rows, or their sums with a residual, normalized and quantized. The sums, rounded, become the new
// residual. With kPostNorm, x is normalized and rounded before it meets the residual.
template <class Element, bool kPostNorm, Gain kGain>
class RmsNormQuantRow {
 public:
  using Args = RmsNormQuant;
  using Values = Chunk<Element>;
  using Inputs = Chunk<Float32>;
  struct Loaded {
    Values x, residual, weight, post_weight;
  };
  static constexpr int kNorms = kPostNorm ? 2 : 1;
  static constexpr bool kQuantizes = true;

  __device__ RmsNormQuantRow(const Args& args, int64_t row)
      : x_(static_cast<const Storage*>(args.x) + row * args.x_stride, args.hidden),
        residual_(args.residual == nullptr
                      ? nullptr
                      : static_cast<Storage*>(args.residual) + row * args.residual_stride,
                  args.residual == nullptr ? 0 : args.hidden),
        weight_(static_cast<const Storage*>(args.weight), args.hidden),
        post_weight_(static_cast<const Storage*>(args.post_weight), kPostNorm ? args.hidden : 0),
        eps_(args.eps),
        out_{args.format, nullptr, {args.q + row * args.q_stride, args.hidden}, args.scale + row} {}

  __device__ const RowOutput& output() const { return out_; }
  __device__ int64_t length() const { return x_.length; }
  __device__ bool vectors() const {
    return x_.vectors() && residual_.aligned && weight_.aligned && post_weight_.aligned;
  }

  // Zeros where there is no residual.
  template <bool kVectors>
  __device__ Loaded load(int64_t at) const {
    Loaded loaded;
    loaded.x.template load<kVectors>(x_, at);
    loaded.residual.template load<kVectors>({residual_.elements, residual_.length}, at);
    if constexpr (kLoadsWeights) {
      loaded.weight.template load<kVectors>(weight_, at);
      if constexpr (kPostNorm) loaded.post_weight.template load<kVectors>(post_weight_, at);
    }
    return loaded;
  }

  // Of the norm before the residual: of kPostNorm.
  __device__ float add_post_squares(const Loaded& loaded, float sum) const {
    return loaded.x.add_squares(sum);
  }
  __device__ void set_post_sum_of_squares(float sum) {
    post_inverse_rms_ = inverse_rms(sum, x_.length, eps_);
  }

  // What is normalized: x or, where there is a residual, their sum in f32.
  __device__ Inputs inputs(const Loaded& loaded, int64_t at) const {
    Values x = loaded.x;
    if constexpr (kPostNorm) {
      x = scaled<kGain>(x, post_inverse_rms_, weight(loaded.post_weight, post_weight_, at));
    }
    Inputs inputs;
    // Adding zeros would make -0 a zero.
    const bool add = residual_.elements != nullptr;
#pragma unroll
    for (int i = 0; i < Inputs::kPairs; ++i) {
      const float2 v = x.pair(i);
      const float2 r = loaded.residual.pair(i);
      inputs.set_pair(i, add ? float2{v.x + r.x, v.y + r.y} : v);
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
    inverse_rms_ = inverse_rms(sum, x_.length, eps_);
  }
  __device__ Values normalize(const Inputs& inputs, const Loaded& loaded, int64_t at) const {
    return scaled<kGain>(inputs, inverse_rms_, weight(loaded.weight, weight_, at));
  }

 private:
  using Storage = typename Element::Storage;

  // There are no registers for four chunks of f32; the weights of all rows are in the L1 cache.
  static constexpr bool kLoadsWeights = !(kPostNorm && sizeof(Storage) == 4);

  __device__ static Values weight(const Values& loaded, const RowPointer<const Storage>& weights,
                                  int64_t at) {
    if constexpr (kLoadsWeights) return loaded;
    Values late;
    late.template load<false>(weights, at);
    return late;
  }

  RowPointer<const Storage> x_;
  RowPointer<Storage> residual_;
  RowPointer<const Storage> weight_;
  RowPointer<const Storage> post_weight_;
  float eps_;
  float post_inverse_rms_ = 0;
  float inverse_rms_ = 0;
  RowOutput out_;
};

template <class Element>
using GemmaNormQuantRow = RmsNormQuantRow<Element, false, Gain::kOnePlusWeight>;

template <class Element>
using GemmaNormAddNormQuantRow = RmsNormQuantRow<Element, true, Gain::kOnePlusWeight>;

template <class Element>
using NormQuantRow = RmsNormQuantRow<Element, false, Gain::kWeight>;

// The rows of `args`, by a launcher as launch_rows takes it.
template <class Launcher>
cudaError_t launch_rms_norm_quant(Launcher&& launcher, const RmsNormQuant& args, int64_t rows) {
  if (args.post_weight != nullptr) {
    // The norm after a sublayer is Gemma's alone.
    return args.gain == Gain::kOnePlusWeight
               ? launch_rows<GemmaNormAddNormQuantRow>(launcher, args, rows)
               : cudaErrorInvalidValue;
  }
  return args.gain == Gain::kOnePlusWeight ? launch_rows<GemmaNormQuantRow>(launcher, args, rows)
                                           : launch_rows<NormQuantRow>(launcher, args, rows);
}

}  // namespace octet::cuda
