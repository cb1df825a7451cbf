#include "cpu/fp8_linear_check.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cpu/kernel_list.h"

namespace octet {
namespace {

constexpr Fp8Format kFormats[] = {Fp8Format::kE4M3, Fp8Format::kE5M2};

struct Operands {
  int64_t rows, in_features, out_features;
  Fp8Format x_format, w_format;
  std::vector<uint8_t> x, w;
  std::vector<float> x_scale, w_scale, bias;

  // All codes are zeros, and all scales one.
  Operands(int64_t rows, int64_t in_features, int64_t out_features, Fp8Format x_format,
           Fp8Format w_format)
      : rows(rows),
        in_features(in_features),
        out_features(out_features),
        x_format(x_format),
        w_format(w_format),
        x(rows * in_features),
        w(out_features * in_features),
        x_scale(rows, 1.0f),
        w_scale(out_features, 1.0f),
        bias(out_features) {}
};

std::vector<float> product(const Operands& operands, Fp8LinearKernel kernel,
                           Fp8LinearLimitsOf limits_of) {
  std::vector<float> out(operands.rows * operands.out_features);
  Fp8Linear args;
  args.x = operands.x.data();
  args.x_format = operands.x_format;
  args.x_stride = operands.in_features;
  args.x_scale = operands.x_scale.data();
  args.w = operands.w.data();
  args.w_format = operands.w_format;
  args.w_scale = operands.w_scale.data();
  args.bias = operands.bias.data();
  args.out = out.data();
  args.out_dtype = Dtype::kFloat32;
  args.rows = operands.rows;
  args.in_features = operands.in_features;
  args.out_features = operands.out_features;

  const LinearLimits limits = limits_of(args);
  const size_t bytes = (limits.scratch_bytes / kScratchAlignment + 1) * kScratchAlignment;
  const std::unique_ptr<void, decltype(&std::free)> scratch(
      std::aligned_alloc(kScratchAlignment, bytes), &std::free);
  if (!scratch) return {};
  for (int64_t row = 0; row < args.rows; row += limits.rows) {
    for (int64_t col = 0; col < args.out_features; col += limits.cols) {
      kernel(args,
             LinearTile{row, std::min(row + limits.rows, args.rows), col,
                        std::min(col + limits.cols, args.out_features)},
             scratch.get());
    }
  }
  return out;
}

bool agree(const Operands& operands, Fp8LinearKernel kernel, Fp8LinearLimitsOf limits_of) {
  const std::vector<float> ours = product(operands, kernel, limits_of);
  const std::vector<float> portable =
      product(operands, fp8_linear_scalar, fp8_linear_limits_scalar);
  return std::equal(
      ours.begin(), ours.end(), portable.begin(), portable.end(),
      [](float a, float b) { return std::isnan(a) ? std::isnan(b) : bits_of(a) == bits_of(b); });
}

// Codes of small integers, whose sums of products stay below 2^24.
Operands integers(int64_t rows, int64_t in_features, int64_t out_features, Fp8Format x_format,
                  Fp8Format w_format) {
  Operands operands(rows, in_features, out_features, x_format, w_format);
  uint32_t state = 1;
  const auto next = [&](uint32_t below) {
    state = state * 1664525u + 1013904223u;
    return (state >> 16) % below;
  };
  const auto fill = [&](std::vector<uint8_t>& codes, Fp8Format format) {
    for (uint8_t& code : codes) {
      code = fp8_encode(static_cast<float>(next(9)) - 4.0f, format);
    }
  };
  fill(operands.x, x_format);
  fill(operands.w, w_format);
  for (float& scale : operands.x_scale) scale = 0.25f + static_cast<float>(next(100));
  for (float& scale : operands.w_scale) scale = 0.5f + static_cast<float>(next(100));
  for (float& value : operands.bias) value = static_cast<float>(next(1000));
  return operands;
}

// Products with one, in every row and column: what each code of w, or of x, is decoded to.
Operands codes_times_one(int64_t rows, bool of_weights, Fp8Format x_format, Fp8Format w_format) {
  Operands operands(of_weights ? rows : 256, 1, of_weights ? 256 : rows, x_format, w_format);
  std::fill(operands.x.begin(), operands.x.end(), fp8_encode(1.0f, x_format));
  std::fill(operands.w.begin(), operands.w.end(), fp8_encode(1.0f, w_format));
  std::vector<uint8_t>& codes = of_weights ? operands.w : operands.x;
  for (size_t code = 0; code < codes.size(); ++code) codes[code] = static_cast<uint8_t>(code);
  return operands;
}

}  // namespace

bool fp8_linear_agrees(Fp8LinearKernel kernel, Fp8LinearLimitsOf limits_of) {
  for (const Fp8Format x_format : kFormats) {
    for (const Fp8Format w_format : kFormats) {
      const Operands cases[] = {
          integers(3, 90, 21, x_format, w_format), integers(17, 1100, 70, x_format, w_format),
          integers(45, 700, 37, x_format, w_format), codes_times_one(20, true, x_format, w_format),
          codes_times_one(20, false, x_format, w_format)};
      for (const Operands& operands : cases) {
        if (!agree(operands, kernel, limits_of)) return false;
      }
    }
  }
  return true;
}

}  // namespace octet
