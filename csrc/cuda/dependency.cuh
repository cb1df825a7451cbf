// Programmatic dependent launch (sm_90 on): a kernel may start while the one before it in the
// stream is still finishing, and waits in the device for what that one wrote. On older
// architectures, where a kernel starts when the one before it has ended, these do nothing.
#pragma once

namespace octet::cuda {

// Returns once everything that earlier kernels wrote can be read. Before the first access to
// memory.
__device__ inline void wait_for_earlier_kernels() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel be launched. It waits for this one's results all the same, so this may come
// before they are written; it should come when the memory system has been given its work.
__device__ inline void let_next_kernel_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

}  // namespace octet::cuda
