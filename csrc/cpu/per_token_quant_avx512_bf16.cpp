// per_token_quant on AVX-512 with VBMI.
#include "cpu/kernel_list.h"
#include "cpu/quantize_row_avx512.h"
#include "cpu/rows.h"

namespace octet {
namespace {

// max_magnitude() of a row of bf16, taken a block at a time.
class BlockwiseMax {
 public:
  explicit BlockwiseMax(const uint16_t* x) : x_(x) {}

  // Takes in the block of 64 at `i`.
  void add(int64_t i) {
    first_ = BFloat16::max(first_, BFloat16::magnitudes(x_ + i, 32));
    second_ = BFloat16::max(second_, BFloat16::magnitudes(x_ + i + 32, 32));
  }

  // With the blocks and what is left of the row.
  uint32_t of_row(int64_t hidden) const {
    __m512i max = BFloat16::max(first_, second_);
    for (int64_t i = hidden / kBlock * kBlock; i < hidden; i += 32) {
      max = BFloat16::max(max, BFloat16::magnitudes(x_ + i, hidden - i));
    }
    return BFloat16::reduce_max(max);
  }

 private:
  const uint16_t* x_;
  __m512i first_ = _mm512_setzero_si512(), second_ = _mm512_setzero_si512();
};

// Takes the maximum of the next row while a row is converted: the one waits for loads, the other
// for permutations.
void quantize_bf16_rows(const PerTokenQuant& args, int64_t begin, int64_t end) {
  const int64_t hidden = args.hidden;
  const uint16_t* x = static_cast<const uint16_t*>(args.x) + begin * args.x_stride;
  uint32_t max = max_magnitude<BFloat16>(x, hidden);
  for (int64_t row = begin; row < end; ++row, x += args.x_stride) {
    const auto quantize = [&](const auto& beside) {
      args.scale[row] = quantize_row_of<BFloat16>(max, x, hidden, args.scale_ub, args.format,
                                                  args.q + row * args.q_stride, beside);
    };
    if (row + 1 == end) return quantize(NothingBeside{});
    BlockwiseMax next(x + args.x_stride);
    quantize([&next](int64_t i) { next.add(i); });
    max = next.of_row(hidden);
  }
}

// Memory is read faster in one stream than in two, so that rows which the last-level cache cannot
// hold are read one after the other.
constexpr int64_t kMaxCachedBytes = int64_t{16} << 20;

bool fit_the_cache(const PerTokenQuant& args, int64_t rows) {
  return rows * args.hidden * static_cast<int64_t>(sizeof(uint16_t) + 1) <= kMaxCachedBytes;
}

}  // namespace

void per_token_quant_avx512_bf16(const PerTokenQuant& args, int64_t begin, int64_t end) {
  if (args.x_dtype == Dtype::kBFloat16 && end - begin > 1 && fit_the_cache(args, end - begin)) {
    return quantize_bf16_rows(args, begin, end);
  }
  with_element(args.x_dtype, [&]<class Element>() { quantize_rows<Element>(args, begin, end); });
}

}  // namespace octet
