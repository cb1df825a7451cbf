// octet._C: loading it registers torch.ops.octet; its functions tell what was built and what runs.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

#include "cpu/dispatch.h"

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
  m.def(
      "isa", [] { return std::string(octet::active_implementation().name); },
      "Name of the CPU kernels in use.");
  m.def("available_isas", &octet::available_isas,
        "Names of the CPU kernels that run on this machine, from the plainest to the fastest.");
  m.def("use_isa", &octet::use_isa, py::arg("name"),
        "Switch the process to the CPU kernels of that name; ValueError if they do not run here.");
  m.def(
      "cuda_archs", [] { return split(OCTET_CUDA_ARCHS); },
      "CUDA architectures that the kernels were compiled for; empty in a build without CUDA.");
  m.def("build_info", &build_info, "What this module was built with.");
}
