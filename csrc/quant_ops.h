// The operators on rows but for their kernels: checks, outputs, raw pointers. A backend is a class
// with a static function for each kernel, which works on `rows` rows on `device`:
//
//   static at::Tensor empty(at::IntArrayRef sizes, at::ScalarType dtype, at::Device device);
//   static void check_positions(const at::Tensor& positions, int64_t count);  // below count
//   static void gemma_rms_norm(const GemmaRmsNorm& args, int64_t rows, at::Device);
//   static void per_token_quant(const PerTokenQuant& args, int64_t rows, at::Device);
//   static void rms_norm_quant(const RmsNormQuant& args, int64_t rows, at::Device);
//   static void qk_norm_rope(const QkNormRope& args, int64_t rows, at::Device);
//   static void gelu_tanh_and_mul_quant(const GatedQuant& args, int64_t rows, at::Device);
//   static void silu_and_mul_quant(const GatedQuant& args, int64_t rows, at::Device);
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "op_checks.h"

namespace octet {

struct Quantized {
  at::Tensor q;
  at::Tensor scale;

  // For the rows of `x`, `hidden` codes each.
  template <class Backend>
  static Quantized empty(const at::Tensor& x, int64_t hidden, at::ScalarType dtype) {
    return {Backend::empty({x.size(0), hidden}, dtype, x.device()),
            Backend::empty({x.size(0), 1}, at::kFloat, x.device())};
  }

  std::tuple<at::Tensor, at::Tensor> tuple() && { return {std::move(q), std::move(scale)}; }
};

template <class Backend>
std::tuple<at::Tensor, at::Tensor> per_token_quant_fp8(const at::Tensor& x, at::ScalarType dtype,
                                                       const std::optional<at::Tensor>& scale_ub) {
  check_quant_input(x);
  check_fp8_dtype(dtype);
  Quantized out = Quantized::empty<Backend>(x, x.size(1), dtype);
  Backend::per_token_quant(per_token_quant_args(x, scale_ub, out.q, out.scale), x.size(0),
                           x.device());
  return std::move(out).tuple();
}

template <class Backend>
void per_token_quant_fp8_out(const at::Tensor& x, const std::optional<at::Tensor>& scale_ub,
                             at::Tensor& q, at::Tensor& scale) {
  check_quant_input(x);
  check_quant_output(x, q, scale);
  Backend::per_token_quant(per_token_quant_args(x, scale_ub, q, scale), x.size(0), x.device());
}

template <class Backend>
at::Tensor gemma_rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  check_norm_input(x);
  check_norm_weight(x, weight);
  at::Tensor y = Backend::empty(x.sizes(), x.scalar_type(), x.device());
  const GemmaRmsNorm args = gemma_rms_norm_args(x, weight, eps, y);
  Backend::gemma_rms_norm(args, x.size(0) * args.heads, x.device());
  return y;
}

template <class Backend>
std::tuple<at::Tensor, at::Tensor> gemma_norm_add_norm_quant_fp8(const at::Tensor& x,
                                                                 const at::Tensor& post_weight,
                                                                 const at::Tensor& residual,
                                                                 const at::Tensor& weight,
                                                                 double eps, at::ScalarType dtype) {
  check_quant_input(x);
  check_fp8_dtype(dtype);
  check_norm_weight(x, post_weight, "post_weight");
  check_norm_weight(x, weight);
  check_residual(x, residual);
  Quantized out = Quantized::empty<Backend>(x, x.size(1), dtype);
  Backend::rms_norm_quant(rms_norm_quant_args(x, post_weight, weight, Gain::kOnePlusWeight, eps,
                                              residual, out.q, out.scale),
                          x.size(0), x.device());
  return std::move(out).tuple();
}

template <class Backend, Gain kGain>
std::tuple<at::Tensor, at::Tensor> rms_norm_quant_fp8(const at::Tensor& x, const at::Tensor& weight,
                                                      double eps, at::ScalarType dtype,
                                                      const std::optional<at::Tensor>& residual) {
  check_quant_input(x);
  check_fp8_dtype(dtype);
  check_norm_weight(x, weight);
  if (residual.has_value()) check_residual(x, *residual);
  Quantized out = Quantized::empty<Backend>(x, x.size(1), dtype);
  Backend::rms_norm_quant(
      rms_norm_quant_args(x, std::nullopt, weight, kGain, eps, residual, out.q, out.scale),
      x.size(0), x.device());
  return std::move(out).tuple();
}

template <class Backend>
void qk_norm_rope(at::Tensor& qkv, const std::optional<at::Tensor>& q_weight,
                  const std::optional<at::Tensor>& k_weight, double eps, bool gemma,
                  const at::Tensor& positions, const at::Tensor& cos_sin, int64_t q_heads,
                  int64_t k_heads, int64_t head_size) {
  check_qk_norm_rope(qkv, q_weight, k_weight, positions, cos_sin, q_heads, k_heads, head_size);
  Backend::check_positions(positions, cos_sin.size(0));
  const Gain gain = gemma ? Gain::kOnePlusWeight : Gain::kWeight;
  Backend::qk_norm_rope(qk_norm_rope_args(qkv, q_weight, k_weight, gain, eps, positions, cos_sin,
                                          q_heads, k_heads, head_size),
                        qkv.size(0) * (q_heads + k_heads), qkv.device());
}

template <class Backend, void (*kRun)(const GatedQuant&, int64_t, at::Device)>
std::tuple<at::Tensor, at::Tensor> gated_quant_fp8(const at::Tensor& x, at::ScalarType dtype) {
  check_gated_input(x);
  check_fp8_dtype(dtype);
  Quantized out = Quantized::empty<Backend>(x, x.size(1) / 2, dtype);
  kRun(gated_quant_args(x, out.q, out.scale), x.size(0), x.device());
  return std::move(out).tuple();
}

template <class Backend>
void register_per_token_quant(torch::Library& m) {
  m.impl("per_token_quant_fp8", &per_token_quant_fp8<Backend>);
  m.impl("per_token_quant_fp8_out", &per_token_quant_fp8_out<Backend>);
}

template <class Backend>
void register_norms_and_fused_quant(torch::Library& m) {
  m.impl("gemma_rms_norm", &gemma_rms_norm<Backend>);
  m.impl("gemma_norm_add_norm_quant_fp8", &gemma_norm_add_norm_quant_fp8<Backend>);
  m.impl("gemma_rms_norm_quant_fp8", &rms_norm_quant_fp8<Backend, Gain::kOnePlusWeight>);
  m.impl("rms_norm_quant_fp8", &rms_norm_quant_fp8<Backend, Gain::kWeight>);
  m.impl("qk_norm_rope", &qk_norm_rope<Backend>);
  m.impl("gelu_tanh_and_mul_quant_fp8",
         &gated_quant_fp8<Backend, Backend::gelu_tanh_and_mul_quant>);
  m.impl("silu_and_mul_quant_fp8", &gated_quant_fp8<Backend, Backend::silu_and_mul_quant>);
}

}  // namespace octet
