// The tile instructions of AMX that the kernels use. tests/kernels/x86 has a model of them in
// software, under the same name, which stands in for this file on machines without them.
//
// A tile register holds up to 16 rows of 64 bytes. Which registers have what shape is the thread's
// configuration, which has to be loaded before anything else and released at the end.
//
// Written as assembly, for compilers' own intrinsics take no register number from a template, and
// GCC's do not say that a load reads memory, before whose stores it could be moved.
#pragma once

#include <stdint.h>

#include "cpu/tile_config.h"

namespace octet {
namespace {

inline void tile_configure(const TileConfig& config) {
  __asm__ volatile("ldtilecfg %0" ::"m"(config));
}

inline void tile_release() { __asm__ volatile("tilerelease" ::: "memory"); }

template <int Tile>
inline __attribute__((always_inline)) void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(Tile));
}

// `stride`: bytes from row to row.
template <int Tile>
inline __attribute__((always_inline)) void tile_load(const void* rows, int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(rows), "r"(stride), "i"(Tile) : "memory");
}

template <int Tile>
inline __attribute__((always_inline)) void tile_store(void* rows, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(rows), "r"(stride), "i"(Tile) : "memory");
}

// sums[m, n] += the dot product of row m of A and column n of B, bf16, whose row p holds of every
// column the elements 2p and 2p + 1.
template <int Sums, int A, int B>
inline __attribute__((always_inline)) void tile_dot_bf16() {
  static_assert(Sums != A && Sums != B && A != B);
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sums), "i"(A), "i"(B));
}

}  // namespace
}  // namespace octet
