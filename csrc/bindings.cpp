// octet._C: loading it registers torch.ops.octet; its functions tell what was built and what runs.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

#include "isa_bindings.h"
#include "read_memory.h"

namespace py = pybind11;

namespace {

// Comma-separated text that the build passes, as a list.
std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

std::map<std::string, std::string> build_info() {
  return {
      {"compiler", OCTET_COMPILER},     {"build_type", OCTET_BUILD_TYPE},
      {"torch", OCTET_TORCH_VERSION},   {"cuda_compiler", OCTET_CUDA_COMPILER},
      {"sanitizers", OCTET_SANITIZERS},
  };
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Octet's compiled operators: importing this module registers torch.ops.octet.";
  octet::bind_isas(m);
  m.def(
      "cuda_archs", [] { return split(OCTET_CUDA_ARCHS); },
      "CUDA architectures that the kernels were compiled for; empty in a build without CUDA.");
  m.def(
      "read_memory",
      [](uintptr_t address, int64_t bytes) {
        const py::gil_scoped_release release;
        return octet::read_memory(reinterpret_cast<const void*>(address), bytes);
      },
      py::arg("address"), py::arg("bytes"),
      "Read memory as fast as torch's threads can; the sum of its 64-bit words, modulo 2^64.");
  m.def("build_info", &build_info, "What this module was built with.");
}
