// The operator that quantizes weights: its schema, what it demands of its arguments, and its CPU
// implementation. Checkpoints are quantized where they lie, so there is no other.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include "cpu/dispatch.h"
#include "op_checks.h"

namespace octet {
namespace {

using at::Tensor;

// Work below which another thread costs more than it brings.
constexpr int64_t kElementsPerThread = int64_t{64} << 10;

void check_arguments(const Tensor& w, const Tensor& q, const Tensor& scale) {
  TORCH_CHECK(w.dim() == 2, "w must be [out_features, in_features], got ", w.dim(), " dimensions");
  TORCH_CHECK(is_float(w.scalar_type()), "w must be float32, float16 or bfloat16, got ",
              w.scalar_type());
  check_fp8_dtype(q.scalar_type());
  TORCH_CHECK(q.sizes() == w.sizes(), "q must have the shape of w, ", w.sizes(), ", got ",
              q.sizes());
  TORCH_CHECK(has_unit_inner_stride(w) && has_unit_inner_stride(q),
              "the elements of a row of w and of q must be adjacent in memory");
  TORCH_CHECK(scale.scalar_type() == w.scalar_type(), "scale must have the dtype of w, ",
              w.scalar_type(), ", got ", scale.scalar_type());
  TORCH_CHECK(
      scale.dim() == 2 && scale.size(0) == w.size(0) && scale.size(1) == 1 && scale.is_contiguous(),
      "scale must be a contiguous [", w.size(0), ", 1], got ", scale.sizes(), " with strides ",
      scale.strides());
}

void per_channel_quant_fp8_out(const Tensor& w, Tensor& q, Tensor& scale) {
  check_arguments(w, q, scale);
  PerChannelQuant args;
  args.w = w.const_data_ptr();
  args.dtype = dtype_of(w.scalar_type());
  args.w_stride = w.stride(0);
  args.in_features = w.size(1);
  args.format = format_of(q.scalar_type());
  args.q = static_cast<uint8_t*>(q.mutable_data_ptr());
  args.q_stride = q.stride(0);
  args.scale = scale.mutable_data_ptr();
  const PerChannelQuantKernel kernel = active_implementation().kernels.per_channel_quant;
  const int64_t grain =
      std::max<int64_t>(1, kElementsPerThread / std::max<int64_t>(1, args.in_features));
  at::parallel_for(0, w.size(0), grain,
                   [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(octet, m) {
  m.def("per_channel_quant_fp8_out(Tensor w, *, Tensor(a!) q, Tensor(b!) scale) -> ()",
        {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(octet, CPU, m) {
  m.impl("per_channel_quant_fp8_out", &per_channel_quant_fp8_out);
}

}  // namespace octet
