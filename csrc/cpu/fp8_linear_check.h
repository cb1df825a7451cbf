// Whether kernels of fp8_linear compute what the portable ones do, on this machine.
#pragma once

#include "kernels.h"

namespace octet {

// Multiplies small matrices on the calling thread: every pair of formats, all codes, sizes that are
// no multiple of anything, few rows and many; and compares bit by bit with fp8_linear_scalar, for
// the sums are such that no order of additions rounds them. Takes milliseconds.
bool fp8_linear_agrees(Fp8LinearKernel kernel, Fp8LinearLimitsOf limits_of);

}  // namespace octet
