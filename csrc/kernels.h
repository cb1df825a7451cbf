// The contract between the operators and the CPU kernels: raw pointers, no torch. A kernel does its
// share of the work on the calling thread; splitting the work over threads is the caller's
// business.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "fp8.h"

namespace octet {

enum class Dtype : uint8_t { kFloat32, kFloat16, kBFloat16 };

// Quantization of each row of x, [rows, hidden], with its own scale (see fp8.h). Strides are in
// elements, from row to row; within a row elements are adjacent.
struct PerTokenQuant {
  const void* x;
  Dtype x_dtype;
  int64_t x_stride;
  int64_t hidden;
  Fp8Format format;
  const float* scale_ub;  // one value, or null
  uint8_t* q;             // codes, [rows, hidden]
  int64_t q_stride;
  float* scale;  // [rows]
};

// Quantizes the rows [begin, end).
using PerTokenQuantKernel = void (*)(const PerTokenQuant& args, int64_t begin, int64_t end);

// Quantization of each row of w, [rows, in_features], with its own scale of w's dtype (see fp8.h,
// "per output channel"). Strides are in elements, from row to row.
struct PerChannelQuant {
  const void* w;
  Dtype dtype;  // of w and of scale
  int64_t w_stride;
  int64_t in_features;
  Fp8Format format;
  uint8_t* q;  // codes, [rows, in_features]
  int64_t q_stride;
  void* scale;  // [rows]
};

// Quantizes the rows [begin, end).
using PerChannelQuantKernel = void (*)(const PerChannelQuant& args, int64_t begin, int64_t end);

// What an RMS norm multiplies the row x * (1 / sqrt(mean(x^2) + eps)) by.
enum class Gain : uint8_t {
  kOnePlusWeight,  // Gemma's: computed in f32 and rounded once
  kWeight,         // everybody else's: the row is rounded before it is multiplied, and after that
};

// Gemma's RMS norm of each row of x: the row
//
//   y = x * (1 / sqrt(mean(x^2) + eps)) * (1 + weight)
//
// computed in f32 and rounded to x's dtype, which weight and y have too. The rows are those of the
// heads of tokens: row i is head i % heads of token i / heads.
struct GemmaRmsNorm {
  const void* x;  // [tokens, heads, hidden]
  Dtype x_dtype;
  int64_t x_stride;     // elements from token to token
  int64_t head_stride;  // and from head to head
  int64_t heads;
  int64_t hidden;
  const void* weight;  // [hidden]
  float eps;
  void* y;  // [tokens, heads, hidden], contiguous
};

// Computes the rows [begin, end).
using GemmaRmsNormKernel = void (*)(const GemmaRmsNorm& args, int64_t begin, int64_t end);

// An RMS norm of each row of x, [rows, hidden], quantized with the row's own scale. Where there
// is a residual, the sum x + residual takes x's place in f32, not rounded, and replaces the
// residual, rounded to x's dtype. Where there is a post_weight, x is before that normalized by it,
// and rounded to its dtype: the norm after a sublayer, which then meets the residual. Everything
// but eps, codes and scales has x's dtype.
struct RmsNormQuant {
  const void* x;
  Dtype x_dtype;
  int64_t x_stride;
  int64_t hidden;
  const void* post_weight;  // [hidden], or null; with a residual only
  const void* weight;       // [hidden]
  Gain gain;                // of both norms
  float eps;                // of both
  void* residual;           // [rows, hidden], or null
  int64_t residual_stride;
  Fp8Format format;
  uint8_t* q;  // codes, [rows, hidden]
  int64_t q_stride;
  float* scale;  // [rows]
};

// An RMS norm of each head of the queries and of the keys, where they have one, and then their
// rotation (RoPE), in place. The rows are those of the heads of tokens: row i is head i % heads of
// token i / heads, where heads = q_heads + k_heads, the queries first. The first rotary_dim
// elements of a head are two halves, a and b, which become
//
//   a * cos - b * sin    and    b * cos + a * sin
//
// computed in f32 from what the norm has rounded, and rounded once; the rest of a head is left.
struct QkNormRope {
  void* qkv;  // [tokens, heads and more, head_size]
  Dtype dtype;
  int64_t stride;  // elements from token to token
  int64_t q_heads;
  int64_t k_heads;
  int64_t head_size;
  int64_t rotary_dim;        // even, and no larger than head_size
  const void* q_weight;      // [head_size], or null: no norm
  const void* k_weight;      // [head_size], or null
  Gain gain;                 // of both norms
  float eps;                 // of both
  const int64_t* positions;  // [tokens], rows of cos_sin
  const void* cos_sin;       // [positions, rotary_dim]: the cosines, then the sines
  int64_t cos_sin_stride;    // elements from position to position
};

// Works on the heads [begin, end).
using QkNormRopeKernel = void (*)(const QkNormRope& args, int64_t begin, int64_t end);

// activation(gate) * up of each row of x = [gate | up], [rows, 2 * hidden], quantized: the
// activation, computed in f32, and the product are each rounded to x's dtype.
struct GatedQuant {
  const void* x;
  Dtype x_dtype;
  int64_t x_stride;
  int64_t hidden;  // of gate, of up and of the codes
  Fp8Format format;
  uint8_t* q;  // codes, [rows, hidden]
  int64_t q_stride;
  float* scale;  // [rows]
};

// Both compute and quantize the rows [begin, end). `scratch` is this thread's own, holds a row
// (row_scratch_bytes) and is aligned to kScratchAlignment.
using RmsNormQuantKernel = void (*)(const RmsNormQuant& args, int64_t begin, int64_t end,
                                    void* scratch);
using GatedQuantKernel = void (*)(const GatedQuant& args, int64_t begin, int64_t end,
                                  void* scratch);

constexpr size_t row_scratch_bytes(Dtype dtype, int64_t hidden) {
  return static_cast<size_t>(hidden) * (dtype == Dtype::kFloat32 ? 4 : 2);
}

// out[t, n] = x_scale[t] * w_scale[n] * sum_k x[t, k] * w[n, k] + bias[n], accumulated in f32 over
// exactly decoded operands and rounded once.
struct Fp8Linear {
  const uint8_t* x;  // codes, [rows, in_features]
  Fp8Format x_format;
  int64_t x_stride;      // elements from row to row
  const float* x_scale;  // [rows]
  const uint8_t* w;      // codes, [out_features, in_features], contiguous
  Fp8Format w_format;
  const float* w_scale;  // [out_features]
  const float* bias;     // [out_features], or null
  void* out;             // [rows, out_features], contiguous
  Dtype out_dtype;
  int64_t rows;
  int64_t in_features;
  int64_t out_features;
};

// out[t, n] = sum_k x[t, k] * w[n, k] + bias[n], accumulated in f32 and rounded once.
struct Bf16Linear {
  const uint16_t* x;  // [rows, in_features]
  int64_t x_stride;   // elements from row to row
  const uint16_t* w;  // [out_features, in_features], contiguous
  const float* bias;  // [out_features], or null
  void* out;          // [rows, out_features], contiguous
  Dtype out_dtype;
  int64_t rows;
  int64_t in_features;
  int64_t out_features;
};

// The part [row_begin, row_end) x [col_begin, col_end) of the output of a linear layer; not empty.
struct LinearTile {
  int64_t row_begin;
  int64_t row_end;
  int64_t col_begin;
  int64_t col_end;
};

// What a kernel of a linear layer can do in one call, and the scratch that it needs for that.
struct LinearLimits {
  int64_t rows;
  int64_t cols;
  size_t scratch_bytes;
};

// Computes a tile within the kernel's limits for these arguments. `scratch` is this thread's own,
// aligned to kScratchAlignment. How the tiles are cut changes no result, but the number of rows may
// change the order of a sum.
using Fp8LinearKernel = void (*)(const Fp8Linear& args, const LinearTile& tile, void* scratch);
using Fp8LinearLimitsOf = LinearLimits (*)(const Fp8Linear& args);

// The same; here the order of a sum depends on in_features alone, so that what a row's outputs are
// does not depend on the other rows.
using Bf16LinearKernel = void (*)(const Bf16Linear& args, const LinearTile& tile, void* scratch);
using Bf16LinearLimitsOf = LinearLimits (*)(const Bf16Linear& args);

constexpr size_t kScratchAlignment = 64;

// One kernel of each kind: what an entry of the dispatch table provides.
struct Kernels {
  PerTokenQuantKernel per_token_quant;
  PerChannelQuantKernel per_channel_quant;
  GemmaRmsNormKernel gemma_rms_norm;
  RmsNormQuantKernel rms_norm_quant;
  QkNormRopeKernel qk_norm_rope;
  GatedQuantKernel gelu_tanh_and_mul_quant;
  GatedQuantKernel silu_and_mul_quant;
  Fp8LinearKernel fp8_linear;
  Fp8LinearLimitsOf fp8_linear_limits;
  Bf16LinearKernel bf16_linear;
  Bf16LinearLimitsOf bf16_linear_limits;
};

}  // namespace octet
