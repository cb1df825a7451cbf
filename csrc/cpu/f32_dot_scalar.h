// Products of f32 as dot_tile.h asks for them, in lanes that any compiler can map to what vector
// registers there are.
#pragma once

#include "cpu/linear_common.h"

namespace octet {
namespace {

struct F32DotScalar {
  using Operand = float;
  static constexpr int kLanes = 8;
  struct Vec {
    float lane[kLanes];
  };
  using Acc = Vec;

  static OCTET_INLINE Vec load(const Operand* p) {
    Vec v;
    for (int i = 0; i < kLanes; ++i) v.lane[i] = p[i];
    return v;
  }
  static OCTET_INLINE void store(Operand* p, const Vec& v) {
    for (int i = 0; i < kLanes; ++i) p[i] = v.lane[i];
  }
  static OCTET_INLINE Acc zero() { return Acc{}; }
  static OCTET_INLINE Acc dot(Acc acc, const Vec& a, const Vec& b) {
    for (int i = 0; i < kLanes; ++i) acc.lane[i] += a.lane[i] * b.lane[i];
    return acc;
  }
  static OCTET_INLINE float sum(const Acc& acc) {
    float total = 0.0f;
    for (int i = 0; i < kLanes; ++i) total += acc.lane[i];
    return total;
  }
};

}  // namespace
}  // namespace octet
