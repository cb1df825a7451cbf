// gelu_tanh_and_mul_quant and silu_and_mul_quant: rows activation(gate) * up of x = [gate | up].
#pragma once

#include <math.h>

#include "cuda/rows.cuh"
#include "kernels.h"

namespace octet::cuda {

// GELU in its tanh approximation, in the form that vLLM's and torch's kernels have: a sigmoid would
// be cheaper, but 1 + tanh cancels where x is negative, and the results are to agree there too.
struct GeluTanh {
  __device__ static float apply(float x) {
    constexpr float kSqrtTwoOverPi = 0.7978845608028654f;
    return 0.5f * x * (1.0f + tanhf(kSqrtTwoOverPi * (x + 0.044715f * (x * x * x))));
  }
};

// The fast exponential and division are good to a few units in the last place of f32.
struct Silu {
  __device__ static float apply(float x) { return __fdividef(x, 1.0f + __expf(-x)); }
};

template <class Element, class Activation>
class GatedRow {
 public:
  using Args = GatedQuant;
  using Values = Chunk<Element>;
  struct Loaded {
    Values gate, up;
  };
  static constexpr int kNorms = 0;
  static constexpr bool kQuantizes = true;

  __device__ GatedRow(const Args& args, int64_t row)
      : gate_(static_cast<const Storage*>(args.x) + row * args.x_stride, args.hidden),
        up_(gate_.elements + args.hidden, args.hidden),
        out_{args.format, nullptr, {args.q + row * args.q_stride, args.hidden}, args.scale + row} {}

  __device__ const RowOutput& output() const { return out_; }

  __device__ bool vectors() const { return gate_.vectors() && up_.vectors(); }

  template <bool kVectors>
  __device__ Loaded load(int64_t at) const {
    Loaded loaded;
    loaded.gate.template load<kVectors>(gate_, at);
    loaded.up.template load<kVectors>(up_, at);
    return loaded;
  }

  // Rounded after the activation and after the product, as the two operators apart do.
  __device__ Values values(const Loaded& loaded) const {
    Values product;
#pragma unroll
    for (int i = 0; i < Values::kPairs; ++i) {
      const float2 x = loaded.gate.pair(i);
      product.set_pair(i, {Activation::apply(x.x), Activation::apply(x.y)});
      const float2 activated = product.pair(i);
      const float2 factor = loaded.up.pair(i);
      product.set_pair(i, {activated.x * factor.x, activated.y * factor.y});
    }
    return product;
  }

 private:
  using Storage = typename Element::Storage;

  RowPointer<const Storage> gate_;
  RowPointer<const Storage> up_;
  RowOutput out_;
};

template <class Element>
using GeluTanhRow = GatedRow<Element, GeluTanh>;

template <class Element>
using SiluRow = GatedRow<Element, Silu>;

}  // namespace octet::cuda
