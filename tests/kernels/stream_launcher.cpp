// What StreamLauncher asks of CUDA's runtime, of which this has a stand-in: for
// test_cuda_launch.py.
#include "simt/simt.h"

// nvcc declares it for functions of any type.
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}

// After simt.h, which declares what kernels use.
#include "cuda/stream_launcher.h"

namespace {

int capability_major = 0;
int shared_limit = 0;
cudaLaunchConfig_t launched;
cudaLaunchAttribute attribute;
int requested_shared = 0;

void kernel(int) {}

}  // namespace

extern "C" {

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  *value = which == cudaDevAttrComputeCapabilityMajor ? capability_major : shared_limit;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int bytes) {
  requested_shared = bytes;
  return bytes <= shared_limit ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void*, void**) {
  launched = *config;
  if (config->numAttrs > 0) attribute = config->attrs[0];
  return cudaSuccess;
}

// Whether a launch on a device of this major compute capability may overlap with the one before it.
int launch_overlaps(int major) {
  capability_major = major;
  const octet::cuda::StreamLauncher launcher(nullptr);
  if (launcher(kernel, octet::cuda::Geometry{1, 32, 0}, 0) != cudaSuccess) return -1;
  return launched.numAttrs == 1 &&
         attribute.id == cudaLaunchAttributeProgrammaticStreamSerialization &&
         attribute.val.programmaticStreamSerializationAllowed == 1;
}

// What a launch that needs `bytes` of shared memory asks for, on a device whose blocks may have
// `limit`; -1 where it fails.
int shared_memory_asked_for(int bytes, int limit) {
  requested_shared = 0;
  shared_limit = limit;
  const octet::cuda::StreamLauncher launcher(nullptr);
  const octet::cuda::Geometry geometry{1, 32, static_cast<size_t>(bytes)};
  return launcher(kernel, geometry, 0) == cudaSuccess ? requested_shared : -1;
}

}  // extern "C"
