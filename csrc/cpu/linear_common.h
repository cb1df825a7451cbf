// What the kernels of linear layers share, whatever they multiply.
//
// Everything here has internal linkage, for each including file is compiled with its own flags.
#pragma once

#include <stdint.h>

#include "float16.h"
#include "kernels.h"

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

// Stores an output, rounded to the dtype of `out`.
inline void store_rounded(void* out, Dtype dtype, int64_t at, float value) {
  switch (dtype) {
    case Dtype::kFloat32:
      static_cast<float*>(out)[at] = value;
      return;
    case Dtype::kFloat16:
      static_cast<uint16_t*>(out)[at] = f32_to_f16(value);
      return;
    case Dtype::kBFloat16:
      static_cast<uint16_t*>(out)[at] = f32_to_bf16(value);
      return;
  }
}

}  // namespace
}  // namespace octet
