// What the fp8_linear kernels of every instruction set share.
//
// Everything here has internal linkage, for each including file is compiled with its own flags.
#pragma once

#include <stdint.h>

#include "fp8.h"

// The innermost loops live in registers only if all that they call is inlined.
#define OCTET_INLINE inline __attribute__((always_inline))

namespace octet {
namespace {

constexpr int64_t ceil_div(int64_t value, int64_t divisor) {
  return (value + divisor - 1) / divisor;
}
constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return ceil_div(value, multiple) * multiple;
}

constexpr int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

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

template <int N>
struct Count {
  static constexpr int value = N;
};

// Calls f(Count<count>{}), for 1 <= count <= Max.
template <int Max, class F>
inline void with_count(int64_t count, const F& f) {
  if (count == Max) return f(Count<Max>{});
  if constexpr (Max > 1) with_count<Max - 1>(count, f);
}

}  // namespace
}  // namespace octet
