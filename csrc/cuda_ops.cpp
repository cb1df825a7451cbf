// The CUDA implementations of torch.ops.octet, on the current stream of the tensors' device. Device
// and stream are reached through c10's device-independent interface, so this library is linked to
// no CUDA library of torch's and builds against a torch without them.
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/library.h>

#include "cuda/launch.h"
#include "quant_ops.h"

namespace octet {
namespace {

// The kernels, on the current stream of the device.
struct CudaQuant {
  static at::Tensor empty(at::IntArrayRef sizes, at::ScalarType dtype, at::Device device) {
    return at::empty(sizes, at::TensorOptions().dtype(dtype).device(device));
  }
  // To look at them here would wait for the device.
  static void check_positions(const at::Tensor&, int64_t) {}

  static void per_token_quant(const PerTokenQuant& args, int64_t rows, at::Device device) {
    launch("per_token_quant", cuda::per_token_quant, args, rows, device);
  }
  static void gemma_rms_norm(const GemmaRmsNorm& args, int64_t rows, at::Device device) {
    launch("gemma_rms_norm", cuda::gemma_rms_norm, args, rows, device);
  }
  static void rms_norm_quant(const RmsNormQuant& args, int64_t rows, at::Device device) {
    launch("rms_norm_quant", cuda::rms_norm_quant, args, rows, device);
  }
  static void qk_norm_rope(const QkNormRope& args, int64_t rows, at::Device device) {
    launch("qk_norm_rope", cuda::qk_norm_rope, args, rows, device);
  }
  static void gelu_tanh_and_mul_quant(const GatedQuant& args, int64_t rows, at::Device device) {
    launch("gelu_tanh_and_mul_quant", cuda::gelu_tanh_and_mul_quant, args, rows, device);
  }
  static void silu_and_mul_quant(const GatedQuant& args, int64_t rows, at::Device device) {
    launch("silu_and_mul_quant", cuda::silu_and_mul_quant, args, rows, device);
  }

 private:
  template <class Launcher, class Args>
  static void launch(const char* name, Launcher launcher, const Args& args, int64_t rows,
                     at::Device device) {
    const c10::DeviceGuard guard(device);
    const c10::Stream stream = c10::impl::VirtualGuardImpl(device.type()).getStream(device);
    const cudaError_t error =
        launcher(args, rows, static_cast<cudaStream_t>(stream.native_handle()));
    TORCH_CHECK(error == cudaSuccess, name, " could not be launched: ", cudaGetErrorString(error));
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(octet, CUDA, m) {
  register_per_token_quant<CudaQuant>(m);
  register_norms_and_fused_quant<CudaQuant>(m);
}

}  // namespace octet
