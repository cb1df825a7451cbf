// Kernels with mistakes that the simulation has to notice.
#include <stdexcept>

#include "simt.h"

namespace {

// Half of the threads return before a barrier that the others wait at.
void barrier_not_reached() {
  if (threadIdx.x % 2 == 0) return;
  __syncthreads();
}

// Half of a warp takes part in what needs all of it.
void exchange_of_half_a_warp() {
  if (threadIdx.x < simt::kWarp / 2) {
    __reduce_max_sync(0xFFFFFFFFu, threadIdx.x);
  } else {
    __syncthreads();
  }
}

bool is_refused(void (*kernel)()) {
  try {
    simt::run(1, 64, simt::Order::kForward, kernel);
  } catch (const std::logic_error&) {
    return true;
  }
  return false;
}

}  // namespace

extern "C" {

bool simt_refuses_barrier_not_reached() { return is_refused(barrier_not_reached); }

bool simt_refuses_exchange_of_half_a_warp() { return is_refused(exchange_of_half_a_warp); }

// What thread 0 reads of what thread 63 wrote, with no barrier in between.
int simt_read_without_barrier(int order) {
  static int written;
  int read = 0;
  written = 0;
  simt::run(1, 64, static_cast<simt::Order>(order), [&] {
    if (threadIdx.x == 63) written = 1;
    if (threadIdx.x == 0) read = written;
  });
  return read;
}
}
