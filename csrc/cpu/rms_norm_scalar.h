// RMS norms of a row, portable.
#pragma once

#include <math.h>

#include "cpu/quantize_row_scalar.h"
#include "cpu/rows.h"

namespace octet {
namespace {

// A row of what is normalized: x or, where there is a residual, their sum in f32.
template <class Element>
class Input {
 public:
  using Storage = typename Element::Storage;

  Input(const Storage* x, const Storage* residual) : x_(x), residual_(residual) {}

  float operator[](int64_t i) const {
    const float value = Element::to_f32(x_[i]);
    return residual_ == nullptr ? value : value + Element::to_f32(residual_[i]);
  }

 private:
  const Storage* x_;
  const Storage* residual_;
};

template <class Element>
float inverse_rms(const Input<Element>& input, int64_t hidden, float eps) {
  double sum = 0.0;
  for (int64_t i = 0; i < hidden; ++i) {
    const double value = input[i];
    sum += value * value;
  }
  const float mean = static_cast<float>(sum / static_cast<double>(hidden));
  return 1.0f / sqrtf(mean + eps);
}

// Writes the normed row to y, which may be x, and the sum, rounded, to the residual, which may be
// null.
template <class Element, Gain kGain>
void normalize_row(const typename Element::Storage* x, typename Element::Storage* residual,
                   const void* weights, float eps, int64_t hidden, typename Element::Storage* y) {
  const auto* weight = static_cast<const typename Element::Storage*>(weights);
  const Input<Element> input(x, residual);
  const float factor = inverse_rms(input, hidden, eps);
  for (int64_t i = 0; i < hidden; ++i) {
    const float value = input[i];
    if (residual != nullptr) residual[i] = Element::from_f32(value);
    const float normed = value * factor;
    if constexpr (kGain == Gain::kOnePlusWeight) {
      y[i] = Element::from_f32(normed * (1.0f + Element::to_f32(weight[i])));
    } else {
      const float rounded = Element::to_f32(Element::from_f32(normed));
      y[i] = Element::from_f32(rounded * Element::to_f32(weight[i]));
    }
  }
}

}  // namespace
}  // namespace octet
