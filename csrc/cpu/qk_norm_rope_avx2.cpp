// qk_norm_rope on AVX2.
#include "cpu/kernel_list.h"
#include "cpu/rms_norm_avx2.h"

namespace octet {
namespace {

template <class Element>
void rotate_head(typename Element::Storage* x, const typename Element::Storage* cos_sin,
                 int64_t half) {
  for_each_lanes(half, [&](int64_t i, auto lanes, int) {
    const __m256 a = load_lanes<Element>(x + i, lanes);
    const __m256 b = load_lanes<Element>(x + half + i, lanes);
    const __m256 cos = load_lanes<Element>(cos_sin + i, lanes);
    const __m256 sin = load_lanes<Element>(cos_sin + half + i, lanes);
    const __m256 first = _mm256_sub_ps(_mm256_mul_ps(a, cos), _mm256_mul_ps(b, sin));
    const __m256 second = _mm256_add_ps(_mm256_mul_ps(b, cos), _mm256_mul_ps(a, sin));
    store_lanes<Element>(x + i, first, lanes);
    store_lanes<Element>(x + half + i, second, lanes);
  });
}

}  // namespace

void qk_norm_rope_avx2(const QkNormRope& args, int64_t begin, int64_t end) {
  with_element(args.dtype, [&]<class Element>() {
    with_gain(args.gain, [&]<Gain kGain>() {
      for_each_rotated_head<Element>(
          args, begin, end,
          [&](auto* x, const void* weight) {
            normalize_row<Element, false, kGain>(x, nullptr, weight, args.eps, args.head_size, x);
          },
          [&](auto* x, const auto* cos_sin) {
            rotate_head<Element>(x, cos_sin, args.rotary_dim / 2);
          });
    });
  });
}

}  // namespace octet
