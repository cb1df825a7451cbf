// The CPU implementations of torch.ops.octet, which split the work over torch's threads. The
// operators' schemas are in schemas.cpp; the CUDA implementations are registered by cuda_ops.cpp,
// the fake ones by octet.ops.
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <sys/mman.h>
#include <torch/library.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>

#include "cpu/dispatch.h"
#include "op_checks.h"
#include "quant_ops.h"

namespace octet {
namespace {

using at::Tensor;

// Work below which another thread costs more than it brings.
constexpr int64_t kQuantElementsPerThread = int64_t{32} << 10;
constexpr int64_t kLinearProductsPerThread = int64_t{1} << 18;

// Tiles that a thread should find, so that none waits long for another one's last, and the columns
// below which tiles are cut no smaller for that, for each prepares its activations anew.
constexpr int64_t kLinearTilesPerThread = 2;
constexpr int64_t kLinearMinTileCols = 384;
// Rows and columns of a tile are whole vectors.
constexpr int64_t kLinearTileMultiple = 16;

// Rows or columns that one thread should take at least.
int64_t grain_size(int64_t least_work, int64_t work_per_item) {
  return std::max<int64_t>(1, least_work / std::max<int64_t>(1, work_per_item));
}

// A buffer of this thread's that lives as long as the thread, for a fresh one would be paged in
// again on every call.
void* thread_scratch(size_t bytes) {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<void, Free> buffer;
  thread_local size_t capacity = 0;
  if (capacity < bytes) {
    capacity = 0;
    const size_t rounded = (bytes + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment;
    buffer.reset(std::aligned_alloc(kScratchAlignment, rounded));
    if (!buffer) throw std::bad_alloc();
    capacity = rounded;
  }
  return buffer.get();
}

// Blocks above this size are mapped anew by every malloc (DEFAULT_MMAP_THRESHOLD_MAX in glibc), and
// entering their pages takes longer than the work on them unless the pages are huge.
constexpr size_t kAlwaysMappedBytes = size_t{32} << 20;

void ask_for_huge_pages([[maybe_unused]] const Tensor& fresh) {
#ifdef MADV_HUGEPAGE
  const size_t bytes = fresh.nbytes();
  if (bytes <= kAlwaysMappedBytes) return;
  // The call takes whole pages. It is advice: where it is not taken, nothing is wrong.
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(fresh.mutable_data_ptr());
  const uintptr_t first_page = (begin + page - 1) / page * page;
  madvise(reinterpret_cast<void*>(first_page), (begin + bytes - first_page) / page * page,
          MADV_HUGEPAGE);
#endif
}

// The kernels of rows in use, with the rows split over torch's threads.
struct CpuQuant {
  // at::empty without another turn of the dispatcher, which takes longer than a row.
  static Tensor empty(at::IntArrayRef sizes, at::ScalarType dtype, at::Device) {
    Tensor tensor(at::detail::empty_cpu(sizes, dtype));
    ask_for_huge_pages(tensor);
    return tensor;
  }

  static void check_positions(const Tensor& positions, int64_t count) {
    const int64_t* const begin = positions.const_data_ptr<int64_t>();
    const bool inside = std::all_of(begin, begin + positions.numel(), [count](int64_t position) {
      return position >= 0 && position < count;
    });
    TORCH_CHECK(inside, "positions must lie in [0, ", count, "), the rows of cos_sin");
  }

  static void per_token_quant(const PerTokenQuant& args, int64_t rows, at::Device) {
    const PerTokenQuantKernel kernel = active_implementation().kernels.per_token_quant;
    for_rows(rows, args.hidden, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  }
  static void gemma_rms_norm(const GemmaRmsNorm& args, int64_t rows, at::Device) {
    const GemmaRmsNormKernel kernel = active_implementation().kernels.gemma_rms_norm;
    for_rows(rows, args.hidden, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  }
  static void rms_norm_quant(const RmsNormQuant& args, int64_t rows, at::Device) {
    run_with_row(active_implementation().kernels.rms_norm_quant, args, rows);
  }
  static void qk_norm_rope(const QkNormRope& args, int64_t rows, at::Device) {
    const QkNormRopeKernel kernel = active_implementation().kernels.qk_norm_rope;
    for_rows(rows, args.head_size, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  }
  static void gelu_tanh_and_mul_quant(const GatedQuant& args, int64_t rows, at::Device) {
    run_with_row(active_implementation().kernels.gelu_tanh_and_mul_quant, args, rows);
  }
  static void silu_and_mul_quant(const GatedQuant& args, int64_t rows, at::Device) {
    run_with_row(active_implementation().kernels.silu_and_mul_quant, args, rows);
  }

 private:
  template <class Kernel, class Args>
  static void run_with_row(Kernel kernel, const Args& args, int64_t rows) {
    const size_t scratch_bytes = row_scratch_bytes(args.x_dtype, args.hidden);
    for_rows(rows, args.hidden, [&](int64_t begin, int64_t end) {
      kernel(args, begin, end, thread_scratch(scratch_bytes));
    });
  }

  template <class F>
  static void for_rows(int64_t rows, int64_t hidden, const F& f) {
    const int64_t grain = grain_size(kQuantElementsPerThread, hidden);
    if (rows <= grain) {
      f(0, rows);
    } else {
      at::parallel_for(0, rows, grain, f);
    }
  }
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Computes the whole of args.out: cuts it into tiles of nearly equal size within the kernel's
// limits, which threads take one after another.
template <class Args>
void multiply(const Args& args, void (*kernel)(const Args&, const LinearTile&, void*),
              const LinearLimits& limits) {
  const int64_t products = args.rows * args.in_features * args.out_features;
  const int64_t threads =
      std::clamp<int64_t>(products / kLinearProductsPerThread, 1, at::get_num_threads());

  const auto tile_size = [](int64_t size, int64_t parts, int64_t limit) {
    return std::min(ceil_div(ceil_div(size, parts), kLinearTileMultiple) * kLinearTileMultiple,
                    limit);
  };
  const int64_t row_parts = ceil_div(args.rows, limits.rows);
  const int64_t tile_rows = tile_size(args.rows, row_parts, limits.rows);
  const int64_t wanted = threads == 1 ? 1 : ceil_div(threads * kLinearTilesPerThread, row_parts);
  int64_t col_parts = std::max(ceil_div(args.out_features, limits.cols),
                               std::min(wanted, ceil_div(args.out_features, kLinearMinTileCols)));
  while (row_parts * col_parts % threads != 0) ++col_parts;  // as many tiles for each
  const int64_t tile_cols = tile_size(args.out_features, col_parts, limits.cols);

  // Tiles of the same columns follow one another, and find their weights in the last-level cache.
  const int64_t tiles_down = ceil_div(args.rows, tile_rows);
  const int64_t tiles = tiles_down * ceil_div(args.out_features, tile_cols);
  std::atomic<int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    void* const scratch = thread_scratch(limits.scratch_bytes);
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tiles;) {
      const int64_t row = i % tiles_down * tile_rows;
      const int64_t col = i / tiles_down * tile_cols;
      kernel(args,
             LinearTile{row, std::min(row + tile_rows, args.rows), col,
                        std::min(col + tile_cols, args.out_features)},
             scratch);
    }
  });
}

Tensor fp8_linear(const Tensor& xq, const Tensor& x_scale, const Tensor& w, const Tensor& w_scale,
                  const std::optional<Tensor>& bias, at::ScalarType out_dtype) {
  check_linear(xq, x_scale, w, w_scale, bias, out_dtype);
  Tensor out = at::empty({xq.size(0), w.size(0)}, xq.options().dtype(out_dtype));
  if (out.numel() == 0) return out;

  const Tensor x_rows = has_unit_inner_stride(xq) ? xq : xq.contiguous();
  const Tensor x_scales = x_scale.contiguous();
  const Tensor w_scales = w_scale.contiguous();
  const Tensor bias_f32 = bias ? bias->to(at::kFloat).contiguous() : Tensor();

  Fp8Linear args;
  args.x = static_cast<const uint8_t*>(x_rows.const_data_ptr());
  args.x_format = format_of(xq.scalar_type());
  args.x_stride = x_rows.stride(0);
  args.x_scale = x_scales.const_data_ptr<float>();
  args.w = static_cast<const uint8_t*>(w.const_data_ptr());
  args.w_format = format_of(w.scalar_type());
  args.w_scale = w_scales.const_data_ptr<float>();
  args.bias = bias ? bias_f32.const_data_ptr<float>() : nullptr;
  args.out = out.mutable_data_ptr();
  args.out_dtype = dtype_of(out_dtype);
  args.rows = xq.size(0);
  args.in_features = xq.size(1);
  args.out_features = w.size(0);

  const Kernels& kernels = active_implementation().kernels;
  multiply(args, kernels.fp8_linear, kernels.fp8_linear_limits(args));
  return out;
}

Tensor bf16_linear(const Tensor& x, const Tensor& w, const std::optional<Tensor>& bias,
                   at::ScalarType out_dtype) {
  check_bf16_linear(x, w, bias, out_dtype);
  Tensor out = at::empty({x.size(0), w.size(0)}, x.options().dtype(out_dtype));
  if (out.numel() == 0) return out;

  const Tensor x_rows = has_unit_inner_stride(x) ? x : x.contiguous();
  const Tensor bias_f32 = bias ? bias->to(at::kFloat).contiguous() : Tensor();

  Bf16Linear args;
  args.x = static_cast<const uint16_t*>(x_rows.const_data_ptr());
  args.x_stride = x_rows.stride(0);
  args.w = static_cast<const uint16_t*>(w.const_data_ptr());
  args.bias = bias ? bias_f32.const_data_ptr<float>() : nullptr;
  args.out = out.mutable_data_ptr();
  args.out_dtype = dtype_of(out_dtype);
  args.rows = x.size(0);
  args.in_features = x.size(1);
  args.out_features = w.size(0);

  const Kernels& kernels = active_implementation().kernels;
  multiply(args, kernels.bf16_linear, kernels.bf16_linear_limits(args));
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(octet, CPU, m) {
  register_per_token_quant<CpuQuant>(m);
  register_norms_and_fused_quant<CpuQuant>(m);
  m.impl("fp8_linear", &fp8_linear);
  m.impl("bf16_linear", &bf16_linear);
}

}  // namespace octet
