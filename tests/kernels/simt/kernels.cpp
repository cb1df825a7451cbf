// The kernels of csrc/cuda under the simulation, by C functions for test_cuda_kernels.py. They
// choose the kernel as the launchers do, and return 0, or 1 with a reason in `simt_error`.
#include "simt.h"
// After simt.h, which declares what kernels use.
#include <algorithm>
#include <set>
#include <stdexcept>
#include <string>

#include "cuda/gated_quant.cuh"
#include "cuda/launch_rows.cuh"
#include "cuda/per_token_quant.cuh"
#include "cuda/qk_norm_rope.cuh"
#include "cuda/rms_norm.cuh"

namespace octet::cuda {

// What kernels declare as their dynamic shared memory; a little more than a block can have.
constexpr size_t kSharedBytes = 256 << 10;
uint4 dynamic_shared_memory[kSharedBytes / sizeof(uint4)];

namespace {

std::set<void (*)()> kernels_run;
std::string error;

class SimulationLauncher {
 public:
  SimulationLauncher(simt::Order order, size_t max_dynamic_shared_bytes)
      : order_(order), max_dynamic_shared_bytes_(max_dynamic_shared_bytes) {}

  size_t max_dynamic_shared_bytes() const { return max_dynamic_shared_bytes_; }

  template <class... Parameters>
  cudaError_t operator()(void (*kernel)(Parameters...), const Geometry& geometry,
                         Parameters... arguments) const {
    kernels_run.insert(reinterpret_cast<void (*)()>(kernel));
    unsigned char* const shared = reinterpret_cast<unsigned char*>(dynamic_shared_memory);
    std::fill(shared, shared + kSharedBytes, kUntouched);
    simt::run(geometry.grid, geometry.block, order_, [&] { kernel(arguments...); });
    if (std::any_of(shared + geometry.dynamic_shared_bytes, shared + kSharedBytes,
                    [](unsigned char byte) { return byte != kUntouched; })) {
      throw std::logic_error("shared memory was written beyond what the launch asked for");
    }
    return cudaSuccess;
  }

 private:
  static constexpr unsigned char kUntouched = 0xA5;

  simt::Order order_;
  size_t max_dynamic_shared_bytes_;
};

// Calls launch(launcher), which returns what its launch returned.
template <class Launch>
int run(int order, int64_t max_dynamic_shared_bytes, const Launch& launch) {
  try {
    const SimulationLauncher launcher(static_cast<simt::Order>(order),
                                      static_cast<size_t>(max_dynamic_shared_bytes));
    return launch(launcher) == cudaSuccess ? 0 : 1;
  } catch (const std::exception& exception) {
    error = exception.what();
    return 1;
  }
}

template <template <class> class Source, class Args>
int run(const Args& args, int64_t rows, int order, int64_t max_dynamic_shared_bytes) {
  return run(order, max_dynamic_shared_bytes, [&](const SimulationLauncher& launcher) {
    return launch_rows<Source>(launcher, args, rows);
  });
}

}  // namespace
}  // namespace octet::cuda

extern "C" {

const char* simt_error() { return octet::cuda::error.c_str(); }

// How many kernels, instances of templates, have run so far.
int64_t simt_kernels_run() { return static_cast<int64_t>(octet::cuda::kernels_run.size()); }

int simt_per_token_quant(const octet::PerTokenQuant* args, int64_t rows, int order,
                         int64_t max_dynamic_shared_bytes) {
  return octet::cuda::run<octet::cuda::PlainRow>(*args, rows, order, max_dynamic_shared_bytes);
}

int simt_gelu_tanh_and_mul_quant(const octet::GatedQuant* args, int64_t rows, int order,
                                 int64_t max_dynamic_shared_bytes) {
  return octet::cuda::run<octet::cuda::GeluTanhRow>(*args, rows, order, max_dynamic_shared_bytes);
}

int simt_silu_and_mul_quant(const octet::GatedQuant* args, int64_t rows, int order,
                            int64_t max_dynamic_shared_bytes) {
  return octet::cuda::run<octet::cuda::SiluRow>(*args, rows, order, max_dynamic_shared_bytes);
}

int simt_rms_norm_quant(const octet::RmsNormQuant* args, int64_t rows, int order,
                        int64_t max_dynamic_shared_bytes) {
  return octet::cuda::run(order, max_dynamic_shared_bytes, [&](const auto& launcher) {
    return octet::cuda::launch_rms_norm_quant(launcher, *args, rows);
  });
}

int simt_qk_norm_rope(const octet::QkNormRope* args, int64_t rows, int order,
                      int64_t max_dynamic_shared_bytes) {
  return octet::cuda::run(order, max_dynamic_shared_bytes, [&](const auto& launcher) {
    return octet::cuda::launch_qk_norm_rope(launcher, *args, rows);
  });
}

int simt_gemma_rms_norm(const octet::GemmaRmsNorm* args, int64_t rows, int order,
                        int64_t max_dynamic_shared_bytes) {
  return octet::cuda::run<octet::cuda::GemmaRmsNormRow>(*args, rows, order,
                                                        max_dynamic_shared_bytes);
}

}  // extern "C"
