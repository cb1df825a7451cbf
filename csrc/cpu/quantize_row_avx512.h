// Quantizing a row on AVX-512 in two passes, the second from cache.
//
// Rows that are all finite and not limited by scale_ub can neither saturate nor produce a NaN, and
// take a shorter second pass; those of 16-bit elements go by table.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "cpu/code_tables_avx512.h"
#include "cpu/convert_row_avx512.h"
#include "cpu/elements_avx512.h"
#include "fp8.h"

namespace octet {
namespace {

// Rows shorter than this are not worth a table.
constexpr int64_t kMinTableHidden = 512;

// Converts a finite row whose blocks lie in the table's order, and what is left in order. Calls
// beside(i) with each block.
template <class Element, class Table, class Beside>
void convert_by_table(const uint16_t* x, int64_t hidden, uint8_t* q, Fp8Format format, float scale,
                      const Beside& beside) {
  const Table table(format, scale);
  int64_t i = 0;
  for (; i + kBlock <= hidden; i += kBlock) {
    table.convert(x + i, q + i);
    beside(i);
  }
  convert_row<Element>(x + i, hidden - i, q + i, FiniteRow<true>(format, scale));
}

// Quantizes `hidden` elements whose max_magnitude() is `max` and returns their scale. `scale_ub`
// may be null. Calls beside(i) for each whole block.
template <class Element, class Beside>
float quantize_row_of(uint32_t max, const typename Element::Storage* x, int64_t hidden,
                      const float* scale_ub, Fp8Format format, uint8_t* q, const Beside& beside) {
  const bool has_nan = max > Element::kInfinity;
  if (has_nan) max = max_magnitude_without_nan<Element>(x, hidden);
  const float amax = Element::to_f32(max);
  const float scale = token_scale(amax, scale_ub, format);

  const bool limited = scale_ub != nullptr && *scale_ub < amax;
  const bool saturates = has_nan || limited || max == Element::kInfinity;
  if constexpr (Element::kHasTable) {
    if (!saturates && hidden >= kMinTableHidden) {
      using Table = typename TableOf<Element>::Type;
      convert_by_table<Element, Table>(x, hidden, q, format, scale, beside);
      return scale;
    }
  }
  if (saturates) {
    convert_row<Element>(x, hidden, q, SaturatingRow(format, scale));
  } else {
    convert_row<Element>(x, hidden, q, FiniteRow<Element::kReciprocal>(format, scale));
  }
  for (int64_t i = 0; i + kBlock <= hidden; i += kBlock) beside(i);
  return scale;
}

struct NothingBeside {
  void operator()(int64_t) const {}
};

// Quantizes `hidden` elements and returns their scale. `scale_ub` may be null.
template <class Element>
float quantize_row(const typename Element::Storage* x, int64_t hidden, const float* scale_ub,
                   Fp8Format format, uint8_t* q) {
  return quantize_row_of<Element>(max_magnitude<Element>(x, hidden), x, hidden, scale_ub, format, q,
                                  NothingBeside{});
}

}  // namespace
}  // namespace octet
