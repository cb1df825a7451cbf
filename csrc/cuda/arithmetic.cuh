// Instructions of the device that C++ says differently.
#pragma once

#include <math.h>

#include "fp8.h"

namespace octet::cuda {

// IEEE division, whatever the compiler was told about fast math.
OCTET_HOST_DEVICE inline float divide(float dividend, float divisor) {
#ifdef __CUDA_ARCH__
  return __fdiv_rn(dividend, divisor);
#else
  return dividend / divisor;
#endif
}

// The smaller or larger number; the other operand where one is NaN. The C library's fminf and fmaxf
// do that for quiet NaNs alone, the device's for all.
OCTET_HOST_DEVICE inline float min_number(float a, float b) {
#ifdef __CUDA_ARCH__
  return fminf(a, b);
#else
  return a < b || isnan(b) ? a : b;
#endif
}

OCTET_HOST_DEVICE inline float max_number(float a, float b) {
#ifdef __CUDA_ARCH__
  return fmaxf(a, b);
#else
  return a > b || isnan(b) ? a : b;
#endif
}

}  // namespace octet::cuda
