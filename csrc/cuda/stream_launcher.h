// Launches a kernel on a stream of the current device.
#pragma once

#include <cuda_runtime.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/launch_rows.cuh"

namespace octet::cuda {

class StreamLauncher {
 public:
  explicit StreamLauncher(cudaStream_t stream) : stream_(stream) { cudaGetDevice(&device_); }

  // What a block may ask for beside the few hundred bytes of static shared memory that kernels use.
  size_t max_dynamic_shared_bytes() const {
    constexpr int kStatic = 1024;
    const int bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    return bytes > kStatic ? static_cast<size_t>(bytes - kStatic) : 0;
  }

  template <class... Parameters, class... Arguments>
  cudaError_t operator()(void (*kernel)(Parameters...), const Geometry& geometry,
                         const Arguments&... arguments) const {
    // What every kernel gets without asking.
    constexpr size_t kDefaultShared = 48 << 10;
    if (geometry.dynamic_shared_bytes > kDefaultShared) {
      const cudaError_t error =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(geometry.dynamic_shared_bytes));
      if (error != cudaSuccess) return error;
    }
    cudaLaunchAttribute overlap;
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = geometry.grid;
    config.blockDim = geometry.block;
    config.dynamicSmemBytes = geometry.dynamic_shared_bytes;
    config.stream = stream_;
    config.attrs = &overlap;
    config.numAttrs =
        overlaps_wanted() && attribute(cudaDevAttrComputeCapabilityMajor) >= 9 ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
  }

 private:
  // OCTET_PDL=off keeps kernels from starting before the ones ahead of them have ended. A kernel of
  // somebody else's may start early behind one of these only if it waits in the device as they do.
  static bool overlaps_wanted() {
    static const char* const setting = getenv("OCTET_PDL");
    return setting == nullptr || strcmp(setting, "off") != 0;
  }

  int attribute(cudaDeviceAttr which) const {
    int value = 0;
    cudaDeviceGetAttribute(&value, which, device_);
    return value;
  }

  cudaStream_t stream_;
  int device_ = 0;
};

}  // namespace octet::cuda
