// The CUDA implementations of torch.ops.octet, on the current stream of the tensors' device. Device
// and stream are reached through c10's device-independent interface, so this library is linked to
// no CUDA library of torch's and builds against a torch without them.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/library.h>

#include "cuda/launch.h"
#include "op_checks.h"

namespace octet {
namespace {

using at::Tensor;

void quantize(const Tensor& x, const std::optional<Tensor>& scale_ub, const Tensor& q,
              const Tensor& scale) {
  const PerTokenQuant args = per_token_quant_args(x, scale_ub, q, scale);
  const c10::DeviceGuard guard(x.device());
  const c10::Stream stream = c10::impl::VirtualGuardImpl(x.device().type()).getStream(x.device());
  const cudaError_t error =
      cuda::per_token_quant(args, x.size(0), static_cast<cudaStream_t>(stream.native_handle()));
  TORCH_CHECK(error == cudaSuccess,
              "per_token_quant_fp8 could not be launched: ", cudaGetErrorString(error));
}

std::tuple<Tensor, Tensor> per_token_quant_fp8(const Tensor& x, at::ScalarType dtype,
                                               const std::optional<Tensor>& scale_ub) {
  check_quant_input(x);
  check_fp8_dtype(dtype);
  Tensor q = at::empty(x.sizes(), x.options().dtype(dtype));
  Tensor scale = at::empty({x.size(0), 1}, x.options().dtype(at::kFloat));
  quantize(x, scale_ub, q, scale);
  return {std::move(q), std::move(scale)};
}

void per_token_quant_fp8_out(const Tensor& x, const std::optional<Tensor>& scale_ub, Tensor& q,
                             Tensor& scale) {
  check_quant_input(x);
  check_quant_output(x, q, scale);
  quantize(x, scale_ub, q, scale);
}

}  // namespace

TORCH_LIBRARY_IMPL(octet, CUDA, m) {
  m.impl("per_token_quant_fp8", &per_token_quant_fp8);
  m.impl("per_token_quant_fp8_out", &per_token_quant_fp8_out);
}

}  // namespace octet
