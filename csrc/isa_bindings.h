// The functions by which a Python module shows and switches the CPU kernels that it holds.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "cpu/dispatch.h"

namespace octet {

inline void bind_isas(pybind11::module_& m) {
  m.def(
      "isa", [] { return std::string(active_implementation().name); },
      "Name of the CPU kernels in use.");
  m.def("available_isas", &available_isas,
        "Names of the CPU kernels that run on this machine, from the plainest to the fastest.");
  m.def("refused_isas", &refused_isas,
        "Why CPU kernels that this processor has the instructions for do not run: name to reason.");
  m.def("use_isa", &use_isa, pybind11::arg("name"),
        "Switch this module to the CPU kernels of that name; ValueError if they do not run here.");
}

}  // namespace octet
