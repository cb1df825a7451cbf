// The register tile of kernels of linear layers that compute in f32.
//
// Both operands lie with k adjacent, so a tile of R rows by C columns keeps R * C vector
// accumulators and walks k, and nothing has to be transposed.
//
// `Isa` provides
//   Operand                 what is multiplied; Vec, a register of kLanes of them
//   Acc                     a register of partial f32 sums; zero(), dot(acc, a, b), sum(acc)
//   load(p), store(p, v)    of a Vec
//
// `Columns` provides the weights
//   Packed                  kVecs registers' worth of a column, part<v>(packed) the v-th of them
//   whole()                 how far fetch(col, i) reaches, in whole Packed;
//                           fetch_tail(col, i) gives the rest, padded with zeros
//
// Everything here has internal linkage, for each including file is compiled with its own flags.
#pragma once

#include <stdint.h>

#include "cpu/linear_common.h"

namespace octet {
namespace {

// Calls f(Count<v>) for the registers of a Packed.
template <int Vecs, class F>
OCTET_INLINE void for_each_part(const F& f) {
  if constexpr (Vecs > 1) for_each_part<Vecs - 1>(f);
  f(Count<Vecs - 1>{});
}

// sums[r * C + c] = the dot product of row r of x with column c.
template <class Isa, int R, int C, class Columns>
OCTET_INLINE void dot_tile(const typename Isa::Operand* x, int64_t k, const Columns& columns,
                           float* sums) {
  using Vec = typename Isa::Vec;
  typename Isa::Acc acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) acc[r][c] = Isa::zero();
  }
  // Each row's operand is loaded once for all columns.
  const auto accumulate = [&](int64_t i, const auto& fetch) __attribute__((always_inline)) {
    typename Columns::Packed packed[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) packed[c] = fetch(c, i);
    for_each_part<Columns::kVecs>([&](auto v) __attribute__((always_inline)) {
      Vec w[C];
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) w[c] = Columns::template part<v.value>(packed[c]);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Vec a = Isa::load(x + r * k + i + v.value * Isa::kLanes);
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) acc[r][c] = Isa::dot(acc[r][c], a, w[c]);
      }
    });
  };
  const int64_t whole = columns.whole();
  for (int64_t i = 0; i < whole; i += Columns::kVecs * Isa::kLanes) {
    accumulate(
        i, [&](int c, int64_t at) __attribute__((always_inline)) { return columns.fetch(c, at); });
  }
  if (whole < k) {
    accumulate(whole, [&](int c, int64_t at)
                          __attribute__((always_inline)) { return columns.fetch_tail(c, at); });
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sums[r * C + c] = Isa::sum(acc[r][c]);
  }
}

}  // namespace
}  // namespace octet
