// What the operators demand of their arguments, and the step from tensors to the kernels' raw
// pointers. Shared by the CPU and the CUDA operators.
#pragma once

#include <ATen/MemoryOverlap.h>
#include <ATen/core/Tensor.h>

#include <optional>

#include "kernels.h"

namespace octet {

inline bool is_fp8(at::ScalarType type) {
  return type == at::kFloat8_e4m3fn || type == at::kFloat8_e5m2;
}

inline bool is_float(at::ScalarType type) {
  return type == at::kFloat || type == at::kHalf || type == at::kBFloat16;
}

inline Fp8Format format_of(at::ScalarType type) {
  return type == at::kFloat8_e4m3fn ? Fp8Format::kE4M3 : Fp8Format::kE5M2;
}

inline Dtype dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kHalf:
      return Dtype::kFloat16;
    case at::kBFloat16:
      return Dtype::kBFloat16;
    default:
      return Dtype::kFloat32;
  }
}

inline void check_fp8_dtype(at::ScalarType dtype) {
  TORCH_CHECK(is_fp8(dtype), "dtype must be torch.float8_e4m3fn or torch.float8_e5m2, got ", dtype);
}

// Whether elements of a row lie side by side (a row of one element always does).
inline bool has_unit_inner_stride(const at::Tensor& t) {
  return t.size(1) <= 1 || t.stride(1) == 1;
}

inline void check_quant_input(const at::Tensor& x) {
  TORCH_CHECK(x.dim() == 2, "x must be [tokens, hidden], got ", x.dim(),
              " dimensions; flatten the leading ones with x.reshape(-1, x.shape[-1])");
  TORCH_CHECK(is_float(x.scalar_type()), "x must be float32, float16 or bfloat16, got ",
              x.scalar_type());
  TORCH_CHECK(has_unit_inner_stride(x),
              "the elements of a row of x must be adjacent in memory, but ", "x.stride(1) is ",
              x.stride(1), "; pass x.contiguous()");
}

inline void check_quant_output(const at::Tensor& x, const at::Tensor& q, const at::Tensor& scale) {
  check_fp8_dtype(q.scalar_type());
  TORCH_CHECK(q.sizes() == x.sizes(), "q must have the shape of x, ", x.sizes(), ", got ",
              q.sizes());
  TORCH_CHECK(has_unit_inner_stride(q),
              "the elements of a row of q must be adjacent in memory, but ", "q.stride(1) is ",
              q.stride(1));
  TORCH_CHECK(scale.scalar_type() == at::kFloat, "scale must be float32, got ",
              scale.scalar_type());
  TORCH_CHECK(
      scale.dim() == 2 && scale.size(0) == x.size(0) && scale.size(1) == 1 && scale.is_contiguous(),
      "scale must be a contiguous [", x.size(0), ", 1], got ", scale.sizes(), " with strides ",
      scale.strides());
  TORCH_CHECK(q.device() == x.device() && scale.device() == x.device(),
              "x, q and scale must be on one device, got ", x.device(), ", ", q.device(), " and ",
              scale.device());
}

inline const float* scale_ub_pointer(const at::Tensor& x,
                                     const std::optional<at::Tensor>& scale_ub) {
  if (!scale_ub.has_value()) return nullptr;
  TORCH_CHECK(scale_ub->scalar_type() == at::kFloat && scale_ub->numel() == 1,
              "scale_ub must be one float32 value, got ", scale_ub->numel(), " of ",
              scale_ub->scalar_type());
  TORCH_CHECK(scale_ub->device() == x.device(), "scale_ub must be on the device of x, ", x.device(),
              ", got ", scale_ub->device());
  return scale_ub->const_data_ptr<float>();
}

inline PerTokenQuant per_token_quant_args(const at::Tensor& x,
                                          const std::optional<at::Tensor>& scale_ub,
                                          const at::Tensor& q, const at::Tensor& scale) {
  return PerTokenQuant{
      .x = x.const_data_ptr(),
      .x_dtype = dtype_of(x.scalar_type()),
      .x_stride = x.stride(0),
      .hidden = x.size(1),
      .format = format_of(q.scalar_type()),
      .scale_ub = scale_ub_pointer(x, scale_ub),
      .q = static_cast<uint8_t*>(q.mutable_data_ptr()),
      .q_stride = q.stride(0),
      .scale = scale.mutable_data_ptr<float>(),
  };
}

// `name` is the argument's in the schema.
inline void check_norm_weight(const at::Tensor& x, const at::Tensor& weight,
                              const char* name = "weight") {
  TORCH_CHECK(weight.scalar_type() == x.scalar_type(), name, " must have the dtype of x, ",
              x.scalar_type(), ", got ", weight.scalar_type());
  TORCH_CHECK(weight.dim() == 1 && weight.size(0) == x.size(-1) && weight.is_contiguous(), name,
              " must be a contiguous [", x.size(-1), "], got ", weight.sizes(), " with strides ",
              weight.strides());
  TORCH_CHECK(weight.device() == x.device(), name, " must be on the device of x, ", x.device(),
              ", got ", weight.device());
}

inline void check_norm_input(const at::Tensor& x) {
  TORCH_CHECK(x.dim() == 2 || x.dim() == 3,
              "x must be [tokens, hidden] or [tokens, heads, hidden], got ", x.dim(),
              " dimensions");
  TORCH_CHECK(is_float(x.scalar_type()), "x must be float32, float16 or bfloat16, got ",
              x.scalar_type());
  TORCH_CHECK(x.size(-1) <= 1 || x.stride(-1) == 1,
              "the elements of a row of x must be adjacent in memory, but x.stride(-1) is ",
              x.stride(-1), "; pass x.contiguous()");
}

inline GemmaRmsNorm gemma_rms_norm_args(const at::Tensor& x, const at::Tensor& weight, double eps,
                                        const at::Tensor& y) {
  const bool has_heads = x.dim() == 3;
  return GemmaRmsNorm{
      .x = x.const_data_ptr(),
      .x_dtype = dtype_of(x.scalar_type()),
      .x_stride = x.stride(0),
      .head_stride = has_heads ? x.stride(1) : 0,
      .heads = has_heads ? x.size(1) : 1,
      .hidden = x.size(-1),
      .weight = weight.const_data_ptr(),
      .eps = static_cast<float>(eps),
      .y = y.mutable_data_ptr(),
  };
}

inline void check_residual(const at::Tensor& x, const at::Tensor& residual) {
  TORCH_CHECK(residual.scalar_type() == x.scalar_type(), "residual must have the dtype of x, ",
              x.scalar_type(), ", got ", residual.scalar_type());
  TORCH_CHECK(residual.sizes() == x.sizes(), "residual must have the shape of x, ", x.sizes(),
              ", got ", residual.sizes());
  TORCH_CHECK(has_unit_inner_stride(residual),
              "the elements of a row of residual must be adjacent in memory, but ",
              "residual.stride(1) is ", residual.stride(1));
  TORCH_CHECK(at::has_internal_overlap(residual) != at::MemOverlap::Yes,
              "the rows of residual, which is written to, must not share memory");
  TORCH_CHECK(residual.device() == x.device(), "residual must be on the device of x, ", x.device(),
              ", got ", residual.device());
}

inline RmsNormQuant rms_norm_quant_args(const at::Tensor& x,
                                        const std::optional<at::Tensor>& post_weight,
                                        const at::Tensor& weight, Gain gain, double eps,
                                        const std::optional<at::Tensor>& residual,
                                        const at::Tensor& q, const at::Tensor& scale) {
  return RmsNormQuant{
      .x = x.const_data_ptr(),
      .x_dtype = dtype_of(x.scalar_type()),
      .x_stride = x.stride(0),
      .hidden = x.size(1),
      .post_weight = post_weight.has_value() ? post_weight->const_data_ptr() : nullptr,
      .weight = weight.const_data_ptr(),
      .gain = gain,
      .eps = static_cast<float>(eps),
      .residual = residual.has_value() ? residual->mutable_data_ptr() : nullptr,
      .residual_stride = residual.has_value() ? residual->stride(0) : 0,
      .format = format_of(q.scalar_type()),
      .q = static_cast<uint8_t*>(q.mutable_data_ptr()),
      .q_stride = q.stride(0),
      .scale = scale.mutable_data_ptr<float>(),
  };
}

// Of one head, which need not have a norm.
inline void check_head_weight(const at::Tensor& qkv, const std::optional<at::Tensor>& weight,
                              int64_t head_size, const char* name) {
  if (!weight.has_value()) return;
  TORCH_CHECK(weight->scalar_type() == qkv.scalar_type(), name, " must have the dtype of qkv, ",
              qkv.scalar_type(), ", got ", weight->scalar_type());
  TORCH_CHECK(weight->dim() == 1 && weight->size(0) == head_size && weight->is_contiguous(), name,
              " must be a contiguous [", head_size, "], got ", weight->sizes(), " with strides ",
              weight->strides());
  TORCH_CHECK(weight->device() == qkv.device(), name, " must be on the device of qkv, ",
              qkv.device(), ", got ", weight->device());
}

inline void check_qk_norm_rope(const at::Tensor& qkv, const std::optional<at::Tensor>& q_weight,
                               const std::optional<at::Tensor>& k_weight,
                               const at::Tensor& positions, const at::Tensor& cos_sin,
                               int64_t q_heads, int64_t k_heads, int64_t head_size) {
  TORCH_CHECK(qkv.dim() == 2, "qkv must be [tokens, heads * head_size], got ", qkv.dim(),
              " dimensions");
  TORCH_CHECK(is_float(qkv.scalar_type()), "qkv must be float32, float16 or bfloat16, got ",
              qkv.scalar_type());
  TORCH_CHECK(has_unit_inner_stride(qkv),
              "the elements of a row of qkv must be adjacent in memory, but qkv.stride(1) is ",
              qkv.stride(1));
  TORCH_CHECK(at::has_internal_overlap(qkv) != at::MemOverlap::Yes,
              "the rows of qkv, which is written to, must not share memory");
  TORCH_CHECK(q_heads >= 0 && k_heads >= 0 && head_size >= 0,
              "q_heads, k_heads and head_size must not be negative, got ", q_heads, ", ", k_heads,
              " and ", head_size);
  TORCH_CHECK(q_heads <= qkv.size(1) && k_heads <= qkv.size(1) && head_size <= qkv.size(1) &&
                  (q_heads + k_heads) * head_size <= qkv.size(1),
              "qkv must have ", q_heads, " + ", k_heads, " heads of ", head_size, ", got ",
              qkv.sizes());
  check_head_weight(qkv, q_weight, head_size, "q_weight");
  check_head_weight(qkv, k_weight, head_size, "k_weight");
  TORCH_CHECK(positions.scalar_type() == at::kLong && positions.dim() == 1 &&
                  positions.size(0) == qkv.size(0) && positions.is_contiguous(),
              "positions must be a contiguous int64 [", qkv.size(0), "], got ",
              positions.scalar_type(), " ", positions.sizes());
  TORCH_CHECK(cos_sin.scalar_type() == qkv.scalar_type() && cos_sin.dim() == 2 &&
                  cos_sin.size(1) % 2 == 0 && cos_sin.size(1) <= head_size,
              "cos_sin must be ", qkv.scalar_type(),
              " [positions, rotary_dim], with an even "
              "rotary_dim of at most ",
              head_size, ", got ", cos_sin.scalar_type(), " ", cos_sin.sizes());
  TORCH_CHECK(has_unit_inner_stride(cos_sin),
              "the elements of a row of cos_sin must be adjacent in memory, but ",
              "cos_sin.stride(1) is ", cos_sin.stride(1));
  TORCH_CHECK(positions.device() == qkv.device() && cos_sin.device() == qkv.device(),
              "qkv, positions and cos_sin must be on one device, got ", qkv.device(), ", ",
              positions.device(), " and ", cos_sin.device());
}

inline QkNormRope qk_norm_rope_args(const at::Tensor& qkv,
                                    const std::optional<at::Tensor>& q_weight,
                                    const std::optional<at::Tensor>& k_weight, Gain gain,
                                    double eps, const at::Tensor& positions,
                                    const at::Tensor& cos_sin, int64_t q_heads, int64_t k_heads,
                                    int64_t head_size) {
  return QkNormRope{
      .qkv = qkv.mutable_data_ptr(),
      .dtype = dtype_of(qkv.scalar_type()),
      .stride = qkv.stride(0),
      .q_heads = q_heads,
      .k_heads = k_heads,
      .head_size = head_size,
      .rotary_dim = cos_sin.size(1),
      .q_weight = q_weight.has_value() ? q_weight->const_data_ptr() : nullptr,
      .k_weight = k_weight.has_value() ? k_weight->const_data_ptr() : nullptr,
      .gain = gain,
      .eps = static_cast<float>(eps),
      .positions = positions.const_data_ptr<int64_t>(),
      .cos_sin = cos_sin.const_data_ptr(),
      .cos_sin_stride = cos_sin.stride(0),
  };
}

// x = [gate | up].
inline void check_gated_input(const at::Tensor& x) {
  check_quant_input(x);
  TORCH_CHECK(x.size(1) % 2 == 0, "x must be [tokens, 2 * hidden], gate and up side by side, got ",
              x.sizes());
}

inline GatedQuant gated_quant_args(const at::Tensor& x, const at::Tensor& q,
                                   const at::Tensor& scale) {
  return GatedQuant{
      .x = x.const_data_ptr(),
      .x_dtype = dtype_of(x.scalar_type()),
      .x_stride = x.stride(0),
      .hidden = q.size(1),
      .format = format_of(q.scalar_type()),
      .q = static_cast<uint8_t*>(q.mutable_data_ptr()),
      .q_stride = q.stride(0),
      .scale = scale.mutable_data_ptr<float>(),
  };
}

// What the products of linear layers demand alike.
inline void check_linear_weight(const at::Tensor& w) {
  TORCH_CHECK(w.dim() == 2, "w must be [out_features, in_features], got ", w.dim(), " dimensions");
  TORCH_CHECK(w.is_contiguous(), "w must be a contiguous [out_features, in_features], got strides ",
              w.strides(), "; a transposed view has to be transposed back");
}
inline void check_linear_output(const at::Tensor& w, const std::optional<at::Tensor>& bias,
                                at::ScalarType out_dtype) {
  if (bias.has_value()) {
    TORCH_CHECK(is_float(bias->scalar_type()) && bias->dim() == 1 && bias->size(0) == w.size(0),
                "bias must be float32, float16 or bfloat16 [", w.size(0), "], got ",
                bias->scalar_type(), " ", bias->sizes());
  }
  TORCH_CHECK(is_float(out_dtype), "out_dtype must be float32, float16 or bfloat16, got ",
              out_dtype);
}

inline void check_linear(const at::Tensor& xq, const at::Tensor& x_scale, const at::Tensor& w,
                         const at::Tensor& w_scale, const std::optional<at::Tensor>& bias,
                         at::ScalarType out_dtype) {
  TORCH_CHECK(xq.dim() == 2, "xq must be [tokens, in_features], got ", xq.dim(), " dimensions");
  check_linear_weight(w);
  TORCH_CHECK(is_fp8(xq.scalar_type()), "xq must be float8_e4m3fn or float8_e5m2, got ",
              xq.scalar_type());
  TORCH_CHECK(is_fp8(w.scalar_type()), "w must be float8_e4m3fn or float8_e5m2, got ",
              w.scalar_type());
  TORCH_CHECK(xq.size(1) == w.size(1), "xq and w must agree in in_features, got ", xq.sizes(),
              " and ", w.sizes());
  TORCH_CHECK(x_scale.scalar_type() == at::kFloat && x_scale.dim() == 2 &&
                  x_scale.size(0) == xq.size(0) && x_scale.size(1) == 1,
              "x_scale must be float32 [", xq.size(0), ", 1], got ", x_scale.scalar_type(), " ",
              x_scale.sizes());
  TORCH_CHECK(w_scale.scalar_type() == at::kFloat && w_scale.dim() == 2 &&
                  w_scale.size(0) == w.size(0) && w_scale.size(1) == 1,
              "w_scale must be float32 [", w.size(0), ", 1], got ", w_scale.scalar_type(), " ",
              w_scale.sizes());
  check_linear_output(w, bias, out_dtype);
}

inline void check_bf16_linear(const at::Tensor& x, const at::Tensor& w,
                              const std::optional<at::Tensor>& bias, at::ScalarType out_dtype) {
  TORCH_CHECK(x.dim() == 2, "x must be [tokens, in_features], got ", x.dim(), " dimensions");
  TORCH_CHECK(x.scalar_type() == at::kBFloat16, "x must be bfloat16, got ", x.scalar_type());
  check_linear_weight(w);
  TORCH_CHECK(w.scalar_type() == at::kBFloat16, "w must be bfloat16, got ", w.scalar_type());
  TORCH_CHECK(x.size(1) == w.size(1), "x and w must agree in in_features, got ", x.sizes(), " and ",
              w.sizes());
  check_linear_output(w, bias, out_dtype);
}

}  // namespace octet
