// The products of the instruction sets that are modelled here, for ctypes.
#include "kernels.h"

#include <cstdlib>
#include <exception>
#include <memory>
#include <string>

#include "cpu/fp8_linear_check.h"
#include "cpu/kernel_list.h"
#include "cpu/tiles_amx.h"

namespace {

using namespace octet;

struct Modelled {
  const char* isa;
  Fp8LinearKernel kernel;
  Fp8LinearLimitsOf limits;
};

constexpr Modelled kModelled[] = {
    {"avx512", fp8_linear_avx512, fp8_linear_limits_avx512},
    {"avx512_bf16", fp8_linear_avx512_bf16, fp8_linear_limits_avx512_bf16},
    {"amx_bf16", fp8_linear_amx_bf16, fp8_linear_limits_amx_bf16},
};

const Modelled& find(const char* isa) {
  for (const Modelled& modelled : kModelled) {
    if (std::string(isa) == modelled.isa) return modelled;
  }
  throw std::invalid_argument(std::string("there is no model of ") + isa);
}

thread_local std::string error;

template <class F>
int guarded(const F& f) {
  try {
    f();
    return 0;
  } catch (const std::exception& e) {
    error = e.what();
    return 1;
  }
}

constexpr size_t kGuard = 4096;

// Exactly the scratch that a kernel asks for, full of NaN, and bytes after it that are not its own.
class Scratch {
 public:
  explicit Scratch(size_t bytes)
      : bytes_(bytes),
        memory_(static_cast<uint8_t*>(std::aligned_alloc(
                    kScratchAlignment,
                    (bytes + kGuard + kScratchAlignment) / kScratchAlignment * kScratchAlignment)),
                &std::free) {
    memset(memory_.get(), 0xFF, bytes + kGuard);
  }
  void* get() const { return memory_.get(); }
  bool untouched_after_it() const {
    for (size_t i = bytes_; i < bytes_ + kGuard; ++i) {
      if (memory_.get()[i] != 0xFF) return false;
    }
    return true;
  }

 private:
  size_t bytes_;
  std::unique_ptr<uint8_t, decltype(&std::free)> memory_;
};

// Computes args.out in tiles of at most `rows` by `cols`, 0 for as many as the kernel takes.
template <class Args>
void multiply(const Args& args, void (*kernel)(const Args&, const LinearTile&, void*),
              const LinearLimits& limits, int64_t rows, int64_t cols) {
  if (rows == 0 || rows > limits.rows) rows = limits.rows;
  if (cols == 0 || cols > limits.cols) cols = limits.cols;
  const Scratch scratch(limits.scratch_bytes);
  for (int64_t row = 0; row < args.rows; row += rows) {
    for (int64_t col = 0; col < args.out_features; col += cols) {
      const int64_t row_end = row + rows < args.rows ? row + rows : args.rows;
      const int64_t col_end = col + cols < args.out_features ? col + cols : args.out_features;
      kernel(args, LinearTile{row, row_end, col, col_end}, scratch.get());
    }
  }
  if (!scratch.untouched_after_it())
    throw std::runtime_error("bytes after the scratch were written");
}

}  // namespace

extern "C" {

const char* x86_error() { return error.c_str(); }

// Computes args.out in tiles of at most `rows` by `cols`, 0 for as many as the kernel takes.
int x86_fp8_linear(const char* isa, const Fp8Linear* args, int64_t rows, int64_t cols) {
  return guarded([&] {
    const Modelled& modelled = find(isa);
    multiply(*args, modelled.kernel, modelled.limits(*args), rows, cols);
    if (model::state.configured) throw std::runtime_error("tiles were left configured");
  });
}

// The same; of AVX-512 only, which the others take it from.
int x86_bf16_linear(const char*, const Bf16Linear* args, int64_t rows, int64_t cols) {
  return guarded(
      [&] { multiply(*args, bf16_linear_avx512, bf16_linear_limits_avx512(*args), rows, cols); });
}

// Whether the check at load accepts the kernels while tiles have a fault.
int x86_agrees(const char* isa, int fault) {
  model::state.fault = static_cast<model::Fault>(fault);
  const Modelled& modelled = find(isa);
  const bool agrees = fp8_linear_agrees(modelled.kernel, modelled.limits);
  model::state.fault = model::Fault::kNone;
  return agrees;
}

// How many products of tiles this thread has executed.
int64_t x86_tile_products() { return model::state.products; }

// Whether a product without a configuration is refused, as the processor would.
int x86_refuses_unconfigured_tiles() {
  return guarded([] {
    tile_release();
    tile_dot_bf16<0, 1, 2>();
  });
}

// And one of operands whose shapes do not go together.
int x86_refuses_wrong_shapes() {
  return guarded([] {
    TileConfig config{};
    config.palette = 1;
    for (int i = 0; i < 3; ++i) config.rows[i] = 8, config.row_bytes[i] = 64;
    tile_configure(config);
    tile_dot_bf16<0, 1, 2>();
  });
}
}
