// What the fp8_linear kernels of every instruction set share.
//
// Everything here has internal linkage, for each including file is compiled with its own flags.
#pragma once

#include <stdint.h>

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
