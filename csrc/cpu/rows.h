// What the kernels that quantize rows share, whatever the instruction set.
//
// A file that includes this defines the three elements, each with its Storage; quantize_row comes
// with cpu/quantize_row_<isa>.h. Everything here has internal linkage, for each including file is
// compiled with its own flags.
#pragma once

#include <stdint.h>
#include <string.h>

#include "kernels.h"

namespace octet {
namespace {

struct Float32;
struct Float16;
struct BFloat16;

// Quantizes `hidden` elements and returns their scale. `scale_ub` may be null.
template <class Element>
float quantize_row(const typename Element::Storage* x, int64_t hidden, const float* scale_ub,
                   Fp8Format format, uint8_t* q);

// Calls f<Element>() for the element of `dtype`.
template <class F>
void with_element(Dtype dtype, const F& f) {
  switch (dtype) {
    case Dtype::kFloat32:
      return f.template operator()<Float32>();
    case Dtype::kFloat16:
      return f.template operator()<Float16>();
    case Dtype::kBFloat16:
      return f.template operator()<BFloat16>();
  }
}

// The rows [begin, end) of per_token_quant.
template <class Element>
void quantize_rows(const PerTokenQuant& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const auto* x = static_cast<const typename Element::Storage*>(args.x) + row * args.x_stride;
    args.scale[row] = quantize_row<Element>(x, args.hidden, args.scale_ub, args.format,
                                            args.q + row * args.q_stride);
  }
}

// The rows [begin, end) of a fused kernel: make_row(row, y) leaves a row in scratch, where its
// quantization reads it.
template <class Element, class Args, class MakeRow>
void quantize_made_rows(const Args& args, int64_t begin, int64_t end, void* scratch,
                        const MakeRow& make_row) {
  auto* y = static_cast<typename Element::Storage*>(scratch);
  for (int64_t row = begin; row < end; ++row) {
    make_row(row, y);
    args.scale[row] =
        quantize_row<Element>(y, args.hidden, nullptr, args.format, args.q + row * args.q_stride);
  }
}

// Calls normalize(x, y) for the rows [begin, end) of gemma_rms_norm.
template <class Element, class Normalize>
void for_each_head(const GemmaRmsNorm& args, int64_t begin, int64_t end,
                   const Normalize& normalize) {
  using Storage = typename Element::Storage;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t token = row / args.heads;
    const int64_t head = row % args.heads;
    normalize(static_cast<const Storage*>(args.x) + token * args.x_stride + head * args.head_stride,
              static_cast<Storage*>(args.y) + row * args.hidden);
  }
}

// Calls f<gain>() for a gain known when it is compiled.
template <class F>
void with_gain(Gain gain, const F& f) {
  switch (gain) {
    case Gain::kOnePlusWeight:
      return f.template operator()<Gain::kOnePlusWeight>();
    case Gain::kWeight:
      return f.template operator()<Gain::kWeight>();
  }
}

// Calls normalize(x, weight) and then rotate(x, cos_sin) for the heads [begin, end) of
// qk_norm_rope; without a weight rotate only.
template <class Element, class Normalize, class Rotate>
void for_each_rotated_head(const QkNormRope& args, int64_t begin, int64_t end,
                           const Normalize& normalize, const Rotate& rotate) {
  using Storage = typename Element::Storage;
  const int64_t heads = args.q_heads + args.k_heads;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t token = row / heads;
    const int64_t head = row % heads;
    Storage* x = static_cast<Storage*>(args.qkv) + token * args.stride + head * args.head_size;
    const void* weight = head < args.q_heads ? args.q_weight : args.k_weight;
    if (weight != nullptr) normalize(x, weight);
    rotate(x,
           static_cast<const Storage*>(args.cos_sin) + args.positions[token] * args.cos_sin_stride);
  }
}

// The rows [begin, end) of per_channel_quant. max_magnitude(w) gives a row's largest
// magnitude as f32 bits, above infinity if there is a NaN; encode_row(w, q, scale) divides
// and encodes it.
template <class Element, class MaxMagnitude, class EncodeRow>
void quantize_channels(const PerChannelQuant& args, int64_t begin, int64_t end,
                       const MaxMagnitude& max_magnitude, const EncodeRow& encode_row) {
  using Storage = typename Element::Storage;
  for (int64_t row = begin; row < end; ++row) {
    const Storage* w = static_cast<const Storage*>(args.w) + row * args.w_stride;
    uint8_t* q = args.q + row * args.q_stride;
    Storage& scale = static_cast<Storage*>(args.scale)[row];

    const uint32_t max = max_magnitude(w);
    if (max >= 0x7F800000u) {
      scale = Element::from_f32(float_of(max));
      memset(q, 0x7F, static_cast<size_t>(args.in_features));
      continue;
    }
    scale = Element::from_f32(float_of(max) / spec_of(args.format).max);
    if (Element::to_f32(scale) == 0.0f) scale = Element::from_f32(Element::kEpsilon);
    encode_row(w, q, Element::to_f32(scale));
  }
}

}  // namespace
}  // namespace octet
