// An RMS norm of each head of the queries and the keys, and their rotation: a warp a head. A head
// is short, so that its lanes take single elements that lie side by side.
#pragma once

#include "cuda/dependency.cuh"
#include "cuda/elements.cuh"
#include "cuda/group.cuh"
#include "cuda/launch_rows.cuh"
#include "cuda/rms_norm.cuh"
#include "kernels.h"

namespace octet::cuda {

template <class Element>
class Head {
 public:
  using Storage = typename Element::Storage;

  __device__ Head(const QkNormRope& args, int64_t row) : args_(args) {
    const int64_t heads = args.q_heads + args.k_heads;
    const int64_t token = row / heads, head = row % heads;
    x_ = static_cast<Storage*>(args.qkv) + token * args.stride + head * args.head_size;
    weight_ = static_cast<const Storage*>(head < args.q_heads ? args.q_weight : args.k_weight);
    cos_sin_ =
        static_cast<const Storage*>(args.cos_sin) + args.positions[token] * args.cos_sin_stride;
  }

  __device__ bool has_norm() const { return weight_ != nullptr; }

  __device__ float add_squares(int64_t i, float sum) const {
    const float value = pair_of(x_, i, i).x;
    return fmaf(value, value, sum);
  }

  __device__ void set_sum_of_squares(float sum) {
    inverse_rms_ = inverse_rms(sum, args_.head_size, args_.eps);
  }

  // Elements i of both halves.
  __device__ void rotate(int64_t i) const {
    const int64_t half = args_.rotary_dim / 2;
    const float2 v = normed(i, half + i);
    const float2 c = pair_of(cos_sin_, i, half + i);
    store(i, half + i, {v.x * c.x - v.y * c.y, v.y * c.x + v.x * c.y});
  }

  // An element beyond them.
  __device__ void leave(int64_t i) const { store(i, i, normed(i, i)); }

 private:
  __device__ static float2 pair_of(const Storage* row, int64_t i, int64_t j) {
    return Element::widen(typename Element::Pair{row[i], row[j]});
  }

  __device__ float2 normed(int64_t i, int64_t j) const {
    const float2 v = pair_of(x_, i, j);
    if (!has_norm()) return v;
    const float2 w = pair_of(weight_, i, j);
    const float2 unscaled = {v.x * inverse_rms_, v.y * inverse_rms_};
    if (args_.gain == Gain::kOnePlusWeight) {
      return rounded({unscaled.x * (1.0f + w.x), unscaled.y * (1.0f + w.y)});
    }
    const float2 n = rounded(unscaled);
    return rounded({n.x * w.x, n.y * w.y});
  }

  __device__ static float2 rounded(float2 v) { return Element::widen(Element::round(v)); }

  __device__ void store(int64_t i, int64_t j, float2 v) const {
    const typename Element::Pair pair = Element::round(v);
    x_[i] = pair.x;
    x_[j] = pair.y;
  }

  const QkNormRope& args_;
  Storage* x_;
  const Storage* weight_;
  const Storage* cos_sin_;
  float inverse_rms_ = 0;
};

template <class Element>
__global__ void __launch_bounds__(WarpGroup::kMaxThreads)
    norm_and_rotate_heads(QkNormRope args, int64_t rows) {
  wait_for_earlier_kernels();
  const WarpGroup group;
  if (group.row() >= rows) return;
  Head<Element> head(args, group.row());
  if (head.has_norm()) {
    float sum = 0;
    for (int64_t i = group.rank(); i < args.head_size; i += group.size()) {
      sum = head.add_squares(i, sum);
    }
    // All lanes have read the head when it is known.
    head.set_sum_of_squares(group.sum(sum));
  }
  let_next_kernel_start();
  for (int64_t i = group.rank(); i < args.rotary_dim / 2; i += group.size()) head.rotate(i);
  if (!head.has_norm()) return;
  for (int64_t i = args.rotary_dim + group.rank(); i < args.head_size; i += group.size()) {
    head.leave(i);
  }
}

// The heads [0, rows) of `args`, by a launcher as launch_rows takes it.
template <class Launcher>
cudaError_t launch_qk_norm_rope(Launcher&& launcher, const QkNormRope& args, int64_t rows) {
  if (rows == 0) return cudaSuccess;
  if (rows > INT32_MAX) return cudaErrorInvalidConfiguration;
  constexpr unsigned kHeads = WarpGroup::kMaxThreads / kWarp;
  const Geometry geometry{(static_cast<unsigned>(rows) + kHeads - 1) / kHeads,
                          WarpGroup::kMaxThreads, 0};
  switch (args.dtype) {
    case Dtype::kFloat32:
      return launcher(norm_and_rotate_heads<Float32>, geometry, args, rows);
    case Dtype::kFloat16:
      return launcher(norm_and_rotate_heads<Float16>, geometry, args, rows);
    case Dtype::kBFloat16:
      return launcher(norm_and_rotate_heads<BFloat16>, geometry, args, rows);
  }
  return cudaErrorInvalidValue;
}

}  // namespace octet::cuda
