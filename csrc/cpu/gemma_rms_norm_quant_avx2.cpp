// gemma_rms_norm_quant on AVX2: the sum of squares in one pass, the row in a second, which
// leaves it in scratch for the two passes of its quantization.
#include "cpu/kernel_list.h"
#include "cpu/lanes_avx2.h"

namespace octet {
namespace {

inline float inverse_rms(const __m256 (&sums)[4], int64_t hidden, float eps) {
  const __m256 total =
      _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
  float parts[kLanes];
  _mm256_storeu_ps(parts, total);
  float sum = 0.0f;
  for (float part : parts) sum += part;
  const __m128 mean = _mm_set_ss(sum / static_cast<float>(hidden) + eps);
  return 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(mean));
}

template <class Element>
float inverse_rms(const typename Element::Storage* x, int64_t hidden, float eps) {
  __m256 sums[4];
  for (__m256& sum : sums) sum = _mm256_setzero_ps();
  for_each_lanes(hidden, [&](int64_t i, auto lanes, int part) {
    const __m256 value = load_lanes<Element>(x + i, lanes);
    sums[part] = _mm256_fmadd_ps(value, value, sums[part]);
  });
  return inverse_rms(sums, hidden, eps);
}

// Adds x to the residual, rounding each sum once, and continues with the sums.
template <class Element>
float add_and_inverse_rms(const typename Element::Storage* x, int64_t hidden, float eps,
                          typename Element::Storage* residual) {
  __m256 sums[4];
  for (__m256& sum : sums) sum = _mm256_setzero_ps();
  for_each_lanes(hidden, [&](int64_t i, auto lanes, int part) {
    const __m256 value = Element::round(
        _mm256_add_ps(load_lanes<Element>(x + i, lanes), load_lanes<Element>(residual + i, lanes)));
    store_lanes<Element>(residual + i, value, lanes);
    sums[part] = _mm256_fmadd_ps(value, value, sums[part]);
  });
  return inverse_rms(sums, hidden, eps);
}

template <class Element>
void normalize_rows(const GemmaRmsNormQuant& args, int64_t begin, int64_t end, void* scratch) {
  using Storage = typename Element::Storage;
  const Storage* weight = static_cast<const Storage*>(args.weight);
  Storage* y = static_cast<Storage*>(scratch);
  const __m256 one = _mm256_set1_ps(1.0f);
  for (int64_t row = begin; row < end; ++row) {
    const Storage* x = static_cast<const Storage*>(args.x) + row * args.x_stride;
    float factor;
    if (args.residual == nullptr) {
      factor = inverse_rms<Element>(x, args.hidden, args.eps);
    } else {
      Storage* residual = static_cast<Storage*>(args.residual) + row * args.residual_stride;
      factor = add_and_inverse_rms<Element>(x, args.hidden, args.eps, residual);
      x = residual;
    }
    const __m256 factors = _mm256_set1_ps(factor);
    for_each_lanes(args.hidden, [&](int64_t i, auto lanes, int) {
      const __m256 normalized = _mm256_mul_ps(load_lanes<Element>(x + i, lanes), factors);
      const __m256 gain = _mm256_add_ps(one, load_lanes<Element>(weight + i, lanes));
      store_lanes<Element>(y + i, _mm256_mul_ps(normalized, gain), lanes);
    });
    args.scale[row] =
        quantize_row<Element>(y, args.hidden, nullptr, args.format, args.q + row * args.q_stride);
  }
}

inline void normalize_rows(const GemmaRmsNormQuant& args, int64_t begin, int64_t end,
                           void* scratch) {
  switch (args.x_dtype) {
    case Dtype::kFloat32:
      return normalize_rows<Float32>(args, begin, end, scratch);
    case Dtype::kFloat16:
      return normalize_rows<Float16>(args, begin, end, scratch);
    case Dtype::kBFloat16:
      return normalize_rows<BFloat16>(args, begin, end, scratch);
  }
}

}  // namespace

void gemma_rms_norm_quant_avx2(const GemmaRmsNormQuant& args, int64_t begin, int64_t end,
                               void* scratch) {
  normalize_rows(args, begin, end, scratch);
}

}  // namespace octet
