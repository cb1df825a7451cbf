// octet._C_weights: quantizes weights that lie in plain memory. It does without torch, which takes
// longer to import than many a checkpoint takes to quantize.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>

#include "float16.h"
#include "isa_bindings.h"
#include "kernels.h"

namespace py = pybind11;

namespace octet {
namespace {

// Names of the safetensors format.
Dtype dtype_named(const std::string& name) {
  if (name == "F32") return Dtype::kFloat32;
  if (name == "F16") return Dtype::kFloat16;
  if (name == "BF16") return Dtype::kBFloat16;
  throw std::invalid_argument("dtype must be F32, F16 or BF16, got " + name);
}

Fp8Format format_named(const std::string& name) {
  if (name == "F8_E4M3") return Fp8Format::kE4M3;
  if (name == "F8_E5M2") return Fp8Format::kE5M2;
  throw std::invalid_argument("format must be F8_E4M3 or F8_E5M2, got " + name);
}

int64_t item_size(Dtype dtype) { return dtype == Dtype::kFloat32 ? 4 : 2; }

// The memory of a buffer, which has to be `bytes` long and aligned to elements of `item` bytes.
void* contents(const py::buffer_info& info, const char* name, int64_t bytes, int64_t item) {
  if (!PyBuffer_IsContiguous(info.view(), 'C')) {
    throw std::invalid_argument(std::string(name) + " must be contiguous");
  }
  if (reinterpret_cast<uintptr_t>(info.ptr) % static_cast<uintptr_t>(item) != 0) {
    throw std::invalid_argument(std::string(name) + " must be aligned to its elements");
  }
  if (info.size * info.itemsize != bytes) {
    throw std::invalid_argument(std::string(name) + " must have " + std::to_string(bytes) +
                                " bytes, got " + std::to_string(info.size * info.itemsize));
  }
  return info.ptr;
}

bool is_finite(const void* scales, Dtype dtype, int64_t row) {
  const char* scale = static_cast<const char*>(scales) + row * item_size(dtype);
  if (dtype == Dtype::kFloat32) {
    float value;
    memcpy(&value, scale, sizeof(value));
    return std::isfinite(value);
  }
  uint16_t bits;
  memcpy(&bits, scale, sizeof(bits));
  return std::isfinite(dtype == Dtype::kFloat16 ? f16_to_f32(bits) : bf16_to_f32(bits));
}

std::optional<int64_t> per_channel_quant_fp8(const py::buffer& w, const std::string& dtype,
                                             int64_t rows, int64_t columns,
                                             const std::string& format, const py::buffer& q,
                                             const py::buffer& scale) {
  if (rows < 0 || columns < 0) throw std::invalid_argument("rows and columns are not negative");
  PerChannelQuant args;
  args.dtype = dtype_named(dtype);
  args.format = format_named(format);
  args.w_stride = args.in_features = args.q_stride = columns;
  const int64_t item = item_size(args.dtype);
  const py::buffer_info w_info = w.request();
  const py::buffer_info q_info = q.request(/*writable=*/true);
  const py::buffer_info scale_info = scale.request(/*writable=*/true);
  args.w = contents(w_info, "w", rows * columns * item, item);
  args.q = static_cast<uint8_t*>(contents(q_info, "q", rows * columns, 1));
  args.scale = contents(scale_info, "scale", rows * item, item);

  const py::gil_scoped_release release;
  active_implementation().kernels.per_channel_quant(args, 0, rows);
  for (int64_t row = 0; row < rows; ++row) {
    if (!is_finite(args.scale, args.dtype, row)) return row;
  }
  return std::nullopt;
}

}  // namespace
}  // namespace octet

PYBIND11_MODULE(_C_weights, m) {
  m.doc() = "Quantization of weights in plain memory, without torch.";
  octet::bind_isas(m);
  m.def("per_channel_quant_fp8", &octet::per_channel_quant_fp8, py::arg("w"), py::arg("dtype"),
        py::arg("rows"), py::arg("columns"), py::arg("format"), py::arg("q"), py::arg("scale"),
        "Quantize each row of a matrix with its own scale; see _C_weights.pyi.");
}
