// Runs CUDA kernels on the host: a fiber for each CUDA thread, one block after another. Fibers
// change only where threads wait for each other, and then in an order that the caller chooses, so
// that a missing barrier shows as a result that depends on the order.
//
// Include it before the kernels. It stands in for what nvcc declares by itself: the index
// variables, barriers, warp primitives and fast arithmetic that the kernels use.
#pragma once

#include <cuda_runtime_api.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <vector_types.h>

#include <functional>

#define __launch_bounds__(...)

extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;

namespace simt {

constexpr unsigned kWarp = 32;

// In which order the threads of a block run up to the next barrier.
enum class Order { kForward, kBackward, kShuffled };

// Runs `body` as every thread of every block. Throws std::logic_error where threads wait for ones
// that have returned or wait elsewhere: a barrier that not all of them reach.
void run(unsigned grid, unsigned block, Order order, const std::function<void()>& body);

// Waits for the threads of the block.
void sync_block();

// Gives every lane of the calling thread's warp a copy of all lanes' values. All 32 take part.
void exchange_in_warp(const void* value, size_t size, void* values);

template <class T>
struct WarpValues {
  T of_lane[kWarp];

  explicit WarpValues(T value) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    exchange_in_warp(&value, sizeof value, of_lane);
  }
};

}  // namespace simt

inline void __syncthreads() { simt::sync_block(); }

inline uint32_t __reduce_max_sync(unsigned, uint32_t value) {
  const simt::WarpValues<uint32_t> values(value);
  uint32_t max = 0;
  for (uint32_t other : values.of_lane) max = other > max ? other : max;
  return max;
}

inline float __shfl_xor_sync(unsigned, float value, int lane_mask) {
  const simt::WarpValues<float> values(value);
  return values.of_lane[threadIdx.x % simt::kWarp ^ static_cast<unsigned>(lane_mask)];
}

inline float __expf(float x) { return expf(x); }
inline float __fdividef(float dividend, float divisor) { return dividend / divisor; }
