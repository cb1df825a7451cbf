// What the fp8_linear kernels of every instruction set share.
//
// Everything here has internal linkage, for each including file is compiled with its own flags.
#pragma once

#include <stdint.h>

#include "cpu/linear_common.h"
#include "fp8.h"

namespace octet {
namespace {

// How a code in the upper byte of 16 bits becomes an IEEE half. E5M2 is one. E4M3 is 2^8 times the
// half that an arithmetic shift makes of it, but for the sign's copy, which the mask drops.
struct HalfForm {
  int shift;
  int16_t mask;
  float factor;

  explicit constexpr HalfForm(Fp8Format format)
      : shift(format == Fp8Format::kE4M3 ? 1 : 0),
        mask(format == Fp8Format::kE4M3 ? static_cast<int16_t>(0xBF80) : int16_t{-1}),
        factor(format == Fp8Format::kE4M3 ? 256.0f : 1.0f) {}
};

}  // namespace
}  // namespace octet
