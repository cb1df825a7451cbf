// per_token_quant on AVX-512.
#pragma once

#include "cpu/quantize_row_avx512.h"
#include "cpu/rows.h"
#include "kernels.h"

namespace octet {
namespace {

// max_magnitude() of a row of 16-bit elements, taken a block at a time.
template <class Element>
class BlockwiseMax {
 public:
  explicit BlockwiseMax(const uint16_t* x) : x_(x) {}

  // Takes in the block of 64 at `i`.
  void add(int64_t i) {
    first_ = Element::max(first_, Element::magnitudes(x_ + i, 32));
    second_ = Element::max(second_, Element::magnitudes(x_ + i + 32, 32));
  }

  // With the blocks and what is left of the row.
  uint32_t of_row(int64_t hidden) const {
    const int64_t rest = hidden / kBlock * kBlock;
    return Element::reduce_max(
        max_with_rest<Element>(Element::max(first_, second_), x_, rest, hidden));
  }

 private:
  const uint16_t* x_;
  __m512i first_ = _mm512_setzero_si512(), second_ = _mm512_setzero_si512();
};

// Takes the maximum of the next row while a row is converted: the one waits for loads, the other
// for permutations.
template <class Element>
void quantize_rows_in_cache(const PerTokenQuant& args, int64_t begin, int64_t end) {
  const int64_t hidden = args.hidden;
  const uint16_t* x = static_cast<const uint16_t*>(args.x) + begin * args.x_stride;
  uint32_t max = max_magnitude<Element>(x, hidden);
  for (int64_t row = begin; row < end; ++row, x += args.x_stride) {
    const auto quantize = [&](const auto& beside) {
      args.scale[row] = quantize_row_of<Element>(max, x, hidden, args.scale_ub, args.format,
                                                 args.q + row * args.q_stride, beside);
    };
    if (row + 1 == end) return quantize(NothingBeside{});
    BlockwiseMax<Element> next(x + args.x_stride);
    quantize([&next](int64_t i) { next.add(i); });
    max = next.of_row(hidden);
  }
}

// Memory is read faster in one stream than in two, so that rows which are likely to come from there
// are read one after the other.
constexpr int64_t kMaxCachedBytes = int64_t{8} << 20;

bool fit_the_cache(const PerTokenQuant& args, int64_t rows) {
  return rows * args.hidden * static_cast<int64_t>(sizeof(uint16_t) + 1) <= kMaxCachedBytes;
}

template <class Element>
void quantize_rows_avx512(const PerTokenQuant& args, int64_t begin, int64_t end) {
  if constexpr (Element::kHasTable) {
    if (end - begin > 1 && fit_the_cache(args, end - begin)) {
      return quantize_rows_in_cache<Element>(args, begin, end);
    }
  }
  quantize_rows<Element>(args, begin, end);
}

}  // namespace
}  // namespace octet
