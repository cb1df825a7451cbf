// The operators of torch.ops.octet, for whatever device.
#include <torch/library.h>

#include <vector>

TORCH_LIBRARY(octet, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "per_token_quant_fp8(Tensor x, ScalarType dtype, Tensor? scale_ub=None)"
      " -> (Tensor q, Tensor scale)",
      tags);
  m.def(
      "per_token_quant_fp8_out(Tensor x, Tensor? scale_ub, *, Tensor(a!) q, Tensor(b!) scale)"
      " -> ()",
      tags);
  m.def("gemma_rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", tags);
  m.def(
      "gemma_norm_add_norm_quant_fp8(Tensor x, Tensor post_weight, Tensor(a!) residual, Tensor "
      "weight,"
      " float eps, ScalarType dtype) -> (Tensor q, Tensor scale)",
      tags);
  m.def(
      "gemma_rms_norm_quant_fp8(Tensor x, Tensor weight, float eps, ScalarType dtype,"
      " Tensor(a!)? residual=None) -> (Tensor q, Tensor scale)",
      tags);
  m.def(
      "rms_norm_quant_fp8(Tensor x, Tensor weight, float eps, ScalarType dtype,"
      " Tensor(a!)? residual=None) -> (Tensor q, Tensor scale)",
      tags);
  m.def(
      "qk_norm_rope(Tensor(a!) qkv, Tensor? q_weight, Tensor? k_weight, float eps, bool gemma,"
      " Tensor positions, Tensor cos_sin, int q_heads, int k_heads, int head_size) -> ()",
      tags);
  m.def("gelu_tanh_and_mul_quant_fp8(Tensor x, ScalarType dtype) -> (Tensor q, Tensor scale)",
        tags);
  m.def("silu_and_mul_quant_fp8(Tensor x, ScalarType dtype) -> (Tensor q, Tensor scale)", tags);
  m.def(
      "fp8_linear(Tensor xq, Tensor x_scale, Tensor w, Tensor w_scale, Tensor? bias,"
      " ScalarType out_dtype) -> Tensor",
      tags);
  m.def("bf16_linear(Tensor x, Tensor w, Tensor? bias, ScalarType out_dtype) -> Tensor", tags);
}
